//! Unidirectional LSTM stack in the layout of `torch.nn.LSTM`.

use candle_core::{Device, Result, Tensor};

use super::{
    Matrix,
    activation::{sigmoid as sigmoid_lanes, tanh as tanh_lanes},
    simd::{Kernel, Simd, dispatch},
    slices,
};
use crate::{WeightFormat, weights::Weights};

/// The coarsest format of recurrent weights: their errors go round, and they are a small share of any model.
const COARSEST: WeightFormat = WeightFormat::Q8_0;

/// A stack of LSTM layers of one width.
///
/// Gate order `i, f, g, o`; both biases are added. Starts from zero states.
#[derive(Debug, Clone)]
pub struct Lstm {
    layers: Vec<Layer>,
    dim: usize,
}

/// Hidden and cell state of every layer, each `[batch, dim]`: what a stack remembers between two blocks of one sequence.
///
/// The default is the state before the first step, all zeros.
#[derive(Debug, Clone, Default)]
pub struct LstmState {
    layers: Vec<(Tensor, Tensor)>,
}

#[derive(Debug, Clone)]
struct Layer {
    input: Matrix,
    hidden: Matrix,
    /// Sum of both biases, `[4 * dim]`.
    bias: Tensor,
}

impl Lstm {
    /// Loads `weight_ih_l{i}`, `weight_hh_l{i}` `[4 * dim, dim]`, `bias_ih_l{i}`, `bias_hh_l{i}` `[4 * dim]`. Where weights
    /// are held in `q4_k`, both matrices are held in `q8_0`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(dim: usize, layers: usize, weights: &Weights) -> crate::Result<Self> {
        let format = weights.format().no_coarser_than(COARSEST);
        let matrix = |name: String| weights.matrix_as(4 * dim, dim, &name, format);
        let layers = (0..layers)
            .map(|i| {
                let bias = (weights.tensor(4 * dim, &format!("bias_ih_l{i}"))?
                    + weights.tensor(4 * dim, &format!("bias_hh_l{i}"))?)?;
                Ok(Layer {
                    input: matrix(format!("weight_ih_l{i}"))?,
                    hidden: matrix(format!("weight_hh_l{i}"))?,
                    bias,
                })
            })
            .collect::<crate::Result<_>>()?;
        Ok(Self { layers, dim })
    }

    /// `xs [batch, time, dim]` to `[batch, time, dim]`, from zero states.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_with_state(xs, &mut LstmState::default())
    }

    /// As [`Lstm::forward`], from `state` and leaving the states after the last step there: a sequence cut into blocks gives
    /// what it gives whole.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward_with_state(&self, xs: &Tensor, state: &mut LstmState) -> Result<Tensor> {
        let (batch, time, _) = xs.dims3()?;
        if state.layers.is_empty() {
            let zeros = Tensor::zeros((batch, self.dim), xs.dtype(), xs.device())?;
            state.layers = vec![(zeros.clone(), zeros); self.layers.len()];
        }
        let mut xs = xs.clone();
        for (layer, (h, c)) in self.layers.iter().zip(&mut state.layers) {
            let inputs = layer.input.forward_bias(&xs, Some(&layer.bias))?;
            if let Some((outputs, state)) = layer.fast(&inputs, (h, c), self.dim)? {
                ((*h, *c), xs) = (state, outputs);
                continue;
            }
            let mut outputs = Vec::with_capacity(time);
            for t in 0..time {
                let gates = (inputs.narrow(1, t, 1)?.squeeze(1)? + layer.hidden.forward(h)?)?;
                let gate = |i: usize| gates.narrow(1, i * self.dim, self.dim);
                let (i, f, o) = (sigmoid(&gate(0)?)?, sigmoid(&gate(1)?)?, sigmoid(&gate(3)?)?);
                *c = ((f * &*c)? + (i * gate(2)?.tanh()?)?)?;
                *h = (o * c.tanh()?)?;
                outputs.push(h.unsqueeze(1)?);
            }
            xs = Tensor::cat(&outputs, 1)?;
        }
        Ok(xs)
    }
}

