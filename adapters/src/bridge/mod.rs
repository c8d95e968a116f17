//! Bridge: features of an encoder to one vector of the language model.
//!
//! Reference: `forward_audio` and its siblings of M2UGen (`llama/m2ugen.py`, commit 2c702a4); MU-LLaMA's is the same, four
//! times as wide inside.
//!
//! | stage | names (`mu_mert` music, `iu_vit` image, `iu_vivit` video) | shape |
//! |---|---|---|
//! | features | | `[batch, positions, input_dim]` |
//! | weighted sum over positions | `_agg.weight [1, positions, 1]`, `_agg.bias` | `[batch, input_dim]` |
//! | unit length, times `w / (sum of w + 1e-6)` | | `[batch, 1, input_dim]` |
//! | blend with near neighbours, where asked for ([`Neighbours`]) | | `[batch, 1, input_dim]` |
//! | projection | `_proj.{weight,bias}` | `[batch, 1, dim]` |
//! | `x + f2(silu(f1(norm(x))) * f3(norm(x)))`, three times | `_norm_{k}.weight`, `_f{1,2,3}_{k}.weight` | `[batch, 1, dim]` |
//!
//! Positions are layers for music (each the mean over time) and tokens for pictures, so their number is fixed.

mod neighbours;

use candle_core::{D, Result, Tensor};
use musaic_core::{
    Error,
    nn::{Linear, Matrix, RmsNorm, silu_gated},
    probe::Probe,
    role::{Adapter, AdapterSpec},
    weights::Weights,
};

pub use self::neighbours::{Blend, Found, Neighbours, Rows};
use crate::unquantised;

const EPSILON: f64 = 1e-6;
/// Smallest length a vector is divided by.
const SHORTEST: f64 = 1e-12;
/// Blocks a bridge may have.
const MOST_BLOCKS: usize = 64;

/// Which encoder a bridge begins at: the first part of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgeKind {
    /// MERT: hidden states of all layers.
    Music,
    /// ViT: tokens of a picture.
    Image,
    /// ViViT: tokens of a video.
    Video,
}

impl BridgeKind {
    /// All of them, in the order of their prefix layers.
    pub const ALL: [Self; 3] = [Self::Music, Self::Image, Self::Video];

    /// How its names begin.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Music => "mu_mert",
            Self::Image => "iu_vit",
            Self::Video => "iu_vivit",
        }
    }
}

/// Sizes of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Which one.
    pub kind: BridgeKind,
    /// Layers or tokens it takes.
    pub positions: usize,
    /// Width of the features.
    pub input_dim: usize,
    /// Width of the language model.
    pub dim: usize,
    /// Width inside the blocks.
    pub inner_dim: usize,
    /// Gated blocks.
    pub blocks: usize,
}

impl BridgeConfig {
    /// Reads the sizes from the shapes of a checkpoint; `None` where it has no such bridge.
    pub fn detect(kind: BridgeKind, weights: &Weights) -> Option<Self> {
        let shape = |name: &str| weights.shape_of(&format!("{}_{name}", kind.prefix()));
        let (agg, proj, first) = (shape("agg.weight")?, shape("proj.weight")?, shape("f1_1.weight")?);
        let blocks = (1..=MOST_BLOCKS).take_while(|k| shape(&format!("norm_{k}.weight")).is_some()).count();
        match (agg.as_slice(), proj.as_slice(), first.as_slice()) {
            (&[1, positions, 1], &[dim, input_dim], &[inner_dim, _]) => {
                Some(Self { kind, positions, input_dim, dim, inner_dim, blocks })
            }
            _ => None,
        }
    }

    /// What a bridge of this size is, before it is built.
    pub fn spec(&self) -> AdapterSpec {
        AdapterSpec { name: self.kind.prefix(), input_dim: self.input_dim, output_dim: self.dim }
    }
}

/// Features to one vector.
#[derive(Debug, Clone)]
pub struct Bridge {
    config: BridgeConfig,
    spec: AdapterSpec,
    /// `[1, positions]`
    agg: Tensor,
    agg_bias: Tensor,
    proj: Linear,
    blocks: Vec<Block>,
}

#[derive(Debug, Clone)]
struct Block {
    norm: RmsNorm,
    /// `f1` over `f3`.
    f13: Matrix,
    f2: Matrix,
}

