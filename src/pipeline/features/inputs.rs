//! The files of a run: looked at before anything slow happens, and read for the encoder that takes them.

use std::{
    cmp::Ordering,
    collections::HashSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use musaic_core::{
    Error,
    media::{Audio, Limits, Picture, PictureOptions, read_audio, read_picture},
    role::{EncoderSpec, Media, Modality},
};
use sha2::{Digest, Sha256};

use crate::cli::failure::BadInput;

/// Most pictures in the folder of a video.
const MAX_PICTURES: usize = 1 << 20;
/// Endings of picture files.
const PICTURES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];

/// One file, or the pictures of one folder.
pub(super) struct Input {
    /// As it was given.
    pub name: String,
    /// Of its bytes; of a folder, of the hashes of its pictures in order.
    pub sha256: String,
    path: PathBuf,
    /// The pictures of a folder, in order.
    pictures: Vec<PathBuf>,
}

/// Media in memory.
pub(super) enum Owned {
    Audio(Audio),
    Image(Picture),
    Video { frames: Vec<Picture>, windows: Vec<Vec<usize>> },
}

impl Owned {
    pub(super) fn borrow(&self) -> Media<'_> {
        match self {
            Self::Audio(audio) => Media::Audio(audio),
            Self::Image(picture) => Media::Image(picture),
            Self::Video { frames, windows } => Media::Video { frames, windows },
        }
    }
}

/// Names and hashes of all files, for an encoder of `modality`.
///
/// # Errors
/// A file is missing, cannot be read, is given twice, or is a folder where a file is wanted or the other way round.
pub(super) fn look_at(files: &[PathBuf], modality: Modality) -> anyhow::Result<Vec<Input>> {
    let mut seen = HashSet::new();
    let mut inputs = Vec::with_capacity(files.len());
    for path in files {
        let name = path.display().to_string();
        if !seen.insert(name.clone()) {
            return Err(BadInput::new(format!("{name}: given twice, expected each file once")).into());
        }
        let is_folder = fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir();
        let (sha256, pictures) = match (modality, is_folder) {
            (Modality::Video, true) => {
                let pictures = pictures_in(path)?;
                let hashes = pictures.iter().map(|path| sha256_of_file(path)).collect::<Result<Vec<_>, _>>()?;
                (sha256_of(&hashes.iter().map(String::as_bytes).collect::<Vec<_>>()), pictures)
            }
            (Modality::Video, false) => {
                let message = format!("{name}: a file, expected a folder of pictures in the order of their names");
                let hint = "take the frames out first, such as `ffmpeg -i clip.mp4 frames/%05d.png`";
                return Err(BadInput::new(message).hint(hint).into());
            }
            (modality, true) => {
                let expected = if modality == Modality::Audio { "an audio file" } else { "a picture file" };
                return Err(BadInput::new(format!("{name}: a folder, expected {expected}")).into());
            }
            (_, false) => (sha256_of_file(path)?, Vec::new()),
        };
        inputs.push(Input { name, sha256, path: path.clone(), pictures });
    }
    Ok(inputs)
}

/// The pictures of a folder in the order of their names, numbers in them counted as numbers.
fn pictures_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        if ending.is_some_and(|ending| PICTURES.contains(&ending.as_str())) {
            pictures.push(path);
        }
        if pictures.len() > MAX_PICTURES {
            return Err(Error::format(folder, format!("at most {MAX_PICTURES} pictures"), "more").into());
        }
    }
    if pictures.is_empty() {
        return Err(Error::format(folder, "a folder of pictures (a video, frame by frame)", "no picture").into());
    }
    pictures.sort_by(|a, b| by_numbers(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(pictures)
}

/// `frame_2` before `frame_10`.
fn by_numbers(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (m, n) = (digits(x), digits(y));
        if m > 0 && n > 0 {
            let (p, q) = (x[..m].trim_start_matches('0'), y[..n].trim_start_matches('0'));
            match p.len().cmp(&q.len()).then_with(|| p.cmp(q)) {
                Ordering::Equal => (x, y) = (&x[m..], &y[n..]),
                order => return order,
            }
            continue;
        }
        match (x.chars().next(), y.chars().next()) {
            (Some(c), Some(d)) if c == d => (x, y) = (&x[c.len_utf8()..], &y[d.len_utf8()..]),
            (None, None) => return a.cmp(b),
            (c, d) => return c.cmp(&d),
        }
    }
}

impl Input {
    /// Reads it for the encoder of `spec`.
    ///
    /// # Errors
    /// It is broken, too large, or not what the encoder takes.
    pub(super) fn read(&self, spec: &EncoderSpec, reference: bool) -> anyhow::Result<Owned> {
        let options = if reference { PictureOptions::reference() } else { PictureOptions::default() };
        match spec.modality {
            Modality::Audio => Ok(Owned::Audio(read_audio(&self.path, &Limits::default())?)),
            Modality::Image => Ok(Owned::Image(read_picture(&self.path, &options)?)),
            Modality::Video => window(&self.pictures, spec.frames.unwrap_or(1), &options),
            Modality::Text => Err(Error::argument("encoder", spec.name, "one of sound, pictures or video").into()),
        }
    }
}

/// One window of `count` pictures spread evenly over all there are, each read once.
fn window(pictures: &[PathBuf], count: usize, options: &PictureOptions) -> anyhow::Result<Owned> {
    let mut frames = Vec::new();
    let mut places = Vec::with_capacity(count);
    let mut last = None;
    for k in 0..count {
        let at = k * pictures.len() / count;
        if last.replace(at) != Some(at) {
            frames.push(read_picture(&pictures[at], options)?);
        }
        places.push(frames.len() - 1);
    }
    Ok(Owned::Video { frames, windows: vec![places] })
}

/// sha256 of a file, in hexadecimal.
pub(super) fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let wrap = |e| Error::io(path, e);
    let mut file = File::open(path).map_err(wrap)?;
    if !file.metadata().map_err(wrap)?.is_file() {
        return Err(Error::format(path, "a file", "a device or pipe"));
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(wrap)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// sha256 of pieces one after another, in hexadecimal.
pub(super) fn sha256_of(pieces: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["f10.png", "f2.png", "f1.png", "f002a.png", "e9.png", "f.png"];
        names.sort_by(|a, b| by_numbers(a, b));
        assert_eq!(names, ["e9.png", "f.png", "f1.png", "f2.png", "f002a.png", "f10.png"]);
    }
}
