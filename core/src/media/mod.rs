//! Media files in and out: audio is read, resampled, measured, limited, drawn and written here; still pictures and
//! video are read; music is laid under video.

pub mod chunks;
#[cfg(feature = "video")]
mod ffmpeg;
mod film;
pub mod isolate;
mod limiter;
mod limits;
mod loudness;
pub mod measure;
pub mod mel;
mod metadata;
mod picture;
mod read;
mod resample;
mod spectrogram;
pub mod still;
pub mod video;
mod write;

pub use film::{FilmOptions, FilmReport, OwnSound, lay_under};
pub use limiter::Limiter;
pub use limits::Limits;
pub use loudness::{Loudness, Normalized, loudness, normalize};
pub use metadata::{Tags, read_metadata};
pub use picture::Picture;
pub use read::{read_audio, read_audio_as_reference};
pub use resample::{MAX_SAMPLE_RATE_HZ, Resampler, resample};
pub use spectrogram::{SpectrogramOptions, spectrogram, spectrogram_png};
pub use still::{PictureOptions, decode_picture, read_picture};
pub use video::{Selection, Video, VideoOptions, read_video, read_video_with};
pub use write::{AudioFormat, AudioWriter, Dither, SampleFormat, WriteOptions, Written};

use crate::{Error, Result};

/// Sound in memory: planar samples, nominally within -1 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Audio {
    /// One vector a channel, all of the same length.
    pub channels: Vec<Vec<f32>>,
    /// Samples a second of each channel.
    pub sample_rate_hz: u32,
}

impl Audio {
    /// One channel.
    pub fn mono(samples: Vec<f32>, sample_rate_hz: u32) -> Self {
        Self { channels: vec![samples], sample_rate_hz }
    }

    /// Samples of each channel.
    pub fn len(&self) -> usize {
        self.channels.first().map_or(0, Vec::len)
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length in seconds.
    pub fn duration_s(&self) -> f64 {
        self.len() as f64 / f64::from(self.sample_rate_hz.max(1))
    }

    /// Mean over the channels.
    pub fn mixdown(&self) -> Vec<f32> {
        let share = 1.0 / self.channels.len().max(1) as f32;
        (0..self.len()).map(|i| self.channels.iter().map(|channel| channel[i]).sum::<f32>() * share).collect()
    }

    /// Largest absolute sample.
    pub fn peak(&self) -> f32 {
        self.channels.iter().flatten().fold(0.0, |peak, x| peak.max(x.abs()))
    }

    /// The channels as slices, as sinks take them.
    pub fn planes(&self) -> Vec<&[f32]> {
        self.channels.iter().map(Vec::as_slice).collect()
    }
}

/// Common length of planar slices.
fn planar_len(channels: &[&[f32]], expected: usize) -> Result<usize> {
    let len = channels.first().map_or(0, |channel| channel.len());
    if channels.len() != expected {
        return Err(Error::argument("channels of a block", channels.len().to_string(), expected.to_string()));
    }
    match channels.iter().find(|channel| channel.len() != len) {
        Some(other) => Err(Error::argument("samples of a channel", other.len().to_string(), len.to_string())),
        None => Ok(len),
    }
}

/// Decibels of an amplitude; silence is minus infinity.
pub fn decibels(amplitude: f64) -> f64 {
    20.0 * amplitude.log10()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder of parity cases: `MUSAIC_GOLDENS`, else `shared/goldens` beside the workspace. Nothing where neither is.
    pub(super) fn golden_folder(case: &str) -> Option<PathBuf> {
        let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let roots = [
            std::env::var_os("MUSAIC_GOLDENS").map(PathBuf::from),
            Some(workspace.join("tests/goldens")),
            Some(workspace.join("../shared/goldens")),
        ];
        roots.into_iter().flatten().map(|root| root.join(case)).find(|folder| folder.is_dir())
    }

    /// A tone with some harmonics, `seconds` long.
    pub(super) fn tone(hz: f64, amplitude: f64, seconds: f64, sample_rate_hz: u32, channels: usize) -> Audio {
        let len = (seconds * f64::from(sample_rate_hz)).round() as usize;
        let wave = |i: usize, channel: usize| {
            let phase = std::f64::consts::TAU * hz * i as f64 / f64::from(sample_rate_hz);
            (amplitude * (phase + channel as f64 * 0.3).sin()) as f32
        };
        let channels = (0..channels).map(|c| (0..len).map(|i| wave(i, c)).collect()).collect();
        Audio { channels, sample_rate_hz }
    }

    #[test]
    fn mixdown_peak_and_duration() {
        let audio = Audio { channels: vec![vec![1.0, 0.0], vec![0.0, -0.5]], sample_rate_hz: 2 };
        assert_eq!(audio.mixdown(), [0.5, -0.25]);
        assert_eq!(audio.peak(), 1.0);
        assert_eq!(audio.duration_s(), 1.0);
    }

    #[test]
    fn planar_slices_must_agree() {
        assert!(planar_len(&[&[0.0], &[]], 2).is_err());
        assert!(planar_len(&[&[0.0]], 2).is_err());
        assert_eq!(planar_len(&[&[0.0], &[1.0]], 2).unwrap(), 1);
    }
}
