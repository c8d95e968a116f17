//! Reading still pictures: png, jpeg, webp, gif (its first frame), bmp and tiff, of any depth and colour type, as 8-bit RGB.
//!
//! Files are hostile input: bytes and pixels are counted before anything of their size is allocated, decoders are bounded
//! in what they may allocate, and a panic of a decoder becomes an error.
//!
//! Conventions: 16 bits become 8 by `(x + 128) / 257`; palettes are expanded; colour profiles are not applied (nor does the
//! reference); floats are cut to 0..1.

mod resize;

use std::{
    fs::File,
    io::{Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbaImage, metadata::Orientation};
use serde::{Deserialize, Serialize};

pub use self::resize::{Filter, crop, resize};
use super::{
    Picture,
    isolate::{self, Job, Part, Sink},
};
use crate::{Error, Result};

/// What a good file is, for messages.
const EXPECTED: &str = "a whole picture (png, jpeg, webp, gif, bmp or tiff)";

/// How a picture is read, and how large it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureOptions {
    /// Whether it is turned as its EXIF data says it is to be shown.
    pub turn: bool,
    /// What lies under transparent places; without one transparency is ignored, and whatever colour was stored there shows.
    pub background: Option<[u8; 3]>,
    /// Most bytes of the file.
    pub file_bytes: u64,
    /// Most pixels.
    pub pixels: u64,
}

impl Default for PictureOptions {
    /// Upright and over white; at most 256 MiB of file and 2^26 pixels (8192 x 8192).
    fn default() -> Self {
        Self { turn: true, background: Some([255; 3]), file_bytes: 256 << 20, pixels: 1 << 26 }
    }
}

impl PictureOptions {
    /// As the reference reads: neither turned nor over a background (PIL's `convert("RGB")`).
    pub fn reference() -> Self {
        Self { turn: false, background: None, ..Self::default() }
    }
}

/// Reads a picture file, decoded in a process of its own where there is one.
///
/// # Errors
/// The file cannot be opened, is no picture of a known kind, is broken, or exceeds the budgets.
pub fn read_picture(path: impl AsRef<Path>, options: &PictureOptions) -> Result<Picture> {
    /// Keeps the one picture that comes.
    struct Kept<'a>(&'a Path, u64, Option<Picture>);
    impl Sink for Kept<'_> {
        fn take(&mut self, part: Part<'_>) -> Result<()> {
            if let Part::Frame(picture) = part {
                let pixels = picture.width as u64 * picture.height as u64;
                if pixels > self.1 {
                    return Err(Error::format(
                        self.0,
                        format!("at most {} pixels", self.1),
                        format!("{pixels} pixels"),
                    ));
                }
                self.2 = Some(picture);
            }
            Ok(())
        }
    }
    let path = path.as_ref();
    // Said here already, so that no process is started for it.
    open(path, options)?;
    let mut kept = Kept(path, options.pixels, None);
    isolate::run(&Job::Picture { options: *options }, path, &mut kept)?;
    kept.2.ok_or_else(|| Error::format(path, EXPECTED, "no picture"))
}

fn open(path: &Path, options: &PictureOptions) -> Result<File> {
    let limits = super::Limits { file_bytes: options.file_bytes, ..super::Limits::default() };
    super::read::open(path, &limits, EXPECTED)
}

/// Decodes a picture file in the process this is called in.
pub(super) fn decode_file(path: &Path, options: &PictureOptions) -> Result<Picture> {
    let mut bytes = Vec::new();
    // The file may grow while it is read: the budget holds all the same.
    let mut file = open(path, options)?.take(options.file_bytes.saturating_add(1));
    file.read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
    decode_picture(path, &bytes, options)
}

/// Decodes the bytes of a picture file; `name` is what messages call it.
///
/// # Errors
/// The bytes are no picture of a known kind, are broken, or exceed the budgets.
pub fn decode_picture(name: impl AsRef<Path>, bytes: &[u8], options: &PictureOptions) -> Result<Picture> {
    let name = name.as_ref();
    if bytes.is_empty() {
        return Err(Error::format(name, EXPECTED, "an empty file"));
    }
    if bytes.len() as u64 > options.file_bytes {
        return Err(Error::format(name, format!("at most {} bytes", options.file_bytes), "a larger file"));
    }
    // Decoders of foreign bytes still panic on some of them: that must not take the program down.
    catch_unwind(AssertUnwindSafe(|| decode(name, bytes, options)))
        .unwrap_or_else(|_| Err(Error::format(name, EXPECTED, "data that its decoder cannot cope with")))
}

fn decode(name: &Path, bytes: &[u8], options: &PictureOptions) -> Result<Picture> {
    let broken = |error: ImageError| Error::format(name, EXPECTED, describe(error));
    // What a file is follows from its first bytes, not from its name.
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| Error::io(name, e))?;
    // Every kind fits: at most 16 bytes a pixel as decoded, and as much again for the decoder itself.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.pixels.saturating_mul(32).saturating_add(16 << 20));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::format(name, EXPECTED, format!("a picture of {width} x {height} pixels")));
    }
    if u64::from(width) * u64::from(height) > options.pixels {
        let found = format!("a picture of {width} x {height} pixels");
        return Err(Error::format(name, format!("at most {} pixels", options.pixels), found));
    }
    let orientation = if options.turn { decoder.orientation().map_err(broken)? } else { Orientation::NoTransforms };
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    let rgb = match options.background {
        Some(background) if image.color().has_alpha() => over(&image.into_rgba8(), background),
        _ => image.to_rgb8().into_raw(),
    };
    let (width, height) = match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (height, width)
        }
        _ => (width, height),
    };
    Ok(Picture { width: width as usize, height: height as usize, rgb })
}

/// The picture laid over a plain colour.
fn over(image: &RgbaImage, background: [u8; 3]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(image.as_raw().len() / 4 * 3);
    for [red, green, blue, alpha] in image.as_raw().as_chunks::<4>().0 {
        let mix = |front: u8, back: u8| {
            let (front, back, alpha) = (u32::from(front), u32::from(back), u32::from(*alpha));
            ((front * alpha + back * (255 - alpha) + 127) / 255) as u8
        };
        rgb.extend([mix(*red, background[0]), mix(*green, background[1]), mix(*blue, background[2])]);
    }
    rgb
}

/// What a decoder found, without the name of its library's types.
fn describe(error: ImageError) -> String {
    match error {
        ImageError::Unsupported(_) => "a file that is no picture, or of a kind that is not known".into(),
        ImageError::Limits(_) => "a picture that takes more memory than the budget allows".into(),
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => "a file that ends early".into(),
        other => other.to_string().replace('\n', " "),
    }
}

#[cfg(test)]
mod tests;
