//! Output projector: hidden states of the eight music tokens to the conditioning of a decoder.
//!
//! Reference: `llama/projector.py` of M2UGen, commit 2c702a4. A transformer of the first kind: post-norm, ReLU, no positions,
//! no masks; a learned query for every token of the conditioning looks at the encoded states.
//!
//! | stage | names | shape |
//! |---|---|---|
//! | hidden states + embeddings of the tokens | | `[batch, 8, dim]` |
//! | `fc` | `fc.{weight,bias}` | `[batch, 8, hidden]` |
//! | encoder | `tfm.encoder.layers.{i}.*`, `tfm.encoder.norm` | `[batch, 8, hidden]` |
//! | decoder | `query_embs`, `tfm.decoder.layers.{i}.*`, `tfm.decoder.norm` | `[batch, tokens, hidden]` |
//! | `model` | `model.{weight,bias}` | `[batch, tokens, width]` |
//!
//! It was trained on ten times the decoder's text states, see [`Scaling`].

use candle_core::{D, Result, Tensor};
use musaic_core::{
    Error,
    nn::{LayerNorm, Linear, Mask, attention, relu},
    probe::Probe,
    weights::Weights,
};

use crate::unquantised;

const EPSILON: f64 = 1e-5;
/// Heads; no shape tells.
const HEADS: usize = 4;
/// Layers a stack may have.
const MOST_LAYERS: usize = 256;
/// The target of training is this many times the decoder's states.
const TRAINED_ON: f64 = 10.0;

/// How the projector's output becomes text states of MusicGen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scaling {
    /// Divided by ten: undoes the factor of the training target.
    #[default]
    Trained,
    /// Divided by a hundred, as the reference computes (and does not use).
    Reference,
}

/// Sizes of a projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// Width of the language model.
    pub dim: usize,
    /// Width of the transformer.
    pub hidden: usize,
    /// Width inside its feed-forward layers.
    pub ffn_dim: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Tokens of conditioning.
    pub tokens: usize,
    /// Width of a token of conditioning.
    pub width: usize,
}

impl ProjectorConfig {
    /// Reads the sizes from the shapes of a checkpoint (`weights` is at `output_projector`); `None` where there is none.
    pub fn detect(weights: &Weights) -> Option<Self> {
        let shape = |name: &str| weights.shape_of(name);
        let count = |stack: &str| {
            let is_there = |i: &usize| weights.has(&format!("tfm.{stack}.layers.{i}.linear1.weight"));
            (0..MOST_LAYERS).take_while(is_there).count()
        };
        let (fc, queries, model) = (shape("fc.weight")?, shape("query_embs")?, shape("model.weight")?);
        let ffn = shape("tfm.encoder.layers.0.linear1.weight")?;
        match (fc.as_slice(), queries.as_slice(), model.as_slice(), ffn.as_slice()) {
            (&[hidden, dim], &[1, tokens, _], &[width, _], &[ffn_dim, _]) if hidden % HEADS == 0 && hidden > 0 => {
                let (encoder_layers, decoder_layers) = (count("encoder"), count("decoder"));
                Some(Self { dim, hidden, ffn_dim, encoder_layers, decoder_layers, tokens, width })
            }
            _ => None,
        }
    }
}

/// Hidden states to conditioning.
#[derive(Debug, Clone)]
pub struct OutputProjector {
    config: ProjectorConfig,
    fc: Linear,
    encoder: Vec<Layer>,
    encoder_norm: LayerNorm,
    /// `[1, tokens, hidden]`
    query_embs: Tensor,
    decoder: Vec<Layer>,
    decoder_norm: LayerNorm,
    model: Linear,
}

/// A layer of either stack.
#[derive(Debug, Clone)]
struct Layer {
    self_attn: Attention,
    norm1: LayerNorm,
    /// Layers of the decoder: attention to the encoder's output.
    cross: Option<(Attention, LayerNorm)>,
    linear1: Linear,
    linear2: Linear,
    last_norm: LayerNorm,
}

