//! MusicGen ([Simple and Controllable Music Generation](https://arxiv.org/abs/2306.05284)): text, states or audio to codes
//! to audio.
//!
//! Checkpoints: the `facebook/musicgen-*` folders as published (`config.json`, `model.safetensors` or `pytorch_model.bin`,
//! `tokenizer.json` or `spiece.model`, `generation_config.json`). The reference is `MusicgenForConditionalGeneration` and
//! `MusicgenMelodyForConditionalGeneration` of transformers 4.57.
//!
//! | stage | shape |
//! |---|---|
//! | token ids, mask | `[batch, length]` |
//! | text states ([`Musicgen::text_states`]) | `[batch, length, d_model]` |
//! | conditioning ([`Musicgen::condition`]) | `[batch, length, hidden]`; melody: `[batch, chroma_length + length, hidden]` |
//! | delayed ids ([`delay`]) | `[batch * codebooks, frames + delay + 1]` |
//! | logits ([`Musicgen::logits`]) | `[batch * codebooks, columns, vocab]` |
//! | codes ([`generate::Generation`]) | `[batch, codebooks, frames]` |
//! | waveform ([`Musicgen::waveform`]) | `[batch, channels, frames * hop]` |
//!
//! Conventions: rows are batch major, codebook minor; with guidance the batch is doubled, conditional half first; the
//! start token is the pad token is the codebook size. In stereo even codebooks are the left channel, odd ones the right.

pub mod chroma;
mod codec;
mod condition;
pub mod config;
mod decode;
pub mod delay;
pub mod generate;
mod melody;
mod model;
pub mod philox;
pub mod sampling;

use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    files::read_config,
    nn::Linear,
    probe::Probe,
    role::DecoderSpec,
    weights::{LoadReport, Weights},
};

use self::{
    chroma::{ChromaConfig, ChromaExtractor},
    delay::Codes,
};
pub use self::{
    condition::Conditioned,
    config::{GenerationConfig, LmConfig, MusicgenConfig, Variant},
    generate::{Generation, Plan},
    melody::MelodyPrefix,
    model::{Lm, LmState, position_table},
};
use crate::{
    encodec::Encodec,
    t5::{Padding, T5Encoder, T5Tokenizer},
};

/// Longest prompt in tokens; the text encoder was trained on at most 512.
pub const MAX_PROMPT_TOKENS: usize = 512;

/// A whole MusicGen.
pub struct Musicgen {
    config: MusicgenConfig,
    generation_config: GenerationConfig,
    tokenizer: Option<T5Tokenizer>,
    text_encoder: T5Encoder,
    enc_to_dec_proj: Option<Linear>,
    melody: Option<MelodyPrefix>,
    chroma: Option<ChromaExtractor>,
    lm: Lm,
    codec: Encodec,
    spec: DecoderSpec,
}

impl Musicgen {
    /// Loads a published folder.
    ///
    /// # Errors
    /// A file is missing or damaged, the configuration is not supported, or weights are missing, misshaped or left over.
    pub fn load(folder: &Path, device: &Device, format: WeightFormat) -> Result<Self> {
        let config = MusicgenConfig::open(&folder.join("config.json"))?;
        let generation_config = GenerationConfig::open(&folder.join("generation_config.json"))?;
        let tokenizer = T5Tokenizer::load(folder)?;
        let weights = Weights::open(folder, device, format)?;
        let (model, _) = Self::from_weights(&config, &weights)?;
        let mut model = model.with_tokenizer(tokenizer).with_generation_config(generation_config);
        let preprocessor = folder.join("preprocessor_config.json");
        if model.melody.is_some() && preprocessor.is_file() {
            model.chroma = Some(ChromaExtractor::new(&chroma_config(&preprocessor)?)?);
        }
        Ok(model)
    }

