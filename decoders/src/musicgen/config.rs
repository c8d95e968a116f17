//! `config.json` and `generation_config.json` of a published MusicGen folder.

use std::path::Path;

use musaic_core::{
    Error, Result,
    files::{MAX_CONFIG, read_config, read_json},
    role::Sampling,
};
use serde::Deserialize;
use serde_json::Value;

use super::delay::DelayPattern;
use crate::{encodec::EncodecConfig, t5::T5Config};

/// Frames of the window where the model's folder does not say: the published models were trained on 30 s at 50 Hz.
pub const DEFAULT_WINDOW_FRAMES: usize = 1500;

/// The decoder language model.
#[derive(Debug, Clone, Deserialize)]
pub struct LmConfig {
    /// Codes of one codebook; the tables have one row more for the start and pad token.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of attention.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward layer.
    pub ffn_dim: usize,
    /// Codebooks of all channels together.
    #[serde(default = "four")]
    pub num_codebooks: usize,
    /// 1, or 2 for interleaved stereo.
    #[serde(default = "one")]
    pub audio_channels: usize,
    /// Rows of the position table that older files store.
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Only `gelu`.
    #[serde(default = "gelu")]
    pub activation_function: String,
    /// Start and pad token; equals `vocab_size`.
    pub pad_token_id: Option<u32>,
    /// Only `false`.
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn default_positions() -> usize {
    2048
}

fn gelu() -> String {
    "gelu".into()
}

impl LmConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Delays of the codebooks.
    ///
    /// # Errors
    /// Codebooks and channels do not fit each other.
    pub fn delay_pattern(&self) -> Result<DelayPattern> {
        DelayPattern::new(self.num_codebooks, self.audio_channels, self.vocab_size as u32)
    }

    /// Checks all values against what this implementation can do.
    ///
    /// # Errors
    /// Lists every value out of range; `path` is the file that holds them.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(Error::config(path, format!("decoder: {}", problems.join("; ")))) }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |name: &str, value: usize, max: usize| {
            if value == 0 || value > max {
                problems.push(format!("{name} = {value}, expected 1 to {max}"));
            }
        };
        check("vocab_size", self.vocab_size, 1 << 20);
        check("hidden_size", self.hidden_size, 1 << 16);
        check("num_hidden_layers", self.num_hidden_layers, 512);
        check("num_attention_heads", self.num_attention_heads, 512);
        check("ffn_dim", self.ffn_dim, 1 << 18);
        check("num_codebooks", self.num_codebooks, 64);
        check("max_position_embeddings", self.max_position_embeddings, 1 << 20);
        let heads = self.num_attention_heads.max(1);
        // Sine and cosine share the width equally, and the frequencies need two of each.
        if !self.hidden_size.is_multiple_of(heads) || !self.hidden_size.is_multiple_of(2) || self.hidden_size < 4 {
            problems.push(format!("hidden_size = {}, expected an even multiple of {heads} heads", self.hidden_size));
        }
        if self.delay_pattern().is_err() {
            let found = format!("num_codebooks = {}, audio_channels = {}", self.num_codebooks, self.audio_channels);
            problems.push(format!("{found}, expected 1 or 2 channels of as many codebooks each"));
        }
        if self.activation_function != "gelu" {
            problems.push(format!("activation_function = {}, expected gelu", self.activation_function));
        }
        if self.pad_token_id.is_some_and(|id| id as usize != self.vocab_size) {
            problems.push(format!("pad_token_id = {:?}, expected {}", self.pad_token_id, self.vocab_size));
        }
        if self.tie_word_embeddings {
            problems.push("tie_word_embeddings = true, expected false".into());
        }
        problems
    }
}

/// How the conditioning enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Cross attention to text states.
    CrossAttention,
    /// States of melody and text in front of the codes.
    Melody {
        /// Bins of the chroma.
        num_chroma: usize,
        /// Frames of chroma in front of the text.
        chroma_length: usize,
    },
}

/// A whole model.
#[derive(Debug, Clone)]
pub struct MusicgenConfig {
    /// How the conditioning enters.
    pub variant: Variant,
    /// Text to states.
    pub text_encoder: T5Config,
    /// The codec.
    pub audio_encoder: EncodecConfig,
    /// The language model.
    pub decoder: LmConfig,
}

