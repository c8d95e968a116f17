//! Plain measures of a signal: what a piece is ([`report`]), and for tests and evaluation level, spectral shape, onsets.
//!
//! Spectra are magnitudes under a periodic Hann window, scaled so that a full-scale sine reads 1; frame `k` is centred on
//! sample `k * hop`, and the signal counts as zero outside itself.

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use super::{Audio, Loudness, decibels, loudness};
use crate::Result;

/// Smallest magnitude that counts, -120 dB: keeps logarithms and ratios of silence finite.
const FLOOR: f32 = 1e-6;

/// What a piece is, in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Length in seconds.
    pub duration_s: f64,
    /// Samples a second.
    pub sample_rate_hz: u32,
    /// Number of channels.
    pub channels: usize,
    /// How loud it is.
    pub loudness: Loudness,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { duration_s, sample_rate_hz, channels, loudness } = self;
        let plural = if *channels == 1 { "" } else { "s" };
        write!(f, "{duration_s:.2} s at {sample_rate_hz} Hz, {channels} channel{plural}, ")?;
        match loudness.integrated_lufs.is_finite() {
            true => write!(f, "{:.1} LUFS, peak {:.1} dBFS", loudness.integrated_lufs, loudness.sample_peak_dbfs),
            false => f.write_str("silent"),
        }
    }
}

/// Measures a piece.
///
/// # Errors
/// As [`loudness`].
pub fn report(audio: &Audio) -> Result<Report> {
    Ok(Report {
        duration_s: audio.duration_s(),
        sample_rate_hz: audio.sample_rate_hz,
        channels: audio.channels.len(),
        loudness: loudness(audio)?,
    })
}

/// Short-time spectra of a mono signal.
#[derive(Debug, Clone)]
pub struct Spectra {
    /// Magnitudes, `[frames][fft / 2 + 1]`.
    pub frames: Vec<Vec<f32>>,
    /// Width of a bin in Hz.
    pub bin_hz: f64,
    /// Frames a second.
    pub frame_rate_hz: f64,
}

/// One frame's transform, with its buffers.
pub(super) struct Analyser {
    transform: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Analyser {
    pub fn new(fft: usize) -> Self {
        let transform = RealFftPlanner::new().plan_fft_forward(fft);
        let turn = std::f64::consts::TAU / fft as f64;
        let window = (0..fft).map(|i| (0.5 - 0.5 * (turn * i as f64).cos()) as f32).collect();
        let (spectrum, scratch) = (transform.make_output_vec(), transform.make_scratch_vec());
        Self { transform, window, frame: vec![0.0; fft], spectrum, scratch }
    }

    /// Magnitudes of the frame centred on `centre`.
    pub fn magnitudes(&mut self, samples: &[f32], centre: usize) -> Vec<f32> {
        let fft = self.window.len();
        for (i, (slot, weight)) in self.frame.iter_mut().zip(&self.window).enumerate() {
            let x = (centre + i).checked_sub(fft / 2).and_then(|at| samples.get(at)).copied().unwrap_or(0.0);
            *slot = x * weight;
        }
        // The lengths come from the plan itself, so this cannot fail; silence is the answer if it ever does.
        if self.transform.process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch).is_err() {
            self.spectrum.fill(Complex::default());
        }
        // A sine of amplitude 1 sums half of the window, which is fft / 4.
        self.spectrum.iter().map(|bin| bin.norm() * 4.0 / fft as f32).collect()
    }
}

/// Short-time spectra, `fft` samples wide, every `hop` samples.
pub fn spectra(samples: &[f32], sample_rate_hz: u32, fft: usize, hop: usize) -> Spectra {
    let (fft, hop) = (fft.max(2), hop.max(1));
    let mut analyser = Analyser::new(fft);
    let frames = (0..samples.len()).step_by(hop).map(|centre| analyser.magnitudes(samples, centre)).collect();
    let rate = f64::from(sample_rate_hz);
    Spectra { frames, bin_hz: rate / fft as f64, frame_rate_hz: rate / hop as f64 }
}

