//! Whole files: read within a bound, and hashed.

use std::{
    fs::{self, File, Metadata},
    io::Read,
    path::Path,
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Largest configuration that is read: the class names alone of a model of pictures may take a megabyte.
pub const MAX_CONFIG: u64 = 4 << 20;

/// Opens a plain file of at most `most` bytes; `expected` says what a good file is.
///
/// # Errors
/// It cannot be opened, is larger, or is a folder, a device or a pipe: those would never end, or block.
pub fn open_capped(path: &Path, most: u64, expected: &str) -> Result<File> {
    let wrap = |source| Error::io(path, source);
    let check = |meta: Metadata| {
        if !meta.is_file() {
            return Err(Error::format(path, expected, if meta.is_dir() { "a folder" } else { "a device or pipe" }));
        }
        if meta.len() > most {
            return Err(Error::format(path, format!("at most {most} bytes"), format!("{} bytes", meta.len())));
        }
        Ok(())
    };
    // Looked at before it is opened: opening a pipe could wait for ever. Looked at again after: it may be another by then.
    check(fs::metadata(path).map_err(wrap)?)?;
    let file = File::open(path).map_err(wrap)?;
    check(file.metadata().map_err(wrap)?)?;
    Ok(file)
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// As [`open_capped`], or reading fails.
pub fn read_capped(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The file may grow while it is read: the bound holds all the same.
    let mut file = open_capped(path, most, "a file")?.take(most.saturating_add(1));
    file.read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > most {
        return Err(Error::format(path, format!("at most {most} bytes"), "more"));
    }
    Ok(bytes)
}

/// As [`read_capped`], of text.
///
/// # Errors
/// As [`read_capped`], or it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_capped(path, most)?).map_err(|_| Error::format(path, "text in UTF-8", "other bytes"))
}

/// As [`read_capped`], of JSON; `expected` says what it describes.
///
/// # Errors
/// As [`read_capped`], or it is no JSON of this kind.
pub fn read_json<T: DeserializeOwned>(path: &Path, most: u64, expected: &str) -> Result<T> {
    serde_json::from_slice(&read_capped(path, most)?).map_err(|e| Error::format(path, expected, e.to_string()))
}

/// Reads a published configuration, whatever it holds.
///
/// # Errors
/// As [`read_json`].
pub fn read_config(path: &Path) -> Result<Value> {
    read_json(path, MAX_CONFIG, "a JSON configuration")
}

/// sha256 of a file, in hexadecimal.
///
/// # Errors
/// As [`open_capped`], or reading fails.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = open_capped(path, u64::MAX, "a file")?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 18];
    loop {
        match file.read(&mut piece).map_err(|e| Error::io(path, e))? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            count => hash.update(&piece[..count]),
        }
    }
}

/// sha256 of pieces one after another, in hexadecimal.
pub fn sha256_of<T: AsRef<[u8]>>(pieces: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    pieces.into_iter().for_each(|piece| hash.update(piece));
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_only_plain_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "[1, 2]").unwrap();
        assert_eq!(read_capped(&path, 6).unwrap(), b"[1, 2]");
        assert_eq!(read_text(&path, 6).unwrap(), "[1, 2]");
        assert_eq!(read_json::<Vec<u32>>(&path, 6, "numbers").unwrap(), [1, 2]);
        let told = |result: Result<Vec<u32>>| result.unwrap_err().to_string();
        assert!(told(read_json(&path, 5, "numbers")).ends_with("a: 6 bytes, expected at most 5 bytes"));
        assert!(told(read_json(folder.path(), 5, "numbers")).ends_with(": a folder, expected a file"));
        fs::write(&path, [b'"', 0xff]).unwrap();
        assert!(told(read_json(&path, 6, "numbers")).ends_with("expected numbers"));
        assert!(read_text(&path, 6).unwrap_err().to_string().contains("UTF-8"));
        assert!(matches!(read_capped(&folder.path().join("b"), 6), Err(Error::Io { .. })));
        #[cfg(unix)]
        assert!(read_capped(Path::new("/dev/zero"), 6).unwrap_err().to_string().contains("a device or pipe"));
    }

    #[test]
    fn hashes() {
        // `printf hello | sha256sum`
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "hello").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), hello);
        assert_eq!(sha256_of(["he", "llo"]), hello);
    }
}
