//! AdamW with decoupled decay (Loshchilov and Hutter, arXiv 1711.05101) and a limit on the norm of all gradients together.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Result, Tensor, Var, backprop::GradStore, bail};

use super::config::TrainConfig;

/// Moving means of the gradient and of its square, of every tensor that learns.
pub struct AdamW {
    moments: BTreeMap<String, Moments>,
}

struct Moments {
    mean: Tensor,
    square: Tensor,
}

impl AdamW {
    /// Before the first step: all zero.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn new(trained: &BTreeMap<String, Var>) -> Result<Self> {
        let mut moments = BTreeMap::new();
        for (name, var) in trained {
            moments.insert(name.clone(), Moments { mean: var.zeros_like()?, square: var.zeros_like()? });
        }
        Ok(Self { moments })
    }

    /// One update; `step` counts from 0, `clip` is the factor of all gradients.
    ///
    /// # Errors
    /// A tensor has no gradient, or the device is out of memory.
    pub fn update(
        &mut self,
        config: &TrainConfig,
        step: u64,
        trained: &BTreeMap<String, Var>,
        gradients: &GradStore,
        clip: f64,
    ) -> Result<()> {
        let rate = config.rate(step);
        let count = (step + 1) as f64;
        let (mean_part, square_part) = (1.0 - config.beta1.powf(count), 1.0 - config.beta2.powf(count));
        for (name, var) in trained {
            let gradient = (gradient_of(name, var, gradients)? * clip)?;
            let Some(moments) = self.moments.get_mut(name) else { bail!("`{name}` has no moments") };
            moments.mean = ((&moments.mean * config.beta1)? + (&gradient * (1.0 - config.beta1))?)?;
            moments.square = ((&moments.square * config.beta2)? + (gradient.sqr()? * (1.0 - config.beta2))?)?;
            let root = ((moments.square.sqrt()? / square_part.sqrt())? + config.epsilon)?;
            let change = ((&moments.mean / root)? * (rate / mean_part))?;
            var.set(&((var.as_detached_tensor() * (1.0 - rate * config.weight_decay))? - change)?)?;
        }
        Ok(())
    }

    /// The moments as tensors to be saved, named `mean.*` and `square.*`.
    pub fn values(&self) -> HashMap<String, Tensor> {
        let pair = |(name, moments): (&String, &Moments)| {
            [(format!("mean.{name}"), moments.mean.clone()), (format!("square.{name}"), moments.square.clone())]
        };
        self.moments.iter().flat_map(pair).collect()
    }

    /// Takes up saved moments; `read` gives the tensor of a name of [`AdamW::values`].
    ///
    /// # Errors
    /// `read` fails.
    pub fn restore(&mut self, read: &dyn Fn(&str, &[usize]) -> musaic_core::Result<Tensor>) -> musaic_core::Result<()> {
        for (name, moments) in &mut self.moments {
            moments.mean = read(&format!("mean.{name}"), moments.mean.dims())?;
            moments.square = read(&format!("square.{name}"), moments.square.dims())?;
        }
        Ok(())
    }
}

/// The gradient of a tensor that learns. One that is not there means that the graph was cut on the way, which candle does
/// not tell.
fn gradient_of<'a>(name: &str, var: &Var, gradients: &'a GradStore) -> Result<&'a Tensor> {
    match gradients.get(var.as_tensor()) {
        Some(gradient) => Ok(gradient),
        None => bail!("no gradient reaches `{name}`"),
    }
}

/// Norm of all gradients together.
///
/// # Errors
/// A tensor has no gradient.
pub fn global_norm(trained: &BTreeMap<String, Var>, gradients: &GradStore) -> Result<f64> {
    let mut sum = 0.0;
    for (name, var) in trained {
        sum += f64::from(gradient_of(name, var, gradients)?.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(sum.sqrt())
}

/// Factor that brings gradients of this norm to at most `limit`; 0 is no limit.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// The update in f64, number by number.
    #[test]
    fn agrees_with_the_formula() {
        let config = TrainConfig { learning_rate: 0.1, weight_decay: 0.5, ..TrainConfig::default() };
        let var = Var::from_slice(&[1.0f32, -2.0, 0.5], 3, &Device::Cpu).unwrap();
        let trained: BTreeMap<_, _> = [("w".to_owned(), var.clone())].into();
        let mut adam = AdamW::new(&trained).unwrap();
        let mut want = [1.0f64, -2.0, 0.5];
        let (mut mean, mut square) = ([0.0; 3], [0.0; 3]);
        for step in 0..5 {
            let loss = (var.as_tensor() * 3.0).unwrap().sqr().unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let norm = global_norm(&trained, &gradients).unwrap();
            let factor = clip_factor(norm, 1.0);
            assert!((factor * norm - 1.0).abs() < 1e-5, "{norm} {factor}");
            adam.update(&config, step, &trained, &gradients, factor).unwrap();
            for i in 0..3 {
                let g = 18.0 * want[i] * factor;
                mean[i] = 0.9 * mean[i] + 0.1 * g;
                square[i] = 0.95 * square[i] + 0.05 * g * g;
                let t = step as i32 + 1;
                let (m, s) = (mean[i] / (1.0 - 0.9f64.powi(t)), square[i] / (1.0 - 0.95f64.powi(t)));
                want[i] -= 0.1 * (0.5 * want[i] + m / (s.sqrt() + 1e-8));
            }
            let got = var.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "step {step}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_cut_graph_is_an_error() {
        let used = Var::from_slice(&[1.0f32], 1, &Device::Cpu).unwrap();
        let unused = Var::from_slice(&[1.0f32], 1, &Device::Cpu).unwrap();
        let gradients = used.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let trained: BTreeMap<_, _> = [("used".to_owned(), used), ("unused".to_owned(), unused)].into();
        let text = global_norm(&trained, &gradients).unwrap_err().to_string();
        assert!(text.contains("no gradient reaches `unused`"), "{text}");
    }
}
