//! The table of parts: every encoder, adapter, language model and decoder by name.
//!
//! From one row come `musaic models`, the documentation table, and the test that every row has a preset, a parity case and
//! a line of documentation.

use std::path::Path;

use candle_core::Device;
use musaic_core::{
    Error, Result, WeightFormat,
    role::{Encoder, Modality},
    weights::Weights,
};
use musaic_encoders::{mert::Mert, model_type, vit::Vit, vivit::Vivit};

use crate::failure::BadInput;

/// What a part does in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Media to features.
    Encoder(Modality),
    /// Features to another width.
    Adapter,
    /// Tokens to tokens.
    LanguageModel,
    /// Conditioning to audio.
    Decoder,
}

/// Builds an encoder as its published folder says, from weights that may lie elsewhere.
pub type OpenEncoder = fn(&Path, &Weights) -> Result<Box<dyn Encoder>>;

/// One part.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Name in configuration files.
    pub name: &'static str,
    /// What it does.
    pub role: Role,
    /// One line for `musaic models` and the documents.
    pub about: &'static str,
    /// Cargo feature it needs, if any.
    pub feature: Option<&'static str>,
    /// Parity case that proves it, under the folder of cases.
    pub golden: &'static str,
    /// Presets that use it.
    pub presets: &'static [Preset],
    /// Values of `model_type` in the published `config.json`; of an adapter, what its names or files begin with.
    pub model_types: &'static [&'static str],
    /// How an encoder is loaded; nothing for other roles.
    pub open: Option<OpenEncoder>,
}

/// A built-in configuration.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name, also the file's in `configs/`.
    pub name: &'static str,
    /// TOML text.
    pub text: &'static str,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(Preset { name: $name, text: include_str!(concat!("../configs/", $name, ".toml")) }),*]
    };
}

/// An encoder's row: no presets, as there is nothing to choose.
macro_rules! encoder {
    ($name:literal, $model:ident, $modality:ident, $model_type:literal, $golden:literal, $about:literal) => {
        Row {
            name: $name,
            role: Role::Encoder(Modality::$modality),
            about: $about,
            feature: None,
            golden: $golden,
            presets: &[],
            model_types: &[$model_type],
            open: Some(|folder, weights| Ok(Box::new($model::configured(folder, weights)?))),
        }
    };
}

/// An adapter's row: it comes with the checkpoint, under these names.
macro_rules! adapter {
    ($name:literal, $golden:literal, $feature:expr, $names:expr, $about:literal) => {
        Row {
            name: $name,
            role: Role::Adapter,
            about: $about,
            feature: $feature,
            golden: $golden,
            presets: &[],
            model_types: $names,
            open: None,
        }
    };
}

/// Every part there is.
pub const PARTS: &[Row] = &[
    Row {
        name: "musicgen",
        role: Role::Decoder,
        about: "MusicGen: text, states or audio to music (mono, stereo, melody)",
        feature: None,
        golden: "musicgen/tiny",
        presets: presets![
            "nano",
            "musicgen-small",
            "musicgen-medium",
            "musicgen-large",
            "musicgen-melody",
            "musicgen-stereo-small",
        ],
        model_types: &["musicgen", "musicgen_melody"],
        open: None,
    },
    Row {
        name: "llama",
        role: Role::LanguageModel,
        about: "LLaMA 2 with M2UGen's biases, LoRA and gates: media and words to an answer and to music tokens",
        feature: None,
        golden: "m2ugen/generate",
        presets: presets!["debug", "m2ugen-musicgen-small", "m2ugen-musicgen-medium"],
        model_types: &["llama"],
        open: None,
    },
    encoder!(
        "mert",
        Mert,
        Audio,
        "mert_model",
        "encoders/mert-layernorm-like",
        "MERT v1: music to the mean states of all layers"
    ),
    encoder!("vit", Vit, Image, "vit", "encoders/vit-tiny", "ViT: a picture to a state a patch"),
    encoder!(
        "vivit",
        Vivit,
        Video,
        "vivit",
        "encoders/vivit-tiny",
        "ViViT: 32 pictures of a video to a state a tubelet"
    ),
    adapter!(
        "bridge",
        "m2ugen/bridge",
        None,
        &["mu_mert", "iu_vit", "iu_vivit"],
        "Bridge: features of an encoder to one vector of the language model"
    ),
    adapter!(
        "projector",
        "m2ugen/projector-audioldm2",
        None,
        &["output_projector"],
        "Output projector: states of the music tokens to a decoder's conditioning"
    ),
    adapter!(
        "knn",
        "retrieval/knn",
        Some("knn"),
        &["knn.index"],
        "FAISS cache: features blended with their neighbours"
    ),
];

/// The row of the encoder that lies in `folder`.
///
/// # Errors
/// The folder's `config.json` is missing, or names no encoder that is known.
pub fn encoder_row(folder: &Path) -> Result<&'static Row> {
    let found = model_type(folder)?;
    let encoders = || PARTS.iter().filter(|row| row.open.is_some());
    encoders().find(|row| row.model_types.contains(&found.as_str())).ok_or_else(|| {
        let known: Vec<_> = encoders().flat_map(|row| row.model_types).map(|name| format!("`{name}`")).collect();
        let what = format!("model_type `{found}`, expected an encoder: {}", known.join(", "));
        Error::config(folder.join("config.json"), what)
    })
}

/// Loads the encoder that lies in `folder`, whichever it is.
///
/// # Errors
/// As [`encoder_row`], or loading fails.
pub fn open_encoder(folder: &Path, device: &Device, format: WeightFormat) -> Result<Box<dyn Encoder>> {
    build_encoder(folder, &Weights::open(folder, device, format)?)
}

/// As [`open_encoder`], with all weights from elsewhere; what the encoder does not use is an error.
///
/// # Errors
/// As [`open_encoder`].
pub fn build_encoder(folder: &Path, weights: &Weights) -> Result<Box<dyn Encoder>> {
    let row = encoder_row(folder)?;
    let Some(open) = row.open else { return Err(Error::argument("encoder", row.name, "a part that encodes")) };
    let encoder = open(folder, weights)?;
    weights.finish()?;
    Ok(encoder)
}

/// A preset by name.
///
/// # Errors
/// There is none of that name; the hint lists those that are.
pub fn preset(name: &str) -> Result<&'static Preset, BadInput> {
    let all = || PARTS.iter().flat_map(|row| row.presets);
    all().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<_> = all().map(|preset| preset.name).collect();
        BadInput::new(format!("preset: `{name}` is unknown, expected one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, Origin};

    #[test]
    fn every_row_is_complete() {
        for row in PARTS {
            let is_encoder = matches!(row.role, Role::Encoder(_));
            assert!(!row.about.is_empty() && !row.model_types.is_empty(), "{}", row.name);
            let is_adapter = row.role == Role::Adapter;
            assert_eq!(row.presets.is_empty(), is_encoder || is_adapter, "{}", row.name);
            assert_eq!(row.open.is_some(), is_encoder, "{}", row.name);
            let case = format!("{}/tests/goldens/{}/case.json", env!("CARGO_MANIFEST_DIR"), row.golden);
            assert!(std::path::Path::new(&case).is_file(), "{}: no parity case at {case}", row.name);
        }
    }

    #[test]
    fn every_preset_loads() {
        for preset in PARTS.iter().flat_map(|row| row.presets) {
            let mut layers = Layers::defaults().unwrap();
            layers.text(preset.name, preset.text, &Origin::Preset(preset.name.into())).unwrap();
            layers.finish().unwrap();
        }
    }
}
