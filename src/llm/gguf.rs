//! LLaMA in a GGUF file: weights, sizes and tokenizer in one.
//!
//! Tensors get the names of Meta's layout, whose conventions they have: converters order the rows of queries and keys so that
//! neighbours turn together. Types: f32, f16, bf16, q2_k to q6_k, q4_0 to q5_1, q8_0. Matrices that are stored in the format
//! asked for are held as the file has them; others are packed from their numbers.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use musaic_core::{
    Error, Result, WeightFormat,
    sentencepiece::{ModelType, Piece, PieceKind, SentencePieceModel},
    weights::{Checkpoint, GgufSettings, Renamed, Source, Weights},
};

use super::{
    config::{Hooks, Layout, LlamaConfig},
    model::Llama,
    rope::{RopeConfig, Scaling},
    tokenizer::LlamaTokenizer,
};

/// Divisors of the rotary frequencies, where they are stretched in the way of Llama 3.
const FACTORS: &str = "rope_freqs.weight";
/// Tensors outside the layers: name here, name in Meta's layout.
const WHOLE: [(&str, &str); 3] = [("token_embd", "tok_embeddings"), ("output_norm", "norm"), ("output", "output")];
/// Tensors of a layer.
const LAYER: [(&str, &str); 9] = [
    ("attn_norm", "attention_norm"),
    ("attn_q", "attention.wq"),
    ("attn_k", "attention.wk"),
    ("attn_v", "attention.wv"),
    ("attn_output", "attention.wo"),
    ("ffn_norm", "ffn_norm"),
    ("ffn_gate", "feed_forward.w1"),
    ("ffn_down", "feed_forward.w2"),
    ("ffn_up", "feed_forward.w3"),
];

