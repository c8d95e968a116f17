//! Reading video: windows of frames, as encoders of moving pictures take them (feature `video`).

#[cfg(feature = "video")]
mod decode;
#[cfg(feature = "video")]
mod picture;
pub mod select;
#[cfg(all(test, feature = "video"))]
mod tests;
#[cfg(any(test, feature = "video"))]
mod turn;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::select::Selection;
use super::isolate::{self, Job, Part, Sink};
use super::{Limits, Picture, read};
use crate::{Error, Result};

#[cfg(feature = "video")]
pub(super) use self::{decode::decode, turn::Turn};

/// What a good file is, for messages.
const EXPECTED: &str = "a whole video file (mp4, mov, mkv, webm, avi or gif)";

/// Which frames are read, and how.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VideoOptions {
    /// Which windows.
    pub selection: Selection,
    /// Frames of a window.
    pub frames: usize,
    /// Whether frames are turned as the file says they are to be shown.
    pub turn: bool,
    /// Budgets.
    pub limits: Limits,
}

impl Default for VideoOptions {
    /// Four windows of 32 frames spread over the clip, turned upright.
    fn default() -> Self {
        Self { selection: Selection::Spread { windows: 4 }, frames: 32, turn: true, limits: Limits::default() }
    }
}

impl VideoOptions {
    /// What the reference reads: one window of 32 frames at a place drawn from `seed`, as they lie in the file.
    pub fn reference(seed: u64) -> Self {
        Self { selection: Selection::Random { seed }, turn: false, ..Self::default() }
    }
}

/// What the frames of a clip are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipFacts {
    /// Columns of each frame.
    pub width: usize,
    /// Rows of each frame.
    pub height: usize,
    /// Frames of the whole file, counted.
    pub frame_count: usize,
    /// Frames the container declares, if it does.
    pub declared_frames: Option<usize>,
    /// Time from the first frame to the end of the last, in seconds.
    pub duration_s: f64,
    /// Numbers of the frames that are read, from 0 in the order they are shown; each once, rising.
    pub numbers: Vec<usize>,
    /// For each window its frames, as positions in `numbers`.
    pub windows: Vec<Vec<usize>>,
}

/// Frames of a video, each decoded once, whatever windows it is in.
#[derive(Debug, Clone, PartialEq)]
pub struct Video<T> {
    /// What they are.
    pub facts: ClipFacts,
    /// The frames of `facts.numbers`.
    pub frames: Vec<T>,
}

impl<T> Video<T> {
    /// The windows, each as its frames in order.
    pub fn windows(&self) -> impl Iterator<Item = Vec<&T>> {
        self.facts.windows.iter().map(|window| window.iter().filter_map(|&at| self.frames.get(at)).collect())
    }
}

/// Reads frames of a video at their own size.
///
/// # Errors
/// The file cannot be opened, holds no picture that can be decoded, or exceeds the limits; an option is out of range; or this
/// build lacks the feature `video`.
pub fn read_video(path: impl AsRef<Path>, options: &VideoOptions) -> Result<Video<Picture>> {
    read_video_with(path, options, Ok)
}

/// Reads frames of a video and makes something of each while the next one is decoded, so that no more than a few are in
/// memory at their own size. After damage that shows only late, frames may come anew from the first.
///
/// # Errors
/// As [`read_video`], and what `each` fails with.
pub fn read_video_with<T>(
    path: impl AsRef<Path>,
    options: &VideoOptions,
    mut each: impl FnMut(Picture) -> Result<T>,
) -> Result<Video<T>> {
    let path = path.as_ref();
    if options.frames == 0 || options.frames > options.limits.frames {
        return Err(Error::argument(
            "frames of a window",
            options.frames.to_string(),
            format!("1 to {}", options.limits.frames),
        ));
    }
    if options.selection == (Selection::Spread { windows: 0 }) {
        return Err(Error::argument("windows of a video", "0", "1 or more"));
    }
    // Said here already, so that no process is started for it.
    read::open(path, &options.limits, EXPECTED)?;
    let mut frames = Frames { path, limits: &options.limits, each: &mut each, facts: None, frames: Vec::new() };
    isolate::run(&Job::Video { options: *options }, path, &mut frames)?;
    frames.finish()
}

