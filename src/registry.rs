//! The table of parts: every encoder, adapter, language model and decoder by name.
//!
//! From one row come `musaic models`, the documentation table, and the test that every row has a preset, a parity case and
//! a line of documentation.

use musaic_core::role::Modality;

use crate::cli::failure::BadInput;

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

/// Every part there is.
pub const PARTS: &[Row] = &[Row {
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
}];

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
            assert!(!row.about.is_empty() && !row.presets.is_empty(), "{}", row.name);
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
