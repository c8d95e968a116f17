//! Band-limited resampling: a Hann-windowed sinc, evaluated phase by phase.
//!
//! The definition is that of `torchaudio.functional.resample` with its defaults (`sinc_interp_hann`, filter width 6,
//! rolloff 0.99), because the reference projects load audio through it. With both rates divided by their greatest common
//! divisor to `o` and `n`: `base = 0.99 min(o, n)`, output phase `p` of `n` weighs the input at offset `i` by
//! `sinc(pi t) cos(pi t / 12)^2 base / o` where `t = (i/o - p/n) base`, and nothing outside `|t| < 6`. Most of that kernel
//! is zero, so only the taps inside the window are kept.

use std::f64::consts::PI;

use super::Audio;
use crate::{Error, Result};

/// Zero crossings on each side of the kernel.
const FILTER_WIDTH: f64 = 6.0;
/// Cut-off as a share of the lower Nyquist frequency.
const ROLLOFF: f64 = 0.99;
/// Highest rate that is taken at either end.
pub const MAX_SAMPLE_RATE_HZ: u32 = 768_000;

/// The taps of one output phase.
struct Phase {
    /// Where the first tap lies, counted from the oldest sample kept for a frame.
    first: usize,
    /// Range in the common tap list.
    taps: std::ops::Range<usize>,
}

/// Resamples a stream block by block; the joined blocks equal the whole resampled at once.
pub struct Resampler {
    /// Input samples a frame.
    stride: usize,
    /// Samples of context on each side of a frame.
    width: usize,
    phases: Vec<Phase>,
    taps: Vec<f32>,
    /// Per channel: the context before the next frame and all that came after it.
    pending: Vec<Vec<f32>>,
    taken: u64,
    given: u64,
}

impl Resampler {
    /// A resampler of `channels` channels.
    ///
    /// # Errors
    /// A rate is 0 or above [`MAX_SAMPLE_RATE_HZ`].
    pub fn new(channels: usize, from_hz: u32, to_hz: u32) -> Result<Self> {
        for rate in [from_hz, to_hz] {
            if rate == 0 || rate > MAX_SAMPLE_RATE_HZ {
                return Err(Error::argument(
                    "sample rate",
                    format!("{rate} Hz"),
                    format!("1 to {MAX_SAMPLE_RATE_HZ} Hz"),
                ));
            }
        }
        let divisor = gcd(from_hz, to_hz);
        let (o, n) = ((from_hz / divisor) as usize, (to_hz / divisor) as usize);
        let (phases, taps, width) = if o == n { (Vec::new(), Vec::new(), 0) } else { kernel(o, n) };
        Ok(Self { stride: o, width, phases, taps, pending: vec![vec![0.0; width]; channels], taken: 0, given: 0 })
    }

    /// Takes planar samples and gives what they complete.
    ///
    /// # Errors
    /// The number of channels or their lengths differ.
    pub fn push(&mut self, channels: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
        let len = super::planar_len(channels, self.pending.len())?;
        self.taken += len as u64;
        if self.phases.is_empty() {
            self.given = self.taken;
            return Ok(channels.iter().map(|channel| channel.to_vec()).collect());
        }
        for (pending, channel) in self.pending.iter_mut().zip(channels) {
            pending.extend_from_slice(channel);
        }
        Ok(self.drain(u64::MAX))
    }

    /// Gives the rest: in all `ceil(taken * to / from)` samples have then been given.
    pub fn finish(&mut self) -> Vec<Vec<f32>> {
        if self.phases.is_empty() {
            return vec![Vec::new(); self.pending.len()];
        }
        let total = (self.taken as u128 * self.phases.len() as u128).div_ceil(self.stride as u128) as u64;
        let frames = (total - self.given).div_ceil(self.phases.len() as u64) as usize;
        for pending in &mut self.pending {
            pending.resize(frames * self.stride + 2 * self.width, 0.0);
        }
        self.drain(total)
    }

    /// Runs all complete frames, but gives no sample at or after `end`.
    fn drain(&mut self, end: u64) -> Vec<Vec<f32>> {
        let available = self.pending.first().map_or(0, Vec::len);
        let frames = available.saturating_sub(2 * self.width) / self.stride;
        let keep = (end - self.given).min((frames * self.phases.len()) as u64) as usize;
        let mut out = Vec::with_capacity(self.pending.len());
        for pending in &mut self.pending {
            let mut channel = Vec::with_capacity(frames * self.phases.len());
            for frame in 0..frames {
                let window = &pending[frame * self.stride..];
                for phase in &self.phases {
                    let taps = &self.taps[phase.taps.clone()];
                    channel.push(window[phase.first..].iter().zip(taps).map(|(x, tap)| x * tap).sum());
                }
            }
            channel.truncate(keep);
            pending.drain(..frames * self.stride);
            out.push(channel);
        }
        self.given += keep as u64;
        out
    }
}