#[derive(Deserialize)]
struct Raw {
    model_type: String,
    text_encoder: T5Config,
    audio_encoder: Value,
    decoder: LmConfig,
    #[serde(default = "twelve")]
    num_chroma: usize,
    #[serde(default = "default_chroma_length")]
    chroma_length: usize,
}

fn twelve() -> usize {
    12
}

fn default_chroma_length() -> usize {
    235
}

impl MusicgenConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, or holds values that are out of range or not implemented; all of them are listed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_json(path, &read_config(path)?)
    }

    /// Reads the content of a `config.json`; `path` is used in messages only.
    ///
    /// # Errors
    /// As [`MusicgenConfig::open`].
    pub fn from_json(path: &Path, json: &Value) -> Result<Self> {
        let raw = Raw::deserialize(json).map_err(|e| Error::config(path, format!("MusicGen: {e}")))?;
        let variant = match raw.model_type.as_str() {
            "musicgen" => Variant::CrossAttention,
            "musicgen_melody" => Variant::Melody { num_chroma: raw.num_chroma, chroma_length: raw.chroma_length },
            other => {
                let what = format!("model_type `{other}`, expected `musicgen` or `musicgen_melody`");
                return Err(Error::config(path, what));
            }
        };
        let audio_encoder = EncodecConfig::from_json(path, &raw.audio_encoder)?;
        let config = Self { variant, text_encoder: raw.text_encoder, audio_encoder, decoder: raw.decoder };
        config.validate(path)?;
        Ok(config)
    }

    fn validate(&self, path: &Path) -> Result<()> {
        self.text_encoder.validate(path)?;
        let mut problems = self.decoder.problems();
        if let Variant::Melody { num_chroma, chroma_length } = self.variant
            && (!(1..=1 << 10).contains(&num_chroma) || !(1..=1 << 16).contains(&chroma_length))
        {
            let found = format!("num_chroma = {num_chroma}, chroma_length = {chroma_length}");
            problems.push(format!("{found}, expected 1 to 1024 and 1 to 65536"));
        }
        let (codes, rows) = (self.decoder.vocab_size, self.audio_encoder.codebook_size);
        if codes > rows {
            problems.push(format!("decoder.vocab_size = {codes}, expected at most codebook_size = {rows}"));
        }
        if self.audio_encoder.audio_channels != 1 {
            problems.push(format!("audio_encoder.audio_channels = {}, expected 1", self.audio_encoder.audio_channels));
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::config(path, format!("decoder: {}", problems.join("; ")))) }
    }
}

/// What `generation_config.json` says; used under `reference` only, but for the window.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Draw, or always the most likely token.
    pub do_sample: bool,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Divides the logits.
    pub temperature: f64,
    /// The `k` most likely tokens.
    pub top_k: usize,
    /// The tokens that together reach this probability.
    pub top_p: f64,
    /// Frames of one window; a key of this project, for models trained on other lengths than the published ones.
    pub musaic_window_frames: Option<usize>,
}

impl Default for GenerationConfig {
    /// The library defaults of the reference.
    fn default() -> Self {
        Self {
            do_sample: false,
            guidance_scale: 1.0,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            musaic_window_frames: None,
        }
    }
}

impl GenerationConfig {
    /// Reads `generation_config.json`; where there is none, the library defaults.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Ok(Self::default());
        }
        read_json(path, MAX_CONFIG, "a JSON generation configuration")
    }

    /// How the reference would pick tokens.
    pub fn sampling(&self) -> Sampling {
        if self.do_sample {
            Sampling::Draw { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p }
        } else {
            Sampling::Greedy
        }
    }

    /// Frames of one window of a model with this language model.
    pub fn window_frames(&self, lm: &LmConfig) -> usize {
        let longest = lm.max_position_embeddings.saturating_sub(lm.num_codebooks / lm.audio_channels).max(1);
        self.musaic_window_frames.unwrap_or(DEFAULT_WINDOW_FRAMES).clamp(1, longest)
    }
}
