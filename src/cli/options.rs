//! Flags that several subcommands share.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use musaic_core::Error;

use crate::{
    config::{Layers, RunConfig, SystemConfig},
    failure::BadInput,
    pipeline::{models, store::Store},
};

/// Which model, where and in which format.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ModelOptions {
    /// `nano` (built in), a folder, or a hub id that was pulled
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// cpu, cuda or cuda:INDEX
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// How weights are held: auto, f32, bf16 or f16
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<String>,
    /// Quantise weights on load: q8_0 or q4_k
    #[arg(long, value_name = "FORMAT")]
    pub quantize: Option<String>,
    /// A TOML file with any of the values that --print-config shows
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A built-in configuration by name (see `musaic models`)
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Behave like the published reference code, faults included
    #[arg(long)]
    pub reference: bool,
}

impl ModelOptions {
    /// The layers up to these flags.
    ///
    /// # Errors
    /// A file cannot be read, a name is unknown or a value does not fit.
    pub fn layers(&self) -> anyhow::Result<Layers> {
        let mut layers = Layers::defaults()?;
        if let Some(name) = &self.preset {
            let preset = crate::registry::preset(name)?;
            layers.text(name, preset.text, &crate::config::Origin::Preset(name.clone()))?;
        }
        if let Some(path) = &self.config {
            layers.file(path).map_err(|error| match error {
                Error::Config { .. } => anyhow::Error::from(
                    BadInput::new(error.to_string())
                        .hint("`musaic generate --print-config` prints a file of the right form"),
                ),
                other => other.into(),
            })?;
        }
        layers.environment(|name| std::env::var(name).ok())?;
        layers.flag("model", self.model.clone());
        layers.flag("device", self.device.clone());
        layers.flag("dtype", self.dtype.clone());
        layers.flag("quantize", self.quantize.clone());
        layers.flag("reference", self.reference.then_some(true));
        Ok(layers)
    }
}

/// How the decoder picks.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SamplingOptions {
    /// How closely to follow the prompt; 1 is no guidance at all [default: 3]
    #[arg(long, value_name = "G", allow_negative_numbers = true, value_parser = number)]
    pub guidance: Option<f64>,
    /// Below 1 safer, above 1 wilder, 0 always the likeliest [default: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number)]
    pub temperature: Option<f64>,
    /// Choose among this many likeliest tokens, 0 for all [default: 250]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub top_k: Option<u32>,
    /// Choose among the likeliest tokens that together have this probability [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    pub top_p: Option<f64>,
    /// What the decoder listens to behind a language model: projected (states of the music tokens) or caption (its words)
    #[arg(long, value_name = "WAY")]
    pub conditioning: Option<String>,
}

impl SamplingOptions {
    /// Puts these flags over the layers.
    pub fn apply(&self, layers: &mut Layers) {
        layers.flag("generate.guidance", self.guidance);
        layers.flag("generate.temperature", self.temperature);
        layers.flag("generate.top_k", self.top_k.map(i64::from));
        layers.flag("generate.top_p", self.top_p);
        layers.flag("system.conditioning", self.conditioning.clone());
    }
}

/// Where the files of what hears, sees and answers are.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Language model and encoders")]
pub struct SystemPaths {
    /// M2UGen's checkpoint.pth or its folder; `debug` is a tiny system of random weights
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<String>,
    /// LLaMA 2 as Meta publishes it: tokenizer.model and 7B/params.json
    #[arg(long, value_name = "FOLDER")]
    pub llama: Option<String>,
    /// MERT's folder or hub id, for tracks
    #[arg(long, value_name = "MODEL")]
    pub mert: Option<String>,
    /// ViT's folder or hub id, for pictures
    #[arg(long, value_name = "MODEL")]
    pub vit: Option<String>,
    /// ViViT's folder or hub id, for videos
    #[arg(long, value_name = "MODEL")]
    pub vivit: Option<String>,
    /// Blend neighbours from this FAISS index into what is heard
    #[arg(long, value_name = "INDEX")]
    pub knn: Option<String>,
}

