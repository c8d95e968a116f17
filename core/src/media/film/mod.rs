//! Laying music under a video (feature `video`): pictures are copied packet by packet, sound is made anew.
//!
//! The file is read three times, each time by a process of its own (`isolate`): its packets, which say how long the pictures
//! last; its own sound, where that is kept; and its packets again, now on their way into the new file. Sound is mixed here, at
//! 48 kHz, and goes to the last of these processes through its stdin; what that one writes comes back as bytes with their
//! place, so that it can touch no file. All that the output has of the input are the packets of its pictures and how they are to
//! be shown: other tracks, chapters and texts stay behind.
//!
//! The first picture is at time 0, and so is the first sample: an encoder's delay is in the edit list (mp4, mov) or the codec
//! delay (mkv, webm).

#[cfg(feature = "video")]
mod encode;
mod mix;
#[cfg(feature = "video")]
mod mux;
#[cfg(feature = "video")]
mod sound;
#[cfg(feature = "video")]
mod survey;
#[cfg(test)]
#[cfg(feature = "video")]
mod tests;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::mix::RATE_HZ;
use super::isolate::{self, Job, Part, Sink};
use super::read::{self, collect::Collector};
use super::write::Target;
use super::{Audio, Limits, Tags};
use crate::role::Cancel;
use crate::{Error, Result};

#[cfg(feature = "video")]
pub(super) use self::{mux::lay, sound::decode as decode_sound, survey::survey};

/// What a good file is, for messages.
const EXPECTED: &str = "a whole video file (mp4, mov, mkv, webm or avi)";
/// Most bytes of texts that a file may carry.
const MAX_TEXTS: usize = 1 << 16;
/// Longest fade in seconds.
const MAX_FADE_S: f64 = 60.0;

/// What becomes of the sound that a video has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OwnSound {
    /// The music takes its place.
    #[default]
    Replace,
    /// It stays as it is, and the music is 8 dB below it.
    Keep,
    /// It stays as it is, and the music, otherwise as loud, steps back by 12 dB where it is heard.
    Duck,
}

/// How music is laid under a video.
#[derive(Debug, Clone, PartialEq)]
pub struct FilmOptions {
    /// What becomes of the video's own sound.
    pub own_sound: OwnSound,
    /// Loudness of the music in LUFS where it is alone. Over sound that is kept it is never louder than this.
    pub music_lufs: f64,
    /// Seconds over which the music comes in, from the first picture; at most a quarter of what is heard of it.
    pub fade_in_s: f64,
    /// Seconds over which the music goes, up to the last picture or its own end; at most a quarter of what is heard of it.
    pub fade_out_s: f64,
    /// Texts embedded in the file. In mp4 and mov the recipe is `comment` and the comment `description`, in mkv and webm they
    /// are `MUSAIC` and `COMMENT`; the software is named nowhere.
    pub tags: Tags,
    /// Budgets for the video, and for the sound at 48 kHz: 2^28 samples are 46 minutes in stereo.
    pub limits: Limits,
}

impl Default for FilmOptions {
    /// Music alone at -14 LUFS, in over 50 ms and out over 1.5 s.
    fn default() -> Self {
        Self {
            own_sound: OwnSound::Replace,
            music_lufs: -14.0,
            fade_in_s: 0.05,
            fade_out_s: 1.5,
            tags: Tags::default(),
            limits: Limits::default(),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilmReport {
    /// Length of pictures and sound in seconds.
    pub duration_s: f64,
    /// Packets of pictures, which are its frames for nearly all codecs.
    pub frames: usize,
    /// Samples of each channel, at 48 kHz.
    pub samples: usize,
    /// Channels of the sound: 2 where the music or the sound that is kept has more than one.
    pub channels: usize,
    /// Whether the video's own sound is heard.
    pub own_sound: bool,
    /// Integrated loudness of the music as it was laid, in LUFS, before it steps back for other sound.
    pub music_lufs: f64,
    /// Integrated loudness of all that is heard, in LUFS, before it was encoded.
    pub integrated_lufs: f64,
    /// The most a peak was turned down, in dB.
    pub limited_db: f64,
    /// Seconds of music that did not fit.
    pub music_cut_s: f64,
    /// Seconds at the end without music.
    pub music_lacking_s: f64,
}

/// A container that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Container {
    Mp4,
    Mov,
    Mkv,
    WebM,
}

impl Container {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Mp4, "mp4"), (Self::Mov, "mov"), (Self::Mkv, "mkv"), (Self::WebM, "webm")];

