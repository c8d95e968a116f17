//! Media that go into a request: files, what they are, and what tells them from others.

use std::path::{Path, PathBuf};

use musaic_adapters::bridge::BridgeKind;
use musaic_core::role::Modality;

use crate::{
    failure::BadInput,
    pipeline::{media, request},
};

/// One file, or the pictures of one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: BridgeKind,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

impl Input {
    /// As it is written into what is made from it.
    pub fn record(&self) -> request::Input {
        request::Input { path: self.path.display().to_string(), sha256: self.sha256.clone() }
    }

    /// The same with its kind.
    pub fn medium(&self) -> request::MediaInput {
        request::MediaInput { kind: name_of(self.kind).into(), input: self.record() }
    }
}

/// Looks what files are; of each kind there may be one.
///
/// # Errors
/// A file cannot be read, is no medium, or is a second one of its kind.
pub fn look_at(files: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut inputs: Vec<Input> = Vec::with_capacity(files.len());
    for path in files {
        let input = look(path, None)?;
        if let Some(other) = inputs.iter().find(|other| other.kind == input.kind) {
            let message = format!(
                "{}: a second {} beside {}, expected at most one of each kind",
                path.display(),
                name_of(input.kind),
                other.path.display()
            );
            return Err(BadInput::new(message)
                .hint("the language model hears one track and sees one picture and one video")
                .into());
        }
        inputs.push(input);
    }
    // In the order of the layers that look at them, so that the order on a command line does not matter.
    inputs.sort_by_key(|input| BridgeKind::ALL.iter().position(|kind| *kind == input.kind));
    Ok(inputs)
}

/// One file; `kind` where the user says what it is.
///
/// # Errors
/// As [`look_at`].
pub fn look(path: &Path, kind: Option<BridgeKind>) -> anyhow::Result<Input> {
    let kind = match kind {
        Some(kind) => kind,
        None => match media::modality_of(path)? {
            Modality::Audio => BridgeKind::Music,
            Modality::Image => BridgeKind::Image,
            Modality::Video => BridgeKind::Video,
            Modality::Text => {
                let message = format!("{}: a text, expected sound, a picture or a video", path.display());
                return Err(BadInput::new(message).hint("words go into the question itself").into());
            }
        },
    };
    Ok(Input { path: path.to_owned(), kind, sha256: media::sha256(path)? })
}

/// The first of each kind: enough to find the encoders.
pub fn one_of_each<'a>(inputs: impl IntoIterator<Item = &'a Input>) -> Vec<Input> {
    let mut kinds: Vec<Input> = Vec::new();
    for input in inputs {
        if !kinds.iter().any(|other| other.kind == input.kind) {
            kinds.push(input.clone());
        }
    }
    kinds
}

/// As people call it.
pub fn name_of(kind: BridgeKind) -> &'static str {
    match kind {
        BridgeKind::Music => "track",
        BridgeKind::Image => "picture",
        BridgeKind::Video => "video",
    }
}

/// The kind that [`name_of`] calls so.
pub fn kind_of(name: &str) -> Option<BridgeKind> {
    BridgeKind::ALL.into_iter().find(|kind| name_of(*kind) == name)
}
