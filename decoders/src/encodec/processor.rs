//! Clips of unlike length as one batch, as `preprocessor_config.json` says. Reference: `EncodecFeatureExtractor` of
//! transformers 4.57.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use musaic_core::{Error, Result, files::read_config};
use serde::Deserialize;
use serde_json::Value;

/// Most samples that a batch is filled up to.
const MAX_SAMPLES: usize = 1 << 28;

/// Where silence goes when clips of different length form a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaddingSide {
    /// Behind the clip.
    Right,
    /// Before the clip.
    Left,
}

/// What the published file says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct EncodecExtractor {
    /// Channels.
    pub feature_size: usize,
    /// Samples a second of the clips.
    pub sampling_rate: usize,
    /// Where shorter clips are filled up.
    pub padding_side: PaddingSide,
    /// With what they are filled up; 0.
    pub padding_value: f64,
    /// Seconds of the chunks that the codec works on, if it does.
    pub chunk_length_s: Option<f64>,
    /// Share of a chunk that the next one has as well.
    pub overlap: Option<f64>,
}

impl Default for EncodecExtractor {
    fn default() -> Self {
        Self {
            feature_size: 1,
            sampling_rate: 24_000,
            padding_side: PaddingSide::Right,
            padding_value: 0.0,
            chunk_length_s: None,
            overlap: None,
        }
    }
}

impl EncodecExtractor {
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
    /// Lists every value that is not supported.
    pub fn from_json(path: &Path, json: &Value) -> Result<Self> {
        let config = Self::deserialize(json).map_err(|e| Error::config(path, e.to_string()))?;
        let mut problems = Vec::new();
        let mut expect = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        let Self { feature_size, sampling_rate, padding_value, chunk_length_s, overlap, .. } = config;
        expect((1..=2).contains(&feature_size), format!("feature_size = {feature_size}, expected 1 or 2"));
        expect((1..=1 << 20).contains(&sampling_rate), format!("sampling_rate = {sampling_rate}, expected 1 to 2^20"));
        expect(padding_value == 0.0, format!("padding_value = {padding_value}, expected 0"));
        if let Some(chunk) = chunk_length_s {
            let samples = chunk * sampling_rate as f64;
            expect((1.0..=1e8).contains(&samples), format!("chunk_length_s = {chunk}, expected 1 to 1e8 samples"));
            let share = overlap.unwrap_or(f64::NAN);
            expect((0.0..1.0).contains(&share), format!("overlap = {overlap:?} of chunks, expected 0 to below 1"));
        }
        if problems.is_empty() { Ok(config) } else { Err(Error::config(path, problems.join("; "))) }
    }

    /// Samples that clips of at most `longest` are filled up to: whole chunks, where there are chunks.
    fn padded(&self, longest: usize) -> usize {
        let (Some(chunk), Some(overlap)) = (self.chunk_length_s, self.overlap) else { return longest };
        let chunk = (chunk * self.sampling_rate as f64) as usize;
        let stride = (((1.0 - overlap) * chunk as f64) as usize).max(1);
        longest.div_ceil(stride).saturating_sub(1).saturating_mul(stride).saturating_add(chunk)
    }

    /// Clips `[samples]` or `[channels, samples]` to values `[batch, channels, length]` and a mask `[batch, length]` that is 1
    /// where there is sound.
    ///
    /// # Errors
    /// There is none, one is empty or of other channels, or they are too long together.
    pub fn process(&self, clips: &[Tensor]) -> Result<(Tensor, Tensor)> {
        let channels = self.feature_size;
        let mut planes = Vec::with_capacity(clips.len());
        for clip in clips {
            let clip = if clip.rank() == 1 { clip.unsqueeze(0)? } else { clip.clone() };
            if clip.rank() != 2 || clip.dim(0)? != channels || clip.dim(1)? == 0 {
                let expected = format!("[{channels}, 1 or more]");
                return Err(Error::argument("clip", format!("shape {:?}", clip.dims()), expected));
            }
            planes.push(clip.to_dtype(DType::F32)?);
        }
        let length = self.padded(planes.iter().map(|clip| clip.dims()[1]).max().unwrap_or(0));
        let all = length.saturating_mul(channels).saturating_mul(clips.len());
        if clips.is_empty() || all > MAX_SAMPLES {
            return Err(Error::argument("clips", format!("{all} samples in all"), format!("1 to {MAX_SAMPLES}")));
        }
        let (mut values, mut masks) = (Vec::new(), Vec::new());
        for clip in planes {
            let count = clip.dim(1)?;
            let empty = length.saturating_sub(count);
            let (before, behind) = if self.padding_side == PaddingSide::Left { (empty, 0) } else { (0, empty) };
            values.push(clip.pad_with_zeros(1, before, behind)?);
            masks.push(Tensor::ones(count, DType::U32, &Device::Cpu)?.pad_with_zeros(0, before, behind)?);
        }
        Ok((Tensor::stack(&values, 0)?, Tensor::stack(&masks, 0)?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn extractor(json: &Value) -> Result<EncodecExtractor> {
        EncodecExtractor::from_json(Path::new("preprocessor_config.json"), json)
    }

    #[test]
    fn whole_chunks_are_filled_up() {
        let chunked = extractor(&json!({"sampling_rate": 100, "chunk_length_s": 0.1, "overlap": 0.2})).unwrap();
        for (longest, padded) in [(1, 10), (8, 10), (9, 18), (16, 18), (17, 26)] {
            assert_eq!(chunked.padded(longest), padded);
        }
        let clips =
            [Tensor::ones(3, DType::F32, &Device::Cpu).unwrap(), Tensor::ones(5, DType::F32, &Device::Cpu).unwrap()];
        let left = extractor(&json!({"padding_side": "left"})).unwrap();
        let (values, mask) = left.process(&clips).unwrap();
        assert_eq!(values.dims(), [2, 1, 5]);
        assert_eq!(mask.to_vec2::<u32>().unwrap(), [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]);
        assert_eq!(values.get(0).unwrap().get(0).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0, 1.0, 1.0]);
        assert!(left.process(&[]).is_err());
        assert!(extractor(&json!({"feature_size": 2})).unwrap().process(&clips).is_err());
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let text =
            extractor(&json!({"feature_size": 6, "padding_value": 1, "chunk_length_s": 1})).unwrap_err().to_string();
        assert!(["feature_size", "padding_value", "overlap"].iter().all(|name| text.contains(name)), "{text}");
    }
}
