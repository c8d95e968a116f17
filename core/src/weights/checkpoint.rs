//! A checkpoint on disk: one file, or a folder as it was published.

mod locate;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::OnceLock,
};

use sha2::{Digest, Sha256};

use self::locate::Place;
use super::{
    Source,
    bytes::{Bytes, broken},
    entry::Entry,
    entry::Listing,
    gguf,
    gguf::GgufSettings,
    safetensors, torch,
    write::DATA_SHA256,
};
use crate::{Result, WeightFormat};

/// Bytes hashed at once.
const HASHED: usize = 1 << 20;

/// Opened files of weights: names, shapes and places are known, numbers are read when they are asked for.
pub struct Checkpoint {
    label: String,
    files: Vec<Bytes>,
    shapes: BTreeMap<String, Vec<usize>>,
    entries: HashMap<String, Entry>,
    metadata: BTreeMap<String, String>,
    inert: BTreeSet<String>,
    settings: Option<GgufSettings>,
    /// Of each file: where its numbers begin, and the hash of them that it notes.
    noted: Vec<Option<(u64, String)>>,
    sha256: OnceLock<String>,
}

/// Sizes of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// Number of files.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values in all tensors; tensors that share numbers count each.
    pub parameters: u64,
    /// Values by stored type (`f32`, `bf16`, `q8_0`, ..).
    pub dtypes: BTreeMap<String, u64>,
}

impl Checkpoint {
    /// Opens a file of weights, or a folder as published: `model.safetensors`, `pytorch_model.bin`, and the same in shards
    /// with an index, `*.gguf` alone or in its parts. What a file is follows from its first bytes, not from its name.
    ///
    /// # Errors
    /// Nothing there, nothing recognised, or a file that is cut off or inconsistent; the hint says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let place = locate::locate(path)?;
        let mut opened = Self::empty(path.display().to_string());
        let mut indexed = BTreeMap::new();
        let files = match place {
            Place::File(file) => vec![file],
            Place::Shards { files, names } => {
                indexed = names;
                files
            }
        };
        for (number, file) in files.iter().enumerate() {
            let bytes = Bytes::open(file)?;
            let listing = list(&bytes, number)?;
            opened.add(bytes, listing, |name| indexed.get(name).is_none_or(|wanted| wanted == file))?;
        }
        if let Some((name, file)) = indexed.iter().find(|(name, _)| !opened.entries.contains_key(*name)) {
            let hint = "index and shards are from different downloads; download the folder again";
            return Err(broken(file, format!("the index says tensor `{name}` is here, and it is not"), hint));
        }
        opened.checked(path)
    }

    /// Opens a checkpoint that is part of the program.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_static_bytes(bytes: &'static [u8]) -> Result<Self> {
        Self::from_bytes("embedded weights", bytes)
    }

    /// Opens a checkpoint held in memory; `label` is its name in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(label: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let bytes = Bytes::memory(label, bytes.into());
        let listing = list(&bytes, 0)?;
        let mut opened = Self::empty(label.to_owned());
        opened.add(bytes, listing, |_| true)?;
        opened.checked(Path::new(label))
    }

    fn empty(label: String) -> Self {
        Self {
            label,
            files: Vec::new(),
            shapes: BTreeMap::new(),
            entries: HashMap::new(),
            metadata: BTreeMap::new(),
            inert: BTreeSet::new(),
            settings: None,
            noted: Vec::new(),
            sha256: OnceLock::new(),
        }
    }

    /// Adds what one file holds, except what the index places in another one.
    fn add(&mut self, bytes: Bytes, listing: Listing, belongs: impl Fn(&str) -> bool) -> Result<()> {
        for (name, shape, entry) in listing.tensors {
            if !belongs(&name) {
                continue;
            }
            if let Some(before) = self.entries.get(&name)
                && before.file != entry.file
            {
                let hint = "each tensor belongs in one shard; keep only the files of one download in the folder";
                let found = format!("tensor `{name}` is also in {}", self.files[before.file].path().display());
                return Err(broken(bytes.path(), found, hint));
            }
            self.shapes.insert(name.clone(), shape);
            self.entries.insert(name, entry);
        }
        let is_hash = |key: &str| key == DATA_SHA256 || key.strip_suffix(DATA_SHA256).is_some_and(|k| k.ends_with('.'));
        let hash = listing.metadata.iter().find(|(key, _)| is_hash(key)).map(|(_, hash)| hash.clone());
        self.noted.push(listing.data.zip(hash));
        self.metadata.extend(listing.metadata);
        self.inert.extend(listing.inert);
        // The first shard of several has them all.
        match (&mut self.settings, listing.settings) {
            (Some(known), Some(more)) => known.extend(more),
            (known, more) => *known = known.take().or(more),
        }
        self.files.push(bytes);
        Ok(())
    }

    fn checked(self, path: &Path) -> Result<Self> {
        if !self.entries.is_empty() {
            if !self.inert.is_empty() {
                tracing::debug!(checkpoint = self.label, names = ?self.inert, "objects in the checkpoint are left inert");
            }
            return Ok(self);
        }
        let mut found = String::from("there is no tensor in it");
        if !self.inert.is_empty() {
            let names: Vec<_> = self.inert.iter().take(4).map(|name| format!("`{name}`")).collect();
            found += &format!(", only objects of {} that are not rebuilt", names.join(", "));
        }
        Err(broken(path, found, "save the model's state_dict(), not the program's objects"))
    }

    /// Settings of a GGUF file, of all shards together; `None` where it is another kind of file.
    pub fn settings(&self) -> Option<&GgufSettings> {
        self.settings.as_ref()
    }

    /// The notes in the headers of safetensors and GGUF files, of all shards together.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of classes and functions in pickled files that were left inert, such as `argparse.Namespace`.
    pub fn inert_names(&self) -> &BTreeSet<String> {
        &self.inert
    }

    /// Stored type of a tensor, such as `bf16`.
    pub fn dtype_of(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|entry| entry.dtype.as_str())
    }

    /// The files, in order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(Bytes::path)
    }

    /// Counts and sizes, without reading any numbers.
    pub fn summary(&self) -> CheckpointSummary {
        let mut summary = CheckpointSummary {
            files: self.files.len(),
            bytes: self.files.iter().map(Bytes::len).sum(),
            tensors: self.entries.len(),
            ..Default::default()
        };
        for (name, entry) in &self.entries {
            let count = self.shapes.get(name).map_or(0, |shape| shape.iter().map(|&dim| dim as u64).product());
            summary.parameters += count;
            *summary.dtypes.entry(entry.dtype.clone()).or_default() += count;
        }
        summary
    }

    /// Reads the numbers of all files again and compares them with the sha256 that each notes in its header (see
    /// [`write_shards`](super::write_shards)). Returns how many files note one.
    ///
    /// # Errors
    /// A file cannot be read, or its numbers are not those that were written.
    pub fn check_data(&self) -> Result<usize> {
        let mut checked = 0;
        for (file, noted) in self.files.iter().zip(&self.noted) {
            let Some((start, hash)) = noted else { continue };
            let mut hasher = Sha256::new();
            hash_from(file, *start, &mut hasher)?;
            let found = hex(hasher);
            if &found != hash {
                return Err(file.broken(format!("the sha256 of its numbers is {found}, the header notes {hash}")));
            }
            checked += 1;
        }
        Ok(checked)
    }

    /// sha256 of the file, in hexadecimal; of several files, of their bytes one after another in order of their names (as
    /// `cat FILES | sha256sum`). Computed at the first call.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sha256(&self) -> Result<&str> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let mut hasher = Sha256::new();
        for file in &self.files {
            hash_from(file, 0, &mut hasher)?;
        }
        let hex = hex(hasher);
        Ok(self.sha256.get_or_init(|| hex))
    }
}

