//! A look-ahead limiter: brings peaks under a ceiling without clipping and leaves all else untouched.
//!
//! The gain each sample needs is held over the look-ahead (a sliding minimum), let go slowly, and smoothed by a moving
//! average of the same length. Every average then runs over values that all know the sample to come, so the smoothed gain
//! never exceeds the needed one. The average is kept in integers: it is exactly 1 where nothing has to be limited, and
//! such samples pass bit for bit.

use std::collections::VecDeque;

use super::{decibels, planar_len};
use crate::{Error, Result};

/// Look-ahead, which is also the attack time.
const LOOK_AHEAD_S: f64 = 0.005;
/// Time constant of the return to full gain.
const RELEASE_S: f64 = 0.060;
/// Fixed-point unit of the gain: leaves room for a sum over `u64::MAX / ONE` samples.
const ONE: u64 = 1 << 32;

/// Keeps a stream under a ceiling. The output has the length of the input; it comes one look-ahead (5 ms) later.
pub struct Limiter {
    ceiling: f32,
    look_ahead: usize,
    release: f64,
    delayed: Vec<VecDeque<f32>>,
    /// Needed gains that may still be the least of the look-ahead: position and gain, increasing in both.
    needed: VecDeque<(u64, f64)>,
    /// The last `look_ahead + 1` held gains, in units of `ONE`.
    held: VecDeque<u64>,
    held_sum: u64,
    gain: f64,
    /// Samples seen, counting one look-ahead of silence before the first: its gains already know the first samples.
    position: u64,
    least: f64,
}

impl Limiter {
    /// A limiter for planar blocks of `channels` channels; all channels get the same gain.
    ///
    /// # Errors
    /// The ceiling is above 0 dBFS or not a number.
    pub fn new(sample_rate_hz: u32, channels: usize, ceiling_dbfs: f64) -> Result<Self> {
        if !(-60.0..=0.0).contains(&ceiling_dbfs) {
            return Err(Error::argument("ceiling", format!("{ceiling_dbfs} dBFS"), "-60 to 0 dBFS"));
        }
        let rate = f64::from(sample_rate_hz.max(1));
        let look_ahead = ((LOOK_AHEAD_S * rate).round() as usize).max(1);
        Ok(Self {
            ceiling: 10f64.powf(ceiling_dbfs / 20.0) as f32,
            look_ahead,
            release: 1.0 - (-1.0 / (RELEASE_S * rate)).exp(),
            delayed: vec![VecDeque::new(); channels],
            needed: VecDeque::new(),
            held: std::iter::repeat_n(ONE, look_ahead + 1).collect(),
            held_sum: ONE * (look_ahead as u64 + 1),
            gain: 1.0,
            position: look_ahead as u64,
            least: 1.0,
        })
    }

    /// Takes a block and gives what is ready. Samples that are not finite count as silence.
    ///
    /// # Errors
    /// The number of channels or their lengths differ.
    pub fn process(&mut self, channels: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
        let len = planar_len(channels, self.delayed.len())?;
        let mut out = vec![Vec::with_capacity(len); channels.len()];
        for i in 0..len {
            let mut peak = 0f32;
            for (delayed, channel) in self.delayed.iter_mut().zip(channels) {
                let x = if channel[i].is_finite() { channel[i] } else { 0.0 };
                peak = peak.max(x.abs());
                delayed.push_back(x);
            }
            self.step(peak, &mut out);
        }
        Ok(out)
    }

    /// Gives the samples still held back; the limiter is then as new, but remembers its greatest reduction.
    pub fn finish(&mut self) -> Vec<Vec<f32>> {
        let rest = self.delayed.first().map_or(0, VecDeque::len);
        let mut out = vec![Vec::with_capacity(rest); self.delayed.len()];
        // A short piece has not filled the look-ahead yet.
        while self.delayed.first().is_some_and(|delayed| !delayed.is_empty()) {
            self.step(0.0, &mut out);
        }
        self.needed.clear();
        self.held.iter_mut().for_each(|gain| *gain = ONE);
        self.held_sum = ONE * self.held.len() as u64;
        (self.gain, self.position) = (1.0, self.look_ahead as u64);
        out
    }