    /// Builds the model from a configuration and weights, without a tokenizer.
    ///
    /// # Errors
    /// Weights are missing, misshaped or left over; the error lists all of them.
    pub fn from_weights(config: &MusicgenConfig, weights: &Weights) -> Result<(Self, LoadReport)> {
        let (d_text, width) = (config.text_encoder.d_model, config.decoder.hidden_size);
        let cross = config.variant == Variant::CrossAttention;
        let model = Self {
            text_encoder: T5Encoder::load(&config.text_encoder, &weights.pp("text_encoder"))?,
            enc_to_dec_proj: if d_text == width {
                None
            } else {
                Some(Linear::load(d_text, width, true, &weights.pp("enc_to_dec_proj"))?)
            },
            melody: MelodyPrefix::load(config, weights)?,
            chroma: if cross { None } else { Some(ChromaExtractor::new(&ChromaConfig::default())?) },
            lm: Lm::load(&config.decoder, cross, &weights.pp("decoder"))?,
            codec: Encodec::load(&config.audio_encoder, &weights.pp("audio_encoder"))?,
            spec: Self::spec_of(config, &GenerationConfig::default()),
            generation_config: GenerationConfig::default(),
            tokenizer: None,
            config: config.clone(),
        };
        let report = weights.finish()?;
        Ok((model, report))
    }

    /// Replaces what `generation_config.json` says.
    pub fn with_generation_config(mut self, generation_config: GenerationConfig) -> Self {
        self.spec = Self::spec_of(&self.config, &generation_config);
        self.generation_config = generation_config;
        self
    }

    /// Replaces the tokenizer.
    pub fn with_tokenizer(mut self, tokenizer: T5Tokenizer) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// What a model of this configuration is, before it is built.
    pub fn spec_of(config: &MusicgenConfig, generation_config: &GenerationConfig) -> DecoderSpec {
        let hop: usize = config.audio_encoder.upsampling_ratios.iter().product();
        let rate = config.audio_encoder.sampling_rate;
        let frame_rate = rate.div_ceil(hop.max(1));
        DecoderSpec {
            name: "musicgen",
            conditioning_dim: config.text_encoder.d_model,
            sample_rate_hz: rate as u32,
            channels: config.decoder.audio_channels,
            frame_rate_hz: frame_rate as u32,
            window_s: generation_config.window_frames(&config.decoder) as f64 * hop as f64 / rate as f64,
        }
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &MusicgenConfig {
        &self.config
    }

    /// What the folder's `generation_config.json` says.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// The language model.
    pub fn lm(&self) -> &Lm {
        &self.lm
    }

    /// The codec.
    pub fn codec(&self) -> &Encodec {
        &self.codec
    }

    /// Melody to chroma, in melody variants.
    pub fn chroma_extractor(&self) -> Option<&ChromaExtractor> {
        self.chroma.as_ref()
    }

    /// The tokenizer of the folder it was loaded from.
    pub fn tokenizer(&self) -> Option<&T5Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Prompts to states `[batch, length, d_model]` and mask `[batch, length]`.
    ///
    /// # Errors
    /// A prompt is too long, or the model has no tokenizer.
    pub fn encode_text(&self, prompts: &[&str]) -> Result<(Tensor, Tensor)> {
        let tokenizer = self.tokenizer.as_ref().ok_or_else(|| {
            Error::argument("prompt", "text", "conditioning states, as this model was built without a tokenizer")
        })?;
        let (ids, mask) = tokenizer.encode_batch(prompts, Padding::Longest, self.lm.device())?;
        let tokens = ids.dim(1)?;
        if tokens > MAX_PROMPT_TOKENS {
            let expected = format!("at most {MAX_PROMPT_TOKENS}");
            return Err(Error::argument("prompt", format!("{tokens} tokens"), expected));
        }
        Ok((self.text_states(&ids, &mask, &mut ())?, mask))
    }

    /// Token `ids [batch, length]` u32 and `mask` f32 to states `[batch, length, d_model]`.
    ///
    /// # Errors
    /// An id is not in the vocabulary, or a shape differs.
    pub fn text_states(&self, ids: &Tensor, mask: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        Ok(self.text_encoder.forward(ids, mask, probe)?)
    }

    /// Projects states `[batch, length, d_model]` to the decoder. With a `mask [batch, length]` (1 = word) padding becomes
    /// zero and is not looked at. `chroma [batch, frames, num_chroma]` is for melody variants. The probe sees
    /// `enc_to_dec_proj` and `enc_to_dec_proj_masked`.
    ///
    /// # Errors
    /// A width or shape differs, or there is chroma and the model is no melody variant.
    pub fn condition(
        &self,
        states: &Tensor,
        mask: Option<&Tensor>,
        chroma: Option<&Tensor>,
        probe: &mut dyn Probe,
    ) -> Result<Conditioned> {
        let width = self.config.text_encoder.d_model;
        if states.rank() != 3 || states.dim(D::Minus1)? != width {
            let expected = format!("[batch, length, {width}]");
            return Err(Error::argument("conditioning states", format!("{:?}", states.dims()), expected));
        }
        let states = states.to_device(self.lm.device())?.to_dtype(self.lm.dtype())?;
        let mut states = match &self.enc_to_dec_proj {
            Some(projection) => projection.forward(&states)?,
            None => states,
        };
        probe.see("enc_to_dec_proj", &states)?;
        let mask = match mask {
            Some(mask) => Some(mask.to_device(self.lm.device())?.to_dtype(DType::F32)?),
            None => None,
        };
        if let Some(mask) = &mask {
            states = states.broadcast_mul(&mask.unsqueeze(2)?.to_dtype(states.dtype())?)?;
            probe.see("enc_to_dec_proj_masked", &states)?;
        }
        match (&self.melody, chroma) {
            (None, None) => Ok(Conditioned::Cross { states, mask }),
            (Some(melody), chroma) => {
                let chroma = chroma.map(|c| c.to_device(self.lm.device())).transpose()?;
                let (states, null) = melody.states(&states, chroma.as_ref())?;
                Ok(Conditioned::Prefix { states, null })
            }
            (None, Some(_)) => Err(Error::argument(
                "melody",
                "this model follows no tune",
                "a melody model, such as facebook/musicgen-melody",
            )),
        }
    }

    /// No conditioning: one zero state with mask 0 for each of `batch` pieces.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn unconditional(&self, batch: usize) -> Result<Conditioned> {
        let states = Tensor::zeros((batch, 1, self.config.text_encoder.d_model), self.lm.dtype(), self.lm.device())?;
        let mask = Tensor::zeros((batch, 1), DType::F32, self.lm.device())?;
        self.condition(&states, Some(&mask), None, &mut ())
    }