/// Frames on their way, checked as they come.
struct Frames<'a, T> {
    path: &'a Path,
    limits: &'a Limits,
    each: &'a mut dyn FnMut(Picture) -> Result<T>,
    facts: Option<ClipFacts>,
    frames: Vec<T>,
}

impl<T> Sink for Frames<'_, T> {
    fn take(&mut self, part: Part<'_>) -> Result<()> {
        match part {
            Part::Clip(facts) => {
                check(self.path, self.limits, &facts)?;
                self.facts = Some(facts);
                self.frames.clear();
            }
            Part::Frame(picture) => {
                let expected = self.facts.as_ref().is_some_and(|facts| {
                    (picture.width, picture.height) == (facts.width, facts.height)
                        && self.frames.len() < facts.numbers.len()
                });
                if !expected {
                    let found = format!("a frame of {} x {} that was not asked for", picture.width, picture.height);
                    return Err(Error::format(self.path, EXPECTED, found));
                }
                self.frames.push((self.each)(picture)?);
            }
            _ => {}
        }
        Ok(())
    }
}

impl<T> Frames<'_, T> {
    fn finish(self) -> Result<Video<T>> {
        match self.facts {
            Some(facts) if facts.numbers.len() == self.frames.len() => Ok(Video { facts, frames: self.frames }),
            _ => Err(Error::format(self.path, EXPECTED, format!("only {} frames", self.frames.len()))),
        }
    }
}

/// Whether a clip is within the limits, and what is said of it hangs together.
fn check(path: &Path, limits: &Limits, facts: &ClipFacts) -> Result<()> {
    check_size(path, limits, facts.width as u64, facts.height as u64)?;
    check_length(path, limits, facts.frame_count, facts.duration_s)?;
    let all = (facts.width as u64 * facts.height as u64).saturating_mul(facts.numbers.len() as u64);
    if all > limits.total_pixels {
        let found = format!("{} frames of {} x {} pixels", facts.numbers.len(), facts.width, facts.height);
        return Err(Error::format(path, format!("at most {} pixels in all", limits.total_pixels), found));
    }
    let rising = facts.numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let known = facts.windows.iter().flatten().all(|&at| at < facts.numbers.len());
    if !rising || !known || facts.numbers.is_empty() || facts.windows.is_empty() {
        return Err(Error::format(path, EXPECTED, "frames without an order"));
    }
    Ok(())
}

fn check_size(path: &Path, limits: &Limits, width: u64, height: u64) -> Result<()> {
    if width == 0 || height == 0 || width.saturating_mul(height) > limits.pixels {
        let most = format!("frames of 1 to {} pixels", limits.pixels);
        return Err(Error::format(path, most, format!("{width} x {height} pixels")));
    }
    Ok(())
}

fn check_length(path: &Path, limits: &Limits, frames: usize, duration_s: f64) -> Result<()> {
    // A file that lies about its times may give anything.
    if frames > limits.frames || duration_s.is_nan() || duration_s > limits.duration_s {
        let most = format!("at most {} frames and {} s", limits.frames, limits.duration_s);
        return Err(Error::format(path, most, format!("{frames} frames in {duration_s:.1} s")));
    }
    Ok(())
}

/// Decodes into `sink`, in the process this is called in.
#[cfg(not(feature = "video"))]
pub(super) fn decode(path: &Path, _: &VideoOptions, _: &mut dyn Sink) -> Result<()> {
    Err(Error::MissingFeature { feature: "video", what: format!("reading {}", path.display()) })
}