impl Spectra {
    /// Flatness of each frame: geometric over arithmetic mean of the power, 0 for a tone, towards 0.56 for white noise.
    pub fn flatness(&self) -> Vec<f32> {
        let of = |frame: &Vec<f32>| {
            let powers = frame.iter().map(|&x| f64::from(x.max(FLOOR)).powi(2));
            let (logs, sum) = powers.fold((0.0, 0.0), |(logs, sum), power| (logs + power.ln(), sum + power));
            let bins = frame.len() as f64;
            ((logs / bins).exp() / (sum / bins)) as f32
        };
        self.frames.iter().map(of).collect()
    }

    /// Flux of each frame: length of the change between neighbouring spectra, each of unit length; the first is 0.
    pub fn flux(&self) -> Vec<f32> {
        let unit: Vec<Vec<f32>> = self
            .frames
            .iter()
            .map(|frame| {
                let norm = frame.iter().map(|x| x * x).sum::<f32>().sqrt().max(FLOOR);
                frame.iter().map(|x| x / norm).collect()
            })
            .collect();
        let change = |pair: &[Vec<f32>]| pair[0].iter().zip(&pair[1]).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        std::iter::once(0.0).take(unit.len()).chain(unit.windows(2).map(change)).collect()
    }

    /// Centre of gravity of each frame's magnitudes in Hz; 0 for silence.
    pub fn centroid_hz(&self) -> Vec<f32> {
        let of = |frame: &Vec<f32>| {
            let (moment, sum) = frame.iter().enumerate().fold((0.0, 0.0), |(moment, sum), (bin, &x)| {
                let x = f64::from(x);
                (moment + x * bin as f64 * self.bin_hz, sum + x)
            });
            if sum > f64::from(FLOOR) { (moment / sum) as f32 } else { 0.0 }
        };
        self.frames.iter().map(of).collect()
    }

    /// Onset strength of each frame: mean rise of the level over the bins, in dB; the first is 0.
    pub fn onsets_db(&self) -> Vec<f32> {
        // -80 dB: below it, changes are not heard as onsets.
        let level = |x: f32| 20.0 * x.max(1e-4).log10();
        let rise = |pair: &[Vec<f32>]| {
            let sum: f32 = pair[0].iter().zip(&pair[1]).map(|(&a, &b)| (level(b) - level(a)).max(0.0)).sum();
            sum / pair[0].len() as f32
        };
        std::iter::once(0.0).take(self.frames.len()).chain(self.frames.windows(2).map(rise)).collect()
    }
}

/// Level of each full second in dBFS (a full-scale sine reads -3.01), the last, shorter one included if it has at least
/// half a second or is the only one. Silence is minus infinity.
pub fn rms_per_second_db(samples: &[f32], sample_rate_hz: u32) -> Vec<f64> {
    let second = sample_rate_hz.max(1) as usize;
    let all = samples.chunks(second).enumerate();
    all.filter(|(i, part)| *i == 0 || part.len() * 2 >= second).map(|(_, part)| decibels(rms(part))).collect()
}

/// Root of the mean square; 0 for nothing.
pub fn rms(samples: &[f32]) -> f64 {
    (samples.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / samples.len().max(1) as f64).sqrt()
}

