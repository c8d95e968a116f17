//! Linear layers and embedding tables over a stored [`Matrix`].

use candle_core::{Result, Tensor};

use super::Matrix;
use crate::weights::Weights;

/// `xs · Wᵀ + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    /// From parts; `bias` is `[rows]`.
    pub fn new(weight: Matrix, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// Loads `weight [output, input]` and, if `bias`, `bias [output]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(input: usize, output: usize, bias: bool, weights: &Weights) -> crate::Result<Self> {
        let weight = weights.matrix(output, input, "weight")?;
        let bias = if bias { Some(weights.tensor(output, "bias")?) } else { None };
        Ok(Self { weight, bias })
    }

    /// The matrix.
    pub fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// `xs [.., input]` to `[.., output]`.
    ///
    /// # Errors
    /// The last dimension of `xs` is not `input`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.weight.forward_bias(xs, self.bias.as_ref())
    }
}

/// A table of vectors by id.
#[derive(Debug, Clone)]
pub struct Embedding {
    table: Matrix,
}

impl Embedding {
    /// Loads `weight [count, dim]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(count: usize, dim: usize, weights: &Weights) -> crate::Result<Self> {
        Ok(Self { table: weights.matrix(count, dim, "weight")? })
    }

    /// `ids [..]` u32 to `[.., dim]`.
    ///
    /// # Errors
    /// An id is not below `count`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.table.lookup(ids)
    }
}