/// Hashes a file from byte `at` on.
fn hash_from(file: &Bytes, mut at: u64, hasher: &mut Sha256) -> Result<()> {
    let mut buffer = vec![0; HASHED];
    while at < file.len() {
        let piece = &mut buffer[..(file.len() - at).min(HASHED as u64) as usize];
        file.read_at(at, piece)?;
        hasher.update(&*piece);
        at += piece.len() as u64;
    }
    Ok(())
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Source for Checkpoint {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let (Some(entry), Some(shape)) = (self.entries.get(name), self.shapes.get(name)) else {
            let hint = "the names of a checkpoint are listed by `musaic inspect`";
            return Err(broken(Path::new(&self.label), format!("there is no tensor `{name}`"), hint));
        };
        entry.stream(&self.files[entry.file], name, shape, sink)
    }

    fn packed_as(&self, name: &str) -> Option<WeightFormat> {
        self.entries.get(name)?.packed()
    }

    fn read_packed(&self, name: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.entries.get(name) {
            Some(entry) => entry.stream_packed(&self.files[entry.file], sink),
            None => Ok(()),
        }
    }
}

/// Recognises a file by its first bytes and lists it.
fn list(bytes: &Bytes, file: usize) -> Result<Listing> {
    let head = bytes.take(0, bytes.len().min(64))?;
    let refuse = |found: &str, hint: &str| Err(broken(bytes.path(), found, hint));
    match &*head {
        [] => refuse("the file is empty", "download or copy it again"),
        [b'P', b'K', 3, 4, ..] => torch::read_archive(bytes, file),
        _ if head.starts_with(&torch::OLD_MAGIC) => torch::read_old(bytes, file),
        _ if head.starts_with(b"version https://git-lfs") => refuse(
            "this is a git-lfs pointer, not the weights",
            "run `git lfs pull` in that folder, or download the file itself",
        ),
        _ if head.starts_with(b"GGUF") => gguf::read(bytes, file),
        _ if head.starts_with(b"\x89HDF") || head.starts_with(b"\x93NUMPY") => refuse(
            "this is an HDF5 or NumPy file",
            "give the checkpoint of the torch version: safetensors, .bin or .pth",
        ),
        _ if head.trim_ascii_start().starts_with(b"<") => refuse(
            "this is a web page, not weights",
            "the download went wrong; perhaps the model asks to accept its terms first",
        ),
        [0x80, 2..=5, ..] => refuse(
            "this is a bare pickle, not a checkpoint of torch.save",
            "give the file that torch.save wrote, or save it as safetensors",
        ),
        [_, _, _, _, _, _, _, _, b'{' | b' ', ..] => safetensors::read(bytes, file),
        _ => refuse(
            "neither safetensors, GGUF nor a checkpoint of torch.save",
            "weights begin with a safetensors header or `GGUF`, or are a zip archive; this file is another kind, or damaged",
        ),
    }
}
