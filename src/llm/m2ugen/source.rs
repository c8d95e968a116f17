//! Where M2UGen's weights come from: `checkpoint.pth`, over LLaMA's own files where it does not hold them.

use std::path::Path;

use musaic_core::{
    Error, Result,
    weights::{Checkpoint, Layered, Renamed, RowsAdded, Source},
};

use super::MUSIC_TOKENS;
use crate::llm::{MetaParams, meta::MetaFolder};

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
    if let Some(folder) = llama {
        let meta = MetaFolder::open(folder)?;
        params = Some(meta.params);
        let whole = layers.first().is_some_and(|top| top.has("llama.layers.0.attention.wq.weight"));
        if !whole {
            let count = MUSIC_TOKENS.len();
            let base = Renamed::new(meta.weights, |name| Some(format!("llama.{name}")))?;
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
