//! Music files to the features that a library is made of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use candle_core::Device;
use musaic_core::{
    Error, WeightFormat,
    role::{AudioSpan, Cancel, Modality},
    weights::Checkpoint,
};

use super::{Features, features_of};
use crate::{
    failure::BadInput,
    pipeline::{
        features::{Job, Watch, run_into},
        media::{MediaOptions, is_sound_name},
    },
    registry::{self, Role},
};

/// Folders below one that are looked into.
const MAX_DEPTH: usize = 32;
/// Most files in a collection.
const MAX_FILES: usize = 1 << 20;

/// An encoder of music, and how it hears.
#[derive(Debug, Clone)]
pub struct Encoding {
    /// Its published folder.
    pub encoder: PathBuf,
    /// Where to compute.
    pub device: Device,
    /// How weights are held.
    pub format: WeightFormat,
    /// Which part of a long piece is heard.
    pub span: AudioSpan,
    /// Of its weights.
    pub sha256: String,
}

impl Encoding {
    /// The encoder that lies in a folder.
    ///
    /// # Errors
    /// Its files cannot be read, or it is no encoder of sound.
    pub fn open(folder: &Path, device: Device, format: WeightFormat, span: AudioSpan) -> Result<Self> {
        let row = registry::encoder_row(folder)?;
        if row.role != Role::Encoder(Modality::Audio) {
            return Err(Error::argument("encoder", row.name, "an encoder of sound, such as MERT").into());
        }
        let sha256 = Checkpoint::open(folder)?.sha256()?.to_owned();
        Ok(Self { encoder: folder.to_owned(), device, format, span, sha256 })
    }

    /// Encodes `files` and hands the features to `finish`, which writes `output`. Until it has, what is finished lies in a folder
    /// beside `output` (`OUTPUT.parts`), from where the next run goes on.
    ///
    /// # Errors
    /// As [`run_into`].
    pub fn features<T>(
        &self,
        files: &[PathBuf],
        output: &Path,
        cancel: &Cancel,
        watch: &mut Watch<'_>,
        finish: impl FnOnce(Features) -> Result<T>,
    ) -> Result<T> {
        let job = Job {
            files: files.to_vec(),
            output: output.to_owned(),
            encoder: self.encoder.clone(),
            device: self.device.clone(),
            format: self.format,
            span: self.span,
            media: MediaOptions::default(),
            force: true,
        };
        let mut done = None;
        run_into(&job, cancel, watch, |source, _| {
            done = Some(finish(features_of(output, source, Some(self.sha256.clone()))?)?);
            Ok(())
        })?;
        done.context("no features")
    }
}

/// The files named, and the sound files in the folders named and below them, in the order of their names. What begins with a
/// dot is left out, and links to folders are not followed.
///
/// # Errors
/// A path is missing, a folder cannot be read, or a folder holds no sound.
pub fn music_in(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        collect(path, 0, &mut files)?;
        if files.len() == before {
            let message = format!("{}: no sound file in it, expected music", path.display());
            return Err(BadInput::new(message)
                .hint("files are known by their endings: .wav, .flac, .mp3, .ogg, ..")
                .into());
        }
        files[before..].sort();
    }
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(entry.path(), e))?);
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() && depth < MAX_DEPTH {
            collect(&path, depth + 1, files)?;
        } else if !kind.is_dir() && is_sound_name(&path) && path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::format(folder, format!("at most {MAX_FILES} files"), "more").into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_sound_files_and_those_below() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("album/empty")).unwrap();
        for name in ["b.mp3", "A.WAV", "album/c.flac", "cover.jpg", ".hidden.wav", "notes.txt"] {
            fs::write(at(name), name).unwrap();
        }
        let found = music_in(&[at("notes.txt"), folder.path().to_owned()]).unwrap();
        assert_eq!(found, [at("notes.txt"), at("A.WAV"), at("album/c.flac"), at("b.mp3")]);
        let message = music_in(&[at("album/empty")]).unwrap_err().to_string();
        assert!(message.contains("no sound file"), "{message}");
        assert!(music_in(&[at("missing")]).is_err());
    }
}
