//! What is converted: a checkpoint as it is, a LLaMA, or M2UGen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use musaic_core::{
    Error,
    weights::{Checkpoint, Layered, Renamed, Source, StoredAs, Weights},
};
use sha2::{Digest, Sha256};

use super::COMPANIONS;
use crate::{
    failure::BadInput,
    llm::{
        Hooks, LlamaConfig, OpenLlama,
        m2ugen::{self, Belongs, belongs},
        meta::is_meta_folder,
    },
};

/// Largest `added_tokens.json` that is read.
const MAX_BYTES: u64 = 16 << 20;

/// An opened input.
pub(super) enum Input {
    /// Names and numbers as they are.
    Plain(Box<Checkpoint>),
    /// A LLaMA of Meta's, or a base with a delta on it.
    Llama(Box<OpenLlama>),
    M2ugen(Box<OfM2ugen>),
}

/// A checkpoint of M2UGen's.
pub(super) struct OfM2ugen {
    /// Under names without `model.` and `module.`.
    pub(super) source: Arc<Layered>,
    /// The LLaMA in it, where its configuration is known.
    pub(super) llama: Result<OpenLlama, Error>,
    /// Type that holds all its numbers.
    pub(super) stored: StoredAs,
    checkpoint: Checkpoint,
    base: Option<PathBuf>,
}

impl Input {
    pub(super) fn open(input: &Path, base: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(base) = base
            && input.join("config.json").is_file()
        {
            return Ok(Self::Llama(Box::new(OpenLlama::open_delta(base, input)?)));
        }
        if base.is_none() && !input.join("config.json").is_file() && is_meta_folder(input) {
            return Ok(Self::Llama(Box::new(OpenLlama::open(input)?)));
        }
        let checkpoint = Checkpoint::open(input)?;
        let of_m2ugen =
            |name: &String| name.ends_with("prefix_query.weight") || name.contains("llama.layers.0.attention.");
        if checkpoint.tensors().keys().any(of_m2ugen) {
            return Self::m2ugen(input, checkpoint, base);
        }
        match base {
            None => Ok(Self::Plain(Box::new(checkpoint))),
            Some(_) => {
                let message = format!("base: {} is neither a delta with a config.json nor M2UGen's", input.display());
                Err(BadInput::new(message).hint("only these build on another model").into())
            }
        }
    }

    fn m2ugen(input: &Path, checkpoint: Checkpoint, base: Option<&Path>) -> anyhow::Result<Self> {
        let opened = m2ugen::open(Some(input), base)?;
        let source = Arc::new(opened.source);
        let names = Weights::from_names(source.tensors().clone());
        let config = m2ugen::detect(opened.params.as_ref(), &names);
        let plain = |name: &str| {
            (belongs(name) == Belongs::Llama).then(|| name.strip_prefix("llama.").unwrap_or(name).to_owned())
        };
        let weights = Renamed::new(source.clone(), plain)?;
        let path = base.unwrap_or(input).to_owned();
        let llama = config.map(|config| OpenLlama {
            config: LlamaConfig { hooks: Hooks::default(), ..config },
            source: Box::new(weights),
            path,
            files: [checkpoint.files().map(Path::to_owned).collect(), Vec::new()],
        });
        let dtypes = checkpoint.summary().dtypes;
        let only = |allowed: &[&str]| dtypes.keys().all(|dtype| allowed.contains(&dtype.as_str()));
        let stored = match () {
            () if only(&["f16", "bool", "u8", "i8"]) => StoredAs::F16,
            () if only(&["bf16", "bool", "u8", "i8"]) => StoredAs::Bf16,
            () => StoredAs::F32,
        };
        let base = base.map(Path::to_owned);
        Ok(Self::M2ugen(Box::new(OfM2ugen { source, llama, stored, checkpoint, base })))
    }