    fn of_path(path: &Path) -> Result<Self> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let known = Self::ALL.into_iter().find(|(_, name)| extension.as_deref() == Some(name));
        known.map(|(container, _)| container).ok_or_else(|| {
            let expected = format!("a name that ends in {}", Self::ALL.map(|(_, name)| format!(".{name}")).join(", "));
            Error::argument("output file", path.display().to_string(), expected)
        })
    }

    /// The texts under the names that the container gives them.
    fn texts(self, tags: &Tags) -> Result<Vec<(String, String)>> {
        let names = match self {
            Self::Mp4 | Self::Mov => ["comment", "title", "description"],
            Self::Mkv | Self::WebM => ["MUSAIC", "title", "COMMENT"],
        };
        let texts = [&tags.recipe, &tags.title, &tags.comment];
        let texts: Vec<_> =
            names.into_iter().zip(texts).filter_map(|(name, text)| Some((name.to_owned(), text.clone()?))).collect();
        let len: usize = texts.iter().map(|(_, text)| text.len()).sum();
        if len > MAX_TEXTS {
            return Err(Error::argument(
                "texts of a file",
                format!("{len} bytes"),
                format!("at most {MAX_TEXTS} bytes"),
            ));
        }
        if texts.iter().any(|(_, text)| text.contains('\0')) {
            return Err(Error::argument("texts of a file", "a NUL character", "text without one"));
        }
        Ok(texts)
    }
}

/// How long the pictures of a video last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Numerator and denominator of the unit of the stamps, in seconds.
    unit: (i32, i32),
    /// When the first picture is shown.
    first: i64,
    /// When the last picture ends.
    end: i64,
    /// Packets of pictures.
    packets: usize,
    /// Whether there is sound besides.
    has_sound: bool,
}

impl Shape {
    fn check(&self, path: &Path, limits: &Limits) -> Result<()> {
        let duration_s = self.duration_s();
        if self.unit.0 <= 0 || self.unit.1 <= 0 || duration_s <= 0.0 {
            return Err(Error::format(path, EXPECTED, "pictures that take no time"));
        }
        if self.packets > limits.frames || duration_s > limits.duration_s {
            let most = format!("at most {} frames and {} s", limits.frames, limits.duration_s);
            return Err(Error::format(path, most, format!("{} frames in {duration_s:.1} s", self.packets)));
        }
        Ok(())
    }

    fn duration_s(&self) -> f64 {
        (self.end as f64 - self.first as f64) * f64::from(self.unit.0) / f64::from(self.unit.1)
    }

    /// Samples from the first picture to the end of the last.
    fn samples(&self, rate_hz: u32) -> usize {
        (self.duration_s() * f64::from(rate_hz)).round().max(0.0) as usize
    }
}

/// What the process that writes is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub limits: Limits,
    shape: Shape,
    container: Container,
    channels: usize,
    samples: usize,
    texts: Vec<(String, String)>,
}

impl Plan {
    /// Bytes of sound that it is given.
    pub fn sound_bytes(&self) -> u64 {
        self.samples as u64 * self.channels as u64 * size_of::<f32>() as u64
    }
}

/// Writes `output` (mp4, mov, mkv or webm by its ending): the pictures of `video` as they are, and the music under them, cut or
/// followed by silence so that it lasts exactly as long. The file takes its name when it is complete; before that, whatever
/// goes wrong, there is none.
///
/// Pictures that an edit list hides at the start stay hidden in mp4 and mov; mkv and webm cannot hide them, and pictures that are
/// to be turned are refused for these two: FFmpeg's muxer forgets how.
///
/// # Errors
/// The video cannot be read, holds no pictures, or exceeds the limits; its pictures cannot be in that kind of file; the output
/// exists and may not be replaced, or cannot be written; FFmpeg lacks an encoder; an option is out of range; the music holds no
/// sample; somebody asked to stop; or this build lacks the feature `video`.
pub fn lay_under(
    video: impl AsRef<Path>,
    music: &Audio,
    options: &FilmOptions,
    output: impl AsRef<Path>,
    overwrite: bool,
    cancel: &Cancel,
) -> Result<FilmReport> {
    let laid = lay_under_paths(video.as_ref(), music, options, output.as_ref(), overwrite, cancel);
    // A terminal's Ctrl-C ends the other process too: what that looks like from here is not the cause.
    laid.map_err(|error| if cancel.is_cancelled() { Error::Cancelled } else { error })
}

fn lay_under_paths(
    video: &Path,
    music: &Audio,
    options: &FilmOptions,
    output: &Path,
    overwrite: bool,
    cancel: &Cancel,
) -> Result<FilmReport> {
    check_options(options)?;
    let container = Container::of_path(output)?;
    let texts = container.texts(&options.tags)?;
    if cfg!(not(feature = "video")) {
        return Err(lacking(video));
    }
    let limits = options.limits;
    // Said here already, so that no process is started for it.
    let video_bytes = read::open(video, &limits, EXPECTED)?.metadata().map_err(|e| Error::io(video, e))?.len();
    let target = Target::create(output, overwrite)?;
    cancel.check()?;
    let shape = look(video, &limits, cancel)?;
    let samples = shape.samples(RATE_HZ);
    let own = match options.own_sound {
        OwnSound::Keep | OwnSound::Duck if shape.has_sound => Some(hear(video, &limits, shape, cancel)?),
        _ => None,
    };
    let channels =
        if music.channels.len() > 1 || own.as_ref().is_some_and(|own| own.channels.len() > 1) { 2 } else { 1 };
    if samples == 0 || samples.saturating_mul(channels) > limits.samples {
        let most = format!("1 to {} samples of sound at {RATE_HZ} Hz", limits.samples);
        return Err(Error::format(video, most, format!("{samples} samples of {channels} channels under it")));
    }
    let mixed = mix::mix(music, own.as_ref(), channels, samples, options, cancel)?;
    drop(own);
    let plan = Plan { limits, shape, container, channels, samples, texts };
    // What a muxer adds to the packets: a few dozen bytes to each.
    let most =
        (2 * video_bytes).saturating_add(plan.sound_bytes()).saturating_add(64 * shape.packets as u64 + (1 << 20));
    let mut writer = Writer { output, target, len: 0, most, cancel };
    isolate::run_fed(&Job::Film { plan }, video, Arc::new(mixed.audio), &mut writer)?;
    cancel.check()?;
    writer.target.commit(output, overwrite).map_err(|source| Error::io(output, source))?;
    Ok(FilmReport {
        duration_s: shape.duration_s(),
        frames: shape.packets,
        samples,
        channels,
        own_sound: shape.has_sound && options.own_sound != OwnSound::Replace,
        ..mixed.report
    })
}

