//! Meta's folders: `params.json` and one or several `consolidated.*.pth`, or the same put together as safetensors.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Device;
use musaic_core::{
    Error, Result, WeightFormat,
    weights::{Checkpoint, Sharded, Source, Split, Weights},
};

use super::{
    config::{Hooks, LlamaConfig, MetaParams},
    model::Llama,
};

/// Most shards of one model.
const MOST_SHARDS: usize = 64;
/// Positions that LLaMA 2 was trained on.
const POSITIONS: usize = 4096;

/// How Meta cuts a tensor into shards.
pub fn split_of(name: &str) -> Split {
    let part = name.strip_suffix(".weight").unwrap_or(name).rsplit('.').next().unwrap_or(name);
    match part {
        "wq" | "wk" | "wv" | "w1" | "w3" | "output" => Split::Rows,
        "wo" | "w2" | "tok_embeddings" => Split::Columns,
        _ => Split::Copies,
    }
}

/// A folder, opened.
pub struct MetaFolder {
    /// `params.json`.
    pub params: MetaParams,
    /// The weights of all shards together.
    pub weights: Sharded<Checkpoint>,
    /// The files of weights, in order.
    pub files: Vec<PathBuf>,
}

impl MetaFolder {
    /// Opens a folder with `params.json` and `consolidated.00.pth` and so on, or the folder above it where that has one such
    /// folder only (`7B`).
    ///
    /// # Errors
    /// A file is missing or damaged, or the shards do not fit each other.
    pub fn open(folder: &Path) -> Result<Self> {
        let folder = &locate(folder)?;
        let params = MetaParams::open(&folder.join("params.json"))?;
        // Put together by `musaic convert`.
        let whole =
            ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| folder.join(name).is_file());
        let files = if whole { vec![folder.clone()] } else { shards_in(folder)? };
        let shards = files.iter().map(Checkpoint::open).collect::<Result<Vec<_>>>()?;
        let files = shards.iter().flat_map(Checkpoint::files).map(Path::to_owned).collect();
        Ok(Self { params, weights: Sharded::new(shards, split_of)?, files })
    }
}

/// The folder with `params.json`: this one, or the only one in it that has it.
pub(super) fn locate(folder: &Path) -> Result<PathBuf> {
    if folder.join("params.json").is_file() {
        return Ok(folder.to_owned());
    }
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let inner: Vec<_> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| path.join("params.json").is_file()).collect();
    match inner.as_slice() {
        [only] => Ok(only.clone()),
        [] => {
            Err(Error::format(folder, "params.json beside consolidated.00.pth (LLaMA as Meta publishes it)", "neither"))
        }
        several => {
            let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Error::format(folder, "one model", format!("several: {}", names.join(", "))))
        }
    }
}

/// Whether this is a folder of Meta's, or the one above it.
pub fn is_meta_folder(folder: &Path) -> bool {
    folder.is_dir() && locate(folder).is_ok()
}

/// `consolidated.00.pth` and those after it, in order of their numbers and without a gap.
fn shards_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut numbered = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix("consolidated.").and_then(|rest| rest.strip_suffix(".pth"));
        if let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) {
            numbered.push((number, folder.join(&*name)));
        }
    }
    numbered.sort();
    let whole = numbered.iter().enumerate().all(|(i, (number, _))| i == *number);
    if numbered.is_empty() || numbered.len() > MOST_SHARDS || !whole {
        let numbers: Vec<_> = numbered.iter().map(|(number, _)| number.to_string()).collect();
        let found = if numbers.is_empty() { "none".into() } else { format!("numbers {}", numbers.join(", ")) };
        return Err(Error::format(folder, "consolidated.00.pth and those after it, none missing", found));
    }
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// Loads a plain LLaMA from a folder of Meta's.
///
/// # Errors
/// As [`MetaFolder::open`], or weights are missing, misshaped or left over.
pub fn load_meta(folder: &Path, device: &Device, format: WeightFormat) -> Result<Llama> {
    let folder = &locate(folder)?;
    let MetaFolder { params, weights, .. } = MetaFolder::open(folder)?;
    let config = plain_config(folder, &params, &weights)?;
    let weights = Weights::new(weights, device, format);
    let model = Llama::load(&config, &weights)?;
    weights.finish()?;
    Ok(model)
}

/// The configuration of a plain LLaMA with these weights.
pub(super) fn plain_config(folder: &Path, params: &MetaParams, weights: &dyn Source) -> Result<LlamaConfig> {
    let vocab = weights.tensors().get("tok_embeddings.weight").and_then(|shape| shape.first().copied());
    let path = folder.join("params.json");
    let vocab = vocab.ok_or_else(|| Error::format(folder, "a tensor `tok_embeddings.weight`", "none"))?;
    params.config(&path, vocab, Hooks::default(), POSITIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_cut_as_published() {
        for (name, split) in [
            ("layers.3.attention.wq.weight", Split::Rows),
            ("layers.3.attention.wo.weight", Split::Columns),
            ("layers.3.feed_forward.w2.weight", Split::Columns),
            ("tok_embeddings.weight", Split::Columns),
            ("output.weight", Split::Rows),
            ("layers.3.ffn_norm.weight", Split::Copies),
            ("rope.freqs", Split::Copies),
        ] {
            assert_eq!(split_of(name), split, "{name}");
        }
    }

    #[test]
    fn a_missing_shard_is_noticed_before_anything_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        assert!(MetaFolder::open(folder.path()).is_err());
        fs::write(folder.path().join("params.json"), r#"{"dim": 32, "n_layers": 1, "n_heads": 4}"#).unwrap();
        for name in ["consolidated.00.pth", "consolidated.02.pth"] {
            write(name);
        }
        let text = shards_in(folder.path()).unwrap_err().to_string();
        assert!(text.contains("numbers 0, 2"), "{text}");
        write("consolidated.01.pth");
        assert_eq!(shards_in(folder.path()).unwrap().len(), 3);
        fs::write(folder.path().join("params.json"), r#"{"dim": 0, "n_layers": 1, "n_heads": 4}"#).unwrap();
        assert!(MetaFolder::open(folder.path()).err().unwrap().to_string().contains("out of range"));
    }
}
