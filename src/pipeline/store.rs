//! A model's files opened but not loaded: configuration, tokenizer, and the list of its weights.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use musaic_core::{
    Error, Result, WeightFormat,
    files::read_capped,
    role::{Decoder, DecoderSpec},
    weights::{Checkpoint, Layered, Source, Weights},
};
use musaic_decoders::{
    musicgen::{GenerationConfig, Musicgen, MusicgenConfig, Variant},
    t5::T5Tokenizer,
};
use serde_json::Value;

use crate::listen::{self, Ranker};

use super::{
    models::{Found, Place},
    openings::OPENING_S,
    preflight::Need,
    speed::{Step, Work},
};

/// Where tensors of this prefix go, they stay in f32 whatever the format: the codec's convolutions.
const PLAIN_PREFIX: &str = "audio_encoder.";

/// The files of the built-in model.
mod nano {
    pub const CONFIG: &[u8] = include_bytes!("../../models/nano/config.json");
    pub const GENERATION_CONFIG: &[u8] = include_bytes!("../../models/nano/generation_config.json");
    pub const TOKENIZER: &[u8] = include_bytes!("../../models/nano/tokenizer.json");
    pub const RANKER: &[u8] = include_bytes!("../../models/nano/ranker.json");
    pub const WEIGHTS: &[u8] = include_bytes!("../../models/nano/model.safetensors");
}

/// A model that can be loaded.
pub struct Store {
    place: Place,
    config: MusicgenConfig,
    generation_config: GenerationConfig,
    checkpoint: Arc<Checkpoint>,
    /// Weights that come before those of the folder.
    trained: Option<Arc<dyn Source>>,
    parameters: u64,
    plain_parameters: u64,
}

impl Store {
    /// Opens the files and reads the configuration.
    ///
    /// # Errors
    /// A file is missing, damaged, or asks for something that is not implemented.
    pub fn open(found: &Found) -> Result<Self> {
        let (config, generation_config, checkpoint) = match &found.place {
            Place::BuiltIn => {
                let label = Path::new("built-in config.json");
                let config = MusicgenConfig::from_json(label, &parse(label, nano::CONFIG)?)?;
                let label = Path::new("built-in generation_config.json");
                let generation: GenerationConfig = serde_json::from_value(parse(label, nano::GENERATION_CONFIG)?)
                    .map_err(|e| Error::config(label, e.to_string()))?;
                (config, generation, Checkpoint::from_static_bytes(nano::WEIGHTS)?)
            }
            Place::Folder(folder) => (
                MusicgenConfig::open(&folder.join("config.json"))?,
                GenerationConfig::open(&folder.join("generation_config.json"))?,
                Checkpoint::open(folder)?,
            ),
        };
        let summary = checkpoint.summary();
        let plain_parameters = checkpoint
            .tensors()
            .iter()
            .filter(|(name, _)| name.starts_with(PLAIN_PREFIX))
            .map(|(_, shape)| shape.iter().product::<usize>() as u64)
            .sum();
        Ok(Self {
            place: found.place.clone(),
            config,
            generation_config,
            checkpoint: Arc::new(checkpoint),
            trained: None,
            parameters: summary.parameters,
            plain_parameters,
        })
    }

    /// Puts weights of the same names before those of the folder.
    #[must_use]
    pub fn with_trained(self, trained: impl Source + 'static) -> Self {
        Self { trained: Some(Arc::new(trained)), ..self }
    }

    /// What the decoder is.
    pub fn spec(&self) -> DecoderSpec {
        Musicgen::spec_of(&self.config, &self.generation_config)
    }

    /// Whether the decoder follows a tune.
    pub fn follows_melody(&self) -> bool {
        self.config.variant != Variant::CrossAttention
    }

    /// Number of values in all tensors.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of the weight files.
    pub fn bytes(&self) -> u64 {
        self.checkpoint.summary().bytes
    }

