//! MERT ([MERT: Acoustic Music Understanding Model](https://arxiv.org/abs/2306.00107)): music to the states of every layer.
//!
//! Checkpoints: `m-a-p/MERT-v1-95M`, `m-a-p/MERT-v1-330M` and others of their layout. The body is HuBERT's; the reference is
//! `HubertModel` of transformers 4.57 under MERT's names, with `deepnorm` as in MERT's own code.
//!
//! | stage | shape |
//! |---|---|
//! | processed samples ([`FeatureExtractor`]) | `[1, samples]` |
//! | convolutions, projection | `[1, frames, hidden_size]`, 75 frames a second |
//! | hidden states: the input of the first layer, the output of each | `num_hidden_layers + 1` of the same |
//! | features ([`Mert::forward`]) | `[1, num_hidden_layers + 1, hidden_size]`, each the mean over time |
//!
//! Conventions: with `do_stable_layer_norm` (330M) states are the residual stream, and only the last has the final norm applied;
//! without it (95M) every state is what a norm gave. The norm behind the first convolution spans the whole input, so another
//! length or padding changes every feature: inputs are encoded one at a time and never padded.

mod config;
mod front;
mod layer;
mod processor;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    media::{chunks, resample},
    nn::{LayerNorm, Linear},
    probe::Probe,
    role::{AudioSpan, Encoder, EncoderSpec, Media},
    weights::Weights,
};

pub use self::{
    config::{FeatExtractNorm, MertConfig},
    processor::FeatureExtractor,
};
use self::{
    front::FrontEnd,
    layer::{Layer, PositionalConv},
};
use crate::files::values;

