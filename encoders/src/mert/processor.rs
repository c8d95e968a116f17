//! From samples to what the model takes, as `preprocessor_config.json` says.

use std::path::Path;

use musaic_core::{Error, Result, files::read_config};
use serde::Deserialize;
use serde_json::Value;

use crate::files::{Problems, parse};

/// Added to the variance.
const EPS: f64 = 1e-7;

/// `Wav2Vec2FeatureExtractor` without padding: one clip at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct FeatureExtractor {
    /// Whether each clip is brought to mean 0 and variance 1.
    #[serde(default = "yes")]
    pub do_normalize: bool,
    /// Samples a second that the model was trained with.
    pub sampling_rate: u32,
    /// Channels.
    #[serde(default = "one")]
    feature_size: usize,
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

impl FeatureExtractor {
    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// The file is missing or broken, or asks for something that does not exist.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_json(path, &read_config(path)?)
    }

    /// From what the file at `path` holds.
    ///
    /// # Errors
    /// A value is not supported.
    pub fn from_json(path: &Path, json: &Value) -> Result<Self> {
        let extractor: Self = parse(path, json)?;
        let mut problems = Problems::default();
        problems.size(
            "sampling_rate",
            extractor.sampling_rate as usize,
            musaic_core::media::MAX_SAMPLE_RATE_HZ as usize,
        );
        problems
            .expect(extractor.feature_size == 1, || format!("feature_size = {}, expected 1", extractor.feature_size));
        problems.finish(path)?;
        Ok(extractor)
    }

    /// One clip of mono samples at [`FeatureExtractor::sampling_rate`]: `(x - mean) / sqrt(variance + 1e-7)` over the whole of
    /// it, or as it is.
    ///
    /// # Errors
    /// A sample is not finite.
    pub fn process(&self, samples: &[f32]) -> Result<Vec<f32>> {
        if let Some(at) = samples.iter().position(|x| !x.is_finite()) {
            return Err(Error::argument("audio", format!("{} as sample {at}", samples[at]), "finite numbers"));
        }
        if !self.do_normalize || samples.is_empty() {
            return Ok(samples.to_vec());
        }
        let count = samples.len() as f64;
        let mean = samples.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let variance = samples.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + EPS).sqrt();
        Ok(samples.iter().map(|x| ((f64::from(*x) - mean) * scale) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clips_are_normalised_only_where_the_file_says_so() {
        let open = |json| FeatureExtractor::from_json(Path::new("p"), &json);
        let samples = [1.0, 3.0, 5.0, 7.0];
        let plain = open(json!({"sampling_rate": 24000, "do_normalize": false})).unwrap();
        assert_eq!(plain.process(&samples).unwrap(), samples);
        let extractor = open(json!({"sampling_rate": 24000})).unwrap();
        let got = extractor.process(&samples).unwrap();
        let root = 5f32.sqrt();
        for (got, want) in got.iter().zip([-3.0 / root, -1.0 / root, 1.0 / root, 3.0 / root]) {
            assert!((got - want).abs() < 1e-6);
        }
        assert_eq!(extractor.process(&[0.25; 9]).unwrap(), [0.0; 9]);
        assert!(extractor.process(&[0.0, f32::NAN]).is_err() && plain.process(&[f32::INFINITY]).is_err());
        assert!(open(json!({"sampling_rate": 0})).is_err() && open(json!({"do_normalize": true})).is_err());
        assert!(open(json!({"sampling_rate": 24000, "feature_size": 80})).is_err());
    }
}
