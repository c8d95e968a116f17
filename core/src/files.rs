//! Whole files: read within a bound, hashed, and written so that they are there complete or not at all.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    path::Path,
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

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

/// The folder a file lies in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file in the making, beside its final place `target`; removed unless it is committed.
///
/// # Errors
/// The folder cannot be written to.
pub fn partial(target: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".musaic-").suffix(".part");
    // As any new file; the process's mask takes away what it must.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder_of(target))
}

/// Gives a finished file its name, once its bytes are safe on the disk.
///
/// # Errors
/// It cannot be synced or renamed, or there is one of that name that must not be overwritten.
pub fn commit(partial: NamedTempFile, target: &Path, overwrite: bool) -> io::Result<()> {
    partial.as_file().sync_all()?;
    let named = if overwrite { partial.persist(target) } else { partial.persist_noclobber(target) };
    named.map_err(|failed| failed.error)?;
    // The name itself is safe once its folder is; a folder that cannot be synced is no failure.
    let _ = File::open(folder_of(target)).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Writes a small file, over an old one if there is one.
///
/// # Errors
/// It cannot be written; an old one is still there then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let wrap = |source| Error::io(path, source);
    let mut file = partial(path).map_err(wrap)?;
    file.write_all(bytes).map_err(wrap)?;
    commit(file, path, true).map_err(wrap)
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

    #[test]
    fn written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for text in ["old", "new"] {
            write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        // A folder in its place stays, and no partial file does.
        let blocked = folder.path().join("b");
        fs::create_dir_all(blocked.join("c")).unwrap();
        assert!(write_atomic(&blocked, b"x").is_err());
        assert!(commit(partial(&path).unwrap(), &path, false).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let plain = folder.path().join("plain");
            fs::write(&plain, "x").unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain));
        }
    }
}