    /// All files that are read.
    pub(super) fn files(&self) -> Box<dyn Iterator<Item = &Path> + '_> {
        match self {
            Self::Plain(checkpoint) => Box::new(checkpoint.files()),
            Self::M2ugen(model) => Box::new(model.checkpoint.files()),
            Self::Llama(llama) => Box::new(llama.files.iter().flatten().map(PathBuf::as_path)),
        }
    }

    /// Small files that belong to the model.
    pub(super) fn companions(&self) -> Vec<PathBuf> {
        let all = |folder: &Path| COMPANIONS.iter().map(|name| folder.join(name)).collect::<Vec<_>>();
        let tokenizer = |near: &Path| {
            // Meta's lies above the weights.
            let folders = [Some(near), near.parent()].into_iter().flatten();
            folders.map(|folder| folder.join("tokenizer.model")).find(|path| path.is_file())
        };
        let mut files = match self {
            Self::Plain(checkpoint) => all(Path::new(&checkpoint.label())),
            Self::Llama(llama) => {
                let base = llama.files[1].first().and_then(|file| file.parent());
                // The first of two of one name counts.
                let tokenizers = [Some(llama.path.as_path()), base].into_iter().flatten().filter_map(tokenizer);
                let mut files = all(&llama.path);
                files.extend(tokenizers);
                files
            }
            Self::M2ugen(model) => {
                let of_base = |base: &PathBuf| [Some(base.join("params.json")), tokenizer(base)];
                model.base.iter().flat_map(of_base).flatten().collect()
            }
        };
        let mut names = BTreeSet::new();
        files.retain(|file| file.is_file() && file.file_name().is_some_and(|name| names.insert(name.to_owned())));
        files
    }

    /// Hashes of what is read, for the header.
    pub(super) fn notes(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut notes = BTreeMap::new();
        match self {
            Self::Plain(checkpoint) => note_sha256(checkpoint, &mut notes)?,
            Self::M2ugen(model) => note_sha256(&model.checkpoint, &mut notes)?,
            Self::Llama(llama) => {
                for (name, files) in ["source_sha256", "base_sha256"].iter().zip(&llama.files) {
                    if !files.is_empty() {
                        notes.insert((*name).to_owned(), sha256(files)?);
                    }
                }
            }
        }
        Ok(notes)
    }

    /// The tensors under the names that are written.
    pub(super) fn into_source(self) -> Box<dyn Source> {
        match self {
            Self::Plain(checkpoint) => checkpoint,
            Self::Llama(llama) => llama.source,
            Self::M2ugen(model) => Box::new(model.source),
        }
    }
}

fn note_sha256(checkpoint: &Checkpoint, notes: &mut BTreeMap<String, String>) -> Result<(), Error> {
    notes.insert("source_sha256".to_owned(), checkpoint.sha256()?.to_owned());
    Ok(())
}

/// Of the bytes of several files, one after another.
fn sha256(files: &[PathBuf]) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    for path in files {
        let fail = |e| Error::io(path, e);
        std::io::copy(&mut fs::File::open(path).map_err(fail)?, &mut hasher).map_err(fail)?;
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Tokens behind the `pieces` of `tokenizer.model`, from an `added_tokens.json` beside it, in order of their ids.
pub(super) fn added_tokens(folder: &Path, pieces: usize) -> Result<Vec<String>, Error> {
    let path = folder.join("added_tokens.json");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let fail = |e| Error::io(&path, e);
    let size = fs::metadata(&path).map_err(fail)?.len();
    if size > MAX_BYTES {
        return Err(Error::format(&path, "a table of tokens of at most 16 MiB", format!("{size} bytes")));
    }
    let table: BTreeMap<String, u32> = serde_json::from_slice(&fs::read(&path).map_err(fail)?)
        .map_err(|e| Error::format(&path, "a table of tokens and their ids", e.to_string()))?;
    let new = |(token, id): (String, u32)| Some((id as usize, token)).filter(|(id, _)| *id >= pieces);
    let mut tokens: Vec<_> = table.into_iter().filter_map(new).collect();
    tokens.sort();
    if let Some((_, (id, token))) = tokens.iter().enumerate().find(|(i, (id, _))| *id != pieces + i) {
        let expected = format!("ids that go on from the {pieces} pieces without a gap");
        return Err(Error::format(&path, expected, format!("`{token}` with id {id}")));
    }
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}