/// The name that Meta's layout has for a tensor of a GGUF file.
pub fn meta_name(name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    let find =
        |table: &[(&str, &'static str)], stem| table.iter().find(|(ours, _)| *ours == stem).map(|(_, meta)| *meta);
    match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => Some(format!("layers.{layer}.{}.{end}", find(&LAYER, part)?)),
        None => Some(format!("{}.{end}", find(&WHOLE, stem)?)),
    }
}

/// The other way round.
pub fn gguf_name(name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    let find =
        |table: &[(&'static str, &str)], stem| table.iter().find(|(_, meta)| *meta == stem).map(|(ours, _)| *ours);
    match stem.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => Some(format!("blk.{layer}.{}.{end}", find(&LAYER, part)?)),
        None => Some(format!("{}.{end}", find(&WHOLE, stem)?)),
    }
}

/// A file, opened.
pub struct GgufFile {
    /// Sizes and choices, from the settings.
    pub config: LlamaConfig,
    /// The weights under the names of Meta's layout.
    pub weights: Renamed<Arc<Checkpoint>>,
    checkpoint: Arc<Checkpoint>,
}

impl GgufFile {
    /// Opens a `.gguf` file, all parts of one, or a folder that holds it.
    ///
    /// # Errors
    /// The file is missing or damaged, or holds a model that is not a LLaMA or a choice that is not implemented.
    pub fn open(path: &Path) -> Result<Self> {
        let checkpoint = Arc::new(Checkpoint::open(path)?);
        let Some(settings) = checkpoint.settings() else {
            return Err(Error::format(path, "a GGUF file", "weights of another kind"));
        };
        let config = config(path, settings, &checkpoint)?;
        let rename = |name: &str| (name != FACTORS).then(|| meta_name(name).unwrap_or_else(|| name.to_owned()));
        Ok(Self { config, weights: Renamed::new(checkpoint.clone(), rename)?, checkpoint })
    }

    /// The file itself.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// The tokenizer in the settings; `None` where there is none.
    ///
    /// # Errors
    /// It is of another kind than SentencePiece's BPE, or its parts do not fit each other.
    pub fn tokenizer(&self) -> Result<Option<LlamaTokenizer>> {
        let path = self.checkpoint.label();
        self.checkpoint.settings().map_or(Ok(None), |settings| LlamaTokenizer::from_gguf(Path::new(&path), settings))
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Weights are missing, misshaped or left over.
    pub fn load(self, device: &Device, format: WeightFormat) -> Result<Llama> {
        let weights = Weights::new(self.weights, device, format);
        let model = Llama::load(&self.config, &weights)?;
        weights.finish()?;
        Ok(model)
    }
}

/// Loads a model from a GGUF file.
///
/// # Errors
/// As [`GgufFile::open`], or weights are missing, misshaped or left over.
pub fn load_gguf(path: &Path, device: &Device, format: WeightFormat) -> Result<Llama> {
    GgufFile::open(path)?.load(device, format)
}

fn config(path: &Path, settings: &GgufSettings, tensors: &Checkpoint) -> Result<LlamaConfig> {
    let wrong = |what: String| Error::config(path, what);
    let architecture = settings.text("general.architecture")?.unwrap_or("none");
    if architecture != "llama" {
        return Err(wrong(format!("general.architecture = {architecture}, expected llama")));
    }
    let size = |key: &str| settings.size(&format!("llama.{key}"));
    let needed = |key: &str| size(key)?.ok_or_else(|| wrong(format!("no setting `llama.{key}`")));
    let number = |key: &str| settings.number(&format!("llama.{key}"));
    let (heads, hidden_size) = (needed("attention.head_count")?, needed("embedding_length")?);
    let head_dim = match size("attention.key_length")? {
        Some(length) => length,
        None => hidden_size / heads.max(1),
    };
    let mut problems = Vec::new();
    for (key, expected) in [
        ("expert_count", 0.0),
        ("attention.sliding_window", 0.0),
        ("attention.value_length", head_dim as f64),
        ("rope.dimension_count", head_dim as f64),
        ("logit_scale", 1.0),
        ("residual_scale", 1.0),
        ("embedding_scale", 1.0),
    ] {
        if let Some(found) = number(key)?.filter(|found| *found != expected) {
            problems.push(format!("llama.{key} = {found}, expected {expected}"));
        }
    }
    if !problems.is_empty() {
        return Err(wrong(problems.join("; ")));
    }
    let rows = tensors.tensors().get("token_embd.weight").and_then(|shape| shape.first().copied());
    let id = |key: &str| {
        let id = settings.size(&format!("tokenizer.ggml.{key}_token_id"))?;
        Ok::<_, Error>(id.and_then(|id| u32::try_from(id).ok()))
    };
    let positions = needed("context_length")?;
    let config = LlamaConfig {
        layout: Layout::Meta,
        vocab_size: rows.ok_or_else(|| wrong("no tensor `token_embd.weight`".into()))?,
        hidden_size,
        intermediate_size: needed("feed_forward_length")?,
        num_hidden_layers: needed("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
        max_position_embeddings: positions,
        rope: rope(path, settings, tensors, head_dim, positions)?,
        tie_word_embeddings: !tensors.has("output.weight"),
        attention_bias: tensors.has("blk.0.attn_q.bias"),
        mlp_bias: tensors.has("blk.0.ffn_gate.bias"),
        hooks: Hooks::default(),
        bos_token_id: id("bos")?,
        eos_token_ids: [id("eos")?, id("eot")?].into_iter().flatten().collect(),
    };
    config.validate(path)?;
    Ok(config)
}

/// Rotary positions: settings of their own names, and the divisors of Llama 3 as a tensor.
fn rope(
    path: &Path,
    settings: &GgufSettings,
    tensors: &Checkpoint,
    head_dim: usize,
    positions: usize,
) -> Result<RopeConfig> {
    let wrong = |what: String| Error::config(path, what);
    let number = |key: &str| settings.number(&format!("llama.rope.{key}"));
    let theta = number("freq_base")?.unwrap_or(10_000.0);
    let factor = match number("scaling.factor")? {
        Some(factor) => factor,
        None => number("scale_linear")?.unwrap_or(1.0),
    };
    let loudness = number("scaling.attn_factor")?.unwrap_or(1.0);
    if !(theta > 1.0 && theta <= 1e12 && factor > 0.0 && factor <= 1e9 && loudness > 0.0 && loudness <= 1e9) {
        return Err(wrong(format!("rope: base {theta}, factor {factor}, attention {loudness}, expected more than 0")));
    }
    let kind = settings.text("llama.rope.scaling.type")?;
    let original = settings.size("llama.rope.scaling.original_context_length")?.unwrap_or(positions);
    let scaling = match kind.unwrap_or(if factor == 1.0 { "none" } else { "linear" }) {
        "none" => Scaling::None,
        "linear" if factor == 1.0 => Scaling::None,
        "linear" => Scaling::Linear { factor },
        "yarn" if number("scaling.yarn_ext_factor")?.is_none_or(|mix| mix == 1.0) => Scaling::Yarn {
            factor,
            fast: number("scaling.yarn_beta_fast")?.unwrap_or(32.0),
            slow: number("scaling.yarn_beta_slow")?.unwrap_or(1.0),
            original,
            attention_factor: loudness * if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 },
            truncate: true,
        },
        other => return Err(wrong(format!("llama.rope.scaling.type = {other}, expected none, linear or yarn"))),
    };
    if loudness != 1.0 && !matches!(scaling, Scaling::Yarn { .. }) {
        return Err(wrong(format!("llama.rope.scaling.attn_factor = {loudness}, expected 1")));
    }
    let Some(shape) = tensors.tensors().get(FACTORS) else { return Ok(RopeConfig { theta, scaling }) };
    if shape != &[head_dim / 2] || scaling != Scaling::None {
        let found = format!("`{FACTORS}` {shape:?} with scaling of type {}", kind.unwrap_or("none"));
        return Err(wrong(format!("{found}, expected [{}] alone", head_dim / 2)));
    }
    let mut by = Vec::new();
    tensors.read(FACTORS, &mut |piece| {
        by.extend_from_slice(piece);
        Ok(())
    })?;
    if let Some(bad) = by.iter().find(|by| !(**by > 0.0 && by.is_finite())) {
        return Err(wrong(format!("`{FACTORS}` holds {bad}, expected numbers above 0")));
    }
    Ok(RopeConfig { theta, scaling: Scaling::Divided { by: by.into() } })
}

impl LlamaTokenizer {
    /// The tokenizer in the settings of a GGUF file; `None` where there is none. Tokens behind the last ordinary piece that
    /// are kept whole were added to the vocabulary, and are treated as such.
    ///
    /// # Errors
    /// It is of another kind, or its parts do not fit each other.
    pub fn from_gguf(path: &Path, settings: &GgufSettings) -> Result<Option<Self>> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let Some(kind) = settings.text(&key("model"))? else { return Ok(None) };
        if kind != "llama" {
            let expected = "`llama` (of others give the tokenizer.json that the file was made from)";
            return Err(Error::format(path, expected, format!("a tokenizer of type `{kind}`")));
        }
        let texts = settings.texts(&key("tokens"))?.unwrap_or_default();
        let (scores, kinds) = (settings.floats(&key("scores"))?, settings.ints(&key("token_type"))?);
        let lengths = [scores.map(<[_]>::len), kinds.map(<[_]>::len)];
        if texts.is_empty() || lengths.into_iter().flatten().any(|len| len != texts.len()) {
            let found = format!("{} tokens, {lengths:?} scores and types", texts.len());
            return Err(Error::format(path, "a score and a type for every token", found));
        }
        let kind_of = |i: usize| match kinds.map_or(1, |kinds| kinds[i]) {
            1 => Ok(PieceKind::Normal),
            2 => Ok(PieceKind::Unknown),
            3 => Ok(PieceKind::Control),
            4 => Ok(PieceKind::UserDefined),
            5 => Ok(PieceKind::Unused),
            6 => Ok(PieceKind::Byte),
            other => Err(Error::format(path, "tokens of types 1 to 6", format!("a token of type {other}"))),
        };
        let mut pieces = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            let score = scores.map_or(0.0, |scores| scores[i]);
            pieces.push(Piece { text: text.clone(), score, kind: kind_of(i)? });
        }
        let id = |name: &str| settings.size(&key(&format!("{name}_token_id")));
        let used =
            kinds.map_or(texts.len(), |kinds| kinds.iter().rposition(|kind| *kind != 5).map_or(0, |last| last + 1));
        let known = |id: Option<usize>| id.filter(|&id| id < used);
        let (bos_id, eos_id) = (known(id("bos")?), known(id("eos")?));
        let unk_id = known(id("unknown")?)
            .or_else(|| pieces.iter().position(|piece| piece.kind == PieceKind::Unknown))
            .ok_or_else(|| Error::format(path, "a token for what is unknown", "none"))?;
        let marks = [bos_id, eos_id, Some(unk_id)];
        // Rows of the table without a token.
        while pieces.pop_if(|piece| piece.kind == PieceKind::Unused).is_some() {}
        let mut added = Vec::new();
        while let Some(last) = pieces.pop_if(|p| matches!(p.kind, PieceKind::UserDefined | PieceKind::Control)) {
            if marks.contains(&Some(pieces.len())) {
                pieces.push(last);
                break;
            }
            added.push(last.text);
        }
        added.reverse();
        let model = SentencePieceModel {
            model_type: ModelType::Bpe,
            byte_fallback: pieces.iter().any(|piece| piece.kind == PieceKind::Byte),
            unk_id,
            bos_id,
            eos_id,
            charsmap: Vec::new(),
            add_dummy_prefix: settings.flag(&key("add_space_prefix"))?.unwrap_or(true),
            remove_extra_whitespaces: settings.flag(&key("remove_extra_whitespaces"))?.unwrap_or(false),
            pieces,
        };
        if settings.get(&key("precompiled_charsmap")).is_some() {
            return Err(Error::format(path, "no normaliser", "one with a map of characters"));
        }
        Self::new(path, model, &added).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (gguf, meta) in [
            ("token_embd.weight", "tok_embeddings.weight"),
            ("output_norm.weight", "norm.weight"),
            ("output.weight", "output.weight"),
            ("blk.13.attn_q.bias", "layers.13.attention.wq.bias"),
            ("blk.0.attn_norm.weight", "layers.0.attention_norm.weight"),
            ("blk.0.ffn_down.weight", "layers.0.feed_forward.w2.weight"),
            ("blk.0.ffn_up.weight", "layers.0.feed_forward.w3.weight"),
        ] {
            assert_eq!(meta_name(gguf).as_deref(), Some(meta));
            assert_eq!(gguf_name(meta).as_deref(), Some(gguf));
        }
        assert_eq!(meta_name("blk.0.attn_rot_embd.weight"), None);
        assert_eq!(gguf_name("layers.0.attention.gate"), None);
    }
}
