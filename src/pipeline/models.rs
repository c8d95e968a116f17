//! Finding a model: built in, in a folder, or in the local cache of a hub. Nothing here touches the network.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::failure::BadInput;

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Inside the program.
    BuiltIn,
    /// In a folder.
    Folder(PathBuf),
}

/// A model that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As the user names it.
    pub name: String,
    /// Its files.
    pub place: Place,
}

/// Finds the model that a user names.
///
/// # Errors
/// There is none; the message says what was looked for, the hint what to do.
pub fn find(name: &str) -> Result<Found, BadInput> {
    if name == "nano" {
        return Ok(Found { name: name.into(), place: Place::BuiltIn });
    }
    let path = Path::new(name);
    if path.exists() {
        return folder(name, path);
    }
    if let Some((owner, repository)) = hub_id(name) {
        return match cached_snapshot(&cache_folder(), owner, repository) {
            Some(path) => folder(name, &path),
            None => Err(BadInput::new(format!("model `{name}`: neither a folder nor in the local cache"))
                .hint(format!("`musaic pull {name}` downloads it; `musaic models` lists what is here"))),
        };
    }
    Err(BadInput::new(format!("model `{name}`: no such folder, expected `nano`, a folder or a hub id like owner/name"))
        .hint("`musaic models` lists what is here"))
}

fn folder(name: &str, path: &Path) -> Result<Found, BadInput> {
    if !path.is_dir() {
        return Err(BadInput::new(format!("model `{name}`: a file, expected a folder with config.json and weights"))
            .hint("name the folder that the file lies in"));
    }
    if !path.join("config.json").is_file() {
        let found = fs::read_dir(path).map(|d| d.count()).unwrap_or(0);
        return Err(BadInput::new(format!(
            "model `{name}`: no config.json among {found} files, expected config.json, weights and a tokenizer"
        ))
        .hint("a published checkpoint folder is used as it was downloaded, all files together"));
    }
    Ok(Found { name: name.into(), place: Place::Folder(path.to_owned()) })
}

/// Splits `owner/name`, where both look like hub names.
pub fn hub_id(name: &str) -> Option<(&str, &str)> {
    let good = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let (owner, repository) = name.split_once('/')?;
    (good(owner) && good(repository)).then_some((owner, repository))
}

/// The cache of the hub's own tools: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
pub fn cache_folder() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/huggingface/hub")))
        .unwrap_or_else(|| PathBuf::from(".cache/huggingface/hub"))
}

/// The snapshot that `refs/main` names, or the only one there is.
fn cached_snapshot(cache: &Path, owner: &str, repository: &str) -> Option<PathBuf> {
    let model = cache.join(format!("models--{owner}--{repository}"));
    let snapshots = model.join("snapshots");
    if let Ok(commit) = fs::read_to_string(model.join("refs/main")) {
        let commit = commit.trim();
        if !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric()) {
            let path = snapshots.join(commit);
            return path.is_dir().then_some(path);
        }
    }
    let mut all = fs::read_dir(snapshots).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let only = all.next()?;
    all.next().is_none().then_some(only)
}

/// Every model in the cache that has a configuration: hub id and folder, sorted.
pub fn cached() -> Vec<(String, PathBuf)> {
    let cache = cache_folder();
    let mut found: Vec<_> = fs::read_dir(&cache)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (owner, repository) = name.strip_prefix("models--")?.split_once("--")?;
            let path = cached_snapshot(&cache, owner, repository)?;
            path.join("config.json").is_file().then(|| (format!("{owner}/{repository}"), path))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_cannot_leave_the_cache() {
        assert_eq!(hub_id("facebook/musicgen-small"), Some(("facebook", "musicgen-small")));
        for bad in ["../etc", "a/..", "a/b/c", "/etc", "a/", "a/b c", "a\\b/c"] {
            assert_eq!(hub_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_found_by_its_reference() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--a--b");
        for commit in ["abc1", "abc2"] {
            fs::create_dir_all(model.join("snapshots").join(commit)).unwrap();
        }
        assert_eq!(cached_snapshot(cache.path(), "a", "b"), None, "two snapshots and no reference");
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::write(model.join("refs/main"), "abc2\n").unwrap();
        assert_eq!(cached_snapshot(cache.path(), "a", "b"), Some(model.join("snapshots/abc2")));
    }

    #[test]
    fn what_is_missing_is_said() {
        let empty = tempfile::tempdir().unwrap();
        let error = find(empty.path().to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("no config.json"), "{error}");
        assert!(find("no-such-model").unwrap_err().to_string().contains("no such folder"));
        assert!(find("nobody/nothing-at-all").unwrap_err().to_string().contains("local cache"));
    }
}
