//! The T5 encoder stack.
//!
//! Conventions: RMS norm without mean and bias, before each layer and once at the end; attention scores are *not* scaled;
//! one table of relative position bias in block 0, shared by all blocks; no biases anywhere. Padding is masked for the keys,
//! states at padded positions are computed all the same.

use std::path::Path;

use candle_core::{D, Tensor};
use musaic_core::{
    Result,
    nn::{self, Embedding, Mask, Matrix, RmsNorm, attention},
    probe::Probe,
    weights::Weights,
};

use super::config::{Activation, FeedForward, T5Config};

/// Token ids to states.
#[derive(Debug, Clone)]
pub struct T5Encoder {
    embed_tokens: Embedding,
    blocks: Vec<Block>,
    final_layer_norm: RmsNorm,
    /// `[buckets, heads]`.
    relative_attention_bias: Vec<f32>,
    config: T5Config,
}

#[derive(Debug, Clone)]
struct Block {
    attention_norm: RmsNorm,
    qkv: Matrix,
    o: Matrix,
    feed_forward_norm: RmsNorm,
    /// `wi`, or `wi_0` on top of `wi_1`.
    wi: Matrix,
    wo: Matrix,
    feed_forward: FeedForward,
    heads: usize,
}

impl T5Encoder {
    /// Loads the published names: `shared.weight` or `encoder.embed_tokens.weight` (or both, tied), `encoder.block.*`.
    ///
    /// # Errors
    /// The configuration is not supported, or the file cannot be read.
    pub fn load(config: &T5Config, weights: &Weights) -> Result<Self> {
        config.validate(Path::new("config.json"))?;
        let encoder = weights.pp("encoder");
        let shared = weights.pp("shared");
        let own = encoder.pp("embed_tokens");
        let embed_tokens = if own.has("weight") && !shared.has("weight") {
            Embedding::load(config.vocab_size, config.d_model, &own)?
        } else {
            own.ignore("weight", "tied to shared.weight");
            Embedding::load(config.vocab_size, config.d_model, &shared)?
        };
        let blocks = (0..config.num_layers)
            .map(|i| Block::load(config, &encoder.pp("block").pp(i)))
            .collect::<Result<Vec<_>>>()?;
        let table = encoder.pp("block.0.layer.0.SelfAttention.relative_attention_bias").tensor_as(
            (config.relative_attention_num_buckets, config.num_heads),
            "weight",
            candle_core::DType::F32,
        )?;
        Ok(Self {
            embed_tokens,
            blocks,
            final_layer_norm: RmsNorm::load(
                config.d_model,
                config.layer_norm_epsilon,
                &encoder.pp("final_layer_norm"),
            )?,
            relative_attention_bias: table.flatten_all()?.to_vec1()?,
            config: config.clone(),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// `ids [batch, length]` u32 and `mask [batch, length]` f32 (1 = word, 0 = padding) to states `[batch, length, d_model]`.
    /// The probe sees `text.block_*`.
    ///
    /// # Errors
    /// An id is not in the vocabulary, or a shape differs.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor, probe: &mut dyn Probe) -> candle_core::Result<Tensor> {
        let length = ids.dims2()?.1;
        let bias = self.position_bias(length)?.to_device(ids.device())?;
        let mut xs = self.embed_tokens.forward(ids)?;
        for (i, block) in self.blocks.iter().enumerate() {
            xs = block.forward(&xs, Mask::Keys(mask), &bias)?;
            probe.see(&format!("text.block_{i}"), &xs)?;
        }
        self.final_layer_norm.forward(&xs)
    }

    /// `[1, heads, length, length]`: the table looked up by the bucket of (key - query).
    fn position_bias(&self, length: usize) -> candle_core::Result<Tensor> {
        let heads = self.config.num_heads;
        // Distances run from -(length - 1) to length - 1: one bucket each.
        let buckets: Vec<usize> =
            (0..2 * length.max(1) - 1).map(|i| bucket(i as i64 - (length as i64 - 1), &self.config)).collect();
        let mut bias = Vec::with_capacity(heads * length * length);
        for head in 0..heads {
            for query in 0..length {
                let row = &buckets[length - 1 - query..2 * length - 1 - query];
                bias.extend(row.iter().map(|bucket| self.relative_attention_bias[bucket * heads + head]));
            }
        }
        Tensor::from_vec(bias, (1, heads, length, length), &candle_core::Device::Cpu)
    }
}

/// Bucket of a relative position (key - query): exact for near keys, logarithmic up to the largest distance, one half a
/// direction.
pub fn bucket(relative: i64, config: &T5Config) -> usize {
    let half = config.relative_attention_num_buckets / 2;
    let exact = half / 2;
    let start = if relative > 0 { half } else { 0 };
    let distance = relative.unsigned_abs() as usize;
    if distance < exact {
        return start + distance;
    }
    // In f32, as the reference computes it: the floor must fall on the same side.
    let span = (config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
    let steps = ((distance as f32 / exact as f32).ln() / span * (half - exact) as f32) as usize;
    start + (exact + steps).min(half - 1)
}

impl Block {
    fn load(config: &T5Config, weights: &Weights) -> Result<Self> {
        let feed_forward = config.feed_forward(Path::new("config.json"))?;
        let (d_model, inner, d_ff) = (config.d_model, config.inner_dim(), config.d_ff);
        let norm = |w: &Weights| RmsNorm::load(d_model, config.layer_norm_epsilon, &w.pp("layer_norm"));
        let (attention_layer, dense_layer) = (weights.pp("layer.0"), weights.pp("layer.1"));
        let attention = attention_layer.pp("SelfAttention");
        let dense = dense_layer.pp("DenseReluDense");
        let wi = if feed_forward.gated {
            dense.matrix_stacked(&[d_ff; 2], d_model, &["wi_0.weight", "wi_1.weight"])?
        } else {
            dense.matrix(d_ff, d_model, "wi.weight")?
        };
        Ok(Self {
            attention_norm: norm(&attention_layer)?,
            qkv: attention.matrix_stacked(&[inner; 3], d_model, &["q.weight", "k.weight", "v.weight"])?,
            o: attention.matrix(d_model, inner, "o.weight")?,
            feed_forward_norm: norm(&dense_layer)?,
            wi,
            wo: dense.matrix(d_model, d_ff, "wo.weight")?,
            feed_forward,
            heads: config.num_heads,
        })
    }

    fn forward(&self, xs: &Tensor, mask: Mask<'_>, bias: &Tensor) -> candle_core::Result<Tensor> {
        let qkv = self.qkv.forward(&self.attention_norm.forward(xs)?)?;
        let inner = qkv.dim(D::Minus1)? / 3;
        let part = |i: usize| qkv.narrow(D::Minus1, i * inner, inner);
        let attended = attention((&part(0)?, &part(1)?, &part(2)?), self.heads, 1.0, mask, Some(bias))?;
        let xs = (xs + self.o.forward(&attended)?)?;
        let hidden = self.wi.forward(&self.feed_forward_norm.forward(&xs)?)?;
        let hidden = if self.feed_forward.gated {
            let d_ff = hidden.dim(D::Minus1)? / 2;
            let gate = activate(&hidden.narrow(D::Minus1, 0, d_ff)?, self.feed_forward.activation)?;
            (gate * hidden.narrow(D::Minus1, d_ff, d_ff)?)?
        } else {
            activate(&hidden, self.feed_forward.activation)?
        };
        xs + self.wo.forward(&hidden)?
    }
}

fn activate(xs: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
    match activation {
        Activation::Relu => nn::relu(xs),
        Activation::Gelu => nn::gelu(xs),
        Activation::GeluTanh => xs.gelu(),
        Activation::Silu => nn::silu(xs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(buckets: usize, distance: usize) -> T5Config {
        serde_json::from_value(serde_json::json!({
            "vocab_size": 8, "d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 2,
            "relative_attention_num_buckets": buckets, "relative_attention_max_distance": distance,
        }))
        .unwrap()
    }

    #[test]
    fn buckets_are_exact_near_and_shared_far() {
        let config = config(32, 128);
        assert_eq!(bucket(0, &config), 0);
        assert_eq!(bucket(-7, &config), 7);
        assert_eq!(bucket(7, &config), 23);
        assert_eq!(bucket(-8, &config), 8);
        assert_eq!(bucket(-127, &config), 15);
        assert_eq!(bucket(100_000, &config), 31);
    }

    #[test]
    fn bad_sizes_are_all_named() {
        let mut config = config(31, 128);
        config.d_model = 0;
        config.feed_forward_proj = "tanh".into();
        let text = config.validate(Path::new("config.json")).unwrap_err().to_string();
        assert!(text.contains("d_model = 0") && text.contains("num_buckets = 31"), "{text}");
    }
}