impl Layer {
    /// Outputs and final states by the kernel, where it may be used. `inputs [batch, time, 4 * dim]` are the products with
    /// the inputs, biases added.
    fn fast(
        &self,
        inputs: &Tensor,
        (h, c): (&Tensor, &Tensor),
        dim: usize,
    ) -> Result<Option<(Tensor, (Tensor, Tensor))>> {
        let (batch, time, _) = inputs.dims3()?;
        if ![inputs, h, c].into_iter().all(slices::is_plain) || !dim.is_multiple_of(16) || !self.hidden.is_packed() {
            return Ok(None);
        }
        let (mut h, mut c) = (slices::with(h, <[f32]>::to_vec)?, slices::with(c, <[f32]>::to_vec)?);
        let mut gates = slices::zeros(batch * 4 * dim)?;
        let mut outputs = slices::zeros(batch * time * dim)?;
        slices::with(inputs, |inputs| {
            for t in 0..time {
                self.hidden.product_into(&h, &mut gates);
                for b in 0..batch {
                    let own = b * dim..(b + 1) * dim;
                    let at = b * time + t;
                    dispatch(Cell {
                        inputs: inputs[at * 4 * dim..(at + 1) * 4 * dim].as_chunks().0,
                        gates: gates[b * 4 * dim..(b + 1) * 4 * dim].as_chunks().0,
                        h: h[own.clone()].as_chunks_mut().0,
                        c: c[own.clone()].as_chunks_mut().0,
                    });
                    outputs[at * dim..(at + 1) * dim].copy_from_slice(&h[own]);
                }
            }
        })?;
        let tensor = |values, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
        let state = (tensor(h, &[batch, dim])?, tensor(c, &[batch, dim])?);
        Ok(Some((tensor(outputs, &[batch, time, dim])?, state)))
    }
}

/// One step of one batch element.
struct Cell<'a> {
    inputs: &'a [[f32; 16]],
    gates: &'a [[f32; 16]],
    h: &'a mut [[f32; 16]],
    c: &'a mut [[f32; 16]],
}

impl Kernel for Cell<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.h.len();
        for i in 0..steps {
            let mut gates = [s.splat(0.0); 4];
            for (g, gate) in gates.iter_mut().enumerate() {
                *gate = s.add(s.load(&self.inputs[g * steps + i]), s.load(&self.gates[g * steps + i]));
            }
            let [input, forget, new, output] = gates;
            let kept = s.mul(sigmoid_lanes(s, forget), s.load(&self.c[i]));
            let c = s.fma(sigmoid_lanes(s, input), tanh_lanes(s, new), kept);
            s.store(c, &mut self.c[i]);
            s.store(s.mul(sigmoid_lanes(s, output), tanh_lanes(s, c)), &mut self.h[i]);
        }
    }
}

fn sigmoid(xs: &Tensor) -> Result<Tensor> {
    (xs.neg()?.exp()? + 1.0)?.recip()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::nn::testing::{assert_close, noise};

    #[test]
    fn recurrent_weights_are_never_in_four_bits() {
        let held = |format| {
            let lstm = Lstm::load(256, 2, &Weights::random(5, &Device::Cpu, format)).unwrap();
            lstm.layers.iter().flat_map(|layer| [layer.input.format(), layer.hidden.format()]).collect::<Vec<_>>()
        };
        assert_eq!(held(WeightFormat::Q4K), [WeightFormat::Q8_0; 4]);
        for format in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0] {
            assert_eq!(held(format), [format; 4]);
        }
    }

    #[test]
    fn the_kernel_agrees_with_candle_and_blocks_with_the_whole() {
        for dim in [16, 48, 20] {
            let tensors: HashMap<_, _> = (0..2u64)
                .flat_map(|i| {
                    ["ih", "hh"].into_iter().zip([1, 2]).flat_map(move |(kind, seed)| {
                        let weight = (noise(&[4 * dim, dim], 10 * i + seed) * 0.3).unwrap();
                        [(format!("weight_{kind}_l{i}"), weight), (format!("bias_{kind}_l{i}"), noise(&[4 * dim], i))]
                    })
                })
                .collect();
            let weights = Weights::from_tensors(tensors, &Device::Cpu, WeightFormat::F32);
            let lstm = Lstm::load(dim, 2, &weights).unwrap();
            let xs = noise(&[2, 9, dim], 7);
            let whole = lstm.forward(&xs).unwrap();
            // A gradient that is wanted takes the plain path.
            let tracked = candle_core::Var::from_tensor(&xs).unwrap();
            assert_close(&whole, &lstm.forward(&tracked).unwrap(), 3e-6);
            let mut state = LstmState::default();
            let blocks: Vec<_> = [(0, 1), (1, 5), (6, 3)]
                .into_iter()
                .map(|(at, count)| lstm.forward_with_state(&xs.narrow(1, at, count).unwrap(), &mut state).unwrap())
                .collect();
            assert_close(&Tensor::cat(&blocks, 1).unwrap(), &whole, 1e-6);
        }
    }
}
