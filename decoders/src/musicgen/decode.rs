//! From conditioning to a stream of audio: the role MusicGen plays in the pipeline.

use candle_core::{D, DType, Tensor};
use musaic_core::{
    Error, Result,
    role::{AudioSink, Cancel, Conditioning, DecodeOptions, DecodeSummary, Decoder, DecoderSpec},
};

use super::{Conditioned, Generation, Musicgen, Plan, codec::Stream, delay::Codes, philox::Piece};

/// Frames decoded at once: few at first, so that sound comes early, then enough to be efficient.
const FIRST_BLOCK: usize = 16;
const BLOCK: usize = 50;
/// Longest piece, in seconds: a bound on memory.
const MAX_SECONDS: f64 = 24.0 * 3600.0;

impl Decoder for Musicgen {
    fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    fn decode(
        &mut self,
        conditioning: &Conditioning,
        options: &DecodeOptions,
        cancel: &Cancel,
        sink: &mut dyn AudioSink,
    ) -> Result<DecodeSummary> {
        let samples = self.samples(options.duration_s)?;
        let hop = self.codec.config().hop_length();
        let prompt = options.continue_from.as_ref().map(|audio| self.continued_codes(audio, hop)).transpose()?;
        let prompt_frames = prompt.as_ref().map_or(0, |prompt| prompt.length);
        let mut generation = self.begin(conditioning, options, prompt, samples.div_ceil(hop) + prompt_frames)?;

        let skip = if options.emit_prompt { 0 } else { prompt_frames * hop };
        let mut cut = Cut { skip, left: prompt_frames * hop - skip + samples, written: 0 };
        let mut stream = Stream::new(&self.codec, self.spec.channels, self.lm.device())?;
        let mut decoded = 0;
        let (mut steps, mut cancelled) = (0, false);
        while !generation.is_done() {
            if cancel.is_cancelled() {
                cancelled = true;
                break;
            }
            generation.step(&mut ())?;
            let (done, total) = generation.progress();
            steps = done;
            sink.progress(done, total);
            let block = if decoded == 0 { FIRST_BLOCK } else { BLOCK };
            if generation.finished() - decoded >= block {
                let codes = generation.codes(decoded..generation.finished());
                decoded = generation.finished();
                cut.write(stream.push(&codes)?, sink)?;
            }
        }
        let rest = generation.codes(decoded..generation.finished());
        if generation.finished() > 0 {
            cut.write(stream.push(&rest)?, sink)?;
            cut.write(stream.finish()?, sink)?;
        }
        Ok(DecodeSummary { samples: cut.written, steps, cancelled })
    }

    fn words(&self, conditioning: &Conditioning) -> Result<Option<Vec<f32>>> {
        match conditioning {
            Conditioning::Text(text) if !text.trim().is_empty() => {
                let (states, _) = self.encode_text(&[text])?;
                Ok(Some(states.get(0)?.to_dtype(DType::F32)?.mean(0)?.to_vec1()?))
            }
            _ => Ok(None),
        }
    }

    fn openings(
        &mut self,
        conditioning: &Conditioning,
        options: &DecodeOptions,
        count: usize,
        duration_s: f64,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let Conditioning::Text(text) = conditioning else { return Ok(None) };
        let own = options.continue_from.is_some() || options.melody.is_some() || options.reference;
        if own || count == 0 || text.trim().is_empty() || self.spec.channels != 1 {
            return Ok(None);
        }
        self.text_openings(text, options, count, duration_s, cancel)
    }
}

impl Musicgen {
    /// As [`Decoder::openings`], for words alone; all pieces are one batch.
    fn text_openings(
        &self,
        text: &str,
        options: &DecodeOptions,
        count: usize,
        duration_s: f64,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let (states, mask) = self.encode_text(&[text])?;
        let (states, mask) = (states.repeat((count, 1, 1))?, mask.repeat((count, 1))?);
        let conditioned = self.condition(&states, Some(&mask), None, &mut ())?;
        let frames = self.samples(duration_s)?.div_ceil(self.codec.config().hop_length());
        let plan = Plan { openings: true, ..self.plan(options, &conditioned, None, frames)? };
        let mut generation = Generation::new(&self.lm, &conditioned, plan)?;
        while !generation.is_done() {
            if cancel.is_cancelled() {
                return Ok(None);
            }
            generation.step(&mut ())?;
        }
        let audio = self.waveform(&generation.codes(0..frames))?;
        Ok(Some(audio.squeeze(1)?.to_dtype(DType::F32)?.to_vec2()?))
    }
}

