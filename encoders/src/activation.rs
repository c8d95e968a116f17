//! Activations by the names that published configurations use.

use candle_core::{Result, Tensor};
use musaic_core::nn;
use serde::Deserialize;

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Activation {
    /// Gaussian error linear unit in its exact form, with erf.
    #[serde(rename = "gelu", alias = "gelu_python")]
    Gelu,
    /// The same with tanh.
    #[serde(rename = "gelu_fast", alias = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// `max(x, 0)`.
    #[serde(rename = "relu")]
    Relu,
    /// `x * sigmoid(x)`.
    #[serde(rename = "silu", alias = "swish")]
    Silu,
}

impl Activation {
    /// Applies it.
    pub(crate) fn apply(self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => nn::gelu(xs),
            Self::GeluTanh => nn::gelu_tanh(xs),
            Self::Relu => nn::relu(xs),
            Self::Silu => nn::silu(xs),
        }
    }
}
