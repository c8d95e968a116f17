//! The loop: one step predicts one token of every codebook.
//!
//! A sequence is addressed by columns (see [`super::delay`]). The model sees a window of it; when the window is full, it is
//! placed anew so that the last two thirds of the codes stand at its beginning, as if they had been the prompt of a
//! continuation: the same codes, delayed the same way, at positions counted from the start. The next token of each codebook
//! then follows exactly where it broke off, so there is nothing to join: the codes are one stream, and so is the audio.
//!
//! Behind the last frame the more delayed codebooks still have tokens to come. The reference feeds pad tokens for the
//! codebooks that are done; the model was trained so at the end of a full window, but not at the end of a shorter piece. Here
//! they go on being sampled (and are dropped), so that a longer piece with the same seed begins with the shorter one. Only
//! where the window ends there too is it filled as in training, rather than placed anew for these few tokens.

use std::ops::Range;

use candle_core::{DType, Tensor};
use musaic_core::{Error, Result, probe::Probe, role::Sampling};

use super::{
    condition::{Conditioned, Started},
    delay::{Codes, DelayPattern},
    model::Lm,
    philox::{self, Piece},
    sampling::{self, Sampler},
};

/// Columns fed at once while a prompt is taken in: bounds the time until a request to stop is seen.
const PREFILL: usize = 64;

/// What is to be generated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Frames of the whole piece, those of the prompt included.
    pub frames: usize,
    /// Codes to go on from, not delayed.
    pub prompt: Option<Codes>,
    /// Classifier-free guidance; exactly 1 runs no second half.
    pub guidance_scale: f64,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Root of all draws.
    pub seed: u64,
    /// Take and opening of the first piece of the batch; the others are further takes, or further openings.
    pub first: Piece,
    /// Whether the pieces of the batch are openings of one take.
    pub openings: bool,
    /// Frames the model may look back on, start included.
    pub window: usize,
    /// Type of the cache of keys and values.
    pub cache_dtype: DType,
    /// End as the reference does, with pad tokens for the codebooks that are done.
    pub pad_finished: bool,
    /// No delays at all: what the reference does with sequences too short for the pattern.
    pub undelayed: bool,
}

impl Plan {
    /// Greedy, unguided and of `frames` frames in one window: what the other fields start from.
    pub fn new(frames: usize) -> Self {
        Self {
            frames,
            prompt: None,
            guidance_scale: 1.0,
            sampling: Sampling::Greedy,
            seed: 0,
            first: Piece { take: 0, opening: 0 },
            openings: false,
            window: super::config::DEFAULT_WINDOW_FRAMES,
            cache_dtype: DType::F32,
            pad_finished: false,
            undelayed: false,
        }
    }

    /// Frames that a full window keeps when it is placed anew: two thirds.
    fn kept(&self) -> usize {
        (self.window * 2 / 3).max(1)
    }

    /// The frames before which the window is placed anew.
    fn slides(&self) -> impl Iterator<Item = usize> + use<> {
        let prompt = self.prompt.as_ref().map_or(0, |prompt| prompt.length);
        (self.window.max(prompt)..self.frames).step_by((self.window - self.kept()).max(1))
    }

    /// The plan of the reference for `max_new_tokens` steps after `prompt`.
    pub fn reference(pattern: &DelayPattern, prompt: Option<Codes>, max_new_tokens: usize) -> Self {
        let length = prompt.as_ref().map_or(0, |prompt| prompt.length) + 1 + max_new_tokens;
        let undelayed = !pattern.applies(length);
        let frames = if undelayed { length - 1 } else { length - pattern.channel_codebooks() };
        // The filling at the end covers what stands there of a prompt.
        let prompt = prompt.map(|prompt| prompt.columns(0..prompt.length.min(frames)));
        Self { prompt, window: frames, pad_finished: true, undelayed, ..Self::new(frames) }
    }
}

/// A piece (or a batch of pieces) in the making.
pub struct Generation<'m> {
    lm: &'m Lm,
    started: Started,
    plan: Plan,
    /// Delay of each codebook, and the largest.
    delays: Vec<usize>,
    max_delay: usize,
    pad: u32,
    /// All columns of the piece; valid up to `columns`.
    delayed: Codes,
    columns: usize,
    first: usize,
    prompt_frames: usize,
    /// Column that stands at position 0 of the window.
    base: usize,
    /// Columns of the window that were fed.
    fed: usize,
    finished: usize,
    sampler: Sampler,
    logits: Vec<f32>,
}