/// Norm of the difference over the norm of `want`, where the two overlap, at the lag of at most `most` samples where it is
/// least; decoders differ in where they begin. Overlaps of less than four fifths of `want` do not count; infinity if none does.
pub fn relative_error_at_best_lag(got: &[f32], want: &[f32], most: usize) -> f64 {
    let error_at = |from_got: usize, from_want: usize| {
        let (got, wanted) = (got.get(from_got..)?, want.get(from_want..)?);
        let len = got.len().min(wanted.len());
        let enough = len * 5 >= want.len() * 4;
        let (mut wrong, mut all) = (0.0, 0.0);
        for (got, want) in got.iter().zip(wanted).take(if enough { len } else { 0 }) {
            wrong += f64::from(got - want).powi(2);
            all += f64::from(*want).powi(2);
        }
        enough.then(|| if wrong == 0.0 { 0.0 } else { (wrong / all).sqrt() })
    };
    let mut best = f64::INFINITY;
    for lag in 0..=most {
        for error in [error_at(lag, 0), error_at(0, lag)].into_iter().flatten() {
            best = best.min(error);
        }
        // Nothing is better than equal.
        if best < 1e-7 {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::tone;

    fn noise(len: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| draw()).collect()
    }

    #[test]
    fn what_a_piece_is() {
        let told = report(&tone(440.0, 0.1, 2.0, 32_000, 2)).unwrap().to_string();
        assert!(told.starts_with("2.00 s at 32000 Hz, 2 channels, -"), "{told}");
        assert!(told.ends_with("LUFS, peak -20.0 dBFS"), "{told}");
        let silence = report(&Audio::mono(vec![0.0; 800], 8000)).unwrap().to_string();
        assert_eq!(silence, "0.10 s at 8000 Hz, 1 channel, silent");
    }

    #[test]
    fn the_lag_is_found() {
        let piece = noise(4000);
        for lag in [0, 3, 150] {
            assert_eq!(relative_error_at_best_lag(&piece[lag..], &piece, 200), 0.0);
            assert_eq!(relative_error_at_best_lag(&piece, &piece[lag..], 200), 0.0);
        }
        assert!(relative_error_at_best_lag(&piece[250..], &piece, 200) > 0.5);
        let louder: Vec<f32> = piece.iter().map(|x| x * 1.01).collect();
        assert!((relative_error_at_best_lag(&louder, &piece, 10) - 0.01).abs() < 1e-4);
        assert_eq!(relative_error_at_best_lag(&piece[..3000], &piece, 200), f64::INFINITY, "too little of it");
    }

    #[test]
    fn level_of_a_sine() {
        let audio = tone(100.0, 1.0, 2.7, 8000, 1);
        let levels = rms_per_second_db(&audio.channels[0], 8000);
        assert_eq!(levels.len(), 3);
        assert!(levels.iter().all(|level| (level + 3.01).abs() < 0.02), "{levels:?}");
        assert_eq!(rms_per_second_db(&[0.0; 100], 8000), [f64::NEG_INFINITY]);
    }

    #[test]
    fn tone_and_noise_differ() {
        let tone = spectra(&tone(1000.0, 0.5, 1.0, 16_000, 1).channels[0], 16_000, 1024, 256);
        let noise = spectra(&noise(16_000), 16_000, 1024, 256);
        let middle = |values: Vec<f32>| values[30];
        assert!((tone.frames[30].iter().fold(0.0, |a: f32, &b| a.max(b)) - 0.5).abs() < 0.01);
        assert!(middle(tone.flatness()) < 0.001 && middle(noise.flatness()) > 0.3);
        assert!(middle(tone.flux()) < 0.01 && middle(noise.flux()) > 0.3);
        assert!((middle(tone.centroid_hz()) - 1000.0).abs() < 20.0);
        assert!(middle(noise.centroid_hz()) > 3000.0);
    }

    #[test]
    fn an_onset_stands_out() {
        let mut samples = vec![0.0; 8000];
        samples.extend(noise(8000));
        let onsets = spectra(&samples, 16_000, 512, 160).onsets_db();
        let strongest = (0..onsets.len()).max_by(|&a, &b| onsets[a].total_cmp(&onsets[b])).unwrap();
        assert!((48..=51).contains(&strongest), "{strongest}");
        assert_eq!(onsets.len(), 100);
    }

    #[test]
    fn nothing_in_nothing_out() {
        let none = spectra(&[], 16_000, 512, 160);
        assert!(none.flux().is_empty() && none.onsets_db().is_empty() && none.flatness().is_empty());
        let silence = spectra(&[0.0; 1000], 16_000, 512, 160);
        assert!(silence.flatness().iter().chain(&silence.centroid_hz()).all(|x| x.is_finite()));
    }
}
