//! One layer: attention and a gated feed-forward layer, each behind a norm, each added to its input.

use candle_core::{D, DType, Result, Tensor};
use musaic_adapters::{
    lora::{Lora, Part},
    prefix::{Gate, Prefix},
};
use musaic_core::{
    nn::{KvCache, Mask, Matrix, RmsNorm, Rotation, silu_gated},
    weights::Weights,
};

use super::{config::LlamaConfig, names::Names};

/// Projections that share their input, stacked by rows, with what a checkpoint adds to them.
#[derive(Debug, Clone)]
struct Projection {
    weight: Matrix,
    bias: Option<Tensor>,
    lora: Option<Lora>,
}

/// One of the stacked: its name, rows, and whether it has a bias.
type Stacked = (&'static str, usize, bool);

impl Projection {
    fn load(input: usize, parts: &[Stacked], lora_rank: Option<usize>, weights: &Weights) -> musaic_core::Result<Self> {
        let names: Vec<_> = parts.iter().map(|(name, ..)| format!("{name}.weight")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let rows: Vec<_> = parts.iter().map(|&(_, rows, _)| rows).collect();
        let bias = if parts.iter().any(|&(_, _, bias)| bias) {
            let biases = parts.iter().map(|&(name, rows, bias)| match bias {
                true => weights.tensor(rows, &format!("{name}.bias")),
                false => Ok(Tensor::zeros(rows, weights.dtype(), weights.device())?),
            });
            Some(Tensor::cat(&biases.collect::<musaic_core::Result<Vec<_>>>()?, 0)?)
        } else {
            None
        };
        let lora = lora_rank.map(|rank| {
            let names: Vec<_> =
                parts.iter().map(|(name, ..)| [1, 2].map(|i| format!("lora_{name}_l{i}.weight"))).collect();
            let part = |(names, &rows)| {
                let [down, up]: &[String; 2] = names;
                Part { down, up, rows }
            };
            let parts: Vec<_> = names.iter().zip(&rows).map(part).collect();
            Lora::load(input, rank, &parts, weights)
        });
        Ok(Self { weight: weights.matrix_stacked(&rows, input, &names)?, bias, lora: lora.transpose()? })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let base = self.base(xs)?;
        match &self.lora {
            Some(lora) => base + lora.forward(xs)?,
            None => Ok(base),
        }
    }

    /// Without the LoRA.
    fn base(&self, xs: &Tensor) -> Result<Tensor> {
        self.weight.forward_bias(xs, self.bias.as_ref())
    }

    fn bytes(&self) -> usize {
        self.weight.bytes() + self.lora.as_ref().map_or(0, Lora::bytes)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    attention_norm: RmsNorm,
    /// Queries over keys over values.
    qkv: Projection,
    out: Projection,
    gate: Option<Gate>,
    ffn_norm: RmsNorm,
    /// Gate over up.
    gate_up: Projection,
    down: Projection,
    heads: usize,
    kv_heads: usize,
    scale: f64,
}

impl Layer {
    pub(super) fn load(config: &LlamaConfig, weights: &Weights) -> musaic_core::Result<Self> {
        let names = Names::of(config.layout);
        let (width, inner, hooks) = (config.hidden_size, config.intermediate_size, config.hooks);
        let (q_width, kv_width) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let (attention, feed_forward) = (weights.pp(names.attention), weights.pp(names.feed_forward));
        // A buffer of old files; computed here.
        attention.ignore("rotary_emb.inv_freq", "computed: the frequencies of positions");
        let [q, k, v, o] = names.qkvo;
        let [gate, up, down] = names.gate_up_down;
        let (qo, kv) = (config.attention_bias || hooks.biases, config.attention_bias);
        let ffn = config.mlp_bias || hooks.biases;
        let rank = hooks.lora_rank;
        let norm = |name: &str| RmsNorm::load(width, config.rms_norm_eps, &weights.pp(name));
        Ok(Self {
            attention_norm: norm(names.attention_norm)?,
            qkv: Projection::load(width, &[(q, q_width, qo), (k, kv_width, kv), (v, kv_width, kv)], rank, &attention)?,
            out: Projection::load(q_width, &[(o, width, qo)], rank, &attention)?,
            gate: if hooks.gates { Some(Gate::load(config.num_attention_heads, &attention)?) } else { None },
            ffn_norm: norm(names.ffn_norm)?,
            gate_up: Projection::load(width, &[(gate, inner, ffn), (up, inner, ffn)], rank, &feed_forward)?,
            down: Projection::load(inner, &[(down, width, ffn)], rank, &feed_forward)?,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            scale: (config.head_dim as f64).powf(-0.5),
        })
    }

    pub(super) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// What attention looks at besides the tokens: `adapter [1 or batch, length, hidden]` by the plain key and value
    /// projections, without norm, LoRA and positions.
    pub(super) fn prefix(&self, adapter: &Tensor) -> Result<Option<Prefix>> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let qkv = self.qkv.base(adapter)?;
        let head_dim = qkv.dim(D::Minus1)? / (self.heads + 2 * self.kv_heads);
        let (q_width, kv_width) = (self.heads * head_dim, self.kv_heads * head_dim);
        // Heads that share keys and values see the same prefix.
        let (batch, length, group) = (adapter.dim(0)?, adapter.dim(1)?, self.heads / self.kv_heads);
        let part = |first| {
            let part = qkv.narrow(D::Minus1, first, kv_width)?.reshape((batch, length, self.kv_heads, 1, head_dim))?;
            part.broadcast_as((batch, length, self.kv_heads, group, head_dim))?.reshape((batch, length, q_width))
        };
        gate.prefix(&part(q_width)?, &part(q_width + kv_width)?).map(Some)
    }

    pub(super) fn forward(
        &self,
        xs: &Tensor,
        rotation: &Rotation,
        cache: &mut KvCache,
        mask: Mask<'_>,
        prefix: Option<&Prefix>,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.attention_norm.forward(xs)?)?;
        let (q, k, v) = rotation.split(&qkv, self.heads, self.kv_heads)?;
        let mut attended = cache.append_attend((&q, &k, &v), self.scale, mask)?;
        if let Some(prefix) = prefix {
            attended = prefix.add_to(&attended, &q, self.scale)?;
        }
        let xs = (xs + self.out.forward(&attended)?)?;
        let hidden = silu_gated(&self.gate_up.forward(&self.ffn_norm.forward(&xs)?)?)?;
        xs + self.down.forward(&hidden)?
    }

    pub(super) fn bytes(&self) -> usize {
        [&self.qkv, &self.out, &self.gate_up, &self.down].into_iter().map(Projection::bytes).sum()
    }

    /// An empty cache of this layer.
    pub(super) fn cache(
        &self,
        batch: usize,
        head_dim: usize,
        capacity: usize,
        dtype: DType,
        device: &candle_core::Device,
    ) -> Result<KvCache> {
        KvCache::grouped(batch, (self.heads, self.kv_heads), head_dim, capacity, dtype, device)
    }
}
