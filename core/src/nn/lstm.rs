//! Unidirectional LSTM stack in the layout of `torch.nn.LSTM`.

use candle_core::{Result, Tensor};

use super::Matrix;
use crate::weights::Weights;

/// A stack of LSTM layers of one width.
///
/// Gate order `i, f, g, o`; both biases are added. Starts from zero states.
#[derive(Debug, Clone)]
pub struct Lstm {
    layers: Vec<Layer>,
    dim: usize,
}

#[derive(Debug, Clone)]
struct Layer {
    input: Matrix,
    hidden: Matrix,
    /// Sum of both biases, `[4 * dim]`.
    bias: Tensor,
}

impl Lstm {
    /// Loads `weight_ih_l{i}`, `weight_hh_l{i}` `[4 * dim, dim]`, `bias_ih_l{i}`, `bias_hh_l{i}` `[4 * dim]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(dim: usize, layers: usize, weights: &Weights) -> crate::Result<Self> {
        let layers = (0..layers)
            .map(|i| {
                let bias = (weights.tensor(4 * dim, &format!("bias_ih_l{i}"))?
                    + weights.tensor(4 * dim, &format!("bias_hh_l{i}"))?)?;
                Ok(Layer {
                    input: weights.matrix(4 * dim, dim, &format!("weight_ih_l{i}"))?,
                    hidden: weights.matrix(4 * dim, dim, &format!("weight_hh_l{i}"))?,
                    bias,
                })
            })
            .collect::<crate::Result<_>>()?;
        Ok(Self { layers, dim })
    }

    /// `xs [batch, time, dim]` to `[batch, time, dim]`.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, time, _) = xs.dims3()?;
        let mut xs = xs.clone();
        for layer in &self.layers {
            let inputs = layer.input.forward(&xs)?.broadcast_add(&layer.bias)?;
            let mut h = Tensor::zeros((batch, self.dim), xs.dtype(), xs.device())?;
            let mut c = h.clone();
            let mut outputs = Vec::with_capacity(time);
            for t in 0..time {
                let gates = (inputs.narrow(1, t, 1)?.squeeze(1)? + layer.hidden.forward(&h)?)?;
                let gate = |i: usize| gates.narrow(1, i * self.dim, self.dim);
                let (i, f, o) = (sigmoid(&gate(0)?)?, sigmoid(&gate(1)?)?, sigmoid(&gate(3)?)?);
                c = ((f * &c)? + (i * gate(2)?.tanh()?)?)?;
                h = (o * c.tanh()?)?;
                outputs.push(h.unsqueeze(1)?);
            }
            xs = Tensor::cat(&outputs, 1)?;
        }
        Ok(xs)
    }
}

fn sigmoid(xs: &Tensor) -> Result<Tensor> {
    (xs.neg()?.exp()? + 1.0)?.recip()
}
