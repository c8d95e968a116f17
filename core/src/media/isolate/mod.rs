//! Decoding in a process of its own, so that a crash or a bomb in a codec costs one message.
//!
//! A program calls [`enter`] first thing in `main`. From then on each file is decoded by a child: the same program, started
//! with a hidden argument, which sets its own limits (memory, processor time, no core file, no file written) before it looks
//! at the file, sends what it decodes through a pipe, and ends with its parent. The parent believes nothing: lengths are bounded,
//! and what comes through is checked against the limits as if it were the file itself. A program that never called
//! [`enter`] decodes in its own process, and a warning says so.

mod child;
mod parent;
mod protocol;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::child::{enter, enter_with};
use super::video::{ClipFacts, VideoOptions};
use super::{Limits, Picture, PictureOptions};
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
}

impl Job {
    fn limits(&self) -> Limits {
        match self {
            Self::Audio { limits, .. } => *limits,
            Self::Picture { options } => {
                Limits { file_bytes: options.file_bytes, pixels: options.pixels, ..Limits::default() }
            }
            Self::Video { options } => options.limits,
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
    /// Something the user should know that is no error.
    Warning(String),
}

/// Takes what decoders hand out; its error stops them.
pub(super) trait Sink {
    /// The next part.
    fn take(&mut self, part: Part<'_>) -> Result<()>;
}

/// Decodes a file into `sink`, in a process of its own where this program can.
pub(super) fn run(job: &Job, path: &Path, sink: &mut dyn Sink) -> Result<()> {
    if !child::is_prepared() {
        warn_once();
    } else if let Some(result) = parent::run(job, path, sink) {
        return result;
    }
    here(job, path, sink)
}

/// Decodes in this process.
fn here(job: &Job, path: &Path, sink: &mut dyn Sink) -> Result<()> {
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
    guarded(job, path, &mut Traced(path, sink))
}

/// Decodes. Decoders of foreign bytes still panic on some of them: that must not take the program down.
fn guarded(job: &Job, path: &Path, sink: &mut dyn Sink) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| decode(job, path, sink)))
        .unwrap_or_else(|_| Err(Error::format(path, "a whole file", "data that its decoder cannot cope with")))
}

fn decode(job: &Job, path: &Path, sink: &mut dyn Sink) -> Result<()> {
    match job {
        Job::Audio { limits, reference } => super::read::decode(path, limits, *reference, sink),
        Job::Picture { options } => super::still::decode_file(path, options).and_then(|p| sink.take(Part::Frame(p))),
        Job::Video { options } => super::video::decode(path, options, sink),
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
