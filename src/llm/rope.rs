//! Frequencies of rotary positions, and the ways they are stretched to longer texts.
//!
//! Names and formulas are those of `rope_scaling` in published `config.json` files (transformers 4.57).

use std::{f64::consts::PI, path::Path, sync::Arc};

use musaic_core::{Error, Result};
use serde_json::Value;

/// How frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// How much longer texts become.
        factor: f64,
    },
    /// Each divided by a number of its own: how GGUF files carry the stretching of Llama 3.
    Divided {
        /// One a pair.
        by: Arc<[f32]>,
    },
    /// The base grows with texts longer than `original` positions (NTK).
    Dynamic {
        /// How much longer texts become.
        factor: f64,
        /// Positions before stretching.
        original: usize,
    },
    /// Low frequencies divided, high ones kept, a linear blend between.
    Llama3 {
        /// How much longer texts become.
        factor: f64,
        /// Waves longer than `original / low` are divided.
        low: f64,
        /// Waves shorter than `original / high` are kept.
        high: f64,
        /// Positions before stretching.
        original: usize,
    },
    /// The same by counted turns, with louder scores ([YaRN](https://arxiv.org/abs/2309.00071)).
    Yarn {
        /// How much longer texts become.
        factor: f64,
        /// Dimensions that turn more often than this are kept.
        fast: f64,
        /// Dimensions that turn less often than this are divided.
        slow: f64,
        /// Positions before stretching.
        original: usize,
        /// Multiplies cosines and sines.
        attention_factor: f64,
        /// Whether the borders are whole dimensions.
        truncate: bool,
    },
}

/// Base and stretching.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: Scaling,
}

impl RopeConfig {
    /// Not stretched.
    pub fn plain(theta: f64) -> Self {
        Self { theta, scaling: Scaling::None }
    }

