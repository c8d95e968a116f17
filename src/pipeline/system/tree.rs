//! The files of a system on disk: which are expected where, and which are missing, said before anything is read.

use std::path::{Path, PathBuf};

use musaic_adapters::bridge::BridgeKind;

use crate::{
    config::SystemConfig,
    failure::BadInput,
    pipeline::models::{self, Place},
};

/// What a checkpoint's folder holds.
const CHECKPOINT: &str = "checkpoint.pth";

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// `checkpoint.pth`.
    pub checkpoint: PathBuf,
    /// Folder with `params.json`, or the one above it.
    pub llama: PathBuf,
    /// `tokenizer.model`.
    pub tokenizer: PathBuf,
    /// Folders of the encoders that are there, of those that are needed in any case.
    pub encoders: Vec<(BridgeKind, PathBuf)>,
    /// `knn.index`, if neighbours are blended in.
    pub knn: Option<PathBuf>,
}

impl Tree {
    /// Finds the files that a request with media of these `kinds` needs.
    ///
    /// # Errors
    /// Lists all that are missing, with what is expected where.
    pub fn find(config: &SystemConfig, kinds: &[BridgeKind]) -> Result<Self, BadInput> {
        let mut missing = Vec::new();
        let mut need = |key: &str, value: &str, expected: &str, found: Option<PathBuf>| {
            if found.is_none() {
                let value = if value.is_empty() { "nothing given".to_owned() } else { format!("`{value}`") };
                missing.push(format!("system.{key}: {value}, expected {expected}"));
            }
            found.unwrap_or_default()
        };
        let checkpoint = file_or_inside(&config.checkpoint, CHECKPOINT);
        let checkpoint = need("checkpoint", &config.checkpoint, "checkpoint.pth of M2UGen, or its folder", checkpoint);
        let llama = Some(PathBuf::from(&config.llama)).filter(|folder| has_params(folder));
        let expected = "LLaMA 2 7B as Meta publishes it: a folder with tokenizer.model and 7B/params.json";
        let llama = need("llama", &config.llama, expected, llama);
        let mut tokenizer = PathBuf::new();
        if llama != Path::new("") {
            // Beside params.json, or one folder up, as Meta's download leaves it.
            let places = [llama.join("tokenizer.model"), llama.join("../tokenizer.model")];
            let found = places.into_iter().find(|path| path.is_file());
            tokenizer = need("llama", &config.llama, "tokenizer.model in it, or one folder up", found);
        }
        let mut encoders = Vec::new();
        for kind in BridgeKind::ALL {
            let (key, name) = encoder_of(config, kind);
            match models::find(name) {
                Ok(models::Found { place: Place::Folder(folder), .. }) => encoders.push((kind, folder)),
                _ if !kinds.contains(&kind) => {}
                _ => {
                    need(key, name, "the encoder's published folder, or a hub id in the local cache", None);
                }
            }
        }
        let mut knn = None;
        if !config.knn.is_empty() {
            let found = file_or_inside(&config.knn, "knn.index");
            knn = Some(need("knn", &config.knn, "a FAISS index file", found));
        }
        if missing.is_empty() {
            return Ok(Self { checkpoint, llama, tokenizer, encoders, knn });
        }
        let message = match missing.as_slice() {
            [one] => one.clone(),
            several => format!("{} parts of the system are missing\n  {}", several.len(), several.join("\n  ")),
        };
        Err(BadInput::new(message).hint(
            "name them with --checkpoint, --llama, --mert, --vit, --vivit, or once for all in a --config file; \
             `--preset debug` shows the plumbing without any files",
        ))
    }
}

/// The key and the name of the encoder of a kind of media.
pub fn encoder_of(config: &SystemConfig, kind: BridgeKind) -> (&'static str, &str) {
    match kind {
        BridgeKind::Music => ("mert", &config.mert),
        BridgeKind::Image => ("vit", &config.vit),
        BridgeKind::Video => ("vivit", &config.vivit),
    }
}

fn file_or_inside(given: &str, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(given);
    let inside = path.join(name);
    [path, inside].into_iter().find(|path| !given.is_empty() && path.is_file())
}

fn has_params(folder: &Path) -> bool {
    let inside = |folder: &Path| folder.join("params.json").is_file();
    let below = || folder.read_dir().is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| inside(&e.path()))));
    folder != Path::new("") && (inside(folder) || below())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        let config = SystemConfig { mert: "no/where/at/all".into(), ..SystemConfig::default() };
        let error = Tree::find(&config, &[BridgeKind::Music]).unwrap_err().to_string();
        for part in ["3 parts", "system.checkpoint: nothing given", "system.llama", "system.mert: `no/where/at/all`"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_published_tree_is_found() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        let model = goldens.join("m2ugen/generate/model");
        let name = |path: PathBuf| path.display().to_string();
        let config = SystemConfig {
            checkpoint: name(model.join("ckpts")),
            llama: name(model.join("llama")),
            vit: name(goldens.join("encoders/vit-tiny/model")),
            ..SystemConfig::default()
        };
        let tree = Tree::find(&config, &[BridgeKind::Image]).unwrap();
        assert_eq!(tree.checkpoint, model.join("ckpts/checkpoint.pth"));
        assert!(tree.encoders.iter().any(|(kind, _)| *kind == BridgeKind::Image));
        assert!(tree.tokenizer.is_file());
        // One folder further down the tokenizer is one up.
        let below = SystemConfig { llama: name(model.join("llama/7B")), ..config };
        assert!(Tree::find(&below, &[]).unwrap().tokenizer.is_file());
    }
}