    /// Logits of delayed `ids` (start token first): `[copies * batch * codebooks, columns, vocab]` f32, where melody
    /// variants have the prefix as their first columns. With `guided` the unguided half follows (see [`guide_halves`]).
    /// The probe sees `decoder.*`.
    ///
    /// # Errors
    /// An id is out of range, or the batch differs from the conditioning's.
    pub fn logits(
        &self,
        ids: &Codes,
        conditioned: &Conditioned,
        guided: bool,
        probe: &mut dyn Probe,
    ) -> Result<Tensor> {
        if ids.batch != conditioned.batch() {
            return Err(Error::argument("ids", format!("batch {}", ids.batch), format!("{}", conditioned.batch())));
        }
        let mut started = conditioned.start(&self.lm, guided, ids.length, self.lm.dtype())?;
        let mut xs = self.lm.embed(ids, started.copies)?;
        if let Some(prefix) = &started.prefix {
            xs = Tensor::cat(&[prefix, &xs], 1)?;
        }
        let last_layer = self.lm.feed(&xs, &mut started.state, probe)?;
        let logits = self.lm.logits(&last_layer, probe)?;
        let (batch, columns, codebooks, vocab) = logits.dims4()?;
        Ok(logits.transpose(1, 2)?.reshape((batch * codebooks, columns, vocab))?)
    }
}

fn chroma_config(path: &Path) -> Result<ChromaConfig> {
    ChromaConfig::from_json(path, &read_config(path)?)
}

/// The two halves of guided logits `[2 * rows, columns, vocab]` become `[rows, columns, vocab]`.
///
/// # Errors
/// The first dimension is odd.
pub fn guide_halves(logits: &Tensor, guidance_scale: f64) -> candle_core::Result<Tensor> {
    let rows = logits.dim(0)? / 2;
    let (cond, uncond) = (logits.narrow(0, 0, rows)?, logits.narrow(0, rows, rows)?);
    &uncond + ((cond - &uncond)? * guidance_scale)?
}
