//! M2UGen's language core ([paper](https://arxiv.org/abs/2311.11255)): LLaMA 2 that hears and sees through prefixes, and
//! whose hidden states at eight music tokens become the conditioning of a decoder.
//!
//! Checkpoints: `checkpoint.pth` as published or self-trained (`{model: ..}`, names with or without `module.`), over LLaMA's
//! own files. Reference: `llama/m2ugen.py`, commit 2c702a4.
//!
//! | stage | names | shape |
//! |---|---|---|
//! | features of encoders to vectors ([`M2ugen::vectors`]) | `mu_mert_*`, `iu_vit_*`, `iu_vivit_*` | `[1, 1, dim]` each |
//! | prefixes of the upper layers ([`M2ugen::prefixes`]) | `prefix_query.weight [layers, dim]` | one a layer |
//! | LLaMA with biases, LoRA and gates | `llama.*` | `[1, time, dim]` |
//! | states of the music tokens ([`MusicTokens`]) | | `[1, 8, dim]` |
//! | conditioning ([`M2ugen::project`]) | `output_projector.*` | `[1, tokens, width]` |
//!
//! The last layers have prefixes: as many as `prefix_query` has rows, in three equal groups for music, image and video, from
//! below. A layer whose medium is absent still has its query.

mod answer;
mod collector;
mod source;

