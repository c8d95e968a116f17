//! The trainable half of a MusicGen folder as a flat table: text encoder, projection and language model by their published
//! names. The position table is computed and the codec is another training's.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    path::Path,
};

use candle_core::{DType, Device, Result as TensorResult, Tensor, Var, bail};
use musaic_core::{
    Error, Result, WeightFormat,
    files::{MAX_CONFIG, read_text},
    weights::{Checkpoint, Source, Weights},
};
use musaic_decoders::{musicgen::LmConfig, t5::T5Config};
use serde::Deserialize;

const SHARED: &str = "text_encoder.shared.weight";
/// The same table under the name that some files have instead.
const TIED: &str = "text_encoder.encoder.embed_tokens.weight";

/// What the trainer needs of a `config.json` of MusicGen; other parts of the file are not its business.
#[derive(Debug, Clone, Deserialize)]
pub struct ModelConfig {
    model_type: String,
    /// The language model.
    pub decoder: LmConfig,
    /// Text to states.
    pub text_encoder: T5Config,
}

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, or holds values that are out of range or not implemented.
    pub fn open(path: &Path) -> Result<Self> {
        let text = read_text(path, MAX_CONFIG)?;
        let config: Self = serde_json::from_str(&text).map_err(|e| Error::config(path, format!("MusicGen: {e}")))?;
        if config.model_type != "musicgen" {
            return Err(Error::config(path, format!("model_type `{}`, expected `musicgen`", config.model_type)));
        }
        config.decoder.validate(path)?;
        config.text_encoder.validate(path)?;
        Ok(config)
    }

    /// Whether the text states are projected to the width of the decoder.
    pub(super) fn has_projection(&self) -> bool {
        self.text_encoder.d_model != self.decoder.hidden_size
    }

    /// Name and shape of every trainable tensor.
    ///
    /// # Errors
    /// The feed-forward layer of the text encoder is of an unknown kind.
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let mut shapes = BTreeMap::new();
        self.text_shapes(&mut |name, shape| drop(shapes.insert(format!("text_encoder.{name}"), shape.to_vec())))?;
        if self.has_projection() {
            let width = self.decoder.hidden_size;
            shapes.insert("enc_to_dec_proj.weight".into(), vec![width, self.text_encoder.d_model]);
            shapes.insert("enc_to_dec_proj.bias".into(), vec![width]);
        }
        self.decoder_shapes(&mut |name, shape| drop(shapes.insert(format!("decoder.{name}"), shape.to_vec())));
        Ok(shapes)
    }

    fn text_shapes(&self, add: &mut dyn FnMut(String, &[usize])) -> Result<()> {
        let text = &self.text_encoder;
        let (width, inner, ffn) = (text.d_model, text.inner_dim(), text.d_ff);
        add("shared.weight".into(), &[text.vocab_size, width]);
        add("encoder.final_layer_norm.weight".into(), &[width]);
        let table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        add(table.into(), &[text.relative_attention_num_buckets, text.num_heads]);
        let inputs: &[_] = if text.feed_forward(Path::new("config.json"))?.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        for i in 0..text.num_layers {
            for part in ["q", "k", "v"] {
                add(format!("encoder.block.{i}.layer.0.SelfAttention.{part}.weight"), &[inner, width]);
            }
            add(format!("encoder.block.{i}.layer.0.SelfAttention.o.weight"), &[width, inner]);
            for input in inputs {
                add(format!("encoder.block.{i}.layer.1.DenseReluDense.{input}.weight"), &[ffn, width]);
            }
            add(format!("encoder.block.{i}.layer.1.DenseReluDense.wo.weight"), &[width, ffn]);
            for part in 0..2 {
                add(format!("encoder.block.{i}.layer.{part}.layer_norm.weight"), &[width]);
            }
        }
        Ok(())
    }

    fn decoder_shapes(&self, add: &mut dyn FnMut(String, &[usize])) {
        let lm = &self.decoder;
        let (width, ffn) = (lm.hidden_size, lm.ffn_dim);
        for k in 0..lm.num_codebooks {
            add(format!("model.decoder.embed_tokens.{k}.weight"), &[lm.vocab_size + 1, width]);
            add(format!("lm_heads.{k}.weight"), &[lm.vocab_size, width]);
        }
        let mut norm = |name: String| {
            add(format!("{name}.weight"), &[width]);
            add(format!("{name}.bias"), &[width]);
        };
        norm("model.decoder.layer_norm".into());
        for i in 0..lm.num_hidden_layers {
            for part in ["self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"] {
                norm(format!("model.decoder.layers.{i}.{part}"));
            }
        }
        for i in 0..lm.num_hidden_layers {
            let layer = format!("model.decoder.layers.{i}");
            for attention in ["self_attn", "encoder_attn"] {
                for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                    add(format!("{layer}.{attention}.{part}.weight"), &[width, width]);
                }
            }
            add(format!("{layer}.fc1.weight"), &[ffn, width]);
            add(format!("{layer}.fc2.weight"), &[width, ffn]);
        }
    }
}

