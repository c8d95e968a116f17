//! Media files for encoders: what a file is, what it holds (by hash), and reading it as an encoder takes it.
//!
//! A folder of pictures is a video, frame by frame: the same frames of it are looked at as of a file.

mod folder;
mod kind;

use std::{fs, path::Path};

use musaic_core::{
    Error,
    files::{sha256_file, sha256_of},
    media::{
        Audio, Limits, Picture, PictureOptions, Selection, VideoOptions, read_audio, read_audio_as_reference,
        read_picture, read_video,
    },
    role::{EncoderSpec, Media, Modality},
};

pub use self::kind::{is_sound_name, modality_of};
use crate::failure::BadInput;

/// Which part of a medium is read, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaOptions {
    /// As the reference reads: FFmpeg's decoders, pictures and frames neither turned nor laid over white, one window of a video
    /// at a place drawn from `seed`.
    pub reference: bool,
    /// Most windows of a video, spread over it; the reference takes one.
    pub windows: usize,
    /// Seed of the reference's window.
    pub seed: u64,
}

impl Default for MediaOptions {
    fn default() -> Self {
        Self { reference: false, windows: 4, seed: 0 }
    }
}

impl MediaOptions {
    fn pictures(&self) -> PictureOptions {
        if self.reference { PictureOptions::reference() } else { PictureOptions::default() }
    }

    /// Which windows of a video are looked at.
    pub fn selection(&self) -> Selection {
        if self.reference { Selection::Random { seed: self.seed } } else { Selection::Spread { windows: self.windows } }
    }
}

/// Media in memory.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnedMedia {
    /// Sound.
    Audio(Audio),
    /// One picture.
    Image(Picture),
    /// Windows of pictures.
    Video {
        /// The pictures, each once.
        frames: Vec<Picture>,
        /// For each window its pictures, as places in `frames`.
        windows: Vec<Vec<usize>>,
    },
}

impl OwnedMedia {
    /// As encoders take it.
    pub fn borrow(&self) -> Media<'_> {
        match self {
            Self::Audio(audio) => Media::Audio(audio),
            Self::Image(picture) => Media::Image(picture),
            Self::Video { frames, windows } => Media::Video { frames, windows },
        }
    }
}

/// Reads the file (of a video also: the folder) at `path` for the encoder of `spec`.
///
/// # Errors
/// It is broken, too large, not what the encoder takes, or of a kind that only a cargo feature reads.
pub fn read(path: &Path, spec: &EncoderSpec, options: &MediaOptions) -> anyhow::Result<OwnedMedia> {
    check(path, spec.modality)?;
    let limits = Limits::default();
    Ok(match spec.modality {
        Modality::Audio if options.reference => OwnedMedia::Audio(read_audio_as_reference(path, &limits)?),
        Modality::Audio => OwnedMedia::Audio(read_audio(path, &limits)?),
        Modality::Image => OwnedMedia::Image(read_picture(path, &options.pictures())?),
        Modality::Video => {
            let (selection, frames) = (options.selection(), spec.frames.unwrap_or(1));
            if path.is_dir() {
                return folder::read(path, selection, frames, &options.pictures(), &limits);
            }
            let video = read_video(path, &VideoOptions { selection, frames, turn: !options.reference, limits })?;
            OwnedMedia::Video { frames: video.frames, windows: video.facts.windows }
        }
        Modality::Text => return Err(Error::argument("encoder", spec.name, "one of sound, pictures or video").into()),
    })
}

/// Whether what is at `path` can be of `modality`, as far as that shows without decoding it.
///
/// # Errors
/// It is missing, a folder where a file is wanted, or a video that this build does not read.
pub fn check(path: &Path, modality: Modality) -> anyhow::Result<()> {
    let is_folder = fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir();
    let wanted = match modality {
        Modality::Video if is_folder || cfg!(feature = "video") => return Ok(()),
        Modality::Video => {
            let what = format!("reading {} (a folder of its pictures would do)", path.display());
            return Err(Error::MissingFeature { feature: "video", what }.into());
        }
        Modality::Image => "a picture file",
        Modality::Audio | Modality::Text => "an audio file",
    };
    if is_folder {
        return Err(BadInput::new(format!("{}: a folder, expected {wanted}", path.display())).into());
    }
    Ok(())
}

/// sha256 of the bytes of a file, in hexadecimal; of a folder, of the hashes of its pictures in order.
///
/// # Errors
/// It cannot be read, or is a folder without a picture.
pub fn sha256(path: &Path) -> anyhow::Result<String> {
    if !path.is_dir() {
        return Ok(sha256_file(path)?);
    }
    let hashes = folder::pictures(path, &Limits::default())?
        .iter()
        .map(|path| sha256_file(path))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(sha256_of(hashes))
}

#[cfg(test)]
mod tests;