/// A whole MERT.
#[derive(Debug, Clone)]
pub struct Mert {
    config: MertConfig,
    spec: EncoderSpec,
    extractor: FeatureExtractor,
    front: FrontEnd,
    projection_norm: Option<LayerNorm>,
    projection: Linear,
    pos_conv_embed: PositionalConv,
    layer_norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Mert {
    /// Loads a published folder.
    ///
    /// # Errors
    /// A file is missing or damaged, the configuration is not supported, or weights are missing, misshaped or left over.
    pub fn load(folder: &Path, device: &Device, format: WeightFormat) -> Result<Self> {
        let weights = Weights::open(folder, device, format)?;
        let model = Self::configured(folder, &weights)?;
        weights.finish()?;
        Ok(model)
    }

    /// As [`Mert::new`], with what a published folder says of the model: its weights may lie elsewhere.
    ///
    /// # Errors
    /// A file is missing or broken, the configuration is not supported, or the weights cannot be read.
    pub fn configured(folder: &Path, weights: &Weights) -> Result<Self> {
        let config = MertConfig::open(&folder.join("config.json"))?;
        let extractor = FeatureExtractor::open(&folder.join("preprocessor_config.json"))?;
        Self::new(&config, extractor, weights)
    }

    /// Builds the model at the place of `weights`, which may be a part of a larger checkpoint: their account is left open.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(config: &MertConfig, extractor: FeatureExtractor, weights: &Weights) -> Result<Self> {
        weights.ignore("masked_spec_embed", "stands for masked frames in training");
        let channels = config.conv_dim.last().copied().unwrap_or_default();
        let hidden = config.hidden_size;
        let projection = weights.pp("feature_projection");
        let encoder = weights.pp("encoder");
        let projection_norm = if config.feat_proj_layer_norm {
            Some(LayerNorm::load(channels, config.layer_norm_eps, &projection.pp("layer_norm"))?)
        } else {
            None
        };
        let layers = encoder.pp("layers");
        Ok(Self {
            front: FrontEnd::load(config, &weights.pp("feature_extractor.conv_layers"))?,
            projection_norm,
            projection: Linear::load(channels, hidden, true, &projection.pp("projection"))?,
            pos_conv_embed: PositionalConv::load(config, &encoder.pp("pos_conv_embed"))?,
            layer_norm: LayerNorm::load(hidden, config.layer_norm_eps, &encoder.pp("layer_norm"))?,
            layers: (0..config.num_hidden_layers).map(|i| Layer::load(config, &layers.pp(i))).collect::<Result<_>>()?,
            spec: config.spec(),
            extractor,
            config: config.clone(),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &MertConfig {
        &self.config
    }

    /// What its folder says about samples.
    pub fn extractor(&self) -> &FeatureExtractor {
        &self.extractor
    }

    /// Processed samples `[1, samples]` to the means over time of all hidden states, `[1, num_hidden_layers + 1, hidden_size]`
    /// f32. The probe sees `conv_i` `[1, channels, time]` (where it wants `conv_0`), `feature_projection`, `pos_conv_embed` and
    /// `hidden_state_i`, each `[1, frames, hidden_size]`.
    ///
    /// # Errors
    /// The shape differs, or the clip is too short for one frame.
    pub fn forward(&self, input_values: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let shape = input_values.dims();
        let least = self.config.min_samples();
        if shape.len() != 2 || shape[0] != 1 || shape[1] < least {
            let expected = format!("[1, {least} or more]; one clip at a time, never padded");
            return Err(Error::argument("input values", format!("{shape:?}"), expected));
        }
        let frames = self.front.forward(&values(input_values)?, probe)?;
        let frames = match &self.projection_norm {
            Some(norm) => norm.forward(&frames)?,
            None => frames,
        };
        let xs = self.projection.forward(&frames)?;
        probe.see("feature_projection", &xs)?;
        let positions = self.pos_conv_embed.forward(&xs)?;
        probe.see("pos_conv_embed", &positions)?;
        let mut xs = (xs + positions)?;
        let stable = self.config.do_stable_layer_norm;
        if !stable {
            xs = self.layer_norm.forward(&xs)?;
        }
        let mut means = Vec::with_capacity(self.layers.len() + 1);
        means.push(mean_over_time(&xs)?);
        probe.see("hidden_state_0", &xs)?;
        for (i, layer) in self.layers.iter().enumerate() {
            xs = layer.forward(&xs)?;
            if stable && i + 1 == self.layers.len() {
                xs = self.layer_norm.forward(&xs)?;
            }
            means.push(mean_over_time(&xs)?);
            probe.see(&format!("hidden_state_{}", i + 1), &xs)?;
        }
        Ok(Tensor::stack(&means, 1)?)
    }
}

/// `[1, frames, width]` to `[1, width]`, f32, summed in f64: a minute has 4500 frames.
fn mean_over_time(xs: &Tensor) -> candle_core::Result<Tensor> {
    let (_, frames, width) = xs.dims3()?;
    let mut sums = vec![0f64; width];
    for frame in values(xs)?.chunks_exact(width) {
        sums.iter_mut().zip(frame).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let means = sums.iter().map(|sum| (sum / frames as f64) as f32).collect();
    Tensor::from_vec(means, (1, width), &Device::Cpu)
}

impl Encoder for Mert {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Resampled, then the mean over channels, then cut; each part is processed by itself, as the reference does.
    fn prepare(&self, media: Media<'_>, span: AudioSpan) -> Result<Vec<Tensor>> {
        let Media::Audio(audio) = media else {
            return Err(Error::argument("media", format!("{:?}", media.modality()), "sound"));
        };
        let rate = self.extractor.sampling_rate;
        let samples = resample(audio, rate)?.mixdown();
        let least = self.config.min_samples();
        if samples.len() < least {
            let found = format!("{} samples at {rate} Hz", samples.len());
            return Err(Error::argument("audio", found, format!("at least {least}")));
        }
        let parts = match span {
            AudioSpan::Whole => chunks::whole(samples.len(), rate),
            AudioSpan::First60 => chunks::first60(samples.len(), rate),
        };
        // A last part too short for a frame says nothing.
        let parts = parts.into_iter().filter(|part| part.len() >= least);
        parts
            .map(|part| {
                let values = self.extractor.process(&samples[part])?;
                let count = values.len();
                Ok(Tensor::from_vec(values, (1, count), &Device::Cpu)?)
            })
            .collect()
    }

    fn encode(&self, input: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        Ok(self.forward(input, probe)?.to_dtype(DType::F32)?)
    }
}

#[cfg(test)]
mod tests;