/// All tensors by name; those that learn are variables.
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
    trained: BTreeMap<String, Var>,
}

impl Parameters {
    /// Reads f32 values from a published checkpoint; `trains` says which of them learn.
    ///
    /// # Errors
    /// A tensor is missing, misshaped or left over (the error lists all of them), or the file cannot be read.
    pub fn load(
        config: &ModelConfig,
        checkpoint: Checkpoint,
        device: &Device,
        trains: &dyn Fn(&str) -> bool,
    ) -> Result<Self> {
        let tied = checkpoint.has(TIED) && !checkpoint.has(SHARED);
        let weights = Weights::new(checkpoint, device, WeightFormat::F32);
        weights.ignore_under("audio_encoder", "the codec is trained apart");
        weights.ignore("decoder.model.decoder.embed_positions.weights", "computed: the sinusoidal table");
        if !tied {
            weights.ignore(TIED, "tied to shared.weight");
        }
        let mut loaded = BTreeMap::new();
        for (name, shape) in config.shapes()? {
            let stored = if tied && name == SHARED { TIED } else { &name };
            let tensor = weights.tensor_as(shape, stored, DType::F32)?;
            loaded.insert(name, tensor);
        }
        weights.finish()?;
        Ok(Self::new(loaded, trains)?)
    }

    fn new(loaded: BTreeMap<String, Tensor>, trains: &dyn Fn(&str) -> bool) -> TensorResult<Self> {
        let (mut tensors, mut trained) = (BTreeMap::new(), BTreeMap::new());
        for (name, tensor) in loaded {
            if trains(&name) {
                let var = Var::from_tensor(&tensor)?;
                tensors.insert(name.clone(), var.as_tensor().clone());
                trained.insert(name, var);
            } else {
                tensors.insert(name, tensor);
            }
        }
        Ok(Self { tensors, trained })
    }

    /// The tensor of this full name.
    ///
    /// # Errors
    /// There is none.
    pub fn tensor(&self, name: &str) -> TensorResult<&Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("there is no tensor `{name}`"),
        }
    }

    /// A position among the names.
    pub fn at(&self, prefix: impl Display) -> At<'_> {
        At { parameters: self, prefix: prefix.to_string() }
    }

    /// What learns, in order of the names.
    pub fn trained(&self) -> &BTreeMap<String, Var> {
        &self.trained
    }

    /// Numbers that learn.
    pub fn trained_count(&self) -> usize {
        self.trained.values().map(|var| var.elem_count()).sum()
    }

    /// The values as they are now, without gradients.
    pub fn values(&self) -> HashMap<String, Tensor> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect()
    }
}

/// A table and a prefix of names.
#[derive(Clone)]
pub struct At<'a> {
    parameters: &'a Parameters,
    prefix: String,
}

impl<'a> At<'a> {
    /// One level down.
    pub fn pp(&self, name: impl Display) -> Self {
        Self { parameters: self.parameters, prefix: format!("{}.{name}", self.prefix) }
    }

    /// The tensor of this name here.
    ///
    /// # Errors
    /// There is none.
    pub fn tensor(&self, name: &str) -> TensorResult<&'a Tensor> {
        self.parameters.tensor(&format!("{}.{name}", self.prefix))
    }
}
