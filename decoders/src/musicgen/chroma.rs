//! Melody as MusicGen-melody hears it: which of the twelve pitch classes is loudest in each frame.
//!
//! A power spectrogram (periodic Hann window, frames centred, ends mirrored, energy divided by that of the window) is
//! folded onto pitch classes by a filter bank, and the loudest class of a frame becomes 1, the others 0. The filter bank is
//! `librosa.filters.chroma` with its defaults and no tuning: classes from C, octaves weighted around the fifth.

use std::{path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use musaic_core::{Error, Result};
use realfft::{RealFftPlanner, RealToComplex};
use serde::Deserialize;

pub use crate::encodec::PaddingSide;

/// Pitch classes of an octave.
const CLASSES: usize = 12;

/// `preprocessor_config.json` of a MusicGen-melody folder; names and defaults are those of the published files.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ChromaConfig {
    /// Name of the extractor where it is given.
    pub feature_extractor_type: Option<String>,
    /// Pitch classes; 12.
    pub feature_size: usize,
    /// The same under another name; 12.
    pub num_chroma: usize,
    /// Samples a second of the clips.
    pub sampling_rate: usize,
    /// Samples from one frame to the next.
    pub hop_length: usize,
    /// Samples of one frame.
    pub n_fft: usize,
    /// Seconds of a clip that are heard.
    pub chunk_length: usize,
    /// Where shorter clips of a batch are filled up.
    pub padding_side: PaddingSide,
    /// With what they are filled up; 0.
    pub padding_value: f32,
}

impl Default for ChromaConfig {
    fn default() -> Self {
        Self {
            feature_extractor_type: None,
            feature_size: CLASSES,
            num_chroma: CLASSES,
            sampling_rate: 32_000,
            hop_length: 4096,
            n_fft: 16_384,
            chunk_length: 30,
            padding_side: PaddingSide::Right,
            padding_value: 0.0,
        }
    }
}

impl ChromaConfig {
    /// Reads and validates the JSON table found in `path` (used in messages only).
    ///
    /// # Errors
    /// A field has the wrong type or a value that is not implemented.
    pub fn from_json(path: &Path, json: &serde_json::Value) -> Result<Self> {
        let config: Self = Self::deserialize(json).map_err(|e| Error::config(path, format!("chroma: {e}")))?;
        config.validate(path)?;
        Ok(config)
    }

    fn validate(&self, path: &Path) -> Result<()> {
        let mut problems = Vec::new();
        let mut range = |name: &str, value: usize, low: usize, high: usize| {
            if !(low..=high).contains(&value) {
                problems.push(format!("{name} = {value}, expected {low} to {high}"));
            }
        };
        range("feature_size", self.feature_size, CLASSES, CLASSES);
        range("num_chroma", self.num_chroma, CLASSES, CLASSES);
        range("sampling_rate", self.sampling_rate, 1, 1 << 20);
        range("hop_length", self.hop_length, 1, 1 << 20);
        range("n_fft", self.n_fft, 4, 1 << 20);
        range("n_fft modulo 2", self.n_fft % 2, 0, 0);
        range("chunk_length", self.chunk_length, 1, 3600);
        if self.padding_value != 0.0 {
            problems.push(format!("padding_value = {}, expected 0", self.padding_value));
        }
        let kind = self.feature_extractor_type.as_deref();
        if kind.is_some_and(|kind| kind != "MusicgenMelodyFeatureExtractor") {
            problems.push(format!("feature_extractor_type = {kind:?}, expected MusicgenMelodyFeatureExtractor"));
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::config(path, format!("chroma: {}", problems.join("; ")))) }
    }
}

/// Turns clips into chroma.
pub struct ChromaExtractor {
    config: ChromaConfig,
    /// `[12, n_fft / 2 + 1]`, row-major.
    filters: Vec<f32>,
    /// Hann window divided by its energy's root.
    window: Vec<f64>,
    transform: Arc<dyn RealToComplex<f64>>,
}

