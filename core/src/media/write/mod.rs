//! Writing audio files: streaming, atomic, and with the same bytes for the same samples.
//!
//! Blocks are encoded as they come, into a temporary file beside the target. [`AudioWriter::finish`] syncs it and gives
//! it its name; a writer that is dropped before leaves nothing behind. No file carries a time or a host.

mod flac;
#[cfg(feature = "mp3")]
mod mp3;
#[cfg(feature = "opus")]
mod opus;
mod pcm;
mod target;
mod wav;

use std::io;
use std::path::{Path, PathBuf};

pub use pcm::{Dither, SampleFormat};
pub(super) use target::Target;

use super::{Tags, planar_len};
use crate::{Error, Result};

/// A file format that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioFormat {
    /// RIFF wave: 16 or 24 bit, or 32-bit float. The only one that can be piped.
    Wav,
    /// FLAC: 16 or 24 bit, lossless.
    Flac,
    /// MP3 through LAME, variable rate of about 190 kbit/s (feature `mp3`).
    Mp3,
    /// Opus in Ogg, 48 kHz (feature `opus`).
    Opus,
}

impl AudioFormat {
    /// All formats, with extension.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Wav, "wav"), (Self::Flac, "flac"), (Self::Mp3, "mp3"), (Self::Opus, "opus")];

    /// Name of the extension.
    pub fn extension(self) -> &'static str {
        Self::ALL.iter().find(|(format, _)| *format == self).map_or("", |(_, extension)| extension)
    }

    /// Most channels that it is written with.
    pub fn most_channels(self) -> usize {
        match self {
            Self::Wav | Self::Flac => 8,
            Self::Mp3 | Self::Opus => 2,
        }
    }

    /// The cargo feature that this build lacks for it.
    pub fn missing_feature(self) -> Option<&'static str> {
        match self {
            Self::Mp3 if !cfg!(feature = "mp3") => Some("mp3"),
            Self::Opus if !cfg!(feature = "opus") => Some("opus"),
            _ => None,
        }
    }

    /// The format that a file's extension names.
    ///
    /// # Errors
    /// The extension is unknown or missing, or this build cannot write the format.
    pub fn of_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let known = Self::ALL.into_iter().find(|(_, name)| extension.as_deref() == Some(name));
        let Some((format, _)) = known else {
            let list = Self::ALL.map(|(format, name)| match format.missing_feature() {
                Some(feature) => format!(".{name} (not in this build: feature `{feature}`)"),
                None => format!(".{name}"),
            });
            let expected = format!("a name that ends in {}", list.join(", "));
            return Err(Error::argument("output file", path.display().to_string(), expected));
        };
        format.check()?;
        Ok(format)
    }

    fn check(self) -> Result<()> {
        match self.missing_feature() {
            Some(feature) => Err(Error::MissingFeature { feature, what: format!("writing .{}", self.extension()) }),
            None => Ok(()),
        }
    }
}

/// How to write.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WriteOptions {
    /// Sample format of wav and flac.
    pub sample_format: SampleFormat,
    /// Noise added before rounding to 16 or 24 bit.
    pub dither: Dither,
    /// Texts embedded in the file.
    pub tags: Tags,
    /// Replace a file that exists.
    pub overwrite: bool,
}

impl WriteOptions {
    /// The same with other tags.
    pub fn with_tags(mut self, tags: Tags) -> Self {
        self.tags = tags;
        self
    }

    /// The same with another sample format.
    pub fn with_sample_format(mut self, sample_format: SampleFormat) -> Self {
        self.sample_format = sample_format;
        self
    }