/// The taps of all phases, and the context they need on each side.
fn kernel(o: usize, n: usize) -> (Vec<Phase>, Vec<f32>, usize) {
    let base = o.min(n) as f64 * ROLLOFF;
    let width = (FILTER_WIDTH * o as f64 / base).ceil() as usize;
    let mut phases = Vec::with_capacity(n);
    let mut taps = Vec::new();
    for p in 0..n {
        let centre = p as f64 / n as f64 * o as f64;
        let reach = FILTER_WIDTH * o as f64 / base;
        // Offsets run over [-width, width + o); taps outside the window are exactly zero in the definition.
        let low = ((centre - reach).floor() as i64).max(-(width as i64));
        let high = ((centre + reach).ceil() as i64).min((width + o) as i64 - 1);
        let start = taps.len();
        for i in low..=high {
            let t = ((i as f64 / o as f64 - p as f64 / n as f64) * base).clamp(-FILTER_WIDTH, FILTER_WIDTH);
            let window = (PI * t / (2.0 * FILTER_WIDTH)).cos().powi(2);
            let sinc = if t == 0.0 { 1.0 } else { (PI * t).sin() / (PI * t) };
            taps.push((sinc * window * base / o as f64) as f32);
        }
        phases.push(Phase { first: (low + width as i64) as usize, taps: start..taps.len() });
    }
    (phases, taps, width)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The same audio at another rate; `ceil(samples * to_hz / rate)` samples. Equal rates: unchanged.
///
/// # Errors
/// A rate is 0 or above [`MAX_SAMPLE_RATE_HZ`].
pub fn resample(audio: &Audio, to_hz: u32) -> Result<Audio> {
    let mut resampler = Resampler::new(audio.channels.len(), audio.sample_rate_hz, to_hz)?;
    let mut channels = resampler.push(&audio.planes())?;
    for (channel, rest) in channels.iter_mut().zip(resampler.finish()) {
        channel.extend(rest);
    }
    Ok(Audio { channels, sample_rate_hz: to_hz })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::tests::golden_folder;

    #[test]
    fn agrees_with_every_golden() {
        let Some(folder) = golden_folder("media/resample") else { return };
        let tensors = candle_core::safetensors::load(folder.join("io.safetensors"), &candle_core::Device::Cpu).unwrap();
        let mut compared = 0;
        for (name, input) in tensors.iter().filter(|(name, _)| name.starts_with("in.")) {
            let mut parts = name[3..].split('_').map(|part| part.parse::<u32>());
            let (from, to) = (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap());
            let audio = Audio { channels: input.to_vec2().unwrap(), sample_rate_hz: from };
            let want: Vec<Vec<f32>> = tensors[&name.replace("in.", "out.")].to_vec2().unwrap();
            let got = resample(&audio, to).unwrap().channels;
            assert_eq!(got.len(), want.len(), "{name}");
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.len(), want.len(), "{name}");
                for (got, want) in got.iter().zip(want) {
                    assert!((got - want).abs() <= 1e-5 + 1e-4 * want.abs(), "{name}: {got} for {want}");
                }
            }
            compared += 1;
        }
        assert!(compared >= 9, "only {compared} cases");
    }

    #[test]
    fn refuses_rates_that_cannot_be() {
        assert!(Resampler::new(1, 0, 48_000).is_err());
        assert!(Resampler::new(1, 48_000, MAX_SAMPLE_RATE_HZ + 1).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn length_and_blocks(
            from in 1u32..60, to in 1u32..60, samples in proptest::collection::vec(-1f32..1.0, 0..400), cut in 0usize..400,
        ) {
            let (from, to) = (from * 800, to * 800);
            let whole = resample(&Audio::mono(samples.clone(), from), to).unwrap();
            prop_assert_eq!(whole.len() as u64, (samples.len() as u64 * u64::from(to)).div_ceil(u64::from(from)));
            let cut = cut.min(samples.len());
            let mut stream = Resampler::new(1, from, to).unwrap();
            let mut joined = stream.push(&[&samples[..cut]]).unwrap().remove(0);
            joined.extend(stream.push(&[&samples[cut..]]).unwrap().remove(0));
            joined.extend(stream.finish().remove(0));
            prop_assert_eq!(joined, whole.channels[0].clone());
        }
    }
}
