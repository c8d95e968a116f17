//! The decoder language model.
//!
//! Conventions: pre-norm layers with LayerNorm (eps 1e-5), projections and feed-forward without biases, exact (erf) gelu,
//! attention scores scaled by `head_dim^-0.5`; the embeddings of all codebooks are summed and not scaled; positions count
//! from 0 at the start token (or at the first state of a prefix), their table has the cosines first.

use candle_core::{D, DType, Device, Result, Tensor};
use musaic_core::{
    nn::{KvCache, LayerNorm, Mask, Matrix, gelu},
    probe::Probe,
    weights::Weights,
};

use super::{config::LmConfig, delay::Codes};

const EPSILON: f64 = 1e-5;

/// Codes (and conditioning) to logits.
#[derive(Debug, Clone)]
pub struct Lm {
    /// All tables on top of each other, `[codebooks * (vocab + 1), hidden]`.
    embed_tokens: Matrix,
    layers: Vec<Layer>,
    layer_norm: LayerNorm,
    /// All heads on top of each other, `[codebooks * vocab, hidden]`.
    lm_heads: Matrix,
    config: LmConfig,
    device: Device,
    dtype: DType,
}

#[derive(Debug, Clone)]
struct Layer {
    self_attn_layer_norm: LayerNorm,
    qkv: Matrix,
    out: Matrix,
    cross: Option<CrossAttention>,
    final_layer_norm: LayerNorm,
    fc1: Matrix,
    fc2: Matrix,
}

#[derive(Debug, Clone)]
struct CrossAttention {
    layer_norm: LayerNorm,
    q: Matrix,
    kv: Matrix,
    out: Matrix,
}

/// What the model remembers of one sequence (or batch): keys and values of all layers.
#[derive(Debug, Clone)]
pub struct LmState {
    own: Vec<KvCache>,
    cross: Vec<KvCache>,
    mask: Option<Tensor>,
}

impl LmState {
    /// Positions fed so far.
    pub fn len(&self) -> usize {
        self.own.first().map_or(0, KvCache::len)
    }

    /// Nothing fed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the sequence and keeps the conditioning.
    pub fn rewind(&mut self) {
        self.own.iter_mut().for_each(KvCache::clear);
    }
}

