//! Sizes of a LLaMA: `config.json` of Hugging Face folders, `params.json` of Meta's.

use std::path::Path;

use musaic_core::{Error, Result, files::read_json, nn::Pairing};
use serde::Deserialize;
use serde_json::Value;

use super::rope::RopeConfig;

/// Largest file of settings that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Whose names and conventions the weights follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `model.layers.{i}.self_attn.q_proj.weight`; rotary halves.
    HuggingFace,
    /// `layers.{i}.attention.wq.weight`; rotary neighbours.
    Meta,
}

impl Layout {
    /// Which dimensions of a head turn together.
    pub fn pairing(self) -> Pairing {
        match self {
            Self::HuggingFace => Pairing::Halves,
            Self::Meta => Pairing::Adjacent,
        }
    }
}

/// What a checkpoint adds to the plain model (Meta layout).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hooks {
    /// Biases on `wq`, `wo`, `w1`, `w2`, `w3`.
    pub biases: bool,
    /// Rank of the LoRA on all seven projections.
    pub lora_rank: Option<usize>,
    /// Gates for a prefix in every layer.
    pub gates: bool,
}

/// Sizes and choices of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Names and conventions.
    pub layout: Layout,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Added to the mean square in the norms.
    pub rms_norm_eps: f64,
    /// Longest sequence it was made for.
    pub max_position_embeddings: usize,
    /// Rotary positions.
    pub rope: RopeConfig,
    /// The head is the table of embeddings.
    pub tie_word_embeddings: bool,
    /// Biases of all projections of attention (Hugging Face layout).
    pub attention_bias: bool,
    /// Biases of the feed-forward layer (Hugging Face layout).
    pub mlp_bias: bool,
    /// What a checkpoint adds.
    pub hooks: Hooks,
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
    /// Ids that end one.
    pub eos_token_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "epsilon")]
    rms_norm_eps: f64,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    partial_rotary_factor: Option<f64>,
    #[serde(default)]
    rope_interleaved: bool,
    bos_token_id: Option<u32>,
    #[serde(default)]
    eos_token_id: Value,
}

fn silu() -> String {
    "silu".into()
}

fn epsilon() -> f64 {
    1e-6
}

fn positions() -> usize {
    2048
}

/// `params.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MetaParams {
    /// Width.
    pub dim: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Heads.
    pub n_heads: usize,
    /// The width inside the feed-forward layer is a multiple of this.
    #[serde(default = "multiple")]
    pub multiple_of: usize,
    /// Multiplies that width.
    pub ffn_dim_multiplier: Option<f64>,
    /// Added to the mean square in the norms.
    #[serde(default = "meta_epsilon")]
    pub norm_eps: f64,
}

fn multiple() -> usize {
    256
}

fn meta_epsilon() -> f64 {
    1e-5
}

impl MetaParams {
    /// Reads `params.json`. (`vocab_size` is -1 in published files, and the reference ignores `n_kv_heads`: both follow from
    /// the shapes.)
    ///
    /// # Errors
    /// The file cannot be read, or holds values out of range.
    pub fn open(path: &Path) -> Result<Self> {
        let params: Self = serde_json::from_value(settings(path)?).map_err(|e| Error::config(path, e.to_string()))?;
        let in_range = (1..=1 << 16).contains(&params.dim)
            && (1..=512).contains(&params.n_layers)
            && (1..=512).contains(&params.n_heads)
            && (1..=1 << 20).contains(&params.multiple_of)
            && params.ffn_dim_multiplier.is_none_or(|m| m > 0.0 && m <= 64.0);
        if !in_range {
            return Err(Error::config(path, format!("values out of range: {params:?}")));
        }
        Ok(params)
    }

    /// Width inside the feed-forward layer.
    pub fn intermediate_size(&self) -> usize {
        let inner = 8 * self.dim / 3;
        let inner = self.ffn_dim_multiplier.map_or(inner, |m| (m * inner as f64) as usize);
        inner.div_ceil(self.multiple_of) * self.multiple_of
    }

    /// The model of this many token ids and positions.
    ///
    /// # Errors
    /// A value is out of range; `path` is the file that holds it.
    pub fn config(&self, path: &Path, vocab_size: usize, hooks: Hooks, positions: usize) -> Result<LlamaConfig> {
        let config = LlamaConfig {
            layout: Layout::Meta,
            vocab_size,
            hidden_size: self.dim,
            intermediate_size: self.intermediate_size(),
            num_hidden_layers: self.n_layers,
            num_attention_heads: self.n_heads,
            num_key_value_heads: self.n_heads,
            head_dim: self.dim / self.n_heads,
            rms_norm_eps: self.norm_eps,
            max_position_embeddings: positions,
            rope: RopeConfig::plain(10_000.0),
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            hooks,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        };
        config.validate(path)?;
        Ok(config)
    }
}