    /// The same, replacing a file that exists or not.
    pub fn with_overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Written {
    /// Samples of each channel, at the rate they were given.
    pub samples: u64,
    /// Largest absolute sample.
    pub peak: f32,
    /// Samples beyond full scale, which were cut to it.
    pub clipped: u64,
}

/// One format's encoder: planar blocks in, bytes out.
trait Encode: Send {
    fn write(&mut self, out: &mut Target, channels: &[&[f32]]) -> io::Result<()>;
    fn finish(&mut self, out: &mut Target) -> io::Result<()>;
    /// Puts other texts in the place of those at the head; they take the same room.
    fn retag(&mut self, out: &mut Target, tags: &Tags) -> io::Result<()>;
}

/// Overwrites `room` bytes at `at` with texts of the same length.
fn patch_texts(out: &mut Target, at: u64, room: u64, texts: &[u8]) -> io::Result<()> {
    if texts.len() as u64 != room {
        let message = format!("texts of {} bytes in a room of {room}", texts.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    out.patch(at, texts)
}

/// Writes one audio file, block by block.
pub struct AudioWriter {
    path: PathBuf,
    target: Target,
    encoder: Box<dyn Encode>,
    channels: usize,
    overwrite: bool,
    written: Written,
}

impl AudioWriter {
    /// Begins the file at `path`, in the format of its extension.
    ///
    /// # Errors
    /// The extension is unknown or its feature missing, the file exists and may not be replaced, its folder cannot be
    /// written to, or the format cannot hold so many channels or such a rate.
    pub fn create(
        path: impl AsRef<Path>,
        sample_rate_hz: u32,
        channels: usize,
        options: &WriteOptions,
    ) -> Result<Self> {
        let path = path.as_ref();
        let format = AudioFormat::of_path(path)?;
        let target = Target::create(path, options.overwrite)?;
        Self::begin(path, format, target, sample_rate_hz, channels, options)
    }

    /// Begins a wav stream of unknown length, for pipes: sizes are `0xFFFFFFFF` and blocks go out as they come.
    ///
    /// # Errors
    /// The stream cannot be written to, or wav cannot hold so many channels or such a rate.
    pub fn stream(
        out: Box<dyn io::Write + Send>,
        sample_rate_hz: u32,
        channels: usize,
        options: &WriteOptions,
    ) -> Result<Self> {
        Self::begin(Path::new("-"), AudioFormat::Wav, Target::stream(out), sample_rate_hz, channels, options)
    }

    fn begin(
        path: &Path,
        format: AudioFormat,
        mut target: Target,
        sample_rate_hz: u32,
        channels: usize,
        options: &WriteOptions,
    ) -> Result<Self> {
        let most_channels = format.most_channels();
        if !(1..=most_channels).contains(&channels) {
            let range = format!("1 to {most_channels} for .{}", format.extension());
            return Err(Error::argument("channels", channels.to_string(), range));
        }
        // FLAC's stream info keeps 20 bits, of which its frames can say 16 in Hz.
        if !(1..=384_000).contains(&sample_rate_hz) {
            return Err(Error::argument("sample rate", format!("{sample_rate_hz} Hz"), "1 to 384000 Hz"));
        }
        format.check()?;
        let io = |source| Error::io(path, source);
        let encoder: Box<dyn Encode> = match format {
            AudioFormat::Wav => Box::new(wav::Wav::begin(&mut target, sample_rate_hz, channels, options).map_err(io)?),
            AudioFormat::Flac => {
                Box::new(flac::Flac::begin(&mut target, sample_rate_hz, channels, options).map_err(io)?)
            }
            #[cfg(feature = "mp3")]
            AudioFormat::Mp3 => Box::new(mp3::Mp3::begin(&mut target, sample_rate_hz, channels, options).map_err(io)?),
            #[cfg(feature = "opus")]
            AudioFormat::Opus => {
                Box::new(opus::Opus::begin(&mut target, sample_rate_hz, channels, options).map_err(io)?)
            }
            #[cfg(not(all(feature = "mp3", feature = "opus")))]
            other => return other.check().and(Err(Error::Cancelled)),
        };
        let written = Written { samples: 0, peak: 0.0, clipped: 0 };
        Ok(Self { path: path.to_owned(), target, encoder, channels, overwrite: options.overwrite, written })
    }

    /// Appends a planar block.
    ///
    /// # Errors
    /// The number of channels or their lengths differ, a sample is not a finite number, or the bytes cannot be written.
    pub fn write(&mut self, channels: &[&[f32]]) -> Result<()> {
        let len = planar_len(channels, self.channels)?;
        for (i, x) in channels.iter().flat_map(|channel| channel.iter().enumerate()) {
            if !x.is_finite() {
                let place = format!("{x} as sample {}", self.written.samples + i as u64);
                return Err(Error::argument("audio to write", place, "finite numbers"));
            }
            self.written.peak = self.written.peak.max(x.abs());
            self.written.clipped += u64::from(x.abs() > 1.0);
        }
        self.written.samples += len as u64;
        self.encoder.write(&mut self.target, channels).map_err(|source| Error::io(&self.path, source))
    }

    /// Replaces the texts at the head of the file by others of the same length: for what is known only at the end.
    ///
    /// # Errors
    /// The new texts take more or less room than the old ones, or a stream is written, where nothing can be changed.
    pub fn retag(&mut self, tags: &Tags) -> Result<()> {
        self.encoder.retag(&mut self.target, tags).map_err(|source| Error::io(&self.path, source))
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// The rest cannot be written, or another file took the name meanwhile.
    pub fn finish(self) -> Result<Written> {
        let Self { path, mut target, mut encoder, overwrite, written, .. } = self;
        encoder
            .finish(&mut target)
            .and_then(|()| target.commit(&path, overwrite))
            .map_err(|source| Error::io(&path, source))?;
        Ok(written)
    }
}

#[cfg(test)]
mod tests;
