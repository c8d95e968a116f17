//! Flags that several subcommands share.

use std::{path::PathBuf, str::FromStr};

use musaic_core::Error;

use super::failure::BadInput;
use crate::config::Layers;

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

/// A number as people write it.
pub fn number(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "expected a number, such as 7 or 2.5")
}

/// A number of things.
pub fn whole<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "expected a whole number from 0 up")
}
