//! Downloading a published model into the hub's local cache: resumable, every byte checked against the hub's hash.
//!
//! Layout of the cache as the hub's own tools keep it: `models--OWNER--NAME/{blobs,refs,snapshots/COMMIT}`. A file is fetched
//! in pieces that are appended to `blobs/HASH.incomplete`; an interrupted download goes on where it stopped. Only when the
//! hash of the whole agrees does the blob get its name, and only when all files are there does `refs/main` point to them.

mod blob;

use std::{
    fs,
    path::{Path, PathBuf},
};

use hf_hub::{HFClient, HFError, repository::RepoTreeEntry};
use musaic_core::{Error, Result, files::write_atomic, role::Cancel};

use self::blob::{Blob, Hash};

/// Bytes asked for at once.
const PIECE: u64 = 16 << 20;
/// Files and sizes beyond these are refused: no published model of ours comes near.
const MAX_FILES: usize = 10_000;
const MAX_FILE_BYTES: u64 = 200 << 30;

/// One download.
#[derive(Debug, Clone, Copy)]
pub struct Pull<'a> {
    /// Owner on the hub.
    pub owner: &'a str,
    /// Name on the hub.
    pub name: &'a str,
    /// Branch, tag or commit.
    pub revision: &'a str,
    /// Address of the hub; the client's default where not given.
    pub endpoint: Option<&'a str>,
}

impl Pull<'_> {
    /// Downloads what the program can use and gives the snapshot's folder.
    ///
    /// # Errors
    /// The hub cannot be reached or refuses, the id does not exist, a hash does not agree, or the disk is full.
    pub fn run(&self, cache: &Path, cancel: &Cancel, say: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let mut client = HFClient::builder().cache_enabled(false);
        if let Some(endpoint) = self.endpoint {
            client = client.endpoint(endpoint);
        }
        let client = client.build_sync().map_err(|e| self.refused(&e))?;
        let repository = client.model(self.owner, self.name);
        let info = repository.info().revision(self.revision).send().map_err(|e| self.refused(&e))?;
        let commit = info.sha.filter(|sha| is_hex(sha)).ok_or_else(|| self.unexpected("no commit"))?;
        let licence = info.tags.iter().flatten().find_map(|tag| tag.strip_prefix("license:")).unwrap_or("not stated");
        say(&format!("{}/{} at {commit}: licence {licence}", self.owner, self.name));

        let tree = repository.list_tree().revision(&commit).send().map_err(|e| self.refused(&e))?;
        if tree.len() > MAX_FILES {
            return Err(self.unexpected(&format!("{} files", tree.len())));
        }
        let names = wanted(tree.into_iter().filter_map(plain_name));
        if !names.iter().any(|name| name == "config.json") {
            return Err(self.unexpected("no config.json"));
        }
        let mut files = Vec::with_capacity(names.len());
        for path in names {
            let head = repository.get_file_metadata().filepath(&path).revision(&commit).send();
            let head = head.map_err(|e| self.refused(&e))?;
            let hash = Hash::new(&head.etag).ok_or_else(|| self.unexpected(&format!("no hash for {path}")))?;
            if head.file_size > MAX_FILE_BYTES {
                return Err(self.unexpected(&format!("{path} of {} bytes", head.file_size)));
            }
            files.push(Remote { path, size: head.file_size, hash });
        }

        let model = cache.join(format!("models--{}--{}", self.owner, self.name));
        let snapshot = model.join("snapshots").join(&commit);
        for folder in [model.join("blobs"), model.join("refs"), snapshot.clone()] {
            fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        }
        for file in &files {
            cancel.check()?;
            let blob = Blob::new(&model.join("blobs"), file.hash.clone(), file.size);
            if !blob.is_complete() {
                say(&format!("{} ({:.1} MB)", file.path, file.size as f64 / 1e6));
                self.fetch(file, blob, cancel, |range| {
                    repository
                        .download_file_to_bytes()
                        .filename(&file.path)
                        .revision(&commit)
                        .range(range)
                        .send()
                        .map(|bytes| bytes.to_vec())
                        .map_err(|e| self.refused(&e))
                })?;
            }
            link(&snapshot.join(&file.path), &file.hash)?;
        }
        write_atomic(&model.join("refs/main"), commit.as_bytes())?;
        Ok(snapshot)
    }

    fn fetch(
        &self,
        file: &Remote,
        blob: Blob,
        cancel: &Cancel,
        piece: impl Fn(std::ops::Range<u64>) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let mut open = blob.resume()?;
        while open.len() < file.size {
            cancel.check()?;
            let range = open.len()..(open.len() + PIECE).min(file.size);
            let asked = range.end - range.start;
            let bytes = piece(range)?;
            if bytes.len() as u64 != asked {
                return Err(self.unexpected(&format!(
                    "{} bytes of {} where {asked} were asked for",
                    bytes.len(),
                    file.path
                )));
            }
            open.append(&bytes)?;
        }
        open.finish()
    }

    fn refused(&self, error: &HFError) -> Error {
        let expected = match error {
            HFError::RepoNotFound { .. } => "an id that exists on the hub".to_owned(),
            HFError::RevisionNotFound { .. } => format!("a revision that exists, not `{}`", self.revision),
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                "a public model, or a token in HF_TOKEN that may read it".to_owned()
            }
            _ => "an answer from the hub; run the same command again to go on where it stopped".to_owned(),
        };
        Error::argument(format!("pull {}/{}", self.owner, self.name), error.to_string(), expected)
    }

    fn unexpected(&self, found: &str) -> Error {
        Error::argument(format!("pull {}/{}", self.owner, self.name), found, "a published model in a layout we know")
    }
}

