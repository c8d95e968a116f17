//! What ViT and ViViT share: the processor in front, patches as tokens, and the pre-norm transformer.
//!
//! Names below a model's prefix: `embeddings.{cls_token, position_embeddings, patch_embeddings.projection}`,
//! `encoder.layer.N.*`, `layernorm`.

mod config;
mod layer;
mod processor;

use candle_core::Tensor;
use musaic_core::{
    Result,
    nn::{LayerNorm, Linear, Matrix},
    probe::Probe,
    weights::Weights,
};

use self::layer::Layer;
pub use self::{config::VisionConfig, processor::ImageProcessor};

/// Patches to tokens: a linear layer, the class token in front, a learned position each.
#[derive(Debug, Clone)]
pub(crate) struct Embeddings {
    projection: Linear,
    /// `[1, 1, width]`.
    cls_token: Tensor,
    /// `[1, 1 + patches, width]`.
    positions: Tensor,
}

impl Embeddings {
    /// `patch` is the shape of one patch as the convolution's kernel has it: channels first.
    pub(crate) fn load(width: usize, patch: &[usize], patches: usize, weights: &Weights) -> Result<Self> {
        let projection = weights.pp("patch_embeddings.projection");
        let shape = [&[width], patch].concat();
        // A convolution whose windows do not overlap is a product with its kernel as a matrix.
        let kernel = projection.tensor(shape, "weight")?.reshape((width, patch.iter().product::<usize>()))?;
        Ok(Self {
            projection: Linear::new(Matrix::from_tensor(kernel), Some(projection.tensor(width, "bias")?)),
            cls_token: weights.tensor((1, 1, width), "cls_token")?,
            positions: weights.tensor((1, 1 + patches, width), "position_embeddings")?,
        })
    }

    /// Patches `[batch, patches, values of one]` to tokens `[batch, 1 + patches, width]`.
    pub(crate) fn forward(&self, patches: &Tensor) -> candle_core::Result<Tensor> {
        let patches = patches.to_dtype(self.cls_token.dtype())?.to_device(self.cls_token.device())?;
        let tokens = self.projection.forward(&patches)?;
        let (batch, _, width) = tokens.dims3()?;
        let first = self.cls_token.expand((batch, 1, width))?;
        Tensor::cat(&[&first, &tokens], 1)?.broadcast_add(&self.positions)
    }
}

/// The layers and the norm behind them.
#[derive(Debug, Clone)]
pub(crate) struct Stack {
    layers: Vec<Layer>,
    layernorm: LayerNorm,
}

impl Stack {
    /// `eps` is added to the variance in the norms.
    pub(crate) fn load(config: &VisionConfig, eps: f64, weights: &Weights) -> Result<Self> {
        let layers =
            (0..config.num_hidden_layers).map(|i| Layer::load(config, eps, &weights.pp("encoder.layer").pp(i)));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            layernorm: LayerNorm::load(config.hidden_size, eps, &weights.pp("layernorm"))?,
        })
    }

    /// Tokens `[batch, tokens, width]` to the last hidden state. The probe sees `layer_i`; as in the reference's list of hidden
    /// states, the last one is what the final norm makes of it.
    pub(crate) fn forward(&self, tokens: Tensor, probe: &mut dyn Probe) -> candle_core::Result<Tensor> {
        let mut xs = tokens;
        for (i, layer) in self.layers.iter().enumerate() {
            xs = layer.forward(&xs)?;
            if i + 1 == self.layers.len() {
                xs = self.layernorm.forward(&xs)?;
            }
            probe.see(&format!("layer_{i}"), &xs)?;
        }
        Ok(xs)
    }
}
