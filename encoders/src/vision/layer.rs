//! One layer: attention and feed-forward, each with its norm in front and a residual around it.

use candle_core::{D, Result, Tensor};
use musaic_core::{
    nn::{LayerNorm, Linear, Mask, attention},
    weights::Weights,
};

use super::VisionConfig;
use crate::{Activation, files::stacked_qkv};

#[derive(Debug, Clone)]
pub(super) struct Layer {
    layernorm_before: LayerNorm,
    qkv: Linear,
    output: Linear,
    layernorm_after: LayerNorm,
    intermediate: Linear,
    feed_forward_output: Linear,
    heads: usize,
    activation: Activation,
}

impl Layer {
    pub(super) fn load(config: &VisionConfig, eps: f64, weights: &Weights) -> musaic_core::Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let names = ["query", "key", "value"];
        Ok(Self {
            layernorm_before: LayerNorm::load(width, eps, &weights.pp("layernorm_before"))?,
            qkv: stacked_qkv(width, config.qkv_bias, names, &weights.pp("attention.attention"))?,
            output: Linear::load(width, width, true, &weights.pp("attention.output.dense"))?,
            layernorm_after: LayerNorm::load(width, eps, &weights.pp("layernorm_after"))?,
            intermediate: Linear::load(width, inner, true, &weights.pp("intermediate.dense"))?,
            feed_forward_output: Linear::load(inner, width, true, &weights.pp("output.dense"))?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
        })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.layernorm_before.forward(xs)?)?;
        let width = qkv.dim(D::Minus1)? / 3;
        let part = |i: usize| qkv.narrow(D::Minus1, i * width, width);
        let scale = 1.0 / ((width / self.heads) as f64).sqrt();
        let attended = attention((&part(0)?, &part(1)?, &part(2)?), self.heads, scale, Mask::None, None)?;
        let xs = (xs + self.output.forward(&attended)?)?;
        let hidden = self.intermediate.forward(&self.layernorm_after.forward(&xs)?)?;
        xs + self.feed_forward_output.forward(&self.activation.apply(&hidden)?)?
    }
}
