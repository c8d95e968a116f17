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
    /// What hears, sees and answers.
    pub system: SystemConfig,
}

/// What hears, sees and answers: encoders, adapters and a language model. A path is a folder or a file; an encoder may be a
/// hub id that is in the local cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SystemConfig {
    /// `checkpoint.pth` of M2UGen, or the folder it lies in; `debug` is a tiny system of random weights; empty is none.
    pub checkpoint: String,
    /// LLaMA 2 as Meta publishes it: `tokenizer.model` and `7B/params.json` (and shards, where the checkpoint lacks them).
    pub llama: String,
    /// MERT's folder.
    pub mert: String,
    /// ViT's folder.
    pub vit: String,
    /// ViViT's folder.
    pub vivit: String,
    /// A `knn.index` whose neighbours are blended into what is heard; empty is none.
    pub knn: String,
    /// Which part of a long track is heard: `whole` or `first60`.
    pub audio: String,
    /// Windows of a video that are looked at, 1 to 64.
    pub video_windows: usize,
    /// What the decoder listens to: `projected` (states of the music tokens) or `caption` (the answer's words).
    pub conditioning: String,
    /// How the language model's weights are held: a type or a quantisation, or `auto`: as `dtype` and `quantize` say.
    pub format: String,
    /// Divides the logits of words; 0 takes the likeliest, at most 5.
    pub temperature: f64,
    /// Sample among the likeliest words that together have this probability.
    pub top_p: f64,
    /// Longest answer in tokens, 1 to 4096.
    pub max_tokens: usize,
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
            system: SystemConfig::default(),
        }
    }
}

impl Default for SystemConfig {
    fn default() -> Self {
        Self {
            checkpoint: String::new(),
            llama: String::new(),
            mert: "m-a-p/MERT-v1-330M".into(),
            vit: "google/vit-base-patch16-224-in21k".into(),
            vivit: "google/vivit-b-16x2-kinetics400".into(),
            knn: String::new(),
            audio: "whole".into(),
            video_windows: 4,
            conditioning: "projected".into(),
            format: "auto".into(),
            temperature: 0.6,
            top_p: 0.8,
            max_tokens: 512,
        }
    }
}

impl SystemConfig {
    /// How words are picked; temperature 0 is greedy.
    pub fn sampling(&self) -> Sampling {
        sampling(self.temperature, 0, self.top_p)
    }
}

fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
    if temperature == 0.0 { Sampling::Greedy } else { Sampling::Draw { temperature, top_k, top_p } }
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self { seconds: 10.0, guidance: 3.0, temperature: 1.0, top_k: 250, top_p: 1.0, takes: 1, openings: 4 }
    }
}

impl GenerateConfig {
    /// How tokens are picked; temperature 0 is greedy.
    pub fn sampling(&self) -> Sampling {
        sampling(self.temperature, self.top_k, self.top_p)
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
        let t = &self.system;
        let one_of = |value: &str, names: [&str; 2]| names.contains(&value);
        check(one_of(&t.audio, ["whole", "first60"]), "audio", format!("`{}`", t.audio), "whole or first60");
        check((1..=64).contains(&t.video_windows), "video_windows", t.video_windows.to_string(), "1 to 64");
        check(
            one_of(&t.conditioning, ["projected", "caption"]),
            "conditioning",
            format!("`{}`", t.conditioning),
            "projected or caption",
        );
        check(
            t.format == "auto" || t.format.parse::<WeightFormat>().is_ok(),
            "text format",
            format!("`{}`", t.format),
            "auto, f32, bf16, f16, q8_0 or q4_k",
        );
        check(within(t.temperature, 0.0, 5.0), "text temperature", t.temperature.to_string(), "0 to 5");
        check(within(t.top_p, f64::MIN_POSITIVE, 1.0), "text top_p", t.top_p.to_string(), "above 0, at most 1");
        check((1..=4096).contains(&t.max_tokens), "max_tokens", t.max_tokens.to_string(), "1 to 4096");
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

    /// The weight format that was asked for the language model; `None` leaves it to the preflight.
    ///
    /// # Errors
    /// Not a format name.
    pub fn text_format(&self) -> Result<Option<WeightFormat>> {
        if self.system.format == "auto" { self.format() } else { self.system.format.parse().map(Some) }
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
