//! Layer norm and RMS norm over the last dimension.

use candle_core::{D, Result, Tensor};

use crate::weights::Weights;

/// `(x - mean) / sqrt(var + eps) * weight + bias`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads `weight [dim]` and `bias [dim]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(dim: usize, eps: f64, weights: &Weights) -> crate::Result<Self> {
        Ok(Self { weight: weights.tensor(dim, "weight")?, bias: weights.tensor(dim, "bias")?, eps })
    }

    /// `xs [.., dim]` to the same shape.
    ///
    /// # Errors
    /// The last dimension is not `dim`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
        let var = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred.broadcast_div(&(var + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// `x / sqrt(mean(x²) + eps) * weight`: no mean, no bias.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Loads `weight [dim]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(dim: usize, eps: f64, weights: &Weights) -> crate::Result<Self> {
        Ok(Self { weight: weights.tensor(dim, "weight")?, eps })
    }

    /// `xs [.., dim]` to the same shape.
    ///
    /// # Errors
    /// The last dimension is not `dim`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mean_square = xs.sqr()?.mean_keepdim(D::Minus1)?;
        xs.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight)
    }
}
