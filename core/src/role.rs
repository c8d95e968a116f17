//! The four roles a part can play, each one small object-safe trait: what it is (`spec`) and the one thing it does.
//!
//! A part's configuration gives the same spec as the built part, so that widths are checked against each other before any
//! weight is read.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::Tensor;

use crate::{
    Error, Result,
    media::{Audio, Picture},
    probe::Probe,
};

/// What a piece of media is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    /// Written words.
    Text,
    /// Sound.
    Audio,
    /// One picture.
    Image,
    /// Pictures in time.
    Video,
}

/// What an encoder gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderSpec {
    /// Registry name.
    pub name: &'static str,
    /// What it listens to or looks at.
    pub modality: Modality,
    /// Feature vectors it gives: hidden states for music, places in the picture for images and video.
    pub positions: usize,
    /// Width of one feature vector.
    pub dim: usize,
    /// Pictures of one window, where it looks at video.
    pub frames: Option<usize>,
}

/// Decoded media, as an encoder takes it.
#[derive(Debug, Clone, Copy)]
pub enum Media<'a> {
    /// Sound of any rate and number of channels.
    Audio(&'a Audio),
    /// One picture of any size.
    Image(&'a Picture),
    /// Windows of consecutive pictures; each is the places of its pictures in `frames`.
    Video {
        /// The pictures, each once.
        frames: &'a [Picture],
        /// The windows, each as long as the encoder's [`EncoderSpec::frames`].
        windows: &'a [Vec<usize>],
    },
}

impl Media<'_> {
    /// What it is.
    pub fn modality(&self) -> Modality {
        match self {
            Self::Audio(_) => Modality::Audio,
            Self::Image(_) => Modality::Image,
            Self::Video { .. } => Modality::Video,
        }
    }
}

/// Which part of a long sound is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AudioSpan {
    /// All of it, in equal parts of at most a minute ([`crate::media::chunks::whole`]).
    #[default]
    Whole,
    /// What the reference hears: the first minute of each hour's worth ([`crate::media::chunks::first60`]).
    First60,
}

impl fmt::Display for AudioSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::First60 => "first60",
        })
    }
}

impl FromStr for AudioSpan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Whole, Self::First60]
            .into_iter()
            .find(|span| span.to_string() == text)
            .ok_or_else(|| Error::argument("audio", format!("`{text}`"), "`whole` or `first60`"))
    }
}

/// A frozen feature extractor.
///
/// Media that is too long to be encoded at once is several inputs (parts of a clip, windows of a video); its features are the
/// mean over them. Inputs are never padded and never stacked: normalisations that span a whole input would let one part of a
/// batch change another.
pub trait Encoder: Send {
    /// Name, modality and widths.
    fn spec(&self) -> &EncoderSpec;

    /// Media to the inputs of [`Encoder::encode`], each on the main processor.
    ///
    /// # Errors
    /// The media is of another modality, too short, or holds numbers that are not finite.
    fn prepare(&self, media: Media<'_>, span: AudioSpan) -> Result<Vec<Tensor>>;

    /// One input to features `[1, positions, dim]`, f32. The probe sees the states within.
    ///
    /// # Errors
    /// The input has the wrong shape, or the arithmetic failed.
    fn encode(&self, input: &Tensor, probe: &mut dyn Probe) -> Result<Tensor>;

    /// Media to features `[1, positions, dim]`, f32: the mean over its inputs. `watch` is told how many of how many are done.
    ///
    /// # Errors
    /// As [`Encoder::prepare`] and [`Encoder::encode`], or somebody asked to stop.
    fn features(
        &self,
        media: Media<'_>,
        span: AudioSpan,
        cancel: &Cancel,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<Tensor> {
        let inputs = self.prepare(media, span)?;
        let count = inputs.len();
        let mut sum: Option<Tensor> = None;
        for (done, input) in inputs.into_iter().enumerate() {
            watch(done, count);
            cancel.check()?;
            let features = match self.encode(&input, &mut StopProbe(cancel)) {
                Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
                features => features?,
            };
            sum = Some(match sum {
                Some(sum) => (sum + features)?,
                None => features,
            });
        }
        watch(count, count);
        let sum = sum.ok_or_else(|| Error::argument("media", "nothing", "at least one part to encode"))?;
        if count == 1 { Ok(sum) } else { Ok((sum / count as f64)?) }
    }
}

/// Stops a model between two layers.
struct StopProbe<'a>(&'a Cancel);

impl Probe for StopProbe<'_> {
    fn wants(&self, _: &str) -> bool {
        false
    }