impl Musicgen {
    /// The generation that [`Decoder::decode`] runs: `frames` frames, those of the `prompt` included.
    ///
    /// An empty text without a melody is no conditioning and no guidance, but under `reference`, where it is guided like
    /// any other.
    ///
    /// # Errors
    /// The conditioning or an option does not fit the model.
    pub fn begin(
        &self,
        conditioning: &Conditioning,
        options: &DecodeOptions,
        prompt: Option<Codes>,
        frames: usize,
    ) -> Result<Generation<'_>> {
        let chroma = options.melody.as_ref().map(|melody| self.chroma(melody)).transpose()?;
        let mut guidance_scale = options.guidance_scale;
        let conditioned = match conditioning {
            Conditioning::Text(text) if text.trim().is_empty() && !options.reference => {
                if chroma.is_none() {
                    guidance_scale = 1.0;
                }
                self.silent(chroma.as_ref())?
            }
            Conditioning::Text(text) => {
                let (states, mask) = self.encode_text(&[text])?;
                self.condition(&states, Some(&mask), chroma.as_ref(), &mut ())?
            }
            Conditioning::States(states) => self.condition(states, None, chroma.as_ref(), &mut ())?,
        };
        let plan = self.plan(&DecodeOptions { guidance_scale, ..options.clone() }, &conditioned, prompt, frames)?;
        Generation::new(&self.lm, &conditioned, plan)
    }

    fn plan(
        &self,
        options: &DecodeOptions,
        conditioned: &Conditioned,
        prompt: Option<Codes>,
        frames: usize,
    ) -> Result<Plan> {
        let window = self.generation_config.window_frames(&self.config.decoder);
        // The prefix of a melody variant takes positions too.
        let positions = self.config.decoder.max_position_embeddings;
        let delay = self.config.decoder.delay_pattern()?.channel_codebooks();
        let room = positions.saturating_sub(conditioned.prefix_length() + delay).max(2);
        Ok(Plan {
            prompt,
            guidance_scale: options.guidance_scale,
            sampling: options.sampling,
            seed: options.seed,
            first: Piece { take: options.take, opening: options.opening },
            window: window.min(room),
            cache_dtype: if options.half_cache { DType::F16 } else { self.lm.dtype() },
            pad_finished: options.reference,
            ..Plan::new(frames)
        })
    }

    /// No text; with a melody that is heard all the same.
    fn silent(&self, chroma: Option<&Tensor>) -> Result<Conditioned> {
        let Some(chroma) = chroma else { return self.unconditional(1) };
        let states = Tensor::zeros((1, 1, self.config.text_encoder.d_model), self.lm.dtype(), self.lm.device())?;
        let mask = Tensor::zeros((1, 1), DType::F32, self.lm.device())?;
        self.condition(&states, Some(&mask), Some(chroma), &mut ())
    }

    fn samples(&self, duration_s: f64) -> Result<usize> {
        if !(duration_s > 0.0 && duration_s <= MAX_SECONDS) {
            return Err(Error::argument(
                "seconds",
                duration_s.to_string(),
                format!("above 0 and at most {MAX_SECONDS}"),
            ));
        }
        Ok(((duration_s * f64::from(self.spec.sample_rate_hz)).round() as usize).max(1))
    }

    /// Codes of the music to go on from. Whole frames that end where it ends: what is over is left out at its start.
    fn continued_codes(&self, audio: &Tensor, hop: usize) -> Result<Codes> {
        let samples = audio.dim(D::Minus1)?;
        if audio.rank() != 3 || audio.dim(0)? != 1 || samples < hop {
            let expected = format!("[1, {}, at least {hop} samples]", self.spec.channels);
            return Err(Error::argument("music to continue", format!("{:?}", audio.dims()), expected));
        }
        let over = samples % hop;
        self.prompt_codes(&audio.narrow(2, over, samples - over)?, None)
    }

    /// Chroma `[1, frames, bins]` of a melody.
    fn chroma(&self, melody: &Tensor) -> Result<Tensor> {
        let Some(extractor) = &self.chroma else {
            return Err(Error::argument(
                "melody",
                "this model follows no tune",
                "a melody model, such as facebook/musicgen-melody",
            ));
        };
        let (batch, channels, samples) = melody.dims3()?;
        if batch != 1 || channels != 1 || samples == 0 {
            return Err(Error::argument("melody", format!("{:?}", melody.dims()), "[1, 1, samples]"));
        }
        let clip = melody.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        extractor.extract(&[&clip])
    }
}

/// Passes on the samples from `skip` on, at most `left` of them.
struct Cut {
    skip: usize,
    left: usize,
    written: usize,
}

impl Cut {
    fn write(&mut self, block: Vec<Vec<f32>>, sink: &mut dyn AudioSink) -> Result<()> {
        let length = block.first().map_or(0, Vec::len);
        let from = self.skip.min(length);
        let to = length.min(from + self.left);
        self.skip -= from;
        if to > from {
            let channels: Vec<_> = block.iter().map(|channel| &channel[from..to]).collect();
            sink.block(&channels)?;
            self.left -= to - from;
            self.written += to - from;
        }
        Ok(())
    }
}