impl Lm {
    /// Loads the published names below `decoder`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(config: &LmConfig, cross_attention: bool, weights: &Weights) -> musaic_core::Result<Self> {
        let (width, vocab, codebooks) = (config.hidden_size, config.vocab_size, config.num_codebooks);
        let names = |prefix: &str| (0..codebooks).map(|k| format!("{prefix}.{k}.weight")).collect::<Vec<_>>();
        let stacked = |weights: &Weights, rows: usize, names: &[String]| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            weights.matrix_stacked(&vec![rows; codebooks], width, &names)
        };
        let decoder = weights.pp("model.decoder");
        decoder.ignore("embed_positions.weights", "computed: the sinusoidal table");
        Ok(Self {
            embed_tokens: stacked(&decoder, vocab + 1, &names("embed_tokens"))?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(config, cross_attention, &decoder.pp("layers").pp(i)))
                .collect::<musaic_core::Result<_>>()?,
            layer_norm: LayerNorm::load(width, EPSILON, &decoder.pp("layer_norm"))?,
            lm_heads: stacked(weights, vocab, &names("lm_heads"))?,
            config: config.clone(),
            device: weights.device().clone(),
            dtype: weights.dtype(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &LmConfig {
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

    /// An empty sequence of up to `capacity` positions. `states [batch, length, hidden]` with an optional
    /// `mask [batch, length]` are what the cross attention of every layer looks at.
    ///
    /// # Errors
    /// The device is out of memory, or a shape differs.
    pub fn start(
        &self,
        batch: usize,
        states: Option<&Tensor>,
        mask: Option<&Tensor>,
        capacity: usize,
        cache_dtype: DType,
    ) -> Result<LmState> {
        let (heads, head_dim) = (self.config.num_attention_heads, self.config.head_dim());
        let cache = |capacity| KvCache::new(batch, heads, head_dim, capacity, cache_dtype, &self.device);
        let own = self.layers.iter().map(|_| cache(capacity)).collect::<Result<_>>()?;
        let mut cross = Vec::new();
        for layer in self.layers.iter().filter_map(|layer| layer.cross.as_ref()) {
            let Some(states) = states else { candle_core::bail!("cross attention without states") };
            let kv = layer.kv.forward(states)?;
            let width = self.config.hidden_size;
            let mut held = cache(states.dim(1)?)?;
            held.append(&kv.narrow(D::Minus1, 0, width)?, &kv.narrow(D::Minus1, width, width)?)?;
            cross.push(held);
        }
        Ok(LmState { own, cross, mask: mask.cloned() })
    }

    /// Sum of the embeddings of columns of delayed ids, `[copies * batch, columns, hidden]`; `copies` repeats the batch.
    ///
    /// # Errors
    /// An id is above the pad token.
    pub fn embed(&self, ids: &Codes, copies: usize) -> Result<Tensor> {
        let rows = self.config.vocab_size + 1;
        let Codes { batch, codebooks, length, .. } = *ids;
        let mut places = Vec::with_capacity(copies * ids.ids.len());
        for b in (0..copies).flat_map(|_| 0..batch) {
            for column in 0..length {
                for k in 0..codebooks {
                    let id = ids.ids[(b * codebooks + k) * length + column] as usize;
                    if id >= rows {
                        candle_core::bail!("code {id}, expected below {rows}");
                    }
                    places.push((k * rows + id) as u32);
                }
            }
        }
        let places = Tensor::from_vec(places, (copies * batch, length, codebooks), &self.device)?;
        self.embed_tokens.lookup(&places)?.sum(2)?.to_dtype(self.dtype)
    }

    /// Feeds `xs [batch, time, hidden]` (embedded, without positions) to the end of the sequence and gives the output of
    /// the last layer at these positions, before the final norm. The probe sees `decoder.*`.
    ///
    /// # Errors
    /// The sequence is full, or a shape differs.
    pub fn feed(&self, xs: &Tensor, state: &mut LmState, probe: &mut dyn Probe) -> Result<Tensor> {
        let width = self.config.hidden_size;
        let positions = position_table(width, state.len(), xs.dim(1)?, &self.device)?.to_dtype(self.dtype)?;
        probe.see("decoder.positions", &positions)?;
        let mut xs = xs.broadcast_add(&positions)?;
        probe.see("decoder.embedded", &xs)?;
        let scale = (self.config.head_dim() as f64).powf(-0.5);
        for (i, layer) in self.layers.iter().enumerate() {
            let cross = state.cross.get(i).map(|held| (held, state.mask.as_ref()));
            xs = layer.forward(&xs, scale, &mut state.own[i], cross)?;
            probe.see(&format!("decoder.layer_{i}"), &xs)?;
        }
        Ok(xs)
    }

    /// Final norm and heads: `xs [batch, time, hidden]` to logits `[batch, time, codebooks, vocab]` in f32.
    ///
    /// # Errors
    /// A shape differs.
    pub fn logits(&self, xs: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let (batch, time, _) = xs.dims3()?;
        let xs = self.layer_norm.forward(xs)?;
        probe.see("decoder.layer_norm", &xs)?;
        let shape = (batch, time, self.config.num_codebooks, self.config.vocab_size);
        self.lm_heads.forward(&xs)?.reshape(shape)?.to_dtype(DType::F32)
    }
}

/// Rows `first..first + count` of the position table, `[count, width]`, in f32 as the reference computes them.
///
/// # Errors
/// The device is out of memory.
pub fn position_table(width: usize, first: usize, count: usize, device: &Device) -> Result<Tensor> {
    let half = width / 2;
    let slope = -((10_000f64.ln() / (half - 1) as f64) as f32);
    let mut table = Vec::with_capacity(count * 2 * half);
    for position in first..first + count {
        let angle = |i: usize| position as f32 * (i as f32 * slope).exp();
        table.extend((0..half).map(|i| angle(i).cos()));
        table.extend((0..half).map(|i| angle(i).sin()));
    }
    Tensor::from_vec(table, (count, 2 * half), device)
}

impl Layer {
    fn load(config: &LmConfig, cross_attention: bool, weights: &Weights) -> musaic_core::Result<Self> {
        let (width, ffn) = (config.hidden_size, config.ffn_dim);
        let norm = |name: &str| LayerNorm::load(width, EPSILON, &weights.pp(name));
        let attention = weights.pp("self_attn");
        let names = ["q_proj.weight", "k_proj.weight", "v_proj.weight"];
        let cross = if cross_attention {
            let attention = weights.pp("encoder_attn");
            Some(CrossAttention {
                layer_norm: norm("encoder_attn_layer_norm")?,
                q: attention.matrix(width, width, "q_proj.weight")?,
                kv: attention.matrix_stacked(&[width; 2], width, &["k_proj.weight", "v_proj.weight"])?,
                out: attention.matrix(width, width, "out_proj.weight")?,
            })
        } else {
            None
        };
        Ok(Self {
            self_attn_layer_norm: norm("self_attn_layer_norm")?,
            qkv: attention.matrix_stacked(&[width; 3], width, &names)?,
            out: attention.matrix(width, width, "out_proj.weight")?,
            cross,
            final_layer_norm: norm("final_layer_norm")?,
            fc1: weights.matrix(ffn, width, "fc1.weight")?,
            fc2: weights.matrix(width, ffn, "fc2.weight")?,
        })
    }

    fn forward(
        &self,
        xs: &Tensor,
        scale: f64,
        own: &mut KvCache,
        cross: Option<(&KvCache, Option<&Tensor>)>,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.self_attn_layer_norm.forward(xs)?)?;
        let width = xs.dim(D::Minus1)?;
        let part = |i: usize| qkv.narrow(D::Minus1, i * width, width);
        own.append(&part(1)?, &part(2)?)?;
        // A single position sees everything that is held.
        let mask = if xs.dim(1)? == 1 { Mask::None } else { Mask::Causal };
        let mut xs = (xs + self.out.forward(&own.attend(&part(0)?, scale, mask)?)?)?;
        if let (Some(layer), Some((held, mask))) = (&self.cross, cross) {
            let q = layer.q.forward(&layer.layer_norm.forward(&xs)?)?;
            let attended = held.attend(&q, scale, mask.map_or(Mask::None, Mask::Keys))?;
            xs = (xs + layer.out.forward(&attended)?)?;
        }
        let hidden = gelu(&self.fc1.forward(&self.final_layer_norm.forward(&xs)?)?)?;
        xs + self.fc2.forward(&hidden)?
    }
}
