//! The model: token ids to hidden states to logits.

use candle_core::{DType, Device, Result, Tensor};
use musaic_adapters::prefix::{Gate, Prefix};
use musaic_core::{
    Error, WeightFormat,
    nn::{KvCache, Mask, Matrix, RmsNorm, Rotation},
    probe::Probe,
    weights::Weights,
};

use super::{config::LlamaConfig, layer::Layer, names::Names};

/// A LLaMA.
#[derive(Debug, Clone)]
pub struct Llama {
    config: LlamaConfig,
    embeddings: Matrix,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// `None` where the embeddings serve as head.
    head: Option<Matrix>,
    device: Device,
    dtype: DType,
}

/// What the model remembers of a batch of texts: keys and values of all layers, and what these look at besides.
#[derive(Debug, Clone)]
pub struct LlamaState {
    caches: Vec<KvCache>,
    prefixes: Vec<Option<Prefix>>,
    /// Positions of padding on the left of each text; empty for none.
    padding: Vec<usize>,
    batch: usize,
}

impl LlamaState {
    /// Positions fed so far, padding included.
    pub fn len(&self) -> usize {
        self.caches.first().map_or(0, KvCache::len)
    }

    /// Nothing fed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.caches.first().map_or(0, KvCache::capacity)
    }

    /// Texts that run side by side.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Forgets all but the first `len` positions; keeps memory and prefixes.
    pub fn truncate(&mut self, len: usize) {
        self.caches.iter_mut().for_each(|cache| cache.truncate(len));
    }
}

