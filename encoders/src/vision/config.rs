//! What the `config.json` of ViT and of ViViT says alike.

use serde::Deserialize;

use crate::{Activation, files::Problems};

/// Sizes and choices of the transformer, and the pictures it looks at.
#[derive(Debug, Clone, Deserialize)]
pub struct VisionConfig {
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
    /// Side of a picture, in pixels.
    pub image_size: usize,
    /// Channels of a picture.
    #[serde(default = "three")]
    pub num_channels: usize,
    /// Whether query, key and value have a bias.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
}

fn three() -> usize {
    3
}

fn yes() -> bool {
    true
}

impl VisionConfig {
    /// What is wrong with it.
    pub(crate) fn check(&self, problems: &mut Problems) {
        problems.transformer(
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
        );
        problems.size("image_size", self.image_size, 1 << 13);
        problems.expect(self.num_channels == 3, || format!("num_channels = {}, expected 3", self.num_channels));
    }
}
