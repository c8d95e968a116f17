//! Reading audio files: wav, flac, mp3, ogg, m4a, aac, aiff, caf, mkv through symphonia, opus through libopus, and what
//! these lack through FFmpeg.
//!
//! Files are hostile input. They are decoded in a process of its own where there is one (`isolate`), sizes are bounded while
//! decoding, and nothing that is not a finite number leaves this module. Integers divide by `2^(bits - 1)`; 8-bit wav is
//! unsigned with offset 128.

pub(super) mod collect;
#[cfg(feature = "video")]
mod ffmpeg;
mod known;
#[cfg(feature = "opus")]
mod opus;
mod symphonia;

#[cfg(feature = "video")]
pub(super) use self::ffmpeg::planar;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use self::collect::Collector;
use super::isolate::{self, Job, Sink};
use super::{Audio, Limits};
use crate::files::open_capped;
use crate::{Error, Result};

/// What a good file is, for messages.
pub(super) const EXPECTED: &str = "a whole audio file (wav, flac, mp3, ogg, opus, m4a, aac or aiff)";

/// Packets in a row that may fail before a file counts as broken.
const MAX_BAD_PACKETS: usize = 64;

/// What came of one decoder.
enum Verdict {
    /// All samples were handed out.
    Done,
    /// The file is of no kind this decoder knows; what to say if nobody else knows it.
    Unknown(Error),
    /// The file is of a kind this decoder knows, and something of it is beyond it; what to say if it is beyond all.
    Stuck(Error),
    /// The file is of a kind this decoder lacks; what it lacks.
    Lacking(String),
}

/// Reads a whole audio file, or the sound of a video, at its own rate. A wav or aiff that ends early gives what it holds,
/// with a warning.
///
/// # Errors
/// The file cannot be opened, is no audio, is broken, or exceeds the limits; or it is of a kind that only a cargo feature
/// reads.
pub fn read_audio(path: impl AsRef<Path>, limits: &Limits) -> Result<Audio> {
    read(path.as_ref(), limits, false)
}

/// As [`read_audio`], with the decoders of the reference: FFmpeg's own for opus, whose hybrid frames (speech below, music
/// above) come out unlike those of libopus, the normative one.
///
/// # Errors
/// As [`read_audio`].
pub fn read_audio_as_reference(path: impl AsRef<Path>, limits: &Limits) -> Result<Audio> {
    read(path.as_ref(), limits, true)
}

fn read(path: &Path, limits: &Limits, reference: bool) -> Result<Audio> {
    // Said here already, so that no process is started for it.
    open(path, limits, EXPECTED)?;
    let mut collector = Collector::new(path, limits);
    isolate::run(&Job::Audio { limits: *limits, reference }, path, &mut collector)?;
    collector.finish()
}

/// Opens a file that may be decoded: a plain one, of bytes within the limits.
pub(super) fn open(path: &Path, limits: &Limits, expected: &str) -> Result<File> {
    let file = open_capped(path, limits.file_bytes, expected)?;
    match file.metadata().map_err(|e| Error::io(path, e))?.len() {
        0 => Err(Error::format(path, expected, "an empty file")),
        _ => Ok(file),
    }
}

/// Decodes a file into `sink`, in the process this is called in.
pub(super) fn decode(path: &Path, limits: &Limits, reference: bool, sink: &mut dyn Sink) -> Result<()> {
    let wrap = |source| Error::io(path, source);
    let mut file = open(path, limits, EXPECTED)?;
    let mut head = Vec::new();
    (&mut file).take(known::HEAD).read_to_end(&mut head).map_err(wrap)?;
    file.rewind().map_err(wrap)?;
    // Each decoder gets a handle of its own: they share no position.
    let again = || open(path, limits, EXPECTED);
    let opus = head.starts_with(b"OggS") && head.get(28..36) == Some(b"OpusHead");
    let lacking = if let Some(kind) = known::foreign(&head) {
        kind.to_owned()
    } else if opus && reference {
        "FFmpeg's opus decoder".to_owned()
    } else {
        let verdict = if opus { decode_opus(file, path, sink)? } else { symphonia::decode(file, path, sink)? };
        match verdict {
            Verdict::Done => return Ok(()),
            Verdict::Lacking(what) => what,
            // A video with sound may hold boxes that only a reader of video understands.
            Verdict::Stuck(error) => match known::container(&head) {
                Some(what) if cfg!(feature = "video") => what.to_owned(),
                _ => return Err(error),
            },
            Verdict::Unknown(error) => match known::container(&head) {
                Some(what) => what.to_owned(),
                None => return Err(error),
            },
        }
    };
    decode_ffmpeg(again()?, path, limits, &lacking, sink)
}

#[cfg(feature = "opus")]
use self::opus::decode as decode_opus;

#[cfg(not(feature = "opus"))]
fn decode_opus(_: File, path: &Path, _: &mut dyn Sink) -> Result<Verdict> {
    if cfg!(feature = "video") {
        return Ok(Verdict::Lacking("opus".into()));
    }
    Err(Error::MissingFeature { feature: "opus", what: format!("reading {}", path.display()) })
}

#[cfg(feature = "video")]
use self::ffmpeg::decode as decode_ffmpeg;

#[cfg(not(feature = "video"))]
fn decode_ffmpeg(_: File, path: &Path, _: &Limits, lacking: &str, _: &mut dyn Sink) -> Result<()> {
    Err(Error::MissingFeature { feature: "video", what: format!("reading {} ({lacking})", path.display()) })
}

#[cfg(test)]
mod tests;