fn check_options(options: &FilmOptions) -> Result<()> {
    for (name, fade_s) in [("fade in", options.fade_in_s), ("fade out", options.fade_out_s)] {
        if !(0.0..=MAX_FADE_S).contains(&fade_s) {
            return Err(Error::argument(name, format!("{fade_s} s"), format!("0 to {MAX_FADE_S} s")));
        }
    }
    if !(-70.0..=0.0).contains(&options.music_lufs) {
        return Err(Error::argument("loudness of the music", format!("{} LUFS", options.music_lufs), "-70 to 0 LUFS"));
    }
    Ok(())
}

/// How long the pictures last.
fn look(video: &Path, limits: &Limits, cancel: &Cancel) -> Result<Shape> {
    struct Seen<'a>(Option<Shape>, &'a Cancel);
    impl Sink for Seen<'_> {
        fn take(&mut self, part: Part<'_>) -> Result<()> {
            if let Part::Shape(shape) = part {
                self.0 = Some(shape);
            }
            Ok(())
        }

        fn wait(&mut self) -> Result<()> {
            self.1.check()
        }
    }
    let mut seen = Seen(None, cancel);
    isolate::run(&Job::Survey { limits: *limits }, video, &mut seen)?;
    let shape = seen.0.ok_or_else(|| Error::format(video, EXPECTED, "nothing"))?;
    shape.check(video, limits)?;
    Ok(shape)
}

/// The video's own sound, from the first picture on.
fn hear(video: &Path, limits: &Limits, shape: Shape, cancel: &Cancel) -> Result<Audio> {
    struct Heard<'a>(Collector<'a>, &'a Cancel);
    impl Sink for Heard<'_> {
        fn take(&mut self, part: Part<'_>) -> Result<()> {
            self.wait()?;
            self.0.take(part)
        }

        fn wait(&mut self) -> Result<()> {
            self.1.check()
        }
    }
    let mut heard = Heard(Collector::new(video, limits), cancel);
    isolate::run(&Job::Sound { limits: *limits, shape }, video, &mut heard)?;
    heard.0.finish()
}

/// Puts the bytes of the new file in their places.
struct Writer<'a> {
    output: &'a Path,
    target: Target,
    len: u64,
    /// Bytes that the file can have at most.
    most: u64,
    cancel: &'a Cancel,
}

impl Sink for Writer<'_> {
    fn take(&mut self, part: Part<'_>) -> Result<()> {
        self.wait()?;
        let Part::Bytes { at, bytes } = part else { return Ok(()) };
        let end = at.saturating_add(bytes.len() as u64);
        if at > self.len || end > self.most {
            let found = format!("bytes up to {end} after {} bytes", self.len);
            return Err(Error::format(self.output, format!("a file of at most {} bytes", self.most), found));
        }
        let written = if at == self.len { self.target.write_all(bytes) } else { self.target.patch(at, bytes) };
        self.len = self.len.max(end);
        written.map_err(|source: io::Error| Error::io(self.output, source))
    }

    fn wait(&mut self) -> Result<()> {
        self.cancel.check()
    }
}

fn lacking(path: &Path) -> Error {
    Error::MissingFeature { feature: "video", what: format!("laying music under {}", path.display()) }
}

/// As with the feature `video`.
#[cfg(not(feature = "video"))]
pub(super) fn survey(path: &Path, _: &Limits, _: &mut dyn Sink) -> Result<()> {
    Err(lacking(path))
}

/// As with the feature `video`.
#[cfg(not(feature = "video"))]
pub(super) fn decode_sound(path: &Path, _: &Limits, _: &Shape, _: &mut dyn Sink) -> Result<()> {
    Err(lacking(path))
}

/// As with the feature `video`.
#[cfg(not(feature = "video"))]
pub(super) fn lay(path: &Path, _: &Plan, _: &mut dyn io::Read, _: &mut dyn Sink) -> Result<()> {
    Err(lacking(path))
}
