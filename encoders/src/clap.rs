//! What CLAP ([Large-scale Contrastive Language-Audio Pretraining](https://arxiv.org/abs/2211.06687)) hears: log-mel pictures.
//!
//! Reference: `ClapFeatureExtractor` of transformers 4.57. Under `fusion` the filters are HTK's, under `rand_trunc` Slaney's. A
//! clip longer than the window is cut at random places there; which part is heard is the caller's choice here.

use std::path::Path;

use candle_core::{Device, Tensor};
use musaic_core::{
    Error, Result,
    files::read_config,
    media::mel::{Energy, LogMel, MelOptions, MelScale},
};
use serde::Deserialize;
use serde_json::Value;

use crate::files::{Problems, parse};

/// How a short clip fills the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Padding {
    /// With silence.
    Pad,
    /// Again and again, the last time cut.
    Repeat,
    /// As often as it fits as a whole, then silence.
    RepeatPad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Truncation {
    Fusion,
    RandTrunc,
}

#[derive(Deserialize)]
#[serde(default)]
struct Published {
    feature_size: usize,
    sampling_rate: u32,
    hop_length: usize,
    max_length_s: f64,
    fft_window_size: usize,
    padding_value: f64,
    frequency_min: f64,
    frequency_max: f64,
    truncation: Truncation,
    padding: Padding,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            feature_size: 64,
            sampling_rate: 48_000,
            hop_length: 480,
            max_length_s: 10.0,
            fft_window_size: 1024,
            padding_value: 0.0,
            frequency_min: 0.0,
            frequency_max: 14_000.0,
            truncation: Truncation::Fusion,
            padding: Padding::RepeatPad,
        }
    }
}

/// Mono samples to `[1, frames, mels]`.
pub struct ClapProcessor {
    mel: LogMel,
    mels: usize,
    padding: Padding,
    /// Samples of the window.
    window: usize,
    /// Samples a second that it takes.
    pub sampling_rate: u32,
}

impl ClapProcessor {
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
        let file: Published = parse(path, json)?;
        let window = file.max_length_s * f64::from(file.sampling_rate);
        let mut problems = Problems::default();
        problems.expect((1.0..=1e8).contains(&window), || {
            format!("max_length_s = {}, expected at most 1e8 samples", file.max_length_s)
        });
        problems.expect(file.padding_value == 0.0, || format!("padding_value = {}, expected 0", file.padding_value));
        problems.finish(path)?;
        let fusion = file.truncation == Truncation::Fusion;
        let options = MelOptions {
            sample_rate_hz: file.sampling_rate,
            fft: file.fft_window_size,
            hop: file.hop_length,
            energy: Energy::Power,
            mels: file.feature_size,
            low_hz: file.frequency_min,
            high_hz: file.frequency_max,
            scale: if fusion { MelScale::Htk } else { MelScale::Slaney },
            same_area: !fusion,
        };
        Ok(Self {
            mel: LogMel::new(options).map_err(|e| Error::config(path, e.to_string()))?,
            mels: file.feature_size,
            padding: file.padding,
            window: window as usize,
            sampling_rate: file.sampling_rate,
        })
    }

    /// Samples `[samples]` at its rate to a picture `[1, frames, mels]` in dB.
    ///
    /// # Errors
    /// There are none, or more than the window holds.
    pub fn process(&self, samples: &[f32]) -> Result<Tensor> {
        if samples.is_empty() || samples.len() > self.window {
            let expected = format!("1 to {} at {} Hz", self.window, self.sampling_rate);
            return Err(Error::argument("audio", format!("{} samples", samples.len()), expected));
        }
        let times = match self.padding {
            Padding::Pad => 1,
            Padding::Repeat => self.window / samples.len() + 1,
            Padding::RepeatPad => self.window / samples.len(),
        };
        let mut heard = samples.repeat(times);
        heard.resize(self.window, 0.0);
        let picture = self.mel.of(&heard)?;
        Ok(Tensor::from_vec(picture, (1, self.mel.frames(self.window), self.mels), &Device::Cpu)?)
    }
}
