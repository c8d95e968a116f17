//! Whether a file is sound, a picture or a video.

use std::{fs, io::Read, path::Path};

use musaic_core::{Error, media::Limits, role::Modality};

use super::folder;
use crate::failure::BadInput;

/// Endings of picture files. An animation is its first picture.
const PICTURES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];
/// Endings of sound files.
const SOUNDS: [&str; 26] = [
    "wav", "wave", "flac", "mp3", "mp2", "ogg", "oga", "opus", "m4a", "m4b", "aac", "aif", "aiff", "aifc", "caf",
    "wma", "mka", "wv", "ape", "mpc", "tta", "ac3", "dts", "amr", "au", "w64",
];
/// Endings of video files.
const VIDEOS: [&str; 15] =
    ["mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "m2ts", "flv", "wmv", "ogv", "3gp", "3g2"];

/// First bytes: where they are, which, and of what. The first that fits counts.
const SIGNATURES: [(usize, &[u8], Modality); 30] = [
    (0, b"\x89PNG\r\n\x1a\n", Modality::Image),
    (0, b"\xff\xd8\xff", Modality::Image),
    (0, b"GIF8", Modality::Image),
    (0, b"BM", Modality::Image),
    (0, b"II*\0", Modality::Image),
    (0, b"MM\0*", Modality::Image),
    (8, b"WEBP", Modality::Image),
    (8, b"WAVE", Modality::Audio),
    (8, b"AVI ", Modality::Video),
    (8, b"AIFF", Modality::Audio),
    (8, b"AIFC", Modality::Audio),
    (8, b"M4A ", Modality::Audio),
    (8, b"M4B ", Modality::Audio),
    (4, b"ftyp", Modality::Video),
    (4, b"moov", Modality::Video),
    (4, b"mdat", Modality::Video),
    (0, b"\x1aE\xdf\xa3", Modality::Video),
    (0, b"FLV\x01", Modality::Video),
    (0, b"\0\0\x01\xba", Modality::Video),
    (0, b"fLaC", Modality::Audio),
    (0, b"OggS", Modality::Audio),
    (0, b"ID3", Modality::Audio),
    (0, b"\xff\xfb", Modality::Audio),
    (0, b"\xff\xf3", Modality::Audio),
    (0, b"\xff\xf2", Modality::Audio),
    (0, b"\xff\xfa", Modality::Audio),
    (0, b"\xff\xf1", Modality::Audio),
    (0, b"\xff\xf9", Modality::Audio),
    (0, b"caff", Modality::Audio),
    (0, b"wvpk", Modality::Audio),
];

fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_string_lossy().to_ascii_lowercase())
}

/// Whether a file is called a picture.
pub(super) fn is_picture_name(path: &Path) -> bool {
    ending(path).is_some_and(|ending| PICTURES.contains(&ending.as_str()))
}

/// Whether a file is called sound.
pub fn is_sound_name(path: &Path) -> bool {
    ending(path).is_some_and(|ending| SOUNDS.contains(&ending.as_str()))
}

/// What the file at `path` is: by its ending, and where that does not tell, by its first bytes. A folder of pictures is a
/// video, an animated gif a picture. Nothing is decoded: a file may still turn out to be something else.
///
/// # Errors
/// There is no such file, it cannot be read, or nothing tells what it is.
pub fn modality_of(path: &Path) -> anyhow::Result<Modality> {
    let wrap = |e| Error::io(path, e);
    let meta = fs::metadata(path).map_err(wrap)?;
    if meta.is_dir() {
        folder::pictures(path, &Limits::default())?;
        return Ok(Modality::Video);
    }
    let named = ending(path).and_then(|ending| {
        let kinds: [(&[&str], _); 3] =
            [(&PICTURES, Modality::Image), (&SOUNDS, Modality::Audio), (&VIDEOS, Modality::Video)];
        kinds.into_iter().find(|(endings, _)| endings.contains(&ending.as_str())).map(|(_, modality)| modality)
    });
    if let Some(modality) = named {
        return Ok(modality);
    }
    let mut head = Vec::new();
    // A pipe might never give a byte.
    if meta.is_file() {
        fs::File::open(path).map_err(wrap)?.take(16).read_to_end(&mut head).map_err(wrap)?;
    }
    by_signature(&head).ok_or_else(|| {
        let message = format!("{}: neither its name nor its first bytes tell what it is", path.display());
        BadInput::new(format!("{message}, expected sound, a picture or a video"))
            .hint("give it its usual ending, such as .wav, .jpg or .mp4")
            .into()
    })
}

fn by_signature(head: &[u8]) -> Option<Modality> {
    let fits = |&&(at, bytes, _): &&(usize, &[u8], _)| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    SIGNATURES.iter().find(fits).map(|(_, _, modality)| *modality)
}
