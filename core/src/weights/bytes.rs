//! Bytes that are read by position: a file, or memory. Files are never mapped, so that their pages do not count as the
//! program's memory.

use std::{
    borrow::Cow,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

enum Place {
    File(File),
    Memory(Cow<'static, [u8]>),
}

/// One file of a checkpoint, opened.
pub(super) struct Bytes {
    path: PathBuf,
    place: Place,
    len: u64,
}

/// A damaged file, for a hint that names a remedy.
pub(super) fn broken(path: &Path, found: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Checkpoint { path: path.to_owned(), found: found.into(), hint: hint.into() }
}

/// What to do about a file that was cut or damaged on its way.
pub(super) const AGAIN: &str =
    "the file is incomplete or damaged; download or copy it again and compare its size and sha256";

impl Bytes {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Err(broken(path, "not a regular file", "give the file of the weights or the folder that holds it"));
        }
        Ok(Self { path: path.to_owned(), place: Place::File(file), len: meta.len() })
    }

    pub(super) fn memory(label: &str, bytes: Cow<'static, [u8]>) -> Self {
        Self { path: label.into(), len: bytes.len() as u64, place: Place::Memory(bytes) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `into` from `offset` on.
    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        match &self.place {
            Place::File(file) => file.read_exact_at(into, offset).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => self.short(offset + into.len() as u64),
                _ => Error::io(&self.path, e),
            }),
            Place::Memory(bytes) => {
                let end = offset.saturating_add(into.len() as u64);
                let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
                let found = range.and_then(|(from, to)| bytes.get(from..to)).ok_or_else(|| self.short(end))?;
                into.copy_from_slice(found);
                Ok(())
            }
        }
    }

    /// `len` bytes from `offset` on; refused before anything is allocated where the file is shorter.
    pub(super) fn take(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        let len = end.and_then(|_| usize::try_from(len).ok()).ok_or_else(|| self.short(offset.saturating_add(len)))?;
        let mut into = vec![0; len];
        self.read_at(offset, &mut into)?;
        Ok(into)
    }

    fn short(&self, wanted: u64) -> Error {
        broken(&self.path, format!("the file ends early: {} bytes, needed up to byte {wanted}", self.len), AGAIN)
    }

    pub(super) fn broken(&self, found: impl Into<String>) -> Error {
        broken(&self.path, found, AGAIN)
    }
}