impl ChromaExtractor {
    /// Builds filter bank and window.
    ///
    /// # Errors
    /// The configuration has a value that is not implemented.
    pub fn new(config: &ChromaConfig) -> Result<Self> {
        config.validate("preprocessor_config.json".as_ref())?;
        let size = config.n_fft;
        let hann: Vec<f64> =
            (0..size).map(|i| 0.5 - 0.5 * (2.0 * std::f64::consts::PI * i as f64 / size as f64).cos()).collect();
        let root = hann.iter().map(|w| w * w).sum::<f64>().sqrt();
        Ok(Self {
            config: config.clone(),
            filters: filter_bank(config.sampling_rate, size),
            window: hann.iter().map(|w| w / root).collect(),
            transform: RealFftPlanner::new().plan_fft_forward(size),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ChromaConfig {
        &self.config
    }

    /// The filter bank `[12, n_fft / 2 + 1]`.
    ///
    /// # Errors
    /// Never on the CPU.
    pub fn filters(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.filters, (CLASSES, self.config.n_fft / 2 + 1), &Device::Cpu)?)
    }

    /// Energies of the pitch classes `[batch, frames, 12]` of mono clips at [`ChromaConfig::sampling_rate`].
    ///
    /// Clips are cut at `chunk_length` seconds and filled up with silence to the longest one; there are
    /// `1 + samples / hop_length` frames.
    ///
    /// # Errors
    /// There is no clip.
    pub fn energies(&self, clips: &[&[f32]]) -> Result<Tensor> {
        let limit = self.config.chunk_length * self.config.sampling_rate;
        let longest = clips.iter().map(|clip| clip.len().min(limit)).max();
        let Some(longest) = longest else {
            return Err(Error::argument("clips", "none", "at least one"));
        };
        let mut energies = Vec::new();
        for clip in clips {
            let clip = &clip[..clip.len().min(limit)];
            let filled = match self.config.padding_side {
                PaddingSide::Right => surround(clip, 0, longest - clip.len()),
                PaddingSide::Left => surround(clip, longest - clip.len(), 0),
            };
            // Shorter than one window: in its middle.
            let missing = self.config.n_fft.saturating_sub(filled.len());
            self.fold(&surround(&filled, missing / 2, missing - missing / 2), &mut energies)?;
        }
        Ok(Tensor::from_vec(energies, (clips.len(), (), CLASSES), &Device::Cpu)?)
    }

    /// Energies of one signal, at least one window long, frame by frame.
    fn fold(&self, signal: &[f32], energies: &mut Vec<f32>) -> Result<()> {
        let size = self.config.n_fft;
        let bins = size / 2 + 1;
        let last = signal.len() as i64 - 1;
        let mut frame = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut power = vec![0_f64; bins];
        for centre in (0..=signal.len()).step_by(self.config.hop_length) {
            let start = centre as i64 - (size / 2) as i64;
            for (i, (value, window)) in frame.iter_mut().zip(&self.window).enumerate() {
                let at = (start + i as i64).abs();
                *value = window * f64::from(signal[(last - (last - at).abs()) as usize]);
            }
            self.transform
                .process(&mut frame, &mut spectrum)
                .map_err(|e| Error::argument("n_fft", e.to_string(), "a transform of this length"))?;
            for (power, value) in power.iter_mut().zip(&spectrum) {
                *power = value.norm_sqr();
            }
            energies.extend(self.filters.chunks(bins).map(|filter| {
                filter.iter().zip(&power).map(|(&weight, power)| f64::from(weight) * power).sum::<f64>() as f32
            }));
        }
        Ok(())
    }

    /// The loudest class of each frame as 1, the others 0, `[batch, frames, 12]`.
    ///
    /// # Errors
    /// There is no clip.
    pub fn extract(&self, clips: &[&[f32]]) -> Result<Tensor> {
        one_hot(&self.energies(clips)?)
    }
}

/// Energies `[batch, frames, 12]`, each frame divided by its largest, to 1 for the first of the largest and 0 elsewhere.
///
/// # Errors
/// The tensor has another shape.
pub fn one_hot(energies: &Tensor) -> Result<Tensor> {
    /// Keeps silence from being divided by zero.
    const SILENCE: f32 = 1e-6;
    let mut values = energies.flatten_all()?.to_vec1::<f32>()?;
    for frame in values.chunks_mut(CLASSES) {
        let largest = frame.iter().fold(SILENCE, |largest, value| largest.max(value.abs()));
        let mut best = 0;
        for (class, value) in frame.iter().enumerate() {
            if value / largest > frame[best] / largest {
                best = class;
            }
        }
        frame.fill(0.0);
        frame[best] = 1.0;
    }
    Ok(Tensor::from_vec(values, energies.shape(), &Device::Cpu)?)
}

fn surround(signal: &[f32], before: usize, behind: usize) -> Vec<f32> {
    let mut all = vec![0.0; before + signal.len() + behind];
    all[before..before + signal.len()].copy_from_slice(signal);
    all
}

/// Weight of each frequency bin for each pitch class, `[12, size / 2 + 1]`.
fn filter_bank(sampling_rate: usize, size: usize) -> Vec<f32> {
    /// Frequency of the lowest A, from which semitones count.
    const LOWEST_A: f64 = 27.5;
    /// Octave with the largest weight, and the width of the weighting in octaves.
    const OCTAVE: f64 = 5.0;
    const OCTAVES: f64 = 2.0;
    /// Rows between A, where semitones count from, and C, where classes do.
    const A_TO_C: usize = 3;
    let semitone = |bin: usize| CLASSES as f64 * ((bin * sampling_rate) as f64 / (size as f64 * LOWEST_A)).log2();
    // The constant bin has no pitch: a semitone and a half octave below the first one.
    let semitones: Vec<f64> = (0..=size).map(|bin| if bin == 0 { semitone(1) - 18.0 } else { semitone(bin) }).collect();
    let bins = size / 2 + 1;
    let mut filters = vec![0_f32; CLASSES * bins];
    for bin in 0..bins {
        let width = (semitones[bin + 1] - semitones[bin]).max(1.0);
        let mut weights = [0_f64; CLASSES];
        for (class, weight) in weights.iter_mut().enumerate() {
            let distance = (semitones[bin] - class as f64 + 6.0 + 120.0).rem_euclid(12.0) - 6.0;
            *weight = (-0.5 * (2.0 * distance / width).powi(2)).exp();
        }
        let length = weights.iter().map(|w| w * w).sum::<f64>().sqrt();
        let octave = (-0.5 * ((semitones[bin] / 12.0 - OCTAVE) / OCTAVES).powi(2)).exp();
        for class in 0..CLASSES {
            filters[class * bins + bin] = (weights[(class + A_TO_C) % CLASSES] / length * octave) as f32;
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_its_class() {
        let extractor = ChromaExtractor::new(&ChromaConfig::default()).unwrap();
        // A4 and C5.
        for (frequency, class) in [(440.0_f32, 9), (523.25, 0)] {
            let tone: Vec<f32> =
                (0..64_000).map(|i| (2.0 * std::f32::consts::PI * frequency * i as f32 / 32_000.0).sin()).collect();
            let chroma = extractor.extract(&[&tone]).unwrap();
            assert_eq!(chroma.dims(), [1, 16, 12]);
            let frame = chroma.get(0).unwrap().get(8).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(frame.iter().position(|v| *v == 1.0), Some(class));
        }
    }

    #[test]
    fn silence_and_short_clips_have_frames() {
        let extractor = ChromaExtractor::new(&ChromaConfig::default()).unwrap();
        let chroma = extractor.extract(&[&[], &[0.5; 100]]).unwrap();
        assert_eq!(chroma.dims(), [2, 5, 12]);
        assert_eq!(chroma.sum_all().unwrap().to_scalar::<f32>().unwrap(), 10.0);
        assert!(extractor.extract(&[]).is_err());
    }

    #[test]
    fn other_extractors_are_refused() {
        let read = |json| ChromaConfig::from_json(Path::new("preprocessor_config.json"), &json);
        assert!(read(serde_json::json!({"feature_size": 24})).is_err());
        assert!(read(serde_json::json!({"padding_side": "middle"})).is_err());
        assert!(read(serde_json::json!({"feature_extractor_type": "EncodecFeatureExtractor"})).is_err());
        assert!(read(serde_json::json!({"stem_indices": [3, 2], "n_samples": 960_000})).is_ok());
    }
}
