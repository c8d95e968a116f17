//! Decoded samples on their way into an [`Audio`], checked as they come.

use std::path::Path;

use super::EXPECTED;
use crate::media::{Audio, Limits, MAX_SAMPLE_RATE_HZ, isolate::Part, isolate::Sink};
use crate::{Error, Result};

/// Collects blocks within the limits.
pub(in crate::media) struct Collector<'a> {
    path: &'a Path,
    limits: &'a Limits,
    channels: Vec<Vec<f32>>,
    sample_rate_hz: u32,
}

impl<'a> Collector<'a> {
    pub fn new(path: &'a Path, limits: &'a Limits) -> Self {
        Self { path, limits, channels: Vec::new(), sample_rate_hz: 0 }
    }

    /// Appends a planar block.
    fn push(&mut self, block: &[Vec<f32>], sample_rate_hz: u32) -> Result<()> {
        let broken = |found: String| Err(Error::format(self.path, EXPECTED, found));
        if block.is_empty() || sample_rate_hz == 0 || sample_rate_hz > MAX_SAMPLE_RATE_HZ {
            return broken(format!("{} channels at {sample_rate_hz} Hz", block.len()));
        }
        if self.channels.is_empty() {
            self.channels = vec![Vec::new(); block.len()];
            self.sample_rate_hz = sample_rate_hz;
        }
        if (self.channels.len(), self.sample_rate_hz) != (block.len(), sample_rate_hz) {
            return broken("a stream whose rate or channels change".into());
        }
        let len = self.channels[0].len() + block[0].len();
        check(self.path, self.limits, block.len(), len as u64, sample_rate_hz)?;
        for (channel, samples) in self.channels.iter_mut().zip(block) {
            if let Some(at) = samples.iter().position(|x| !x.is_finite()) {
                return Err(Error::format(
                    self.path,
                    "samples that are finite numbers",
                    format!("{} as sample {}", samples[at], channel.len() + at),
                ));
            }
            channel.extend_from_slice(samples);
        }
        Ok(())
    }

    pub fn finish(self) -> Result<Audio> {
        if self.channels.first().is_none_or(Vec::is_empty) {
            return Err(Error::format(self.path, EXPECTED, "no sample of audio"));
        }
        Ok(Audio { channels: self.channels, sample_rate_hz: self.sample_rate_hz })
    }
}

impl Sink for Collector<'_> {
    fn take(&mut self, part: Part<'_>) -> Result<()> {
        match part {
            Part::Samples { block, sample_rate_hz } => self.push(block, sample_rate_hz),
            Part::Keep(len) => {
                self.channels.iter_mut().for_each(|channel| channel.truncate(len));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether `len` samples of `channels` channels are within the limits.
pub(super) fn check(path: &Path, limits: &Limits, channels: usize, len: u64, sample_rate_hz: u32) -> Result<()> {
    let seconds = len as f64 / f64::from(sample_rate_hz.max(1));
    if channels > limits.channels {
        let most = format!("at most {} channels", limits.channels);
        return Err(Error::format(path, most, format!("{channels} channels")));
    }
    if seconds > limits.duration_s || len.saturating_mul(channels as u64) > limits.samples as u64 {
        let most = format!("at most {} s and {} samples", limits.duration_s, limits.samples);
        return Err(Error::format(path, most, format!("audio of {seconds:.1} s and more")));
    }
    Ok(())
}
