//! A model with what it remembers, as the role of a language model.

use std::{path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use musaic_adapters::prefix::Prefix;
use musaic_core::{
    Error, Result, WeightFormat,
    role::{LanguageModel, LanguageModelSpec},
    weights::Weights,
};

use super::{
    config::LlamaConfig,
    model::{Llama, LlamaState},
};

/// Positions of a prompt fed at once: what a layer computes then stays in the cache of the processor, and a request to stop
/// is heard in between.
pub const CHUNK: usize = 256;

/// Loads a Hugging Face folder: `config.json` and its weights, in one file or in shards.
///
/// # Errors
/// A file is missing or damaged, the configuration is not supported, or weights are missing, misshaped or left over.
pub fn load_folder(folder: &Path, device: &Device, format: WeightFormat) -> Result<Llama> {
    let config = LlamaConfig::open(&folder.join("config.json"))?;
    let weights = Weights::open(folder, device, format)?;
    let model = Llama::load(&config, &weights)?;
    weights.finish()?;
    Ok(model)
}

/// A model and one state.
pub struct Session {
    model: Arc<Llama>,
    spec: LanguageModelSpec,
    prefixes: Vec<Option<Prefix>>,
    cache_dtype: DType,
    state: Option<LlamaState>,
}

impl Session {
    /// Nothing fed, no prefixes, keys and values in the type of the arithmetic.
    pub fn new(model: Arc<Llama>) -> Self {
        let config = model.config();
        let spec = LanguageModelSpec { name: "llama", hidden_size: config.hidden_size, vocab_size: config.vocab_size };
        Self { spec, prefixes: Vec::new(), cache_dtype: model.dtype(), state: None, model }
    }

    /// Prefixes of the layers, for every text from the next start on.
    pub fn with_prefixes(mut self, prefixes: Vec<Option<Prefix>>) -> Self {
        self.prefixes = prefixes;
        self.state = None;
        self
    }

    /// Keys and values in 16 bits: half the memory, not the last digit.
    pub fn with_half_cache(mut self) -> Self {
        self.cache_dtype = DType::F16;
        self.state = None;
        self
    }

    /// The model.
    pub fn model(&self) -> &Arc<Llama> {
        &self.model
    }
}

impl LanguageModel for Session {
    fn spec(&self) -> &LanguageModelSpec {
        &self.spec
    }

    fn start(&mut self, batch: usize, capacity: usize) -> Result<()> {
        let fits = |state: &LlamaState| state.batch() == batch && state.capacity() == capacity;
        match self.state.as_mut().filter(|state| fits(state)) {
            Some(state) => state.truncate(0),
            None => {
                // Two caches never live at once.
                self.state = None;
                let mut state = self.model.start(batch, capacity, self.cache_dtype)?;
                if !self.prefixes.is_empty() {
                    self.model.set_prefixes(&mut state, self.prefixes.clone())?;
                }
                self.state = Some(state);
            }
        }
        Ok(())
    }

    fn feed(&mut self, ids: &Tensor) -> Result<Tensor> {
        let (_, time) = ids.dims2()?;
        let not_started = || Error::argument("language model", "fed before it was started", "a start");
        let state = self.state.as_mut().ok_or_else(not_started)?;
        let mut parts = Vec::new();
        for first in (0..time).step_by(CHUNK) {
            let xs = self.model.embed(&ids.narrow(1, first, CHUNK.min(time - first))?)?;
            parts.push(self.model.feed(&xs, state, &mut ())?);
        }
        Ok(match parts.as_slice() {
            [only] => only.clone(),
            parts => Tensor::cat(parts, 1)?,
        })
    }

    fn truncate(&mut self, positions: usize) {
        if let Some(state) = &mut self.state {
            state.truncate(positions);
        }
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.model.logits(hidden, &mut ())?)
    }
}
