//! Decoding in a process of its own, so that a crash or a bomb in a codec costs one message.
//!
//! A program calls [`enter`] first thing in `main`. From then on each file is decoded by a child: the same program, started
//! with a hidden argument, which sets its own limits (memory, processor time, no core file, no file written) before it looks
//! at the file, sends what it decodes (or the bytes of the file that it makes) through a pipe, and ends with its parent. The parent believes nothing: lengths are bounded,
//! and what comes through is checked against the limits as if it were the file itself. A program that never called
//! [`enter`] decodes in its own process, and a warning says so.

mod child;
mod parent;
mod protocol;

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::child::{enter, enter_with};
use super::film::{Plan, Shape};
use super::video::{ClipFacts, VideoOptions};
use super::{Audio, Limits, Picture, PictureOptions};
use crate::{Error, Result};

/// What a child is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Job {
    /// The sound of a file, with the decoders of the reference or ours.
    Audio { limits: Limits, reference: bool },
    /// A still picture, which comes as one frame.
    Picture { options: PictureOptions },
    /// Frames of a video.
    Video { options: VideoOptions },
    /// How long the pictures of a video last.
    Survey { limits: Limits },
    /// The sound of a video, beside its pictures.
    Sound { limits: Limits, shape: Shape },
    /// The pictures of a video and the sound that is fed, as the bytes of a new file.
    Film { plan: Plan },
}

impl Job {
    fn limits(&self) -> Limits {
        match self {
            Self::Audio { limits, .. } | Self::Survey { limits } | Self::Sound { limits, .. } => *limits,
            Self::Picture { options } => {
                Limits { file_bytes: options.file_bytes, pixels: options.pixels, ..Limits::default() }
            }
            Self::Video { options } => options.limits,
            Self::Film { plan } => plan.limits,
        }
    }

    /// Bytes of sound that are fed.
    fn fed_bytes(&self) -> u64 {
        match self {
            Self::Film { plan } => plan.sound_bytes(),
            _ => 0,
        }
    }
}

/// What decoders hand out while they work.
#[derive(Debug)]
pub(super) enum Part<'a> {
    /// A planar block of sound.
    Samples { block: &'a [Vec<f32>], sample_rate_hz: u32 },
    /// All but the first samples of each channel were padding.
    Keep(usize),
    /// What the frames that follow are. A second one starts anew: the file held less than it promised.
    Clip(ClipFacts),
    /// The next of the frames.
    Frame(Picture),
    /// How long the pictures last.
    Shape(Shape),
    /// Bytes of a new file, in their place: at its end, or over others.
    Bytes { at: u64, bytes: &'a [u8] },
    /// Something the user should know that is no error.
    Warning(String),
}

/// Takes what decoders hand out; its error stops them.
pub(super) trait Sink {
    /// The next part.
    fn take(&mut self, part: Part<'_>) -> Result<()>;

    /// Called now and then while nothing comes.
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Decodes a file into `sink`, in a process of its own where this program can.
pub(super) fn run(job: &Job, path: &Path, sink: &mut dyn Sink) -> Result<()> {
    run_fed(job, path, Arc::new(Audio { channels: Vec::new(), sample_rate_hz: 0 }), sink)
}

/// As [`run`], for a job that is fed sound.
pub(super) fn run_fed(job: &Job, path: &Path, sound: Arc<Audio>, sink: &mut dyn Sink) -> Result<()> {
    let mut fed = Interleaved { sound, at: 0 };
    if !child::is_prepared() {
        warn_once();
    } else if let Some(result) = parent::run(job, path, fed.clone(), sink) {
        return result;
    }
    here(job, path, &mut fed, sink)
}

/// Sound as bytes: a 32-bit float, little-endian, of each channel in turn.
#[derive(Clone)]
struct Interleaved {
    sound: Arc<Audio>,
    /// Samples of each channel that were read.
    at: usize,
}

impl Read for Interleaved {
    /// Whole samples of all channels, as many as there is room for.
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let channels = self.sound.channels.len();
        let step = channels * size_of::<f32>();
        let len = self.sound.len() - self.at;
        if step == 0 || len == 0 {
            return Ok(0);
        }
        let len = len.min(into.len() / step);
        if len == 0 {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        for (i, bytes) in into[..len * step].chunks_exact_mut(size_of::<f32>()).enumerate() {
            let x = self.sound.channels[i % channels][self.at + i / channels];
            bytes.copy_from_slice(&x.to_le_bytes());
        }
        self.at += len;
        Ok(len * step)
    }
}

/// Decodes in this process.
fn here(job: &Job, path: &Path, fed: &mut dyn Read, sink: &mut dyn Sink) -> Result<()> {
    /// Traces warnings on their way.
    struct Traced<'a>(&'a Path, &'a mut dyn Sink);
    impl Sink for Traced<'_> {
        fn take(&mut self, part: Part<'_>) -> Result<()> {
            match part {
                Part::Warning(text) => {
                    tracing::warn!("{}: {text}", self.0.display());
                    Ok(())
                }
                other => self.1.take(other),
            }
        }
    }
    guarded(job, path, fed, &mut Traced(path, sink))
}

/// Decodes. Decoders of foreign bytes still panic on some of them: that must not take the program down.
fn guarded(job: &Job, path: &Path, fed: &mut dyn Read, sink: &mut dyn Sink) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| decode(job, path, fed, sink)))
        .unwrap_or_else(|_| Err(Error::format(path, "a whole file", "data that its decoder cannot cope with")))
}

fn decode(job: &Job, path: &Path, fed: &mut dyn Read, sink: &mut dyn Sink) -> Result<()> {
    match job {
        Job::Audio { limits, reference } => super::read::decode(path, limits, *reference, sink),
        Job::Picture { options } => super::still::decode_file(path, options).and_then(|p| sink.take(Part::Frame(p))),
        Job::Video { options } => super::video::decode(path, options, sink),
        Job::Survey { limits } => super::film::survey(path, limits, sink),
        Job::Sound { limits, shape } => super::film::decode_sound(path, limits, shape, sink),
        Job::Film { plan } => super::film::lay(path, plan, fed, sink),
    }
}

fn warn_once() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "media are decoded in this process, without limits on a decoder's memory and time: \
             the program did not call musaic_core::media::isolate::enter first"
        );
    });
}
