//! The model as training sees it: whole sequences with the right codes given, and the loss.
//!
//! The same sums as [`musaic_decoders`] computes step by step, in operations whose gradients reach every tensor. Candle's
//! fused softmax, layer norm and RMS norm cut the graph without a word, so none of them appears here.

use candle_core::{D, DType, Device, Result as TensorResult, Tensor};
use musaic_core::{
    Result,
    nn::{Mask, Matrix, attention, gelu, relu, silu},
};
use musaic_decoders::{
    musicgen::{delay::DelayPattern, position_table},
    t5::{Activation, FeedForward, bucket},
};

use super::{
    batches::Batch,
    parameters::{At, ModelConfig, Parameters},
};

const EPSILON: f64 = 1e-5;

/// A forward pass over [`Parameters`].
pub struct Model {
    config: ModelConfig,
    pattern: DelayPattern,
    feed_forward: FeedForward,
    device: Device,
}

impl Model {
    /// # Errors
    /// The configuration is not supported.
    pub fn new(config: ModelConfig, device: &Device) -> Result<Self> {
        let pattern = config.decoder.delay_pattern()?;
        let feed_forward = config.text_encoder.feed_forward(std::path::Path::new("config.json"))?;
        Ok(Self { config, pattern, feed_forward, device: device.clone() })
    }

    /// Sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Columns of a piece of `frames` frames: the start token's, and no column after the last target.
    pub fn columns(&self, frames: usize) -> usize {
        frames + self.pattern.max_delay()
    }

    /// Mean cross entropy of each codebook, scalars in f32. Only codes are targets, never the filling of the delay pattern.
    ///
    /// # Errors
    /// A shape differs or the device is out of memory.
    pub fn losses(&self, parameters: &Parameters, batch: &Batch) -> TensorResult<Vec<Tensor>> {
        let mask = Tensor::from_slice(&batch.mask, (batch.rows, batch.words), &self.device)?;
        let states = self.condition(parameters, batch, &mask)?;
        let xs = self.decode(parameters, batch, &states, &mask)?;
        let frames = batch.frames;
        (0..self.pattern.codebooks())
            .map(|k| {
                // The code of frame t is said at column delay + t, one before it is heard.
                let heard = xs.narrow(1, self.pattern.delay(k), frames)?;
                let head = parameters.tensor(&format!("decoder.lm_heads.{k}.weight"))?;
                let logits = linear(&heard, head)?.reshape((batch.rows * frames, ()))?;
                let targets: Vec<u32> = (0..batch.rows).flat_map(|b| batch.codes_of(b, k)).copied().collect();
                let targets = Tensor::from_vec(targets, (batch.rows * frames, 1), &self.device)?;
                let said = logits.gather(&targets, D::Minus1)?.squeeze(D::Minus1)?;
                (logits.log_sum_exp(D::Minus1)? - said)?.mean_all()
            })
            .collect()
    }

    /// Projected text states `[rows, words, hidden]`, zero at padding and in rows that are trained without their text.
    fn condition(&self, parameters: &Parameters, batch: &Batch, mask: &Tensor) -> TensorResult<Tensor> {
        let ids = Tensor::from_slice(&batch.ids, (batch.rows, batch.words), &self.device)?;
        let mut states = self.text(&parameters.at("text_encoder"), &ids, mask)?;
        if self.config.has_projection() {
            let at = parameters.at("enc_to_dec_proj");
            states = linear(&states, at.tensor("weight")?)?.broadcast_add(at.tensor("bias")?)?;
        }
        let keep = Tensor::from_slice(&batch.keep, (batch.rows, 1, 1), &self.device)?;
        states.broadcast_mul(&mask.unsqueeze(2)?)?.broadcast_mul(&keep)
    }

    fn text(&self, at: &At<'_>, ids: &Tensor, mask: &Tensor) -> TensorResult<Tensor> {
        let config = &self.config.text_encoder;
        let eps = config.layer_norm_epsilon;
        let encoder = at.pp("encoder");
        let mut xs = lookup(at.tensor("shared.weight")?, ids)?;
        let bias = self.text_bias(&encoder, ids.dim(1)?)?;
        for i in 0..config.num_layers {
            let (attend, dense) = (encoder.pp("block").pp(i).pp("layer.0"), encoder.pp("block").pp(i).pp("layer.1"));
            let h = rms_norm(&xs, &attend.pp("layer_norm"), eps)?;
            let attend = attend.pp("SelfAttention");
            let part = |name: &str| linear(&h, attend.tensor(name)?);
            let (q, k, v) = (part("q.weight")?, part("k.weight")?, part("v.weight")?);
            // T5 does not scale its scores.
            let seen = attention((&q, &k, &v), config.num_heads, 1.0, Mask::Keys(mask), Some(&bias))?;
            xs = (xs + linear(&seen, attend.tensor("o.weight")?)?)?;
            let h = rms_norm(&xs, &dense.pp("layer_norm"), eps)?;
            xs = (xs + self.text_dense(&dense.pp("DenseReluDense"), &h)?)?;
        }
        rms_norm(&xs, &encoder.pp("final_layer_norm"), eps)
    }

