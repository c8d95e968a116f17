//! One file of the cache: grows as `HASH.incomplete`, gets its name when the hash agrees.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use musaic_core::{Error, Result};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What the hub says a file's hash is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256 of the contents (large files).
    Sha256(String),
    /// Object id of git: SHA-1 of `blob SIZE\0` and the contents (small files).
    Git(String),
}

impl Hash {
    /// In hexadecimal; also the blob's file name.
    pub fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }

    /// The kind follows from the length; anything else is no hash, and not safe as a file name.
    pub fn new(etag: &str) -> Option<Self> {
        let hex = etag.chars().all(|c| c.is_ascii_hexdigit());
        match etag.len() {
            64 if hex => Some(Self::Sha256(etag.to_owned())),
            40 if hex => Some(Self::Git(etag.to_owned())),
            _ => None,
        }
    }
}

enum Running {
    Sha256(Sha256),
    Git(Sha1),
}

impl Running {
    fn new(hash: &Hash, size: u64) -> Self {
        match hash {
            Hash::Sha256(_) => Self::Sha256(Sha256::new()),
            Hash::Git(_) => Self::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => format!("{:x}", hash.finalize()),
            Self::Git(hash) => format!("{:x}", hash.finalize()),
        }
    }
}

/// A file that may be there, in part, or not at all.
pub struct Blob {
    path: PathBuf,
    hash: Hash,
    size: u64,
}

impl Blob {
    /// The blob of `hash` in the folder of blobs.
    pub fn new(folder: &Path, hash: Hash, size: u64) -> Self {
        Self { path: folder.join(hash.text()), hash, size }
    }

    /// Whether it is there; it only ever gets its name after its hash agreed.
    pub fn is_complete(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|m| m.len() == self.size)
    }

    /// Opens what an earlier download left, or begins anew.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn resume(self) -> Result<OpenBlob> {
        let mut name = self.path.clone().into_os_string();
        name.push(".incomplete");
        let partial = PathBuf::from(name);
        let io = |e| Error::io(&partial, e);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&partial).map_err(io)?;
        if file.metadata().map_err(io)?.len() > self.size {
            file.set_len(0).map_err(io)?;
        }
        let mut running = Running::new(&self.hash, self.size);
        let mut len = 0;
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece).map_err(io)? {
                0 => break,
                n => {
                    running.update(&piece[..n]);
                    len += n as u64;
                }
            }
        }
        Ok(OpenBlob { blob: self, partial, file, running, len })
    }
}

/// A blob that is growing.
pub struct OpenBlob {
    blob: Blob,
    partial: PathBuf,
    file: File,
    running: Running,
    len: u64,
}

impl OpenBlob {
    /// Bytes there so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The next bytes.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(&self.partial, e))?;
        self.running.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks the hash and gives the blob its name.
    ///
    /// # Errors
    /// The hash does not agree: the partial file is removed, so that the next try begins anew.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.partial, e))?;
        let found = self.running.finish();
        if !found.eq_ignore_ascii_case(self.blob.hash.text()) {
            fs::remove_file(&self.partial).map_err(|e| Error::io(&self.partial, e))?;
            let expected = format!("hash {} as the hub says", self.blob.hash.text());
            return Err(Error::format(&self.blob.path, expected, format!("hash {found} after download")));
        }
        fs::rename(&self.partial, &self.blob.path).map_err(|e| Error::io(&self.blob.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf hello | git hash-object --stdin`
    const HELLO: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";

    #[test]
    fn a_partial_file_is_continued_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let hash = Hash::Git(HELLO.into());
        let blob = || Blob::new(folder.path(), hash.clone(), 5);
        blob().resume().unwrap().append(b"he").unwrap();
        let mut open = blob().resume().unwrap();
        assert_eq!(open.len(), 2);
        open.append(b"llo").unwrap();
        open.finish().unwrap();
        assert!(blob().is_complete());
    }

    #[test]
    fn a_wrong_hash_is_refused_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let blob = || Blob::new(folder.path(), Hash::Git(HELLO.into()), 5);
        let mut open = blob().resume().unwrap();
        open.append(b"jello").unwrap();
        assert!(open.finish().is_err());
        assert!(!blob().is_complete());
        assert_eq!(blob().resume().unwrap().len(), 0);
    }
}