impl LlamaConfig {
    /// Reads `config.json`, and the ids that end a text from a `generation_config.json` beside it.
    ///
    /// # Errors
    /// A file cannot be read, or holds values that are out of range or not implemented; all of them are listed.
    pub fn open(path: &Path) -> Result<Self> {
        let mut config = Self::from_json(path, &settings(path)?)?;
        let generation = path.with_file_name("generation_config.json");
        if generation.is_file() {
            let ids = ids_of(settings(&generation)?.get("eos_token_id").unwrap_or(&Value::Null));
            config.eos_token_ids.extend(ids);
            config.eos_token_ids.sort_unstable();
            config.eos_token_ids.dedup();
        }
        Ok(config)
    }

    /// Reads the content of a `config.json`; `path` is used in messages only.
    ///
    /// # Errors
    /// As [`LlamaConfig::open`].
    pub fn from_json(path: &Path, json: &Value) -> Result<Self> {
        let raw = Raw::deserialize(json).map_err(|e| Error::config(path, format!("LLaMA: {e}")))?;
        let mut problems = Vec::new();
        for (name, found, expected) in [
            ("model_type", raw.model_type.as_str(), "llama"),
            ("hidden_act", raw.hidden_act.as_str(), "silu"),
            ("rope_interleaved", if raw.rope_interleaved { "true" } else { "false" }, "false"),
        ] {
            if found != expected {
                problems.push(format!("{name} = {found}, expected {expected}"));
            }
        }
        if raw.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
            problems.push(format!("partial_rotary_factor = {:?}, expected 1", raw.partial_rotary_factor));
        }
        if !problems.is_empty() {
            return Err(Error::config(path, problems.join("; ")));
        }
        let heads = raw.num_attention_heads;
        let config = Self {
            layout: Layout::HuggingFace,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: raw.num_key_value_heads.unwrap_or(heads),
            head_dim: raw.head_dim.unwrap_or(raw.hidden_size / heads.max(1)),
            rms_norm_eps: raw.rms_norm_eps,
            max_position_embeddings: raw.max_position_embeddings,
            rope: RopeConfig::from_json(path, json, raw.max_position_embeddings)?,
            tie_word_embeddings: raw.tie_word_embeddings,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            hooks: Hooks::default(),
            bos_token_id: raw.bos_token_id,
            eos_token_ids: ids_of(&raw.eos_token_id),
        };
        config.validate(path)?;
        Ok(config)
    }

    /// Checks all values against what this implementation can do.
    ///
    /// # Errors
    /// Lists every value out of range; `path` is the file that holds them.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let mut problems = Vec::new();
        for (name, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 22),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 512),
            ("num_attention_heads", self.num_attention_heads, 512),
            ("num_key_value_heads", self.num_key_value_heads, 512),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
        ] {
            if value == 0 || value > most {
                problems.push(format!("{name} = {value}, expected 1 to {most}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads.max(1)) {
            let (heads, shared) = (self.num_attention_heads, self.num_key_value_heads);
            problems.push(format!("num_key_value_heads = {shared}, expected a divisor of {heads}"));
        }
        if !self.head_dim.is_multiple_of(2) {
            problems.push(format!("head_dim = {}, expected an even number", self.head_dim));
        }
        if !(0.0..1.0).contains(&self.rms_norm_eps) {
            problems.push(format!("rms_norm_eps = {}, expected 0 to 1", self.rms_norm_eps));
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::config(path, problems.join("; "))) }
    }
}

/// One id or several.
fn ids_of(json: &Value) -> Vec<u32> {
    let id = |json: &Value| json.as_u64().and_then(|id| u32::try_from(id).ok());
    match json {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// A file of settings.
fn settings(path: &Path) -> Result<Value> {
    read_json(path, MAX_BYTES, "a JSON configuration")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn old_files_have_defaults_and_new_ones_are_read() {
        let path = Path::new("config.json");
        let mut file = json!({
            "model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 80,
            "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": [2, 5],
        });
        let config = LlamaConfig::from_json(path, &file).unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (4, 8));
        assert_eq!(config.rope, RopeConfig::plain(10_000.0));
        assert_eq!((config.eos_token_ids.as_slice(), config.tie_word_embeddings), (&[2, 5][..], false));
        file["hidden_act"] = json!("gelu");
        file["model_type"] = json!("mistral");
        let text = LlamaConfig::from_json(path, &file).unwrap_err().to_string();
        assert!(text.contains("hidden_act = gelu") && text.contains("model_type = mistral"), "{text}");
        file["hidden_act"] = json!("silu");
        file["model_type"] = json!("llama");
        file["num_key_value_heads"] = json!(3);
        file["head_dim"] = json!(7);
        let text = LlamaConfig::from_json(path, &file).unwrap_err().to_string();
        assert!(text.contains("num_key_value_heads = 3") && text.contains("head_dim = 7"), "{text}");
    }

    #[test]
    fn the_published_feed_forward_widths() {
        let params = |dim, multiple_of, ffn_dim_multiplier| MetaParams {
            dim,
            n_layers: 1,
            n_heads: 1,
            multiple_of,
            ffn_dim_multiplier,
            norm_eps: 1e-5,
        };
        assert_eq!(params(4096, 256, None).intermediate_size(), 11008);
        assert_eq!(params(5120, 256, None).intermediate_size(), 13824);
        assert_eq!(params(8192, 4096, Some(1.3)).intermediate_size(), 28672);
    }
}
