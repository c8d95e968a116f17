//! The convolutions in front: samples to frames.
//!
//! Two things keep it small and fast. The group norm behind the first convolution spans the whole clip, but what it needs is
//! known before any convolution: an output is a weighted sum of `K` neighbouring samples, so its mean and variance follow from
//! the mean and covariance of those `K` (computed once, in f64), and the norm becomes part of the convolution's weight and
//! bias. Nothing else spans the clip, so the stack runs over blocks of frames, and its widest states (512 channels at a fifth of
//! the sample rate: 590 MB a minute) never exist as a whole.

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    Result,
    nn::{Conv1d, Conv1dConfig, LayerNorm},
    probe::Probe,
    weights::Weights,
};

use super::config::{FeatExtractNorm, MertConfig};
use crate::files::values;

/// Added to the variance in the norms of this part.
const EPS: f64 = 1e-5;
/// Frames worked on at a time: 3.2 s, so that a block's widest states are 31 MB.
const BLOCK: usize = 240;

#[derive(Debug, Clone)]
pub(super) struct FrontEnd {
    config: MertConfig,
    first: First,
    rest: Vec<(Conv1d, Option<LayerNorm>)>,
    device: Device,
    dtype: DType,
    block: usize,
}

/// The first convolution.
#[derive(Debug, Clone)]
enum First {
    /// As it is, with a norm over channels behind it.
    Plain(Conv1d, Option<LayerNorm>),
    /// With a norm over time: `weight [channels, K]`, `gamma` and `beta` `[channels]`. Its own bias would vanish in the norm.
    Normed { weight: Vec<f32>, gamma: Vec<f32>, beta: Vec<f32> },
}

impl FrontEnd {
    pub(super) fn load(config: &MertConfig, weights: &Weights) -> Result<Self> {
        let mut inputs = 1;
        let mut first = None;
        let mut rest = Vec::new();
        for (i, (kernel, stride)) in config.windows().enumerate() {
            let outputs = config.conv_dim[i];
            let at = weights.pp(i);
            let norm = at.pp("layer_norm");
            let weight = at.pp("conv").tensor((outputs, inputs, kernel), "weight")?;
            let bias = if config.conv_bias { Some(at.pp("conv").tensor(outputs, "bias")?) } else { None };
            if i == 0 && config.feat_extract_norm == FeatExtractNorm::Group {
                let (gamma, beta) = (norm.tensor(outputs, "weight")?, norm.tensor(outputs, "bias")?);
                first = Some(First::Normed {
                    weight: if weights.has_values() { values(&weight)? } else { Vec::new() },
                    gamma: values(&gamma)?,
                    beta: values(&beta)?,
                });
            } else {
                let norm = match config.feat_extract_norm {
                    FeatExtractNorm::Layer => Some(LayerNorm::load(outputs, EPS, &norm)?),
                    FeatExtractNorm::Group => None,
                };
                // Without values one tap stands for all, so that nothing of the layer's size is allocated.
                let weight = if weights.has_values() { weight } else { weight.narrow(0, 0, 1)?.narrow(1, 0, 1)? };
                let conv = Conv1d::new(&weight, bias, Conv1dConfig { stride, dilation: 1 })?;
                match first {
                    None => first = Some(First::Plain(conv, norm)),
                    Some(_) => rest.push((conv, norm)),
                }
            }
            inputs = outputs;
        }
        let first =
            first.ok_or_else(|| musaic_core::Error::argument("conv_dim", "none", "at least one convolution"))?;
        let (device, dtype) = (weights.device().clone(), weights.dtype());
        Ok(Self { config: config.clone(), first, rest, device, dtype, block: BLOCK })
    }