#[derive(Debug, Clone)]
struct Attention {
    /// Queries, keys and values on top of each other.
    in_proj: Linear,
    out_proj: Linear,
    hidden: usize,
}

impl OutputProjector {
    /// Loads the names below `output_projector`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(config: &ProjectorConfig, weights: &Weights) -> musaic_core::Result<Self> {
        let weights = &unquantised(weights);
        let stack = |name: &str, count: usize, cross: bool| {
            let layers = weights.pp("tfm").pp(name).pp("layers");
            (0..count).map(|i| Layer::load(config, cross, &layers.pp(i))).collect::<musaic_core::Result<Vec<_>>>()
        };
        let norm = |name: &str| LayerNorm::load(config.hidden, EPSILON, &weights.pp("tfm").pp(name).pp("norm"));
        Ok(Self {
            config: *config,
            fc: Linear::load(config.dim, config.hidden, true, &weights.pp("fc"))?,
            encoder: stack("encoder", config.encoder_layers, false)?,
            encoder_norm: norm("encoder")?,
            query_embs: weights.tensor((1, config.tokens, config.hidden), "query_embs")?,
            decoder: stack("decoder", config.decoder_layers, true)?,
            decoder_norm: norm("decoder")?,
            model: Linear::load(config.hidden, config.width, true, &weights.pp("model"))?,
        })
    }

    /// Sizes.
    pub fn config(&self) -> &ProjectorConfig {
        &self.config
    }

    /// `hidden_states [batch, count, dim]` at the music tokens and the tokens' `embeddings [count, dim]` to conditioning
    /// `[batch, tokens, width]`, not scaled yet. The probe sees `fc` and the layers.
    ///
    /// # Errors
    /// A shape differs.
    pub fn forward(
        &self,
        hidden_states: &Tensor,
        embeddings: &Tensor,
        probe: &mut dyn Probe,
    ) -> musaic_core::Result<Tensor> {
        let dim = self.config.dim;
        if hidden_states.rank() != 3
            || hidden_states.dim(D::Minus1)? != dim
            || embeddings.dims() != &hidden_states.dims()[1..]
        {
            let found = format!("{:?} with {:?}", hidden_states.dims(), embeddings.dims());
            let expected = format!("[batch, count, {dim}] with [count, {dim}]");
            return Err(Error::argument("states of music tokens", found, expected));
        }
        let batch = hidden_states.dim(0)?;
        let mut xs = self.fc.forward(&hidden_states.broadcast_add(embeddings)?)?;
        probe.see("fc", &xs)?;
        for (i, layer) in self.encoder.iter().enumerate() {
            xs = layer.forward(&xs, None)?;
            probe.see(&format!("encoder_layer_{i}"), &xs)?;
        }
        let memory = self.encoder_norm.forward(&xs)?;
        probe.see("encoder_out", &memory)?;
        let mut xs = self.query_embs.repeat((batch, 1, 1))?;
        for (i, layer) in self.decoder.iter().enumerate() {
            xs = layer.forward(&xs, Some(&memory))?;
            probe.see(&format!("decoder_layer_{i}"), &xs)?;
        }
        let xs = self.decoder_norm.forward(&xs)?;
        probe.see("decoder_out", &xs)?;
        Ok(self.model.forward(&xs)?)
    }
}

impl Layer {
    fn load(config: &ProjectorConfig, cross: bool, weights: &Weights) -> musaic_core::Result<Self> {
        let norm = |name: &str| LayerNorm::load(config.hidden, EPSILON, &weights.pp(name));
        let attention = |name: &str| Attention::load(config.hidden, &weights.pp(name));
        Ok(Self {
            self_attn: attention("self_attn")?,
            norm1: norm("norm1")?,
            cross: if cross { Some((attention("multihead_attn")?, norm("norm2")?)) } else { None },
            linear1: Linear::load(config.hidden, config.ffn_dim, true, &weights.pp("linear1"))?,
            linear2: Linear::load(config.ffn_dim, config.hidden, true, &weights.pp("linear2"))?,
            last_norm: norm(if cross { "norm3" } else { "norm2" })?,
        })
    }

