//! The four roles a part can play, each one small object-safe trait: what it is (`spec`) and the one thing it does.
//!
//! A part's configuration gives the same spec as the built part, so that widths are checked against each other before any
//! weight is read.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use candle_core::Tensor;

use crate::{Error, Result};

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
#[derive(Debug, Clone)]
pub struct EncoderSpec {
    /// Registry name.
    pub name: &'static str,
    /// What it listens to or looks at.
    pub modality: Modality,
    /// Width of one feature vector.
    pub dim: usize,
}

/// A frozen feature extractor.
pub trait Encoder: Send {
    /// Name, modality and width.
    fn spec(&self) -> &EncoderSpec;
    /// Processed media to features `[batch, positions, dim]`.
    ///
    /// # Errors
    /// The input has the wrong shape, or the arithmetic failed.
    fn encode(&self, media: &Tensor) -> Result<Tensor>;
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

/// A causal language model.
pub trait LanguageModel: Send {
    /// Name and sizes.
    fn spec(&self) -> &LanguageModelSpec;
    /// Token ids `[batch, time]` to hidden states `[batch, time, hidden_size]` and logits `[batch, time, vocab_size]`.
    ///
    /// # Errors
    /// The input has the wrong shape, or the arithmetic failed.
    fn forward(&mut self, ids: &Tensor) -> Result<(Tensor, Tensor)>;
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
