//! A LLaMA as it was published, whatever that is: a Hugging Face folder, Meta's, a GGUF file, or a base with a delta on it.

use std::path::{Path, PathBuf};

use candle_core::Device;
use musaic_core::{
    Error, Result, WeightFormat,
    nn::Pairing,
    sentencepiece::SentencePieceModel,
    weights::{Checkpoint, Renamed, RowsAdded, Source, Summed, Weights},
};

use super::{
    config::{Layout, LlamaConfig},
    gguf::GgufFile,
    meta::{self, MetaFolder},
    model::Llama,
    names::translate,
    rows::HeadRows,
};

/// Rows that a delta may have more than its base: tokens added in training.
const MOST_ADDED: usize = 1024;

/// A LLaMA that is there and not read yet.
pub struct OpenLlama {
    /// Sizes and choices.
    pub config: LlamaConfig,
    /// Its tensors, under the names of the configuration's layout.
    pub source: Box<dyn Source>,
    /// The file, or the folder with the configuration.
    pub path: PathBuf,
    /// Its files of weights, and those of its base.
    pub files: [Vec<PathBuf>; 2],
}

impl OpenLlama {
    /// Opens a `.gguf` file, a folder with `config.json`, or one with `params.json`.
    ///
    /// # Errors
    /// A file is missing or damaged, or the configuration is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        if path.join("config.json").is_file() {
            let config = LlamaConfig::open(&path.join("config.json"))?;
            let source = Checkpoint::open(path)?;
            let files = [source.files().map(Path::to_owned).collect(), Vec::new()];
            return Ok(Self { config, source: Box::new(source), path: path.to_owned(), files });
        }
        if holds_gguf(path) {
            let file = GgufFile::open(path)?;
            let files = [file.checkpoint().files().map(Path::to_owned).collect(), Vec::new()];
            return Ok(Self { config: file.config, source: Box::new(file.weights), path: path.to_owned(), files });
        }
        let path = meta::locate(path)?;
        let folder = MetaFolder::open(&path)?;
        let config = meta::plain_config(&path, &folder.params, &folder.weights)?;
        Ok(Self { config, source: Box::new(folder.weights), path, files: [folder.files, Vec::new()] })
    }

    /// Opens a base and what was published as the difference to it (Vicuna): every weight is the sum of both. `delta` is a
    /// Hugging Face folder; where it knows more tokens than the base, as the first deltas do, their rows count from zero. Sums
    /// are rounded to half precision where the delta is in it, as in the merged checkpoint of the reference (FastChat).
    ///
    /// # Errors
    /// A file is missing or damaged, or the two do not belong together.
    pub fn open_delta(base: &Path, delta: &Path) -> Result<Self> {
        let config = LlamaConfig::open(&delta.join("config.json"))?;
        let opened = Self::open(base)?.in_hugging_face_layout()?;
        let weights = Checkpoint::open(delta)?;
        let files = [weights.files().map(Path::to_owned).collect(), opened.files.concat()];
        let halves = weights.dtype_of("model.norm.weight") == Some("f16");
        // Buffers of old files, computed here.
        let plain = |name: &str| (!name.ends_with("rotary_emb.inv_freq")).then(|| name.to_owned());
        let weights = Renamed::new(weights, plain)?;
        let base = Renamed::new(opened.source, plain)?;
        let more = |name: &str| {
            let rows = |source: &dyn Source| source.tensors().get(name).and_then(|shape| shape.first().copied());
            rows(&weights)?.checked_sub(rows(&base)?).filter(|more| *more <= MOST_ADDED)
        };
        let tables = ["model.embed_tokens.weight", "lm_head.weight"];
        let added: Vec<_> = tables.iter().filter_map(|name| Some((*name, more(name)?, 0.0))).collect();
        let source = Summed::new(RowsAdded::new(base, &added), weights, halves)?;
        Ok(Self { config, source: Box::new(source), path: delta.to_owned(), files })
    }

    /// The same with the names and the order of rows of Hugging Face's layout.
    ///
    /// # Errors
    /// Shapes are not those of the configuration.
    pub fn in_hugging_face_layout(self) -> Result<Self> {
        if self.config.layout == Layout::HuggingFace {
            return Ok(self);
        }
        let renamed = Renamed::new(self.source, |name| translate(name, Layout::Meta, Layout::HuggingFace))?;
        let config = LlamaConfig { layout: Layout::HuggingFace, ..self.config };
        let source = HeadRows::new(renamed, Pairing::Halves, |name| turning_heads(name, &config))?;
        Ok(Self { config, source: Box::new(source), path: self.path, files: self.files })
    }

    /// The same with the names and the order of rows of Meta's layout, which is that of GGUF.
    ///
    /// # Errors
    /// Shapes are not those of the configuration.
    pub fn in_meta_layout(self) -> Result<Self> {
        if self.config.layout == Layout::Meta {
            return Ok(self);
        }
        let source = HeadRows::new(self.source, Pairing::Adjacent, |name| turning_heads(name, &self.config))?;
        let source = Renamed::new(source, |name| translate(name, Layout::HuggingFace, Layout::Meta))?;
        let config = LlamaConfig { layout: Layout::Meta, ..self.config };
        Ok(Self { config, source: Box::new(source), path: self.path, files: self.files })
    }

    /// Its SentencePiece model, where there is one in its folder or, as Meta has it, above.
    ///
    /// # Errors
    /// There is one, and it is damaged.
    pub fn sentencepiece(&self) -> Result<Option<SentencePieceModel>> {
        let places = [Some(self.path.as_path()), self.path.parent()].into_iter().flatten();
        let found = places.map(|folder| folder.join("tokenizer.model")).find(|path| path.is_file());
        found.map(|path| SentencePieceModel::open(&path)).transpose()
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Weights are missing, misshaped or left over.
    pub fn load(self, device: &Device, format: WeightFormat) -> Result<Llama> {
        let weights = Weights::new(self.source, device, format);
        let model = Llama::load(&self.config, &weights)?;
        weights.finish()?;
        Ok(model)
    }

    /// Walks the names without reading numbers.
    ///
    /// # Errors
    /// Tensors are missing, misshaped or left over.
    pub fn check(&self) -> Result<()> {
        let weights = Weights::from_names(self.source.tensors().clone());
        Llama::load(&self.config, &weights)?;
        weights.finish().map(|_| ()).map_err(|error| match error {
            Error::Weights(mut report) => {
                report.label = self.source.label();
                Error::Weights(report)
            }
            other => other,
        })
    }
}

/// Whether this is a GGUF file, or a folder without other weights that holds one.
pub(super) fn holds_gguf(path: &Path) -> bool {
    let is_gguf = |path: &Path| path.extension().is_some_and(|end| end == "gguf");
    if path.is_file() {
        return true;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    !path.join("params.json").is_file() && entries.map(|entry| entry.path()).any(|path| is_gguf(&path))
}

/// Heads of a tensor of Hugging Face's layout whose rows depend on the pairing.
fn turning_heads(name: &str, config: &LlamaConfig) -> Option<usize> {
    let (stem, _) = name.rsplit_once('.')?;
    match stem.rsplit('.').next()? {
        "q_proj" => Some(config.num_attention_heads),
        "k_proj" => Some(config.num_key_value_heads),
        _ => None,
    }
}