use std::{path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use musaic_adapters::{
    bridge::{Blend, Bridge, BridgeConfig, BridgeKind, Neighbours},
    prefix::Prefix,
    projector::{OutputProjector, ProjectorConfig},
};
use musaic_core::{Error, Result, WeightFormat, probe::Probe, weights::Weights};

pub use self::{
    answer::{Answer, AnswerOptions, Answering, Stopped},
    collector::{Collecting, MusicTokens},
    source::{Belongs, HAS_MUSIC_TOKENS, Opened, belongs, named, open},
};
use super::{
    config::{Hooks, LlamaConfig, MetaParams},
    model::Llama,
    session::Session,
};

/// Tokens that stand for music, added behind LLaMA's vocabulary.
pub const MUSIC_TOKENS: [&str; 8] = ["[AUD0]", "[AUD1]", "[AUD2]", "[AUD3]", "[AUD4]", "[AUD5]", "[AUD6]", "[AUD7]"];
/// Positions the reference makes room for.
pub const MAX_POSITIONS: usize = 1024;
/// Layers a checkpoint may have.
const MOST_LAYERS: usize = 512;
/// Other parts of the system that a checkpoint may hold.
const OTHER_PARTS: [(&str, &str); 4] = [
    ("mert_model", "the music encoder's"),
    ("vit_model", "the image encoder's"),
    ("vivit_model", "the video encoder's"),
    ("generation_model", "the music decoder's"),
];

/// The prompt of one instruction, as in training.
pub fn prompt(instruction: &str) -> String {
    format!(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
         ### Instruction:\n{instruction}\n\n### Response:"
    )
}

/// What the model hears and sees: a vector `[1, 1, dim]` for each medium there is.
#[derive(Debug, Clone, Default)]
pub struct Vectors {
    /// Music.
    pub music: Option<Tensor>,
    /// A picture.
    pub image: Option<Tensor>,
    /// A video.
    pub video: Option<Tensor>,
}

impl Vectors {
    /// The vector of one kind.
    pub fn of(&self, kind: BridgeKind) -> Option<&Tensor> {
        match kind {
            BridgeKind::Music => self.music.as_ref(),
            BridgeKind::Image => self.image.as_ref(),
            BridgeKind::Video => self.video.as_ref(),
        }
    }

    /// Puts a vector in its place.
    pub fn set(&mut self, kind: BridgeKind, vector: Tensor) {
        let place = match kind {
            BridgeKind::Music => &mut self.music,
            BridgeKind::Image => &mut self.image,
            BridgeKind::Video => &mut self.video,
        };
        *place = Some(vector);
    }
}

/// LLaMA, bridges and projector.
pub struct M2ugen {
    llama: Arc<Llama>,
    bridges: Vec<Bridge>,
    /// `[layers, dim]`
    prefix_query: Option<Tensor>,
    projector: Option<OutputProjector>,
}

impl M2ugen {
    /// Opens files as [`open`] does and loads them.
    ///
    /// # Errors
    /// A file is missing or damaged, or weights are missing, misshaped or left over.
    pub fn load(
        checkpoint: Option<&Path>,
        llama: Option<&Path>,
        device: &Device,
        format: WeightFormat,
    ) -> Result<Self> {
        let Opened { source, params } = open(checkpoint, llama)?;
        let weights = Weights::new(source, device, format);
        let model = Self::from_weights(params.as_ref(), &weights)?;
        for (prefix, whose) in OTHER_PARTS {
            weights.ignore_under(prefix, &format!("{whose}, loaded by itself"));
        }
        weights.finish()?;
        Ok(model)
    }

    /// Builds the model; does not close the account, since a checkpoint holds other parts too. Without `params` the number of
    /// heads is that of the gates and the norms have LLaMA 2's epsilon.
    ///
    /// # Errors
    /// The file cannot be read, is no M2UGen checkpoint, or belongs to another LLaMA than `params`.
    pub fn from_weights(params: Option<&MetaParams>, weights: &Weights) -> Result<Self> {
        let config = detect(params, weights)?;
        let rows = weights.shape_of("prefix_query.weight").and_then(|shape| shape.first().copied());
        let prefix_query = match rows {
            Some(rows) if rows > 0 && rows <= config.num_hidden_layers && rows % BridgeKind::ALL.len() == 0 => {
                Some(weights.tensor((rows, config.hidden_size), "prefix_query.weight")?)
            }
            Some(rows) => {
                let found = format!("{rows} rows for {} layers", config.num_hidden_layers);
                let expected = "three groups of layers, at most all (another number belongs to another system)";
                return Err(Error::argument("prefix_query.weight", found, expected));
            }
            None => None,
        };
        let bridges = BridgeKind::ALL.into_iter().filter_map(|kind| BridgeConfig::detect(kind, weights));
        let projector = weights.pp("output_projector");
        Ok(Self {
            llama: Arc::new(Llama::load(&config, &weights.pp("llama"))?),
            bridges: bridges.map(|config| Bridge::load(&config, weights)).collect::<Result<_>>()?,
            prefix_query,
            projector: ProjectorConfig::detect(&projector)
                .map(|config| OutputProjector::load(&config, &projector))
                .transpose()?,
        })
    }

    /// The language model.
    pub fn llama(&self) -> &Arc<Llama> {
        &self.llama
    }

    /// The bridge of a medium, where the checkpoint has it.
    pub fn bridge(&self, kind: BridgeKind) -> Option<&Bridge> {
        self.bridges.iter().find(|bridge| bridge.config().kind == kind)
    }

    /// The projector, where the checkpoint has it.
    pub fn projector(&self) -> Option<&OutputProjector> {
        self.projector.as_ref()
    }

    /// Id of the first music token; the others follow.
    pub fn first_music_id(&self) -> u32 {
        (self.llama.config().vocab_size.saturating_sub(MUSIC_TOKENS.len())) as u32
    }

    /// First layer with a prefix, and how many there are.
    pub fn prefix_layers(&self) -> (usize, usize) {
        let count = self.prefix_query.as_ref().map_or(0, |query| query.dims()[0]);
        (self.llama.config().num_hidden_layers - count, count)
    }

    /// Whether a medium can have any effect: some head of its layers has a gate that is not closed.
    pub fn can_notice(&self, kind: BridgeKind) -> bool {
        let (first, count) = self.prefix_layers();
        let group = count / BridgeKind::ALL.len();
        let place = BridgeKind::ALL.iter().position(|other| *other == kind).unwrap_or(0);
        let layers = first + place * group..first + (place + 1) * group;
        layers.into_iter().any(|layer| self.llama.gate(layer).is_some_and(|gate| !gate.is_closed()))
    }

    /// Features of encoders `[1, positions, input_dim]` to vectors.
    ///
    /// # Errors
    /// The checkpoint has no bridge for a medium, or a shape differs.
    pub fn vectors(&self, features: &[(BridgeKind, &Tensor)], probe: &mut dyn Probe) -> Result<Vectors> {
        let mut vectors = Vectors::default();
        for &(kind, features) in features {
            let bridge = self.bridge(kind).ok_or_else(|| {
                Error::argument("features", format!("{kind:?}"), "a medium that this checkpoint has a bridge for")
            })?;
            vectors.set(kind, bridge.forward(features, probe)?);
        }
        Ok(vectors)
    }

    /// As [`M2ugen::vectors`], with what is known of similar music blended into the music's features.
    ///
    /// # Errors
    /// As [`M2ugen::vectors`], or the cache is of another width or cannot be searched.
    pub fn vectors_blended(
        &self,
        features: &[(BridgeKind, &Tensor)],
        blend: &Blend,
        cache: &mut dyn Neighbours,
    ) -> Result<Vectors> {
        let mut vectors = Vectors::default();
        for &(kind, features) in features {
            match (kind, self.bridge(kind)) {
                (BridgeKind::Music, Some(bridge)) => {
                    let direction = bridge.features(&[(features, 1.0)], &mut ())?;
                    let (blended, _) = blend.apply(&direction, cache)?;
                    vectors.set(kind, bridge.project(&blended, &mut ())?);
                }
                _ => {
                    let Vectors { music, image, video } = self.vectors(&[(kind, features)], &mut ())?;
                    [music, image, video].into_iter().flatten().for_each(|vector| vectors.set(kind, vector));
                }
            }
        }
        Ok(vectors)
    }

    /// What each layer looks at besides the tokens.
    ///
    /// # Errors
    /// A shape differs.
    pub fn prefixes(&self, vectors: &Vectors) -> Result<Vec<Option<Prefix>>> {
        let mut prefixes = vec![None; self.llama.config().num_hidden_layers];
        let Some(query) = &self.prefix_query else { return Ok(prefixes) };
        let (first, count) = self.prefix_layers();
        let group = count / BridgeKind::ALL.len();
        for row in 0..count {
            let mut adapter = query.narrow(0, row, 1)?.unsqueeze(0)?;
            if let Some(vector) = vectors.of(BridgeKind::ALL[row / group]) {
                adapter = adapter.broadcast_add(&vector.to_device(adapter.device())?.to_dtype(adapter.dtype())?)?;
            }
            prefixes[first + row] = self.llama.prefix(first + row, &adapter)?;
        }
        Ok(prefixes)
    }

    /// A session that hears and sees `vectors`.
    ///
    /// # Errors
    /// A shape differs.
    pub fn session(&self, vectors: &Vectors) -> Result<Session> {
        Ok(Session::new(self.llama.clone()).with_prefixes(self.prefixes(vectors)?))
    }

    /// Embeddings of the music tokens, `[8, dim]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn music_embeddings(&self) -> Result<Tensor> {
        let first = self.first_music_id();
        let ids = Tensor::arange(first, first + MUSIC_TOKENS.len() as u32, self.llama.device())?;
        Ok(self.llama.embed(&ids.unsqueeze(0)?)?.squeeze(0)?)
    }

    /// States of the music tokens `[batch, 8, dim]` to conditioning `[batch, tokens, width]`, not scaled yet.
    ///
    /// # Errors
    /// The checkpoint has no projector, or a shape differs.
    pub fn project(&self, states: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let projector = self.projector.as_ref().ok_or_else(|| {
            Error::argument("conditioning", "a checkpoint without an output projector", "one that makes music")
        })?;
        projector.forward(states, &self.music_embeddings()?, probe)
    }
}