    /// From a `config.json`: `rope_theta` with `rope_scaling`, or `rope_parameters` which has both. `positions` is its
    /// `max_position_embeddings`.
    ///
    /// # Errors
    /// The kind of stretching is not implemented, or a value is missing or out of range.
    pub fn from_json(path: &Path, json: &Value, positions: usize) -> Result<Self> {
        let parameters = json.get("rope_parameters").filter(|p| p.is_object());
        let theta = parameters.and_then(|p| p.get("rope_theta")).or(json.get("rope_theta")).and_then(Value::as_f64);
        let theta = theta.unwrap_or(10_000.0);
        let scaling = parameters.or(json.get("rope_scaling").filter(|s| s.is_object()));
        let wrong = |what: String| Error::config(path, format!("rope_scaling: {what}"));
        if !(theta > 1.0 && theta <= 1e12) {
            return Err(wrong(format!("rope_theta = {theta}, expected above 1 and at most 1e12")));
        }
        let Some(scaling) = scaling else { return Ok(Self::plain(theta)) };
        let kind = scaling.get("rope_type").or(scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
        let optional = |name: &str| scaling.get(name).and_then(Value::as_f64);
        let positive = |name: &str, default: Option<f64>| {
            let value = optional(name).or(default).ok_or_else(|| wrong(format!("{kind} without `{name}`")))?;
            if value > 0.0 && value <= 1e9 {
                return Ok(value);
            }
            Err(wrong(format!("{name} = {value}, expected above 0 and at most 1e9")))
        };
        let original =
            || Ok::<_, Error>(positive("original_max_position_embeddings", Some(positions as f64))? as usize);
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: positive("factor", None)? },
            "dynamic" => Scaling::Dynamic { factor: positive("factor", None)?, original: positions },
            "llama3" => {
                let (low, high) = (positive("low_freq_factor", None)?, positive("high_freq_factor", None)?);
                if high <= low {
                    return Err(wrong(format!("high_freq_factor = {high}, expected above low_freq_factor = {low}")));
                }
                Scaling::Llama3 { factor: positive("factor", None)?, low, high, original: original()? }
            }
            "yarn" => {
                let factor = positive("factor", None)?;
                let louder = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
                let inferred = match (optional("mscale"), optional("mscale_all_dim")) {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => louder(one) / louder(all),
                    _ => louder(1.0),
                };
                Scaling::Yarn {
                    factor,
                    fast: positive("beta_fast", Some(32.0))?,
                    slow: positive("beta_slow", Some(1.0))?,
                    original: original()?,
                    attention_factor: optional("attention_factor").unwrap_or(inferred),
                    truncate: scaling.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                }
            }
            other => {
                let what = format!("rope_type `{other}`, expected default, linear, dynamic, llama3 or yarn");
                return Err(wrong(what));
            }
        };
        Ok(Self { theta, scaling })
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Frequency of each pair of a head, for a text of `length` positions; only `dynamic` depends on the length.
    pub fn inv_freq(&self, head_dim: usize, length: usize) -> Vec<f32> {
        let dim = head_dim as f64;
        let theta = match self.scaling {
            Scaling::Dynamic { factor, original } if length > original => {
                let stretched = factor * length as f64 / original as f64 - (factor - 1.0);
                self.theta * stretched.powf(dim / (dim - 2.0))
            }
            _ => self.theta,
        };
        let pairs = head_dim / 2;
        let plain = (0..pairs).map(|i| theta.powf(-(2.0 * i as f64) / dim));
        match self.scaling {
            Scaling::None | Scaling::Dynamic { .. } => plain.map(|f| f as f32).collect(),
            Scaling::Divided { ref by } => plain.zip(by.iter()).map(|(f, &by)| (f / f64::from(by)) as f32).collect(),
            Scaling::Linear { factor } => plain.map(|f| (f / factor) as f32).collect(),
            Scaling::Llama3 { factor, low, high, original } => {
                let original = original as f64;
                let stretch = |f: f64| {
                    let wave = 2.0 * PI / f;
                    if wave < original / high {
                        f
                    } else if wave > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wave - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain.map(|f| stretch(f) as f32).collect()
            }
            Scaling::Yarn { factor, fast, slow, original, truncate, .. } => {
                // The dimension that turns this often over the original length.
                let dimension = |turns: f64| dim * (original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let (mut low, mut high) = (dimension(fast), dimension(slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let stretch = |(i, f): (usize, f64)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (f / factor * ramp + f * (1.0 - ramp)) as f32
                };
                plain.enumerate().map(stretch).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(json: Value) -> Result<RopeConfig> {
        RopeConfig::from_json(Path::new("config.json"), &json, 64)
    }

    /// Values of transformers 4.57 for heads of 16, base 10000, 64 positions, factor 4.
    #[test]
    fn frequencies_are_those_of_the_reference() {
        for (scaling, length, want, scale) in REFERENCE {
            let mut json: Value = serde_json::from_str(scaling).unwrap();
            json["factor"] = json!(4.0);
            let config = config(json!({ "rope_theta": 10000.0, "rope_scaling": json })).unwrap();
            let want: Vec<f64> = want.split(' ').map(|x| x.parse().unwrap()).collect();
            let got = config.inv_freq(16, *length);
            assert_eq!(got.len(), want.len());
            for (got, want) in got.into_iter().map(f64::from).zip(want) {
                assert!((got - want).abs() <= 2e-6 * want, "{scaling}: {got}, expected {want}");
            }
            assert!((config.attention_factor() - scale).abs() < 1e-6, "{scaling}");
        }
    }

    #[test]
    fn both_places_are_read_and_unknown_kinds_refused() {
        let new = json!({ "rope_parameters": { "rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0 } });
        assert_eq!(config(new).unwrap(), RopeConfig { theta: 5000.0, scaling: Scaling::Linear { factor: 2.0 } });
        assert_eq!(config(json!({ "rope_scaling": null })).unwrap(), RopeConfig::plain(10_000.0));
        for bad in [
            json!({ "rope_scaling": { "type": "longrope", "factor": 2.0 } }),
            json!({ "rope_scaling": { "type": "linear" } }),
            json!({ "rope_scaling": { "type": "linear", "factor": -1.0 } }),
            json!({ "rope_theta": 0.5 }),
        ] {
            assert!(config(bad.clone()).is_err(), "{bad}");
        }
    }

    /// Settings, length, frequencies, factor on attention.
    type Row = (&'static str, usize, &'static str, f32);
    const REFERENCE: &[Row] = &[
        (
            r#"{"rope_type": "linear"}"#,
            64,
            "0.25 0.07905694 0.025 0.007905694 0.002499999 0.0007905694 0.00025 7.905694e-5",
            1.0,
        ),
        (
            r#"{"rope_type": "dynamic"}"#,
            64,
            "1 0.3162277 0.1 0.03162277 0.009999999 0.003162277 0.001 0.0003162277",
            1.0,
        ),
        (
            r#"{"rope_type": "dynamic"}"#,
            150,
            "1 0.2427024 0.05890451 0.01429627 0.00346974 0.0008421147 0.0002043833 4.960435e-5",
            1.0,
        ),
        (
            r#"{"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}"#,
            64,
            "1 0.1273239 0.025 0.007905694 0.002499999 0.0007905694 0.00025 7.905694e-5",
            1.0,
        ),
        (
            r#"{"rope_type": "yarn"}"#,
            64,
            "1 0.2371708 0.04999999 0.007905694 0.002499999 0.0007905694 0.00025 7.905694e-5",
            1.138_629_4,
        ),
        (
            r#"{"rope_type": "yarn", "original_max_position_embeddings": 4096, "beta_fast": 16.0, "beta_slow": 2.0}"#,
            64,
            "1 0.3162277 0.1 0.03162277 0.007499999 0.001581138 0.00025 7.905694e-5",
            1.138_629_4,
        ),
        (
            r#"{"rope_type": "yarn", "truncate": false, "mscale": 1.0, "mscale_all_dim": 0.5}"#,
            64,
            "1 0.1985835 0.02559524 0.007905694 0.002499999 0.0007905694 0.00025 7.905694e-5",
            1.064_821_6,
        ),
    ];
}
