//! The run configuration: one tree of plain values, filled in layers.
//!
//! Order, each layer over the one before: built-in defaults, a named preset, `--config FILE`, `MUSAIC_*` variables, flags.
//! [`Layers`] remembers where each value came from; `--print-config` prints the tree as a file that can be fed back.

mod layers;

use musaic_core::{DeviceChoice, Error, Result, WeightFormat, role::Sampling};
use serde::{Deserialize, Serialize};

pub use self::layers::{Layers, Origin};

/// Everything a run can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// `nano`, a folder with a published checkpoint, or a hub id (`owner/name`) that is in the local cache.
    pub model: String,
    /// `cpu`, `cuda` or `cuda:INDEX`.
    pub device: String,
    /// How weights are held: `f32`, `bf16`, `f16`, or `auto` (f32 on the CPU if memory allows, bf16 on a GPU).
    pub dtype: String,
    /// Quantise weights on load: `none`, `q8_0` or `q4_k`.
    pub quantize: String,
    /// Behave like the published reference code, faults included, instead of what it meant to do.
    pub reference: bool,
    /// How music is made.
    pub generate: GenerateConfig,
}

/// How music is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateConfig {
    /// Length in seconds, above 0, at most 3600.
    pub seconds: f64,
    /// Classifier-free guidance: 1 is none, 3 the published default; 0 to 20.
    pub guidance: f64,
    /// Divides the logits: below 1 safer, above 1 wilder; 0 takes the likeliest token (greedy), at most 5.
    pub temperature: f64,
    /// Sample among this many likeliest tokens; 0 is all of them.
    pub top_k: usize,
    /// Sample among the likeliest tokens that together have this probability; 1 is all of them.
    pub top_p: f64,
    /// Pieces made from one prompt, 1 to 100.
    pub takes: u32,
    /// Openings of each take among which the one that suits the words best is chosen, 1 (no choice) to 16. Only models
    /// with a `ranker.json` choose.
    pub openings: u32,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            model: "nano".into(),
            device: "cpu".into(),
            dtype: "auto".into(),
            quantize: "none".into(),
            reference: false,
            generate: GenerateConfig::default(),
        }
    }
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self { seconds: 10.0, guidance: 3.0, temperature: 1.0, top_k: 250, top_p: 1.0, takes: 1, openings: 4 }
    }
}

impl GenerateConfig {
    /// How tokens are picked; temperature 0 is greedy.
    pub fn sampling(&self) -> Sampling {
        if self.temperature == 0.0 {
            Sampling::Greedy
        } else {
            Sampling::Draw { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p }
        }
    }
}

impl RunConfig {
    /// Checks every value and reports all problems at once.
    ///
    /// # Errors
    /// One or more values are outside their range.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, name: &str, found: String, expected: &str| {
            if !ok {
                problems.push((name.to_owned(), found, expected.to_owned()));
            }
        };
        let g = &self.generate;
        let within = |x: f64, low: f64, high: f64| x.is_finite() && (low..=high).contains(&x);
        check(
            within(g.seconds, f64::MIN_POSITIVE, 3600.0),
            "seconds",
            g.seconds.to_string(),
            "a number above 0, at most 3600",
        );
        check(within(g.guidance, 0.0, 20.0), "guidance", g.guidance.to_string(), "0 to 20");
        check(within(g.temperature, 0.0, 5.0), "temperature", g.temperature.to_string(), "0 to 5");
        check(within(g.top_p, f64::MIN_POSITIVE, 1.0), "top_p", g.top_p.to_string(), "above 0, at most 1");
        check((1..=100).contains(&g.takes), "takes", g.takes.to_string(), "1 to 100");
        check((1..=16).contains(&g.openings), "openings", g.openings.to_string(), "1 to 16");
        check(
            ["auto", "f32", "bf16", "f16"].contains(&self.dtype.as_str()),
            "dtype",
            format!("`{}`", self.dtype),
            "auto, f32, bf16 or f16",
        );
        check(
            ["none", "q8_0", "q4_k"].contains(&self.quantize.as_str()),
            "quantize",
            format!("`{}`", self.quantize),
            "none, q8_0 or q4_k",
        );
        if let Err(Error::Argument { name, found, expected }) = self.device() {
            problems.push((name, found, expected));
        }
        match problems.len() {
            0 => Ok(()),
            1 => {
                let (name, found, expected) = problems.remove(0);
                Err(Error::argument(name, found, expected))
            }
            n => {
                let lines: Vec<_> = problems
                    .iter()
                    .map(|(name, found, expected)| format!("\n  {name}: {found}, expected {expected}"))
                    .collect();
                Err(Error::config("configuration", format!("{n} values are out of range{}", lines.concat())))
            }
        }
    }

    /// The chosen device.
    ///
    /// # Errors
    /// Not a device name.
    pub fn device(&self) -> Result<DeviceChoice> {
        self.device.parse()
    }

    /// The weight format that was asked for; `None` leaves it to the preflight.
    ///
    /// # Errors
    /// Not a format name.
    pub fn format(&self) -> Result<Option<WeightFormat>> {
        match (self.quantize.as_str(), self.dtype.as_str()) {
            ("none", "auto") => Ok(None),
            ("none", dtype) => dtype.parse().map(Some),
            (quantize, _) => quantize.parse().map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut config = RunConfig::default();
        config.generate.seconds = f64::NAN;
        config.generate.takes = 0;
        config.device = "tpu".into();
        let message = config.validate().unwrap_err().to_string();
        for name in ["seconds: NaN", "takes: 0", "device: `tpu`"] {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn quantise_wins_over_dtype() {
        let config = RunConfig { quantize: "q8_0".into(), dtype: "bf16".into(), ..RunConfig::default() };
        assert_eq!(config.format().unwrap(), Some(WeightFormat::Q8_0));
    }
}