    /// The most the gain was turned down so far, in dB (0: nothing was touched).
    pub fn max_reduction_db(&self) -> f64 {
        -decibels(self.least)
    }

    /// One sample in (its peak over the channels), one out once the look-ahead is full.
    fn step(&mut self, peak: f32, out: &mut [Vec<f32>]) {
        let need = if peak > self.ceiling { f64::from(self.ceiling) / f64::from(peak) } else { 1.0 };
        while self.needed.back().is_some_and(|&(_, gain)| gain >= need) {
            self.needed.pop_back();
        }
        self.needed.push_back((self.position, need));
        self.position += 1;
        // The window of the sample now leaving is [position - 1 - look_ahead, position - 1].
        let leaving = self.position - 1 - self.look_ahead as u64;
        while self.needed.front().is_some_and(|&(at, _)| at < leaving) {
            self.needed.pop_front();
        }
        let least = self.needed.front().map_or(1.0, |&(_, gain)| gain);
        let released = self.gain + (1.0 - self.gain) * self.release;
        self.gain = least.min(if released > 1.0 - 1e-5 { 1.0 } else { released });
        let held = (self.gain * ONE as f64) as u64;
        self.held.push_back(held);
        self.held_sum += held;
        if let Some(oldest) = self.held.pop_front() {
            self.held_sum -= oldest;
        }
        let gain = self.held_sum as f64 / (ONE as f64 * (self.look_ahead + 1) as f64);
        if leaving < self.look_ahead as u64 {
            return;
        }
        self.least = self.least.min(gain);
        for (delayed, out) in self.delayed.iter_mut().zip(out) {
            if let Some(x) = delayed.pop_front() {
                // The clamp only takes back the rounding of the product.
                out.push(if gain < 1.0 { (f64::from(x) * gain) as f32 } else { x }.clamp(-self.ceiling, self.ceiling));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::tests::tone;

    fn run(limiter: &mut Limiter, samples: &[f32], cut: usize) -> Vec<f32> {
        let (head, tail) = samples.split_at(cut.min(samples.len()));
        let mut out = limiter.process(&[head]).unwrap().remove(0);
        out.extend(limiter.process(&[tail]).unwrap().remove(0));
        out.extend(limiter.finish().remove(0));
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_above_and_same_length(
            samples in proptest::collection::vec(-4f32..4.0, 0..600), cut in 0usize..600, ceiling in -12f64..=0.0,
        ) {
            let mut limiter = Limiter::new(8000, 1, ceiling).unwrap();
            let out = run(&mut limiter, &samples, cut);
            prop_assert_eq!(out.len(), samples.len());
            let limit = 10f64.powf(ceiling / 20.0) as f32;
            prop_assert!(out.iter().all(|x| x.abs() <= limit));
            let whole = run(&mut Limiter::new(8000, 1, ceiling).unwrap(), &samples, 0);
            prop_assert_eq!(out, whole);
        }

        #[test]
        fn quiet_passes_bit_for_bit(samples in proptest::collection::vec(-0.89f32..0.89, 0..600)) {
            let mut limiter = Limiter::new(8000, 1, -1.0).unwrap();
            prop_assert_eq!(&run(&mut limiter, &samples, 100), &samples);
            prop_assert_eq!(limiter.max_reduction_db(), 0.0);
        }
    }

    #[test]
    fn a_peak_is_turned_down_and_forgotten() {
        let mut samples = tone(440.0, 0.5, 2.0, 32_000, 1).channels.remove(0);
        samples[8000] = 2.0;
        let mut limiter = Limiter::new(32_000, 1, 0.0).unwrap();
        let out = run(&mut limiter, &samples, 31);
        assert!((limiter.max_reduction_db() - 6.0206).abs() < 1e-3, "{}", limiter.max_reduction_db());
        assert!((out[8000] - 1.0).abs() < 1e-6);
        assert_eq!(out[..7800], samples[..7800]);
        assert_eq!(out[60_000..], samples[60_000..]);
    }

    #[test]
    fn not_finite_becomes_silence() {
        let mut limiter = Limiter::new(8000, 1, 0.0).unwrap();
        let out = run(&mut limiter, &[f32::NAN, f32::INFINITY, 0.5], 1);
        assert_eq!(out, [0.0, 0.0, 0.5]);
    }
}
