//! The files of a run: looked at before anything slow happens.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use musaic_core::role::Modality;

use crate::{failure::BadInput, pipeline::media};

/// One file, or the pictures of one folder.
pub(super) struct Input {
    /// As it was given.
    pub name: String,
    /// Of what it holds ([`media::sha256`]).
    pub sha256: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Names and hashes of all files, for an encoder of `modality`.
///
/// # Errors
/// A file is missing, cannot be read, is given twice, or cannot be what the encoder takes.
pub(super) fn look_at(files: &[PathBuf], modality: Modality) -> anyhow::Result<Vec<Input>> {
    let mut seen = HashSet::new();
    let input = |path: &Path| {
        let name = path.display().to_string();
        if !seen.insert(name.clone()) {
            return Err(BadInput::new(format!("{name}: given twice, expected each file once")).into());
        }
        media::check(path, modality)?;
        Ok(Input { name, sha256: media::sha256(path)?, path: path.to_owned() })
    };
    files.iter().map(PathBuf::as_path).map(input).collect()
}
