//! The positional convolution and the layers of the transformer.

use candle_core::{D, Tensor};
use musaic_core::{
    Result,
    nn::{Conv1d, Conv1dConfig, LayerNorm, Linear, Mask, attention},
    weights::Weights,
};

use super::config::MertConfig;
use crate::{Activation, files::stacked_qkv};

/// A convolution over time in groups of channels that tells each frame where it is.
#[derive(Debug, Clone)]
pub(super) struct PositionalConv {
    groups: Vec<Conv1d>,
    kernel: usize,
    /// Channels of a group.
    width: usize,
    activation: Activation,
}

impl PositionalConv {
    /// Loads the weight with its norm over the kernel's axis, in either spelling.
    pub(super) fn load(config: &MertConfig, weights: &Weights) -> Result<Self> {
        let (hidden, groups) = (config.hidden_size, config.num_conv_pos_embedding_groups);
        let (kernel, width) = (config.num_conv_pos_embeddings, hidden / groups);
        let weights = weights.pp("conv");
        let weight = weights.weight_norm_over((hidden, width, kernel), 2)?;
        let bias = weights.tensor(hidden, "bias")?;
        let group = |i: usize| -> Result<Conv1d> {
            let weight = weight.narrow(0, i * width, width)?;
            // Without values one tap stands for all, so that nothing of the layer's size is allocated.
            let weight = if weights.has_values() { weight } else { weight.narrow(0, 0, 1)?.narrow(1, 0, 1)? };
            Ok(Conv1d::new(&weight, Some(bias.narrow(0, i * width, width)?), Conv1dConfig::default())?)
        };
        let groups = (0..groups).map(group).collect::<Result<_>>()?;
        Ok(Self { groups, kernel, width, activation: config.feat_extract_activation })
    }

    /// `xs [1, frames, hidden]` to the same shape.
    pub(super) fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let frames = xs.dim(1)?;
        // Half a kernel on each side; an even kernel gives one frame too many, the last of which is dropped.
        let before = self.kernel / 2;
        let padded = xs.transpose(1, 2)?.contiguous()?.pad_with_zeros(2, before, self.kernel - 1 - before)?;
        let parts = self
            .groups
            .iter()
            .enumerate()
            .map(|(i, conv)| conv.forward(&padded.narrow(1, i * self.width, self.width)?.contiguous()?))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let ys = Tensor::cat(&parts, 1)?;
        debug_assert_eq!(ys.dims()[2], frames);
        self.activation.apply(&ys)?.transpose(1, 2)?.contiguous()
    }
}

/// Attention and feed-forward, with their norms before them (stable) or behind the residual.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    qkv: Linear,
    out_proj: Linear,
    layer_norm: LayerNorm,
    intermediate_dense: Linear,
    output_dense: Linear,
    final_layer_norm: LayerNorm,
    heads: usize,
    activation: Activation,
    stable: bool,
    /// How often the residual counts.
    alpha: f64,
}

impl Layer {
    pub(super) fn load(config: &MertConfig, weights: &Weights) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = weights.pp("attention");
        let feed_forward = weights.pp("feed_forward");
        let norm = |name: &str| LayerNorm::load(hidden, config.layer_norm_eps, &weights.pp(name));
        Ok(Self {
            qkv: stacked_qkv(hidden, true, ["q_proj", "k_proj", "v_proj"], &attention)?,
            out_proj: Linear::load(hidden, hidden, true, &attention.pp("out_proj"))?,
            layer_norm: norm("layer_norm")?,
            intermediate_dense: Linear::load(hidden, inner, true, &feed_forward.pp("intermediate_dense"))?,
            output_dense: Linear::load(inner, hidden, true, &feed_forward.pp("output_dense"))?,
            final_layer_norm: norm("final_layer_norm")?,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            stable: config.do_stable_layer_norm,
            alpha: if config.deepnorm { (2.0 * config.num_hidden_layers as f64).powf(0.25) } else { 1.0 },
        })
    }

    /// `xs [1, frames, hidden]` to the same shape.
    pub(super) fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        if self.stable {
            let xs = (xs + self.attend(&self.layer_norm.forward(xs)?)?)?;
            return &xs + self.feed_forward(&self.final_layer_norm.forward(&xs)?)?;
        }
        let residual = |xs: &Tensor| if self.alpha == 1.0 { Ok(xs.clone()) } else { xs * self.alpha };
        let xs = self.layer_norm.forward(&(residual(xs)? + self.attend(xs)?)?)?;
        self.final_layer_norm.forward(&(residual(&xs)? + self.feed_forward(&xs)?)?)
    }

    fn attend(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let qkv = self.qkv.forward(xs)?;
        let width = qkv.dim(D::Minus1)? / 3;
        let part = |i: usize| qkv.narrow(D::Minus1, i * width, width);
        let scale = 1.0 / ((width / self.heads) as f64).sqrt();
        let attended = attention((&part(0)?, &part(1)?, &part(2)?), self.heads, scale, Mask::None, None)?;
        self.out_proj.forward(&attended)
    }

    fn feed_forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        self.output_dense.forward(&self.activation.apply(&self.intermediate_dense.forward(xs)?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;
    use musaic_core::WeightFormat;
    use serde_json::json;

    use super::*;

    fn config(kernel: usize) -> MertConfig {
        let json = json!({
            "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "hidden_act": "gelu",
            "conv_dim": [8], "conv_kernel": [4], "conv_stride": [2], "feat_extract_norm": "group",
            "feat_extract_activation": "gelu", "num_conv_pos_embeddings": kernel, "num_conv_pos_embedding_groups": 3,
        });
        MertConfig::from_json(std::path::Path::new("config.json"), &json).unwrap()
    }

    /// Grouped, padded and cut as the reference writes it, in both spellings of the weight norm, for even and odd kernels.
    #[test]
    fn positions_are_a_grouped_convolution() {
        for kernel in [8, 5] {
            let config = config(kernel);
            let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
            let (g, v, bias) = (random(&[1, 1, kernel]), random(&[12, 4, kernel]), random(&[12]));
            let norm = v.sqr().unwrap().sum_keepdim((0, 1)).unwrap().sqrt().unwrap();
            let weight = v.broadcast_mul(&(&g / norm).unwrap()).unwrap();
            let xs = random(&[1, 20, 12]);
            let plain = xs.transpose(1, 2).unwrap().contiguous().unwrap().conv1d(&weight, kernel / 2, 1, 1, 3).unwrap();
            let plain = plain.narrow(2, 0, 20).unwrap().broadcast_add(&bias.reshape((1, 12, 1)).unwrap()).unwrap();
            let plain = plain.gelu_erf().unwrap().transpose(1, 2).unwrap();
            for [length, direction] in [
                ["conv.weight_g", "conv.weight_v"],
                ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"],
            ] {
                let tensors = HashMap::from([
                    (length.to_owned(), g.clone()),
                    (direction.to_owned(), v.clone()),
                    ("conv.bias".to_owned(), bias.clone()),
                ]);
                let weights = Weights::from_tensors(tensors, &Device::Cpu, WeightFormat::F32);
                let ours = PositionalConv::load(&config, &weights).unwrap().forward(&xs).unwrap();
                weights.finish().unwrap();
                assert_eq!(ours.dims(), [1, 20, 12]);
                let off = (ours - &plain).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(off < 1e-5, "{kernel} taps, {direction}: {off}");
            }
        }
    }
}