    /// Processed samples to `[1, frames, channels]`. The probe sees `conv_i` of the whole clip, `[1, channels, time]`.
    pub(super) fn forward(&self, samples: &[f32], probe: &mut dyn Probe) -> candle_core::Result<Tensor> {
        let first = self.first_for(samples)?;
        let frames = self.config.frames(samples.len());
        if probe.wants("conv_0") {
            return self.stack(&first, samples, probe);
        }
        let mut blocks = Vec::new();
        for begin in (0..frames).step_by(self.block) {
            let (from, to) = self.config.samples_of(begin, (begin + self.block).min(frames));
            blocks.push(self.stack(&first, &samples[from..to], &mut ())?);
            // Something to see for who wants to stop it.
            probe.see("frames", &blocks[blocks.len() - 1])?;
        }
        Tensor::cat(&blocks, 1)
    }

    /// The first convolution, with the norm of this clip where it has one.
    fn first_for(&self, samples: &[f32]) -> candle_core::Result<(Conv1d, Option<LayerNorm>)> {
        let (weight, gamma, beta) = match &self.first {
            First::Plain(conv, norm) => return Ok((conv.clone(), norm.clone())),
            First::Normed { weight, gamma, beta } => (weight, gamma, beta),
        };
        let (kernel, stride) = (self.config.conv_kernel[0], self.config.conv_stride[0]);
        let moments = Moments::of(samples, kernel, stride);
        let mut folded = Vec::with_capacity(weight.len());
        let mut bias = Vec::with_capacity(gamma.len());
        for (taps, (gamma, beta)) in weight.chunks_exact(kernel).zip(gamma.iter().zip(beta)) {
            let (mean, variance) = moments.of_sum(taps);
            let scale = f64::from(*gamma) / (variance + EPS).sqrt();
            folded.extend(taps.iter().map(|tap| (f64::from(*tap) * scale) as f32));
            bias.push((f64::from(*beta) - mean * scale) as f32);
        }
        let channels = gamma.len();
        let place = |xs: Tensor| xs.to_dtype(self.dtype)?.to_device(&self.device);
        let folded = place(Tensor::from_vec(folded, (channels, 1, kernel), &Device::Cpu)?)?;
        let bias = place(Tensor::from_vec(bias, channels, &Device::Cpu)?)?;
        Ok((Conv1d::new(&folded, Some(bias), Conv1dConfig { stride, dilation: 1 })?, None))
    }

    /// All convolutions over some samples: `[1, frames, channels]`.
    fn stack(
        &self,
        first: &(Conv1d, Option<LayerNorm>),
        samples: &[f32],
        probe: &mut dyn Probe,
    ) -> candle_core::Result<Tensor> {
        let xs = Tensor::from_slice(samples, (1, 1, samples.len()), &Device::Cpu)?;
        let mut xs = xs.to_dtype(self.dtype)?.to_device(&self.device)?;
        for (i, (conv, norm)) in std::iter::once(first).chain(&self.rest).enumerate() {
            xs = conv.forward(&xs)?;
            if let Some(norm) = norm {
                xs = norm.forward(&xs.transpose(1, 2)?.contiguous()?)?.transpose(1, 2)?.contiguous()?;
            }
            xs = self.config.feat_extract_activation.apply(&xs)?;
            probe.see(&format!("conv_{i}"), &xs)?;
        }
        xs.transpose(1, 2)?.contiguous()
    }
}

/// Mean and covariance of the `K` samples under a window that moves over a clip.
struct Moments {
    means: Vec<f64>,
    /// `[K, K]`.
    covariances: Vec<f64>,
}

impl Moments {
    fn of(samples: &[f32], kernel: usize, stride: usize) -> Self {
        let mut means = vec![0.0; kernel];
        let mut covariances = vec![0.0; kernel * kernel];
        let count = samples.windows(kernel).step_by(stride).len() as f64;
        for window in samples.windows(kernel).step_by(stride) {
            means.iter_mut().zip(window).for_each(|(mean, x)| *mean += f64::from(*x));
        }
        means.iter_mut().for_each(|mean| *mean /= count);
        let mut centred = vec![0.0; kernel];
        for window in samples.windows(kernel).step_by(stride) {
            for ((centred, x), mean) in centred.iter_mut().zip(window).zip(&means) {
                *centred = f64::from(*x) - mean;
            }
            for (row, x) in covariances.chunks_exact_mut(kernel).zip(&centred) {
                row.iter_mut().zip(&centred).for_each(|(sum, y)| *sum += x * y);
            }
        }
        covariances.iter_mut().for_each(|sum| *sum /= count);
        Self { means, covariances }
    }