impl SystemPaths {
    /// Each with its key.
    fn named(&self) -> [(&'static str, &Option<String>); 6] {
        [
            ("checkpoint", &self.checkpoint),
            ("llama", &self.llama),
            ("mert", &self.mert),
            ("vit", &self.vit),
            ("vivit", &self.vivit),
            ("knn", &self.knn),
        ]
    }

    /// Puts these over what a file was made with: they may have moved.
    pub fn over(&self, config: &mut SystemConfig) {
        let SystemConfig { checkpoint, llama, mert, vit, vivit, knn, .. } = config;
        for ((_, given), value) in self.named().into_iter().zip([checkpoint, llama, mert, vit, vivit, knn]) {
            if let Some(given) = given {
                value.clone_from(given);
            }
        }
    }
}

/// What hears, sees and answers.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Language model and encoders")]
pub struct SystemOptions {
    #[command(flatten)]
    pub paths: SystemPaths,
    /// Which part of a long track is heard: whole or first60
    #[arg(long, value_name = "PART")]
    pub hear: Option<String>,
    /// Windows of a video that are looked at [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub video_windows: Option<u32>,
    /// Wildness of words, 0 for the likeliest [default: 0.6]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number)]
    pub text_temperature: Option<f64>,
    /// Choose among the likeliest words that together have this probability [default: 0.8]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    pub text_top_p: Option<f64>,
    /// How the language model is held: f32, bf16, f16, q8_0 or q4_k [default: as --dtype and --quantize]
    #[arg(long, value_name = "FORMAT")]
    pub text_format: Option<String>,
    /// Longest answer in tokens [default: 512]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub max_tokens: Option<u32>,
}

impl SystemOptions {
    /// Puts these flags over the layers.
    pub fn apply(&self, layers: &mut Layers) {
        let others = [("audio", &self.hear), ("format", &self.text_format)];
        for (key, value) in self.paths.named().into_iter().chain(others) {
            layers.flag(&format!("system.{key}"), value.clone());
        }
        layers.flag("system.video_windows", self.video_windows.map(i64::from));
        layers.flag("system.temperature", self.text_temperature);
        layers.flag("system.top_p", self.text_top_p);
        layers.flag("system.max_tokens", self.max_tokens.map(i64::from));
    }
}

/// How the published M2UGen guides its decoder, whatever the decoder's own file says.
const COMPOSED_GUIDANCE: f64 = 3.5;

/// The configuration for music. Under `reference` it is made as the decoder's own file says, and where a language model composes
/// it (`composed`, or one is configured) as the published system does, which plays the words of the answer; unless told otherwise.
///
/// # Errors
/// A value of the wrong type or out of range, or the decoder is not there.
pub fn for_music(layers: &mut Layers, composed: bool) -> anyhow::Result<RunConfig> {
    let config = layers.finish()?;
    if !config.reference {
        return Ok(config);
    }
    if composed || !config.system.checkpoint.is_empty() {
        layers.model("system.conditioning", "caption");
        layers.model("generate.guidance", COMPOSED_GUIDANCE);
    }
    let own = Store::open(&models::find(&config.model)?)?.generation_config().clone();
    layers.model("generate.guidance", own.guidance_scale);
    layers.model("generate.temperature", if own.do_sample { own.temperature } else { 0.0 });
    layers.model("generate.top_k", i64::try_from(own.top_k)?);
    layers.model("generate.top_p", own.top_p);
    Ok(layers.finish()?)
}

/// Refuses an output that nothing would be written to. (That clap does not: with words given it holds `--batch` for excused.)
pub fn only_in_batch(output: Option<&Path>, batch: Option<&Path>) -> Result<(), BadInput> {
    match (output, batch) {
        (Some(output), None) => {
            let message = format!("output `{}`: without --batch, expected none: answers are printed", output.display());
            Err(BadInput::new(message).hint("`>` puts what is printed into a file"))
        }
        _ => Ok(()),
    }
}

/// The seed that was given, or one that is drawn and told.
pub fn seed(given: Option<u64>, quiet: bool) -> u64 {
    given.unwrap_or_else(|| {
        let seed = draw_seed();
        if !quiet {
            super::say(&format!("seed {seed}"));
        }
        seed
    })
}

/// Four bytes of the system's randomness: short enough to type again.
pub fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32
}

/// Longest prompt in bytes: far beyond what any text encoder hears.
const MAX_PROMPT_BYTES: usize = 16 * 1024;

/// Refuses a prompt that nothing hears to its end.
pub fn check_prompt(prompt: &str) -> Result<(), BadInput> {
    if prompt.len() <= MAX_PROMPT_BYTES {
        return Ok(());
    }
    Err(BadInput::new(format!("prompt: {} bytes, expected at most {MAX_PROMPT_BYTES}", prompt.len()))
        .hint("a sentence or two is what the model hears"))
}

/// `-14LUFS`, `-14 LUFS` or `-14`.
pub fn loudness(text: &str) -> Result<f64, BadInput> {
    let number = text.trim().to_lowercase();
    let number = number.strip_suffix("lufs").unwrap_or(&number).trim();
    number.parse().ok().filter(|lufs| (-70.0..=-1.0).contains(lufs)).ok_or_else(|| {
        BadInput::new(format!("normalize: `{text}`, expected a loudness from -70 to -1, such as -14LUFS"))
    })
}

/// A number as people write it.
pub fn number(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "expected a number, such as 7 or 2.5")
}

/// A number of things.
pub fn whole<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "expected a whole number from 0 up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_of_composed_music_is_that_of_the_whole_system() {
        let config = |checkpoint: Option<&str>, reference: bool, guidance: Option<f64>| {
            let mut layers = Layers::defaults().unwrap();
            layers.flag("system.checkpoint", checkpoint);
            layers.flag("reference", Some(reference));
            layers.flag("generate.guidance", guidance);
            let config = for_music(&mut layers, false).unwrap();
            (config.system.conditioning, config.generate.guidance)
        };
        assert_eq!(config(Some("debug"), true, None), ("caption".into(), 3.5));
        assert_eq!(config(Some("debug"), true, Some(2.0)), ("caption".into(), 2.0));
        assert_eq!(config(Some("debug"), false, None), ("projected".into(), 3.0));
        assert_eq!(config(None, true, None).0, "projected");
    }
}
