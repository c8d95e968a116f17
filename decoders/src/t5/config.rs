//! Sizes of a T5 encoder, read from the published `config.json`.

use std::path::Path;

use musaic_core::{Error, Result};
use serde::Deserialize;

/// Sizes and choices of a T5 encoder. Unknown keys of the published file are decoder or training settings.
#[derive(Debug, Clone, Deserialize)]
pub struct T5Config {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the states.
    pub d_model: usize,
    /// Width of one attention head.
    pub d_kv: usize,
    /// Width inside the feed-forward layer.
    pub d_ff: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Heads of attention.
    pub num_heads: usize,
    /// Buckets of relative distance, both directions together.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all share the last bucket.
    #[serde(default = "default_distance")]
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in the norms.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f64,
    /// `relu`, `gated-gelu` and so on.
    #[serde(default = "default_feed_forward")]
    pub feed_forward_proj: String,
}

fn default_buckets() -> usize {
    32
}

fn default_distance() -> usize {
    128
}

fn default_epsilon() -> f64 {
    1e-6
}

fn default_feed_forward() -> String {
    "relu".into()
}

/// Activation of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// Gaussian error linear unit with erf.
    Gelu,
    /// The same with tanh; what `gated-gelu` means in published T5 files.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
}

/// What `feed_forward_proj` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedForward {
    /// The activation.
    pub activation: Activation,
    /// Whether a second matrix gates the activated values.
    pub gated: bool,
}

impl T5Config {
    /// Width of all heads together.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// The meaning of `feed_forward_proj`.
    ///
    /// # Errors
    /// The value is unknown; `path` is the file that holds it.
    pub fn feed_forward(&self, path: &Path) -> Result<FeedForward> {
        let (gated, activation) = match self.feed_forward_proj.as_str() {
            "relu" => (false, Activation::Relu),
            "gelu" => (false, Activation::Gelu),
            "gelu_new" => (false, Activation::GeluTanh),
            "silu" => (false, Activation::Silu),
            "gated-relu" => (true, Activation::Relu),
            // The published files say `gated-gelu` and the reference reads the tanh form from it.
            "gated-gelu" | "gated-gelu_new" => (true, Activation::GeluTanh),
            "gated-silu" => (true, Activation::Silu),
            other => {
                let what =
                    format!("feed_forward_proj `{other}` is not one of relu, gelu, silu, gated-gelu, gated-silu");
                return Err(Error::config(path, what));
            }
        };
        Ok(FeedForward { activation, gated })
    }

    /// Checks all values against what this implementation can do.
    ///
    /// # Errors
    /// Lists every value out of range; `path` is the file that holds them.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let mut problems = Vec::new();
        let mut check = |name: &str, value: usize, max: usize| {
            if value == 0 || value > max {
                problems.push(format!("{name} = {value}, expected 1 to {max}"));
            }
        };
        check("vocab_size", self.vocab_size, 1 << 22);
        check("d_model", self.d_model, 1 << 16);
        check("d_kv", self.d_kv, 1 << 12);
        check("d_ff", self.d_ff, 1 << 18);
        check("num_layers", self.num_layers, 512);
        check("num_heads", self.num_heads, 512);
        check("relative_attention_max_distance", self.relative_attention_max_distance, 1 << 20);
        let buckets = self.relative_attention_num_buckets;
        if !(4..=1 << 16).contains(&buckets) || !buckets.is_multiple_of(2) {
            problems
                .push(format!("relative_attention_num_buckets = {buckets}, expected an even number from 4 to 65536"));
        } else if self.relative_attention_max_distance <= buckets / 4 {
            let distance = self.relative_attention_max_distance;
            problems.push(format!("relative_attention_max_distance = {distance}, expected above {}", buckets / 4));
        }
        if !(0.0..1.0).contains(&self.layer_norm_epsilon) {
            problems.push(format!("layer_norm_epsilon = {}, expected 0 to 1", self.layer_norm_epsilon));
        }
        if !problems.is_empty() {
            return Err(Error::config(path, format!("text encoder: {}", problems.join("; "))));
        }
        self.feed_forward(path).map(|_| ())
    }
}
