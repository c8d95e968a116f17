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
            let inputs = layer.input.forward(&xs)?.broadcast_add(&layer.bias)?;
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

fn sigmoid(xs: &Tensor) -> Result<Tensor> {
    (xs.neg()?.exp()? + 1.0)?.recip()
}