    /// Mean and (population) variance of the sum of these samples times `taps`.
    fn of_sum(&self, taps: &[f32]) -> (f64, f64) {
        let dot = |xs: &[f64]| taps.iter().zip(xs).map(|(tap, x)| f64::from(*tap) * x).sum::<f64>();
        let variance = taps
            .iter()
            .zip(self.covariances.chunks_exact(taps.len()))
            .map(|(tap, row)| f64::from(*tap) * dot(row))
            .sum();
        (dot(&self.means), f64::max(variance, 0.0))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::D;
    use musaic_core::WeightFormat;
    use serde_json::json;

    use super::*;

    fn front(norm: &str, bias: bool) -> (FrontEnd, Weights) {
        let json = json!({
            "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "hidden_act": "gelu",
            "conv_dim": [16, 24, 16], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2], "conv_bias": bias,
            "feat_extract_norm": norm, "feat_extract_activation": "gelu",
            "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
        });
        let config = MertConfig::from_json(std::path::Path::new("config.json"), &json).unwrap();
        let weights = Weights::random(5, &Device::Cpu, WeightFormat::F32);
        (FrontEnd::load(&config, &weights).unwrap(), weights)
    }

    fn noise(count: usize) -> Vec<f32> {
        let wave = |i: usize| (i as f32 * 0.37).sin() + (i as f32 * 0.011).cos() * 0.5 + 0.2;
        (0..count).map(|i| wave(i) + (i * 7919 % 1000) as f32 * 1e-3).collect()
    }

    fn off(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn blocks_give_the_same_bits_as_the_whole() {
        for (norm, bias) in [("group", false), ("layer", true)] {
            let (mut front, _) = front(norm, bias);
            let samples = noise(2003);
            let mut seen: Vec<(String, Tensor)> = Vec::new();
            let whole = front.forward(&samples, &mut seen).unwrap();
            assert_eq!(seen.len(), 3);
            assert_eq!(whole.dim(1).unwrap(), front.config.frames(samples.len()));
            for block in [1, 7, 64, 1000] {
                front.block = block;
                assert_eq!(off(&front.forward(&samples, &mut ()).unwrap(), &whole), 0.0, "{norm}, {block}");
            }
        }
    }

    /// The norm over time as it is written in the reference: after the convolution, over all its outputs.
    #[test]
    fn the_folded_norm_is_the_norm() {
        let (front, weights) = front("group", true);
        let samples = noise(1000);
        let at = weights.pp(0);
        let weight = at.pp("conv").tensor((16, 1, 10), "weight").unwrap();
        let bias = at.pp("conv").tensor(16, "bias").unwrap().reshape((1, 16, 1)).unwrap();
        let column = |name: &str| at.pp("layer_norm").tensor(16, name).unwrap().reshape((1, 16, 1)).unwrap();
        let xs = Tensor::from_slice(&samples, (1, 1, 1000), &Device::Cpu).unwrap();
        let ys = xs.conv1d(&weight, 0, 5, 1, 1).unwrap().broadcast_add(&bias).unwrap();
        let centred = ys.broadcast_sub(&ys.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let ys = centred.broadcast_div(&(variance + EPS).unwrap().sqrt().unwrap()).unwrap();
        let ys = ys.broadcast_mul(&column("weight")).unwrap().broadcast_add(&column("bias")).unwrap();
        let (conv, _) = front.first_for(&samples).unwrap();
        assert!(off(&conv.forward(&xs).unwrap(), &ys) < 2e-5);
        // Silence has no variance, and no gain without end.
        let (conv, _) = front.first_for(&[0.0; 100]).unwrap();
        let quiet = Tensor::zeros((1, 1, 100), DType::F32, &Device::Cpu).unwrap();
        assert!(values(&conv.forward(&quiet).unwrap()).unwrap().iter().all(|x| x.is_finite()));
    }
}
