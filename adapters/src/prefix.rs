//! Gated prefixes ([LLaMA-Adapter](https://arxiv.org/abs/2303.16199)): a layer's queries also look at a few vectors that are
//! no tokens, and what they see is added through a gate for each head that starts closed.
//!
//! The scores of the prefix have a softmax of their own and no positions. With a prefix of one vector, as M2UGen has, that
//! softmax is 1 and every position gains the same: `tanh(gate) * value`, per head.

use candle_core::{D, DType, Result, Tensor};
use musaic_core::{
    nn::{Mask, attention},
    weights::Weights,
};

/// The gates of one layer.
#[derive(Debug, Clone)]
pub struct Gate {
    /// `tanh` of the stored gates, `[heads]`.
    open: Vec<f32>,
}

impl Gate {
    /// Loads `gate [1, heads, 1, 1]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(heads: usize, weights: &Weights) -> musaic_core::Result<Self> {
        let stored = weights.tensor_as((1, heads, 1, 1), "gate", DType::F32)?;
        Ok(Self { open: stored.flatten_all()?.tanh()?.to_vec1()? })
    }

    /// How far each head is open, -1 to 1.
    pub fn open(&self) -> &[f32] {
        &self.open
    }

    /// Whether nothing passes: what the prefix says has no effect.
    pub fn is_closed(&self) -> bool {
        self.open.iter().all(|&open| open == 0.0)
    }

    /// A prefix of keys and values, both `[1 or batch, length, heads * head_dim]`, by the layer's projections without
    /// positions.
    ///
    /// # Errors
    /// The width is no multiple of the heads.
    pub fn prefix(&self, keys: &Tensor, values: &Tensor) -> Result<Prefix> {
        let width = values.dim(D::Minus1)?;
        if !width.is_multiple_of(self.open.len().max(1)) {
            candle_core::bail!("a prefix of width {width} for {} heads", self.open.len());
        }
        let head_dim = width / self.open.len().max(1);
        let open: Vec<_> = self.open.iter().flat_map(|&open| std::iter::repeat_n(open, head_dim)).collect();
        let open = Tensor::from_vec(open, (1, 1, width), values.device())?.to_dtype(values.dtype())?;
        Ok(if values.dim(1)? == 1 {
            Prefix::One(values.broadcast_mul(&open)?)
        } else {
            Prefix::Many { keys: keys.clone(), values: values.clone(), open, heads: self.open.len() }
        })
    }
}

/// What a layer looks at besides the tokens.
#[derive(Debug, Clone)]
pub enum Prefix {
    /// One vector: the gated value `[1 or batch, 1, width]`.
    One(Tensor),
    /// Several: keys and values `[1 or batch, length, width]`.
    Many {
        /// Keys.
        keys: Tensor,
        /// Values.
        values: Tensor,
        /// Gate of every column, `[1, 1, width]`.
        open: Tensor,
        /// Heads.
        heads: usize,
    },
}

impl Prefix {
    /// Adds to `attended [batch, time, width]` what `queries` of the same shape (with their positions) see in the prefix.
    ///
    /// # Errors
    /// A shape differs.
    pub fn add_to(&self, attended: &Tensor, queries: &Tensor, scale: f64) -> Result<Tensor> {
        match self {
            Self::One(value) => attended.broadcast_add(value),
            Self::Many { keys, values, open, heads } => {
                let batch = queries.dim(0)?;
                let for_all = |xs: &Tensor| {
                    let (_, length, width) = xs.dims3()?;
                    xs.broadcast_as((batch, length, width))?.contiguous()
                };
                let seen = attention((queries, &for_all(keys)?, &for_all(values)?), *heads, scale, Mask::None, None)?;
                attended + seen.broadcast_mul(open)?
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;
    use musaic_core::WeightFormat;

    use super::*;

    fn tensor(shape: &[usize], seed: f32) -> Tensor {
        let count: usize = shape.iter().product();
        Tensor::from_vec((0..count).map(|i| (i as f32 * seed).sin()).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    }

    fn gate(values: &[f32]) -> Gate {
        let stored = Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu).unwrap();
        let tensors = HashMap::from([("gate".to_owned(), stored)]);
        Gate::load(values.len(), &Weights::from_tensors(tensors, &Device::Cpu, WeightFormat::F32)).unwrap()
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn one_vector_is_the_general_rule_with_one_key() {
        let gate = gate(&[0.5, -2.0]);
        let (keys, value) = (tensor(&[1, 1, 8], 0.3), tensor(&[1, 1, 8], 0.8));
        let (attended, queries) = (tensor(&[2, 3, 8], 0.1), tensor(&[2, 3, 8], 1.7));
        let one = gate.prefix(&keys, &value).unwrap();
        let Prefix::One(_) = &one else { panic!("one vector") };
        // The same vector twice: a softmax of two halves.
        let twice = |xs: &Tensor| Tensor::cat(&[xs, xs], 1).unwrap();
        let many = gate.prefix(&twice(&keys), &twice(&value)).unwrap();
        let (a, b) = (one.add_to(&attended, &queries, 0.5).unwrap(), many.add_to(&attended, &queries, 0.5).unwrap());
        for (a, b) in values(&a).iter().zip(values(&b)) {
            assert!((a - b).abs() < 1e-5);
        }
        let gained = values(&(a - attended).unwrap());
        let value = values(&value);
        assert!((gained[1] - 0.5f32.tanh() * value[1]).abs() < 1e-6);
        assert!((gained[8 + 6] - (-2f32).tanh() * value[6]).abs() < 1e-6);
    }

    #[test]
    fn closed_gates_change_nothing() {
        let gate = gate(&[0.0, 0.0]);
        assert!(gate.is_closed() && !super::tests::gate(&[0.0, 0.1]).is_closed());
        let (xs, attended) = (tensor(&[1, 1, 8], 0.3), tensor(&[1, 4, 8], 0.1));
        let same = gate.prefix(&xs, &xs).unwrap().add_to(&attended, &attended, 1.0).unwrap();
        assert_eq!(values(&same), values(&attended));
        assert!(gate.prefix(&tensor(&[1, 1, 7], 0.3), &tensor(&[1, 1, 7], 0.3)).is_err());
    }
}