    fn text_dense(&self, at: &At<'_>, xs: &Tensor) -> TensorResult<Tensor> {
        let activate = |xs: &Tensor| match self.feed_forward.activation {
            Activation::Relu => relu(xs),
            Activation::Gelu => gelu(xs),
            Activation::GeluTanh => xs.gelu(),
            Activation::Silu => silu(xs),
        };
        let hidden = if self.feed_forward.gated {
            (activate(&linear(xs, at.tensor("wi_0.weight")?)?)? * linear(xs, at.tensor("wi_1.weight")?)?)?
        } else {
            activate(&linear(xs, at.tensor("wi.weight")?)?)?
        };
        linear(&hidden, at.tensor("wo.weight")?)
    }

    /// `[1, heads, length, length]`: the learned bias of every distance.
    fn text_bias(&self, encoder: &At<'_>, length: usize) -> TensorResult<Tensor> {
        let config = &self.config.text_encoder;
        let places: Vec<u32> = (0..length as i64)
            .flat_map(|query| (0..length as i64).map(move |key| key - query))
            .map(|distance| bucket(distance, config) as u32)
            .collect();
        let table = encoder.tensor("block.0.layer.0.SelfAttention.relative_attention_bias.weight")?;
        let bias = lookup(table, &Tensor::from_vec(places, (length, length), &self.device)?)?;
        bias.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()
    }

    /// Normed output of the last layer, `[rows, columns, hidden]`.
    fn decode(&self, parameters: &Parameters, batch: &Batch, states: &Tensor, mask: &Tensor) -> TensorResult<Tensor> {
        let config = &self.config.decoder;
        let at = parameters.at("decoder.model.decoder");
        let columns = self.columns(batch.frames);
        let mut xs = position_table(config.hidden_size, 0, columns, &self.device)?.unsqueeze(0)?;
        for k in 0..config.num_codebooks {
            let ids = Tensor::from_vec(self.inputs(batch, k), (batch.rows, columns), &self.device)?;
            xs = lookup(at.pp("embed_tokens").pp(k).tensor("weight")?, &ids)?.broadcast_add(&xs)?;
        }
        let scale = (config.head_dim() as f64).powf(-0.5);
        let heads = config.num_attention_heads;
        for i in 0..config.num_hidden_layers {
            let layer = at.pp("layers").pp(i);
            let h = layer_norm(&xs, &layer.pp("self_attn_layer_norm"))?;
            xs = (xs + attend(&layer.pp("self_attn"), &h, &h, heads, scale, Mask::Causal)?)?;
            let h = layer_norm(&xs, &layer.pp("encoder_attn_layer_norm"))?;
            xs = (xs + attend(&layer.pp("encoder_attn"), &h, states, heads, scale, Mask::Keys(mask))?)?;
            let h = layer_norm(&xs, &layer.pp("final_layer_norm"))?;
            let h = gelu(&linear(&h, layer.tensor("fc1.weight")?)?)?;
            xs = (xs + linear(&h, layer.tensor("fc2.weight")?)?)?;
        }
        layer_norm(&xs, &at.pp("layer_norm"))
    }

    /// What codebook `k` hears: the start token, its filling, then the codes, `[rows * columns]`.
    fn inputs(&self, batch: &Batch, k: usize) -> Vec<u32> {
        let (columns, begin) = (self.columns(batch.frames), self.pattern.delay(k) + 1);
        let mut ids = vec![self.pattern.pad(); batch.rows * columns];
        for (b, row) in ids.chunks_exact_mut(columns).enumerate() {
            for (id, code) in row[begin..].iter_mut().zip(batch.codes_of(b, k)) {
                *id = *code;
            }
        }
        ids
    }
}

fn linear(xs: &Tensor, weight: &Tensor) -> TensorResult<Tensor> {
    Matrix::from_tensor(weight.clone()).forward(xs)
}

fn lookup(table: &Tensor, ids: &Tensor) -> TensorResult<Tensor> {
    Matrix::from_tensor(table.clone()).lookup(ids)
}

fn attend(
    at: &At<'_>,
    queries: &Tensor,
    states: &Tensor,
    heads: usize,
    scale: f64,
    mask: Mask<'_>,
) -> TensorResult<Tensor> {
    let q = linear(queries, at.tensor("q_proj.weight")?)?;
    let (k, v) = (linear(states, at.tensor("k_proj.weight")?)?, linear(states, at.tensor("v_proj.weight")?)?);
    linear(&attention((&q, &k, &v), heads, scale, mask, None)?, at.tensor("out_proj.weight")?)
}

fn layer_norm(xs: &Tensor, at: &At<'_>) -> TensorResult<Tensor> {
    let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    rms(&centred, at.tensor("weight")?, EPSILON)?.broadcast_add(at.tensor("bias")?)
}

fn rms_norm(xs: &Tensor, at: &At<'_>, eps: f64) -> TensorResult<Tensor> {
    rms(xs, at.tensor("weight")?, eps)
}

fn rms(xs: &Tensor, weight: &Tensor, eps: f64) -> TensorResult<Tensor> {
    debug_assert_eq!(xs.dtype(), DType::F32);
    let mean_square = xs.sqr()?.mean_keepdim(D::Minus1)?;
    xs.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}