    /// SHA-256 of the weight files.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sha256(&self) -> Result<String> {
        self.checkpoint.sha256().map(str::to_owned)
    }

    /// The format that loses nothing and is fastest: the stored one for packed weights, f32 on the CPU, bf16 on a GPU.
    pub fn preferred_format(&self, device: &Device) -> WeightFormat {
        let stored = self.checkpoint.summary().dtypes;
        if stored.contains_key("q8_0") {
            WeightFormat::Q8_0
        } else if device.is_cpu() {
            WeightFormat::F32
        } else {
            WeightFormat::Bf16
        }
    }

    /// What the model's publisher recommends for sampling.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// Code frames a second.
    pub fn frame_rate_hz(&self) -> u32 {
        self.spec().frame_rate_hz
    }

    /// Memory for a piece of `seconds`, and for `openings` to choose from if they are more than one.
    pub fn need(&self, seconds: f64, openings: u32) -> Need {
        // The openings are gone when the piece begins.
        let openings = if openings > 1 { self.cache_bytes(openings, OPENING_S) } else { 0.0 };
        Need {
            matrix_parameters: self.parameters - self.plain_parameters,
            plain_parameters: self.plain_parameters,
            cache_bytes: self.cache_bytes(1, seconds).max(openings) as u64,
        }
    }

    /// Bytes of keys and values of `pieces` of `seconds` that are made together: f32, two rows each (guidance), for every
    /// layer and position.
    fn cache_bytes(&self, pieces: u32, seconds: f64) -> f64 {
        let lm = &self.config.decoder;
        let spec = self.spec();
        let window = seconds.min(spec.window_s) * f64::from(spec.frame_rate_hz);
        2.0 * 2.0 * 4.0 * f64::from(pieces) * (lm.num_hidden_layers * lm.hidden_size) as f64 * window
    }

    /// Work of `pieces` of `seconds` that are made together.
    pub fn work(&self, pieces: u32, seconds: f64) -> Work {
        Work {
            step: Step::of(&self.config.decoder),
            rows: 2 * pieces as usize,
            steps: seconds * f64::from(self.frame_rate_hz()),
            // It grows from nothing.
            cache_bytes: self.cache_bytes(pieces, seconds) / 2.0,
            codec_parameters: self.plain_parameters,
            seconds: f64::from(pieces) * seconds,
        }
    }

    /// Whether the model comes with something that chooses among openings.
    pub fn has_ranker(&self) -> bool {
        match &self.place {
            Place::BuiltIn => true,
            Place::Folder(folder) => folder.join("ranker.json").is_file(),
        }
    }

    /// What chooses among openings, if the model comes with it.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn ranker(&self) -> Result<Option<Ranker>> {
        match &self.place {
            Place::BuiltIn => Ranker::parse(Path::new("built-in ranker.json"), nano::RANKER).map(Some),
            Place::Folder(folder) => {
                if !self.has_ranker() {
                    return Ok(None);
                }
                let path = folder.join("ranker.json");
                Ranker::parse(&path, &read_capped(&path, listen::MAX_BYTES)?).map(Some)
            }
        }
    }

    /// Loads the model.
    ///
    /// # Errors
    /// The weights do not fit the configuration, or cannot be read.
    pub fn load(&self, device: &Device, format: WeightFormat) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(self.load_musicgen(device, format)?))
    }

    /// As [`Store::load`], with all that a MusicGen can do beside decoding.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load_musicgen(&self, device: &Device, format: WeightFormat) -> Result<Musicgen> {
        let tokenizer = match &self.place {
            Place::BuiltIn => T5Tokenizer::from_json_bytes(Path::new("built-in tokenizer.json"), nano::TOKENIZER)?,
            Place::Folder(folder) => T5Tokenizer::load(folder)?,
        };
        let weights = match &self.trained {
            Some(trained) => {
                let layers: Vec<Box<dyn Source>> = vec![Box::new(trained.clone()), Box::new(self.checkpoint.clone())];
                Weights::new(Layered::new(layers), device, format)
            }
            None => Weights::new(self.checkpoint.clone(), device, format),
        };
        let (model, report) = Musicgen::from_weights(&self.config, &weights)?;
        tracing::info!(applied = report.applied.len(), ignored = report.ignored.len(), "weights loaded");
        Ok(model.with_tokenizer(tokenizer).with_generation_config(self.generation_config.clone()))
    }
}

fn parse(label: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::config(label, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::models;

    #[test]
    fn openings_count_as_they_are_made() {
        let store = Store::open(&models::find("nano").unwrap()).unwrap();
        assert!(store.has_ranker());
        let caches = |seconds, openings| store.need(seconds, openings).cache_bytes;
        // Four openings of 4 s take what four pieces of 4 s take, and are gone when a piece begins.
        assert_eq!(caches(1.0, 4), 4 * caches(OPENING_S, 1));
        assert_eq!(caches(10.0, 1), caches(10.0, 2));
        let (one, four) = (store.work(1, OPENING_S), store.work(4, OPENING_S));
        assert_eq!((four.steps, four.rows), (one.steps, 4 * one.rows));
        assert_eq!((four.seconds, four.cache_bytes), (4.0 * one.seconds, 4.0 * one.cache_bytes));
    }
}