impl Bridge {
    /// Loads the published names.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(config: &BridgeConfig, weights: &Weights) -> musaic_core::Result<Self> {
        let weights = unquantised(weights);
        let (dim, inner) = (config.dim, config.inner_dim);
        let at = |part: &str| weights.pp(format!("{}_{part}", config.kind.prefix()));
        let agg = at("agg");
        let blocks = (1..=config.blocks).map(|k| {
            let names = [1, 3].map(|i| format!("{}_f{i}_{k}.weight", config.kind.prefix()));
            Ok(Block {
                norm: RmsNorm::load(dim, EPSILON, &at(&format!("norm_{k}")))?,
                f13: weights.matrix_stacked(&[inner; 2], dim, &[&names[0], &names[1]])?,
                f2: at(&format!("f2_{k}")).matrix(dim, inner, "weight")?,
            })
        });
        Ok(Self {
            config: *config,
            spec: config.spec(),
            agg: agg.tensor((1, config.positions, 1), "weight")?.reshape((1, config.positions))?,
            agg_bias: agg.tensor(1, "bias")?,
            proj: Linear::load(config.input_dim, dim, true, &at("proj"))?,
            blocks: blocks.collect::<musaic_core::Result<_>>()?,
        })
    }

    /// Sizes.
    pub fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// Features `[batch, positions, input_dim]` of one or several inputs, each with its weight, to one direction
    /// `[batch, 1, input_dim]`. The probe sees `agg` of the last input.
    ///
    /// # Errors
    /// There are no inputs, or a shape differs.
    pub fn features(&self, inputs: &[(&Tensor, f64)], probe: &mut dyn Probe) -> musaic_core::Result<Tensor> {
        let total: f64 = inputs.iter().map(|(_, weight)| weight).sum();
        let mut sum: Option<Tensor> = None;
        for (features, weight) in inputs {
            self.check(features)?;
            let features = features.to_device(self.agg.device())?.to_dtype(self.agg.dtype())?;
            let agg = self.agg.broadcast_matmul(&features)?.squeeze(1)?.broadcast_add(&self.agg_bias)?;
            probe.see("agg", &agg)?;
            let part = (unit(&agg)?.unsqueeze(1)? * (weight / (total + 1e-6)))?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        sum.ok_or_else(|| Error::argument("features", "none", "at least one input"))
    }

    fn check(&self, features: &Tensor) -> musaic_core::Result<()> {
        let (positions, dim) = (self.config.positions, self.config.input_dim);
        if matches!(features.dims(), &[_, p, d] if p == positions && d == dim) {
            return Ok(());
        }
        let found = format!("{:?} for the bridge {}", features.dims(), self.spec.name);
        Err(Error::argument("features", found, format!("[batch, {positions}, {dim}]")))
    }

    /// A direction `[batch, 1, input_dim]` to a vector of the language model `[batch, 1, dim]`. The probe sees `feats`,
    /// `proj`, `norm_1` and the blocks but the last.
    ///
    /// # Errors
    /// A shape differs.
    pub fn project(&self, features: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        probe.see("feats", features)?;
        let mut xs = self.proj.forward(features)?;
        probe.see("proj", &xs)?;
        for (k, block) in (1..).zip(&self.blocks) {
            let normed = block.norm.forward(&xs)?;
            if k == 1 {
                probe.see("norm_1", &normed)?;
            }
            xs = (xs + block.f2.forward(&silu_gated(&block.f13.forward(&normed)?)?)?)?;
            if k < self.blocks.len() {
                probe.see(&format!("block_{k}"), &xs)?;
            }
        }
        Ok(xs)
    }

    /// [`Bridge::features`] of one input, then [`Bridge::project`].
    ///
    /// # Errors
    /// As theirs.
    pub fn forward(&self, features: &Tensor, probe: &mut dyn Probe) -> musaic_core::Result<Tensor> {
        let features = self.features(&[(features, 1.0)], probe)?;
        Ok(self.project(&features, probe)?)
    }
}

impl Adapter for Bridge {
    fn spec(&self) -> &AdapterSpec {
        &self.spec
    }

    fn adapt(&self, features: &Tensor) -> musaic_core::Result<Tensor> {
        self.forward(features, &mut ())
    }
}

/// Vectors of the last dimension, brought to length 1.
fn unit(xs: &Tensor) -> Result<Tensor> {
    let length = xs.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(SHORTEST)?;
    xs.broadcast_div(&length)
}