    fn forward(&self, xs: &Tensor, memory: Option<&Tensor>) -> Result<Tensor> {
        let mut xs = self.norm1.forward(&(xs + self.self_attn.forward(xs, xs)?)?)?;
        if let (Some((attention, norm)), Some(memory)) = (&self.cross, memory) {
            xs = norm.forward(&(&xs + attention.forward(&xs, memory)?)?)?;
        }
        let hidden = relu(&self.linear1.forward(&xs)?)?;
        self.last_norm.forward(&(xs + self.linear2.forward(&hidden)?)?)
    }
}

impl Attention {
    fn load(hidden: usize, weights: &Weights) -> musaic_core::Result<Self> {
        let in_proj = weights.matrix(3 * hidden, hidden, "in_proj_weight")?;
        Ok(Self {
            in_proj: Linear::new(in_proj, Some(weights.tensor(3 * hidden, "in_proj_bias")?)),
            out_proj: Linear::load(hidden, hidden, true, &weights.pp("out_proj"))?,
            hidden,
        })
    }

    /// All three projections of both inputs are computed; the ones not used are a fraction of a millisecond.
    fn forward(&self, xs: &Tensor, memory: &Tensor) -> Result<Tensor> {
        let (queries, memory) = (self.in_proj.forward(xs)?, self.in_proj.forward(memory)?);
        let part = |xs: &Tensor, i: usize| xs.narrow(D::Minus1, i * self.hidden, self.hidden)?.contiguous();
        let (q, k, v) = (part(&queries, 0)?, part(&memory, 1)?, part(&memory, 2)?);
        let scale = ((self.hidden / HEADS) as f64).powf(-0.5);
        self.out_proj.forward(&attention((&q, &k, &v), HEADS, scale, Mask::None, None)?)
    }
}

/// Conditioning of MusicGen: text states `[batch, tokens, width]`.
///
/// # Errors
/// The device failed.
pub fn musicgen_states(projected: &Tensor, scaling: Scaling) -> Result<Tensor> {
    match scaling {
        Scaling::Trained => projected / TRAINED_ON,
        Scaling::Reference => (projected * 0.1)? / TRAINED_ON,
    }
}

/// Conditioning of AudioLDM 2 from `projected [batch, 1, prompt + generated]`: prompt states `[batch, prompt.0, prompt.1]`
/// (T5), then generated states `[batch, generated.0, generated.1]` (GPT-2), both row by row.
///
/// # Errors
/// The sizes do not add up.
pub fn audioldm2_states(
    projected: &Tensor,
    prompt: (usize, usize),
    generated: (usize, usize),
) -> Result<(Tensor, Tensor)> {
    let (batch, flat) = (projected.dim(0)?, projected.flatten_from(1)?);
    let (first, second) = (prompt.0 * prompt.1, generated.0 * generated.1);
    if flat.dim(1)? != first + second {
        candle_core::bail!("{} numbers for prompts {prompt:?} and generated states {generated:?}", flat.dim(1)?);
    }
    let flat = (flat / TRAINED_ON)?;
    Ok((
        flat.narrow(1, 0, first)?.reshape((batch, prompt.0, prompt.1))?,
        flat.narrow(1, first, second)?.reshape((batch, generated.0, generated.1))?,
    ))
}

/// What is trained: the mean square between `projected` and ten times the decoder's states, these flattened row by row, one
/// behind the other.
///
/// # Errors
/// The sizes do not add up.
pub fn training_loss(projected: &Tensor, targets: &[&Tensor]) -> Result<Tensor> {
    let flat = targets.iter().map(|target| target.flatten_from(1)).collect::<Result<Vec<_>>>()?;
    let target = (Tensor::cat(&flat, 1)? * TRAINED_ON)?;
    (projected.flatten_from(1)? - target)?.sqr()?.mean_all()
}