/// Sizes by the shapes of the checkpoint, checked against `params.json`.
///
/// # Errors
/// It is no M2UGen checkpoint, or belongs to another LLaMA than `params`.
pub fn detect(params: Option<&MetaParams>, weights: &Weights) -> Result<LlamaConfig> {
    let llama = weights.pp("llama");
    let shape = |name: &str| llama.shape_of(name);
    let first = "layers.0.attention.";
    let layers = (0..MOST_LAYERS).take_while(|i| llama.has(&format!("layers.{i}.attention.wq.weight"))).count();
    let gate = shape(&format!("{first}gate"));
    let (Some(&[vocab, dim]), Some(&[inner, _]), true) =
        (shape("tok_embeddings.weight").as_deref(), shape("layers.0.feed_forward.w1.weight").as_deref(), layers > 0)
    else {
        let label = weights.report().label;
        return Err(Error::format(label, "the weights of M2UGen (`llama.tok_embeddings.weight` and so on)", "none"));
    };
    let heads = params.map(|p| p.n_heads).or(gate.as_ref().and_then(|shape| shape.get(1).copied()));
    let heads = heads.ok_or_else(|| {
        let expected = "params.json of the LLaMA folder, or gates in the checkpoint";
        Error::argument("number of heads", "unknown", expected)
    })?;
    if let Some(params) = params
        && (params.dim, params.n_layers) != (dim, layers)
    {
        let found = format!("{} layers of width {}", params.n_layers, params.dim);
        let expected = format!("{layers} layers of width {dim} as in the checkpoint (M2UGen takes LLaMA-2 7B)");
        return Err(Error::argument("params.json", found, expected));
    }
    let hooks = Hooks {
        biases: llama.has(&format!("{first}wq.bias")),
        lora_rank: shape(&format!("{first}lora_wq_l1.weight")).and_then(|shape| shape.first().copied()),
        gates: gate.is_some(),
    };
    let path = Path::new("params.json");
    let known = MetaParams {
        dim,
        n_layers: layers,
        n_heads: heads.max(1),
        multiple_of: 1,
        ffn_dim_multiplier: None,
        norm_eps: params.map_or(1e-5, |p| p.norm_eps),
    };
    let config = LlamaConfig { intermediate_size: inner, ..known.config(path, vocab, hooks, MAX_POSITIONS)? };
    config.validate(path)?;
    Ok(config)
}