impl Llama {
    /// Loads the names of the configuration's layout; `weights` is where `model` or `tok_embeddings` begin. Does not close
    /// the account: a checkpoint may hold more than this model.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(config: &LlamaConfig, weights: &Weights) -> musaic_core::Result<Self> {
        let names = Names::of(config.layout);
        let (width, vocab) = (config.hidden_size, config.vocab_size);
        // One row is read a token: eight bits cost no time where the rest has four.
        let table = match weights.format() {
            WeightFormat::Q4K => weights.in_format(WeightFormat::Q8_0),
            _ => weights.clone(),
        };
        weights.ignore("rope.freqs", "computed: the frequencies of positions");
        let head = weights.pp(names.head);
        let head = if config.tie_word_embeddings {
            head.ignore("weight", "the head is the table of embeddings");
            None
        } else {
            Some(head.matrix(vocab, width, "weight")?)
        };
        let layers = weights.pp(names.layers);
        Ok(Self {
            embeddings: table.pp(names.embeddings).matrix(vocab, width, "weight")?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(config, &layers.pp(i)))
                .collect::<musaic_core::Result<_>>()?,
            norm: RmsNorm::load(width, config.rms_norm_eps, &weights.pp(names.norm))?,
            head,
            config: config.clone(),
            device: weights.device().clone(),
            dtype: weights.dtype(),
        })
    }

    /// Sizes and choices.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Type it computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Gates of a layer, where the checkpoint has them.
    pub fn gate(&self, layer: usize) -> Option<&Gate> {
        self.layers.get(layer)?.gate()
    }

    /// Bytes of the large matrices as they are held.
    pub fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(Layer::bytes).sum();
        layers + self.embeddings.bytes() + self.head.as_ref().map_or(0, Matrix::bytes)
    }

    /// Bytes of the matrices that one token reads: of the table of embeddings a row, unless it is the head, too.
    pub fn bytes_per_token(&self) -> usize {
        let table = self.embeddings.bytes();
        self.bytes() - if self.head.is_some() { table - table / self.embeddings.rows().max(1) } else { 0 }
    }

    /// What `layer` looks at besides the tokens, from `adapter [1 or batch, length, hidden]`; `None` for a layer without
    /// gates.
    ///
    /// # Errors
    /// There is no such layer, or a shape differs.
    pub fn prefix(&self, layer: usize, adapter: &Tensor) -> musaic_core::Result<Option<Prefix>> {
        let layers = self.layers.len();
        let found = || Error::argument("layer", layer.to_string(), format!("below {layers}"));
        let adapter = adapter.to_device(&self.device)?.to_dtype(self.dtype)?;
        Ok(self.layers.get(layer).ok_or_else(found)?.prefix(&adapter)?)
    }

    /// A state for `batch` texts of up to `capacity` positions. Keys and values are held as `cache_dtype`.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn start(&self, batch: usize, capacity: usize, cache_dtype: DType) -> Result<LlamaState> {
        let cache = |layer: &Layer| layer.cache(batch, self.config.head_dim, capacity, cache_dtype, &self.device);
        let caches = self.layers.iter().map(cache).collect::<Result<_>>()?;
        Ok(LlamaState { caches, prefixes: vec![None; self.layers.len()], padding: Vec::new(), batch })
    }

    /// As [`Llama::start`], for texts with this many positions of padding on their left: they are not looked at, and
    /// positions count from the first token behind them.
    ///
    /// # Errors
    /// As [`Llama::start`].
    pub fn start_padded(&self, padding: &[usize], capacity: usize, cache_dtype: DType) -> Result<LlamaState> {
        Ok(LlamaState { padding: padding.to_vec(), ..self.start(padding.len(), capacity, cache_dtype)? })
    }

    /// Puts prefixes, one entry a layer, before whatever `state` is fed.
    ///
    /// # Errors
    /// The number of layers differs, or something was fed already.
    pub fn set_prefixes(&self, state: &mut LlamaState, prefixes: Vec<Option<Prefix>>) -> musaic_core::Result<()> {
        if prefixes.len() != self.layers.len() || !state.is_empty() {
            let found = format!("{} for a state of {} positions", prefixes.len(), state.len());
            return Err(Error::argument("prefixes", found, format!("{} for an empty state", self.layers.len())));
        }
        state.prefixes = prefixes;
        Ok(())
    }

    /// Token ids `[batch, time]` to embeddings `[batch, time, hidden]`.
    ///
    /// # Errors
    /// An id is not in the vocabulary.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.embeddings.lookup(&ids.to_device(&self.device)?.to_dtype(DType::U32)?)?.to_dtype(self.dtype)
    }

    /// Frequencies of the rotary positions for a text of `length` positions.
    pub fn inv_freq(&self, length: usize) -> Vec<f32> {
        self.config.rope.inv_freq(self.config.head_dim, length)
    }

    /// Feeds `xs [batch, time, hidden]` to the end of the texts and gives the last layer's output at these positions, before
    /// the final norm. The probe sees `layer_{i}`. Feeding in parts is feeding at once, to the bit (but for `dynamic`
    /// stretching, whose frequencies depend on the length so far).
    ///
    /// # Errors
    /// The state is full, or a shape differs.
    pub fn feed(&self, xs: &Tensor, state: &mut LlamaState, probe: &mut dyn Probe) -> Result<Tensor> {
        let (first, time) = (state.len(), xs.dim(1)?);
        let rows: &[usize] = if state.padding.is_empty() { &[0] } else { &state.padding };
        let positions: Vec<Vec<_>> =
            rows.iter().map(|skip| (first..first + time).map(|p| p.saturating_sub(*skip)).collect()).collect();
        let (frequencies, factor) = (self.inv_freq(first + time), self.config.rope.attention_factor());
        let rotation = Rotation::new(&frequencies, &positions, factor, self.config.layout.pairing())?;
        let mask = match state.padding.as_slice() {
            // A single position sees everything that is held.
            [] if time == 1 => Mask::None,
            [] => Mask::Causal,
            padding => Mask::CausalFrom(padding),
        };
        let mut xs = xs.clone();
        for (i, (layer, cache)) in self.layers.iter().zip(&mut state.caches).enumerate() {
            xs = layer.forward(&xs, &rotation, cache, mask, state.prefixes[i].as_ref())?;
            probe.see(&format!("layer_{i}"), &xs)?;
        }
        Ok(xs)
    }

    /// Final norm and head: `hidden [batch, time, hidden]` to logits `[batch, time, vocab]` in f32. The probe sees
    /// `final_norm`.
    ///
    /// # Errors
    /// A shape differs.
    pub fn logits(&self, hidden: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let normed = self.norm.forward(hidden)?;
        probe.see("final_norm", &normed)?;
        self.head.as_ref().unwrap_or(&self.embeddings).forward(&normed)?.to_dtype(DType::F32)
    }
}