/// A file on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    path: String,
    size: u64,
    hash: Hash,
}

/// The name of a file in the top folder, if it is one that is safe anywhere.
fn plain_name(entry: RepoTreeEntry) -> Option<String> {
    let RepoTreeEntry::File { path, .. } = entry else { return None };
    let plain = !path.starts_with('.') && path.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    plain.then_some(path)
}

/// The files that the program reads: configuration, tokenizer, and the weights in one layout, safetensors before pickles.
fn wanted(names: impl Iterator<Item = String>) -> Vec<String> {
    let all: Vec<_> = names.collect();
    let weights = |name: &str, stem: &str, ending: &str| {
        name.strip_prefix(stem).is_some_and(|rest| {
            rest == ending
                || rest == format!("{ending}.index.json")
                || (rest.starts_with('-') && rest.ends_with(ending))
        })
    };
    let safetensors = |name: &str| weights(name, "model", ".safetensors");
    let pickle = |name: &str| weights(name, "pytorch_model", ".bin");
    let has_safetensors = all.iter().any(|name| safetensors(name));
    let small = |name: &str| {
        let text = name.ends_with(".json") || name.ends_with(".model") || name.ends_with(".txt");
        text && !name.ends_with(".index.json")
    };
    all.into_iter().filter(|name| safetensors(name) || (!has_safetensors && pickle(name)) || small(name)).collect()
}

fn is_hex(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// A relative link from the snapshot to the blob, as the hub's own tools make it; a copy where links are not to be had.
fn link(at: &Path, hash: &Hash) -> Result<()> {
    let target = Path::new("../../blobs").join(hash.text());
    if fs::read_link(at).is_ok_and(|old| old == target) {
        return Ok(());
    }
    match fs::remove_file(at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(at, e)),
        _ => {}
    }
    #[cfg(unix)]
    return std::os::unix::fs::symlink(&target, at).map_err(|e| Error::io(at, e));
    #[cfg(not(unix))]
    {
        let blob = at.parent().map(|p| p.join(&target)).unwrap_or(target);
        fs::copy(blob, at).map(|_| ()).map_err(|e| Error::io(at, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(names: &[&str]) -> Vec<String> {
        wanted(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn one_layout_of_weights_is_taken() {
        let names = ["config.json", "model.safetensors", "pytorch_model.bin", "state_dict.bin", "README.md"];
        assert_eq!(taken(&names), ["config.json", "model.safetensors"]);
        let shards = [
            "config.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model-00002-of-00002.bin",
            "pytorch_model.bin.index.json",
        ];
        assert_eq!(taken(&shards), shards);
    }

    #[test]
    fn names_that_leave_the_folder_are_not_taken() {
        let entry = |path: &str| RepoTreeEntry::File {
            oid: "0".repeat(40),
            size: 1,
            path: path.into(),
            lfs: None,
            last_commit: None,
            xet_hash: None,
            security: None,
        };
        assert!(plain_name(entry("config.json")).is_some());
        for bad in ["../config.json", "a/b.json", "/etc/passwd", ".hidden", "a\\b"] {
            assert!(plain_name(entry(bad)).is_none(), "{bad}");
        }
    }
}