impl<'m> Generation<'m> {
    /// Prepares the sequence; nothing is computed yet but keys and values of the conditioning.
    ///
    /// # Errors
    /// The plan asks for no frames, does not fit the model, or the device is out of memory.
    pub fn new(lm: &'m Lm, conditioned: &Conditioned, plan: Plan) -> Result<Self> {
        let config = lm.config();
        let pattern = config.delay_pattern()?;
        sampling::validate(&plan.sampling)?;
        if !plan.guidance_scale.is_finite() {
            return Err(Error::argument("guidance", plan.guidance_scale.to_string(), "a number"));
        }
        let batch = conditioned.batch();
        let prompt_frames = plan.prompt.as_ref().map_or(0, |prompt| prompt.length);
        if plan.frames == 0 || plan.frames < prompt_frames || plan.frames > 1 << 24 {
            let expected = format!("{} to {} frames", prompt_frames.max(1), 1 << 24);
            return Err(Error::argument("seconds", format!("{} frames", plan.frames), expected));
        }
        let delays: Vec<_> =
            (0..config.num_codebooks).map(|k| if plan.undelayed { 0 } else { pattern.delay(k) }).collect();
        let max_delay = delays.iter().copied().max().unwrap_or(0);
        let pad = pattern.pad();
        let mut delayed = Codes::filled(batch, config.num_codebooks, plan.frames + max_delay + 1, pad);
        if let Some(prompt) = &plan.prompt {
            let fits = prompt.codebooks == config.num_codebooks && prompt.batch == batch;
            if !fits || prompt.ids.iter().any(|&id| id >= pad) {
                let expected = format!("{batch} x {} codebooks of ids below {pad}", config.num_codebooks);
                let found = format!("{} x {} codebooks", prompt.batch, prompt.codebooks);
                return Err(Error::argument("prompt codes", found, expected));
            }
            for row in 0..batch * prompt.codebooks {
                let at = row * delayed.length + delays[row % prompt.codebooks] + 1;
                delayed.ids[at..at + prompt_frames].copy_from_slice(prompt.row(row));
            }
        }
        let window = plan.window.max(2);
        let guided = plan.guidance_scale != 1.0;
        let started = conditioned.start(lm, guided, (window + max_delay + 1).min(delayed.length), plan.cache_dtype)?;
        let mut generation = Self {
            lm,
            started,
            delays,
            max_delay,
            pad,
            delayed,
            columns: prompt_frames + 1,
            first: prompt_frames + 1,
            prompt_frames,
            base: 0,
            fed: 0,
            finished: 0,
            sampler: Sampler::default(),
            logits: Vec::new(),
            plan: Plan { window, ..plan },
        };
        generation.slide();
        Ok(generation)
    }

    /// Columns made and columns to be made.
    pub fn progress(&self) -> (usize, usize) {
        (self.columns - self.first, self.delayed.length - self.first)
    }

    /// Everything is made.
    pub fn is_done(&self) -> bool {
        self.columns == self.delayed.length
    }

    /// Frames of which all codebooks are known, counted from the start of the piece.
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// The frames before which the window is placed anew, counted from the start of the piece.
    pub fn slides(&self) -> Vec<usize> {
        self.plan.slides().collect()
    }

    /// Codes of finished frames, not delayed.
    pub fn codes(&self, frames: Range<usize>) -> Codes {
        let Codes { batch, codebooks, length, .. } = self.delayed;
        let mut ids = Vec::with_capacity(batch * codebooks * frames.len());
        for row in 0..batch * codebooks {
            let first = row * length + self.delays[row % codebooks] + 1;
            ids.extend_from_slice(&self.delayed.ids[first + frames.start..first + frames.end]);
        }
        Codes { batch, codebooks, length: frames.len(), ids }
    }

    /// Logits of the last step after guidance, `[batch * codebooks, vocab]`.
    pub fn last_logits(&self) -> &[f32] {
        &self.logits
    }

    /// Advances by one column (or takes in a part of a long prompt) and says which frames this finished.
    ///
    /// # Errors
    /// The arithmetic failed.
    pub fn step(&mut self, probe: &mut dyn Probe) -> Result<Range<usize>> {
        let before = self.finished;
        if self.is_done() {
            return Ok(before..before);
        }
        self.slide();
        self.started.feed_prefix(self.lm, &mut ())?;
        let waiting = self.columns - self.base - self.fed;
        let xs = self.lm.embed(&self.local_columns(waiting.min(PREFILL)), self.started.copies)?;
        let last_layer = self.lm.feed(&xs, &mut self.started.state, probe)?;
        self.fed += waiting.min(PREFILL);
        if waiting > PREFILL {
            return Ok(before..before);
        }
        let time = last_layer.dim(1)?;
        let logits = self.lm.logits(&last_layer.narrow(1, time - 1, 1)?, probe)?;
        self.take_in(&logits)?;
        self.finished = self.columns.saturating_sub(self.max_delay + 1).min(self.plan.frames);
        Ok(before..self.finished)
    }

    /// Runs to the end and gives all codes `[batch, codebooks, frames]`.
    ///
    /// # Errors
    /// The arithmetic failed.
    pub fn run(&mut self) -> Result<Codes> {
        while !self.is_done() {
            self.step(&mut ())?;
        }
        Ok(self.codes(0..self.plan.frames))
    }