    fn see(&mut self, _: &str, _: &Tensor) -> candle_core::Result<()> {
        self.0.check().map_err(candle_core::Error::wrap)
    }
}

/// What an adapter takes and gives.
#[derive(Debug, Clone)]
pub struct AdapterSpec {
    /// Registry name.
    pub name: &'static str,
    /// Width of the features it takes.
    pub input_dim: usize,
    /// Width of what it gives.
    pub output_dim: usize,
}

/// A trained link between two parts of different width.
pub trait Adapter: Send {
    /// Name and widths.
    fn spec(&self) -> &AdapterSpec;
    /// Features `[batch, positions, input_dim]` to `[batch, positions', output_dim]`.
    ///
    /// # Errors
    /// The input has the wrong shape, or the arithmetic failed.
    fn adapt(&self, features: &Tensor) -> Result<Tensor>;
}

/// What a language model is.
#[derive(Debug, Clone)]
pub struct LanguageModelSpec {
    /// Registry name.
    pub name: &'static str,
    /// Width of its hidden states.
    pub hidden_size: usize,
    /// Number of token ids.
    pub vocab_size: usize,
}

/// A causal language model with what it remembers of the texts it is fed.
pub trait LanguageModel: Send {
    /// Name and sizes.
    fn spec(&self) -> &LanguageModelSpec;
    /// Forgets everything and makes room for `capacity` positions of `batch` texts.
    ///
    /// # Errors
    /// There is no memory for them.
    fn start(&mut self, batch: usize, capacity: usize) -> Result<()>;
    /// Feeds token ids `[batch, time]` to the end of the texts: hidden states `[batch, time, hidden_size]` of the last layer
    /// at these positions, before the final norm.
    ///
    /// # Errors
    /// An id is unknown, there is no room left, or the arithmetic failed.
    fn feed(&mut self, ids: &Tensor) -> Result<Tensor>;
    /// Forgets all but the first `positions` of the texts.
    fn truncate(&mut self, positions: usize);
    /// Hidden states `[batch, time, hidden_size]` to logits `[batch, time, vocab_size]` in f32.
    ///
    /// # Errors
    /// The input has the wrong shape, or the arithmetic failed.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;
}

/// What a decoder listens to and gives.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// Registry name.
    pub name: &'static str,
    /// Width of injected conditioning states.
    pub conditioning_dim: usize,
    /// Samples a second of its output.
    pub sample_rate_hz: u32,
    /// Channels of its output.
    pub channels: usize,
    /// Code frames (or latent frames) a second.
    pub frame_rate_hz: u32,
    /// Seconds it can make in one window; longer pieces slide it.
    pub window_s: f64,
}

/// What a decoder is told to play.
#[derive(Debug, Clone)]
pub enum Conditioning {
    /// Words; empty means no conditioning at all.
    Text(String),
    /// States from elsewhere (a language model through its projector), `[1, positions, conditioning_dim]`.
    States(Tensor),
}

/// Receives audio while it is made. Blocks are planar: one slice a channel, all of the same length.
pub trait AudioSink {
    /// The next finished samples.
    ///
    /// # Errors
    /// The sink cannot take them; generation stops.
    fn block(&mut self, channels: &[&[f32]]) -> Result<()>;

    /// Called after every step of the slow part: `done` of `total` steps.
    fn progress(&mut self, done: usize, total: usize) {
        let _ = (done, total);
    }
}

