//! Finds the files of weights in a folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::super::bytes::broken;
use crate::{Error, Result, files::read_capped};

/// Names of published files, best first; each may come as an index of shards instead.
const STEMS: [(&str, &str); 5] = [
    ("model", "safetensors"),
    ("diffusion_pytorch_model", "safetensors"),
    ("adapter_model", "safetensors"),
    ("pytorch_model", "bin"),
    ("diffusion_pytorch_model", "bin"),
];
/// Bytes of index that are read.
const MOST_INDEX: u64 = 64 << 20;
/// Names shown of a folder that holds something else.
const SHOWN: usize = 6;

/// Where the weights are.
pub(super) enum Place {
    File(PathBuf),
    Shards {
        /// Each once, in order of their names.
        files: Vec<PathBuf>,
        /// The shard of every tensor in the index, where there is one.
        names: BTreeMap<String, PathBuf>,
    },
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn locate(path: &Path) -> Result<Place> {
    let meta = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_dir() {
        let indexed = path.to_str().is_some_and(|text| text.ends_with(".index.json"));
        return if indexed { shards(path) } else { parts(path) };
    }
    for (stem, extension) in STEMS {
        let file = path.join(format!("{stem}.{extension}"));
        let index = path.join(format!("{stem}.{extension}.index.json"));
        if file.exists() {
            return Ok(Place::File(file));
        }
        if index.exists() {
            return shards(&index);
        }
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(|e| Error::io(path, e))? {
        names.push(entry.map_err(|e| Error::io(path, e))?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    // A single file of another name can only be the one.
    let weights: Vec<_> =
        names.iter().filter(|name| [".safetensors", ".pth", ".pt"].iter().any(|end| name.ends_with(end))).collect();
    if let [only] = *weights {
        return Ok(Place::File(path.join(only)));
    }
    let ggufs: Vec<_> = names.iter().filter(|name| name.ends_with(".gguf")).collect();
    if weights.is_empty()
        && let [first, rest @ ..] = ggufs.as_slice()
        && (rest.is_empty() || part_of(first).is_some_and(|(stem, ..)| rest.iter().all(|n| n.starts_with(stem))))
    {
        return parts(&path.join(first));
    }
    let weights = if weights.is_empty() { ggufs } else { weights };
    let found = match names.len() {
        0 => "the folder is empty".to_owned(),
        _ if weights.len() > 1 => format!("the folder holds several files of weights: {}", shown(&weights)),
        _ => format!("the folder holds no weights, only {}", shown(&names)),
    };
    let hint = if weights.len() > 1 {
        "give the one file that is meant".to_owned()
    } else {
        "expected model.safetensors, model.safetensors.index.json with its shards, pytorch_model.bin, or one .safetensors, .pth or .gguf file".to_owned()
    };
    Err(broken(path, found, hint))
}

/// Stem, number and count of `stem-00002-of-00005.gguf`.
fn part_of(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(number) && digits(count)).then_some((stem, number.parse().ok()?, count.parse().ok()?))
}

/// One file, or all parts of a GGUF file of which any is given.
fn parts(path: &Path) -> Result<Place> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((stem, _, count)) = part_of(&name).filter(|(.., count)| *count > 1) else {
        return Ok(Place::File(path.to_owned()));
    };
    let files: Vec<_> = (1..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect();
    let missing: Vec<_> = files.iter().filter(|file| !file.exists()).map(|file| file.display().to_string()).collect();
    if !missing.is_empty() {
        let found = format!("{} of {count} parts are missing: {}", missing.len(), shown(&missing));
        return Err(broken(path, found, "download the missing files into the same folder"));
    }
    Ok(Place::Shards { files, names: BTreeMap::new() })
}

fn shown<S: AsRef<str>>(names: &[S]) -> String {
    let mut text = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

fn shards(index: &Path) -> Result<Place> {
    let text = read_capped(index, MOST_INDEX).map_err(|error| match error {
        Error::Format { found, .. } => {
            broken(index, format!("the index has {found}"), "an index is at most 64 MB; this is another file")
        }
        other => other,
    })?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| {
        broken(index, format!("the index is damaged: {e}"), "it is JSON with a `weight_map`; download it again")
    })?;
    let folder = index.parent().unwrap_or_else(|| Path::new(""));
    let mut names = BTreeMap::new();
    for (name, file) in parsed.weight_map {
        let plain = Path::new(&file).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || file.is_empty() {
            let hint = "shards lie beside their index; this one was not made by a publisher's tool";
            return Err(broken(index, format!("the index names `{file}`, which is outside the folder"), hint));
        }
        names.insert(name, folder.join(file));
    }
    let files: BTreeSet<_> = names.values().cloned().collect();
    let missing: Vec<_> = files.iter().filter(|file| !file.exists()).map(|file| file.display().to_string()).collect();
    if !missing.is_empty() {
        let found = format!("{} of {} shards are missing: {}", missing.len(), files.len(), shown(&missing));
        return Err(broken(index, found, "download the missing files into the same folder"));
    }
    if files.is_empty() {
        return Err(broken(index, "the index names no tensors", "download it again"));
    }
    Ok(Place::Shards { files: files.into_iter().collect(), names })
}