    /// Places the window anew if codebook 0 would leave it: two thirds of it are kept.
    fn slide(&mut self) {
        let window = self.plan.window;
        let wanted = self.columns <= self.plan.frames;
        if wanted && self.columns - self.base > window {
            self.base = self.columns - 1 - self.plan.kept();
            self.fed = 0;
            self.started.state.rewind();
        }
    }

    /// The next columns of the window: pad tokens at its start as far as each codebook is delayed.
    fn local_columns(&self, count: usize) -> Codes {
        let Codes { batch, codebooks, length, .. } = self.delayed;
        let mut ids = Vec::with_capacity(batch * codebooks * count);
        for row in 0..batch * codebooks {
            let delay = self.delays[row % codebooks];
            ids.extend((self.fed..self.fed + count).map(|column| {
                if column <= delay { self.pad } else { self.delayed.ids[row * length + self.base + column] }
            }));
        }
        Codes { batch, codebooks, length: count, ids }
    }

    /// Guidance and sampling: logits `[copies * batch, 1, codebooks, vocab]` become the next column.
    fn take_in(&mut self, logits: &Tensor) -> Result<()> {
        let Codes { batch, codebooks, length, .. } = self.delayed;
        let vocab = self.lm.config().vocab_size;
        self.logits = logits.flatten_all()?.to_vec1()?;
        if self.started.copies == 2 {
            let (cond, uncond) = self.logits.split_at_mut(batch * codebooks * vocab);
            sampling::guide(cond, uncond, self.plan.guidance_scale);
            self.logits.truncate(batch * codebooks * vocab);
        }
        let column = self.columns;
        for row in 0..batch * codebooks {
            let (piece, codebook) = (row / codebooks, row % codebooks);
            // Column of frame 0 would be delay + 1; before that there is only filling.
            let Some(frame) = column.checked_sub(self.delays[codebook] + 1) else { continue };
            if frame < self.prompt_frames {
                continue;
            }
            let beyond = frame >= self.plan.frames;
            let outside = column - self.base > self.plan.window + self.delays[codebook];
            self.delayed.ids[row * length + column] = if beyond && (self.plan.pad_finished || outside) {
                self.pad
            } else {
                let Piece { take, opening } = self.plan.first;
                let piece = if self.plan.openings {
                    Piece { take, opening: opening.wrapping_add(piece as u32) }
                } else {
                    Piece { take: take.wrapping_add(piece as u32), opening }
                };
                let uniform = philox::uniform(self.plan.seed, piece, column as u32 - 1, codebook as u32);
                self.sampler.pick(&self.logits[row * vocab..(row + 1) * vocab], &self.plan.sampling, uniform)
            };
        }
        self.columns += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use musaic_core::{WeightFormat, weights::Weights};

    use super::*;

    /// One layer, two codebooks, random weights.
    fn lm() -> Lm {
        let config = serde_json::json!({
            "vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8,
            "num_codebooks": 2,
        });
        let config = serde_json::from_value(config).unwrap();
        Lm::load(&config, false, &Weights::random(3, &Device::Cpu, WeightFormat::F32)).unwrap()
    }

    /// The frames before which the window of a piece really was placed anew.
    fn seen(generation: &mut Generation<'_>) -> Vec<usize> {
        let mut seen = Vec::new();
        let mut base = 0;
        while !generation.is_done() {
            // The column that this step makes is that of this frame in codebook 0.
            let frame = generation.columns - 1;
            generation.step(&mut ()).unwrap();
            if generation.base != base {
                base = generation.base;
                seen.push(frame);
            }
        }
        seen
    }

    #[test]
    fn windows_slide_by_a_third_where_they_say() {
        let plan = |window, frames| Plan { window, ..Plan::new(frames) };
        assert_eq!(plan(500, 1000).slides().collect::<Vec<_>>(), [500, 667, 834]);
        assert_eq!(plan(500, 500).slides().count(), 0);

        let lm = lm();
        let states = Tensor::zeros((1, 1, 8), DType::F32, &Device::Cpu).unwrap();
        let nothing = Conditioned::Cross { states, mask: None };
        for (window, prompt, frames) in [(1, 0, 5), (2, 0, 6), (10, 0, 10), (10, 0, 31), (11, 4, 40), (10, 25, 44)] {
            let prompt = (prompt > 0).then(|| Codes::filled(1, 2, prompt, 5));
            let first = prompt.as_ref().map_or(0, |prompt| prompt.length);
            let mut generation = Generation::new(&lm, &nothing, Plan { prompt, ..plan(window, frames) }).unwrap();
            let said = generation.slides();
            assert_eq!(seen(&mut generation), said, "window {window}, {first} frames of a prompt, {frames} in all");
            assert_eq!(said.is_empty(), frames <= window.max(first), "{said:?}");
        }
    }
}