/// A request to stop, shared between the one who asks and the loops that obey within one step.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`Error::Cancelled`] once somebody asked.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// How a decoder picks among the tokens (or noise) it could take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// Always the most likely token.
    Greedy,
    /// A draw from the warped distribution.
    Draw {
        /// Divides the logits; above 0.
        temperature: f64,
        /// Keeps the `k` most likely tokens; 0 keeps all.
        top_k: usize,
        /// Keeps the most likely tokens that together reach this probability; 1 keeps all.
        top_p: f64,
    },
}

impl Default for Sampling {
    fn default() -> Self {
        Self::Draw { temperature: 1.0, top_k: 250, top_p: 1.0 }
    }
}

/// What a decoder is asked for besides the conditioning.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    /// Seconds of new music.
    pub duration_s: f64,
    /// Classifier-free guidance; 1 is none.
    pub guidance_scale: f64,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Root of every random draw.
    pub seed: u64,
    /// Number of the take: another take of one seed is another piece.
    pub take: u32,
    /// Number of the opening: of one take there are several, to choose from before it is played (see
    /// [`Decoder::openings`]). 0 is the first.
    pub opening: u32,
    /// Music to go on from, `[1, channels, samples]` at the decoder's sample rate.
    pub continue_from: Option<Tensor>,
    /// Whether the sink gets the music gone on from as well (as the codec hears it), before the new music.
    pub emit_prompt: bool,
    /// Melody to follow, `[1, 1, samples]` at the decoder's sample rate.
    pub melody: Option<Tensor>,
    /// Keys and values of attention held in 16 bits: half the memory, not the last digit.
    pub half_cache: bool,
    /// The behaviour of the published reference where ours differs.
    pub reference: bool,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            duration_s: 10.0,
            guidance_scale: 3.0,
            sampling: Sampling::default(),
            seed: 0,
            take: 0,
            opening: 0,
            continue_from: None,
            emit_prompt: false,
            melody: None,
            half_cache: false,
            reference: false,
        }
    }
}

/// What came out of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeSummary {
    /// Samples a channel that reached the sink.
    pub samples: usize,
    /// Steps of the slow part.
    pub steps: usize,
    /// Whether somebody asked to stop before the end; what was finished until then is in the sink.
    pub cancelled: bool,
}

/// Conditioning to audio.
pub trait Decoder: Send {
    /// Name, widths and rates.
    fn spec(&self) -> &DecoderSpec;
    /// Makes `options.duration_s` seconds of music, handing blocks to `sink` as soon as they are finished.
    ///
    /// # Errors
    /// An option or the conditioning does not fit this decoder, the sink fails, or the arithmetic does. A stop on request
    /// is no error: the summary tells.
    fn decode(
        &mut self,
        conditioning: &Conditioning,
        options: &DecodeOptions,
        cancel: &Cancel,
        sink: &mut dyn AudioSink,
    ) -> Result<DecodeSummary>;

    /// What the text encoder makes of the words: its mean state, `[conditioning_dim]`. `None` where there are no words, or
    /// no text encoder.
    ///
    /// # Errors
    /// The words do not fit this decoder, or the arithmetic fails.
    fn words(&self, conditioning: &Conditioning) -> Result<Option<Vec<f32>>> {
        let _ = conditioning;
        Ok(None)
    }

    /// The first `duration_s` seconds of `count` openings of a take of words alone, made together: mono audio at the
    /// decoder's sample rate, each what [`Decoder::decode`] begins with when [`DecodeOptions::opening`] is its place in the
    /// list. `None` where the decoder or the conditioning does not offer it, or somebody asked to stop.
    ///
    /// # Errors
    /// An option or the words do not fit this decoder, or the arithmetic fails.
    fn openings(
        &mut self,
        conditioning: &Conditioning,
        options: &DecodeOptions,
        count: usize,
        duration_s: f64,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let _ = (conditioning, options, count, duration_s, cancel);
        Ok(None)
    }
}
