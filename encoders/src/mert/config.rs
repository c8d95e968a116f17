//! Sizes and choices of a MERT, read from the published `config.json`.

use std::path::Path;

use musaic_core::{
    Result,
    files::read_config,
    role::{EncoderSpec, Modality},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Activation,
    files::{Problems, parse},
};

/// Norms of the convolutions in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatExtractNorm {
    /// After the first convolution only, over time, each channel for itself.
    Group,
    /// After every convolution, over channels.
    Layer,
}

/// What the published file says. Unknown keys are training settings; `attention_relax` only rounds scores otherwise.
#[derive(Debug, Clone, Deserialize)]
pub struct MertConfig {
    /// Width of the states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of attention.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Activation of the feed-forward layer.
    pub hidden_act: Activation,
    /// Channels of each convolution.
    pub conv_dim: Vec<usize>,
    /// Taps of each convolution.
    pub conv_kernel: Vec<usize>,
    /// Step of each convolution.
    pub conv_stride: Vec<usize>,
    /// Whether the convolutions have a bias.
    #[serde(default)]
    pub conv_bias: bool,
    /// Their norms.
    pub feat_extract_norm: FeatExtractNorm,
    /// Their activation, also that of the positional convolution.
    pub feat_extract_activation: Activation,
    /// Whether there is a norm between the convolutions and the projection.
    #[serde(default = "yes")]
    pub feat_proj_layer_norm: bool,
    /// Added to the variance in the norms of the transformer and of the projection.
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f64,
    /// Whether norms come before attention and feed-forward.
    #[serde(default)]
    pub do_stable_layer_norm: bool,
    /// Taps of the positional convolution.
    pub num_conv_pos_embeddings: usize,
    /// Its groups.
    pub num_conv_pos_embedding_groups: usize,
    /// Whether residuals count `(2 * num_hidden_layers)^(1/4)` times.
    #[serde(default)]
    pub deepnorm: bool,
    /// Whether a constant-Q transform goes in as well.
    #[serde(default)]
    pub feature_extractor_cqt: bool,
    /// Whether the positional convolution has a batch norm in place of its weight norm.
    #[serde(default)]
    pub conv_pos_batch_norm: bool,
}

fn yes() -> bool {
    true
}

fn epsilon() -> f64 {
    1e-5
}

impl MertConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The file is missing or broken, or asks for something that does not exist.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_json(path, &read_config(path)?)
    }

    /// From what the file at `path` holds.
    ///
    /// # Errors
    /// Lists every value that is not supported.
    pub fn from_json(path: &Path, json: &Value) -> Result<Self> {
        let config: Self = parse(path, json)?;
        let mut problems = Problems::default();
        let (heads, inner) = (config.num_attention_heads, config.intermediate_size);
        problems.transformer(config.hidden_size, config.num_hidden_layers, heads, inner);
        problems.size("num_conv_pos_embeddings", config.num_conv_pos_embeddings, 1 << 12);
        problems.size("num_conv_pos_embedding_groups", config.num_conv_pos_embedding_groups, 1 << 12);
        let count = config.conv_dim.len();
        let same = config.conv_kernel.len() == count && config.conv_stride.len() == count && (1..=32).contains(&count);
        problems.expect(same, || {
            let (kernels, strides) = (config.conv_kernel.len(), config.conv_stride.len());
            format!("{count} conv_dim, {kernels} conv_kernel, {strides} conv_stride, expected as many of each, 1 to 32")
        });
        for (i, ((dim, kernel), stride)) in
            config.conv_dim.iter().zip(&config.conv_kernel).zip(&config.conv_stride).enumerate()
        {
            problems.size(&format!("conv_dim[{i}]"), *dim, 1 << 14);
            problems.size(&format!("conv_kernel[{i}]"), *kernel, 256);
            problems.size(&format!("conv_stride[{i}]"), *stride, 256);
        }
        problems.share(config.hidden_size, config.num_conv_pos_embedding_groups, "groups");
        problems.expect(!(config.deepnorm && config.do_stable_layer_norm), || {
            "deepnorm with do_stable_layer_norm, expected at most one".into()
        });
        problems.expect(!config.feature_extractor_cqt, || "feature_extractor_cqt = true, expected false".into());
        problems.expect(!config.conv_pos_batch_norm, || "conv_pos_batch_norm = true, expected false".into());
        problems.finish(path)?;
        Ok(config)
    }

    /// What a model of this configuration is, before it is built.
    pub fn spec(&self) -> EncoderSpec {
        EncoderSpec {
            name: "mert",
            modality: Modality::Audio,
            positions: self.num_hidden_layers + 1,
            dim: self.hidden_size,
            frames: None,
        }
    }

    /// Kernel and stride of each convolution.
    pub(super) fn windows(&self) -> impl DoubleEndedIterator<Item = (usize, usize)> {
        self.conv_kernel.iter().copied().zip(self.conv_stride.iter().copied())
    }

    /// Frames that `samples` samples give.
    pub fn frames(&self, samples: usize) -> usize {
        self.windows().fold(samples, |n, (kernel, stride)| if n < kernel { 0 } else { (n - kernel) / stride + 1 })
    }

    /// Samples that frames `first .. last` are made of, counted from the first of them: where they begin and where they end.
    pub(super) fn samples_of(&self, first: usize, last: usize) -> (usize, usize) {
        self.windows().rev().fold((first, last), |(first, last), (kernel, stride)| {
            (first.saturating_mul(stride), last.saturating_sub(1).saturating_mul(stride).saturating_add(kernel))
        })
    }

    /// Fewest samples that give a frame.
    pub fn min_samples(&self) -> usize {
        self.samples_of(0, 1).1
    }
}
