//! Where M2UGen's weights come from: `checkpoint.pth`, over LLaMA's own files where it does not hold them.

use std::path::Path;

use musaic_core::{
    Error, Result,
    weights::{Checkpoint, Layered, Renamed, RowsAdded, Source},
};

use super::{MUSIC_TOKENS, OTHER_PARTS};
use crate::llm::{
    MetaParams,
    gguf::{GgufFile, gguf_name},
    meta::MetaFolder,
    open::holds_gguf,
};

/// Note of a GGUF file in which the rows of the music tokens are there already.
pub const HAS_MUSIC_TOKENS: &str = "musaic.music_tokens";

/// Weights under their names without `model.` and `module.`, and what `params.json` says.
pub struct Opened {
    /// All weights.
    pub source: Layered,
    /// Of the LLaMA folder, where one was given.
    pub params: Option<MetaParams>,
}

/// Opens a checkpoint, a LLaMA folder, or both: what is in the checkpoint wins. Published checkpoints hold everything; the
/// folder then gives `params.json` only, which the shapes are checked against.
///
/// `llama` is a folder of Meta's, or a GGUF file, such as `musaic convert` makes of a whole checkpoint.
///
/// A LLaMA folder alone makes a model before its first training: embeddings of the music tokens are ones (as the reference
/// begins), rows of the head are zeros.
///
/// # Errors
/// Neither is given, or a file is missing or damaged.
pub fn open(checkpoint: Option<&Path>, llama: Option<&Path>) -> Result<Opened> {
    let mut layers: Vec<Box<dyn Source>> = Vec::new();
    if let Some(path) = checkpoint {
        layers.push(Box::new(named(Checkpoint::open(path)?)?));
    }
    let mut params = None;
    if let Some(path) = llama {
        let (base, known, count) = base(path)?;
        params = Some(known);
        let whole = layers.first().is_some_and(|top| top.has("llama.layers.0.attention.wq.weight"));
        if !whole {
            let base = Renamed::new(base, |name| Some(format!("llama.{name}")))?;
            let rows = [("llama.tok_embeddings.weight", count, 1.0), ("llama.output.weight", count, 0.0)];
            layers.push(Box::new(RowsAdded::new(base, &rows)));
        }
    }
    if layers.is_empty() {
        return Err(Error::argument("M2UGen", "neither checkpoint nor LLaMA folder", "one of them"));
    }
    Ok(Opened { source: Layered::new(layers), params })
}

/// A checkpoint's weights under their plain names: those below `model`, where it has that, without `module.`. Other entries
/// (optimizer, epoch, scaler, args, config) are left out.
///
/// # Errors
/// Two names become one.
pub fn named(file: Checkpoint) -> Result<Renamed<Checkpoint>> {
    let nested = file.tensors().keys().any(|name| name.starts_with("model."));
    Renamed::new(file, |name: &str| {
        let name = if nested { name.strip_prefix("model.")? } else { name };
        Some(name.strip_prefix("module.").unwrap_or(name).to_owned())
    })
}

/// A plain LLaMA, its sizes, and how many rows of music tokens it lacks.
fn base(path: &Path) -> Result<(Box<dyn Source>, MetaParams, usize)> {
    let count = MUSIC_TOKENS.len();
    if !holds_gguf(path) {
        let MetaFolder { params, weights, .. } = MetaFolder::open(path)?;
        return Ok((Box::new(weights), params, count));
    }
    let file = GgufFile::open(path)?;
    let has_rows = file.checkpoint().metadata().contains_key(HAS_MUSIC_TOKENS);
    let config = &file.config;
    let params = MetaParams {
        dim: config.hidden_size,
        n_layers: config.num_hidden_layers,
        n_heads: config.num_attention_heads,
        multiple_of: 1,
        ffn_dim_multiplier: None,
        norm_eps: config.rms_norm_eps,
    };
    Ok((Box::new(file.weights), params, if has_rows { 0 } else { count }))
}

/// Which file a tensor of M2UGen belongs in, where its LLaMA is one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// In that of the plain LLaMA.
    Llama,
    /// Beside it: bridges, prefixes, LoRA, biases, gates, projector.
    Adapters,
    /// To an encoder or a decoder.
    Elsewhere,
}

/// Sorts a tensor by its name as [`open`] has it.
pub fn belongs(name: &str) -> Belongs {
    if OTHER_PARTS.iter().any(|(part, _)| name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'))) {
        return Belongs::Elsewhere;
    }
    let plain = name.strip_prefix("llama.").filter(|name| name.ends_with(".weight")).and_then(gguf_name);
    if plain.is_some() { Belongs::Llama } else { Belongs::Adapters }
}
