//! Log-mel spectrograms as feature extractors make them: periodic Hann window, frames centred, ends mirrored, energies in f64
//! through triangular filters, in dB with a floor of -100.

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use crate::{Error, Result};

/// Smallest energy that counts.
const FLOOR: f64 = 1e-10;

/// How frequencies are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MelScale {
    /// `2595 log10(1 + f / 700)`.
    Htk,
    /// Linear to 1 kHz, logarithmic above (Slaney's Auditory Toolbox).
    Slaney,
}

impl MelScale {
    /// Hertz to mel.
    pub fn mel(self, hz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
            Self::Slaney if hz < 1000.0 => 3.0 * hz / 200.0,
            Self::Slaney => 15.0 + (hz / 1000.0).ln() * 27.0 / 6.4f64.ln(),
        }
    }

    /// Mel to hertz.
    pub fn hz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel < 15.0 => 200.0 * mel / 3.0,
            Self::Slaney => 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp(),
        }
    }
}

/// What counts as the energy of a bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Energy {
    /// The squared magnitude.
    Power,
    /// The squared real part alone.
    RealPart,
}

/// Sizes and choices of a spectrogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MelOptions {
    /// Samples a second.
    pub sample_rate_hz: u32,
    /// Samples of a frame; even.
    pub fft: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// What counts.
    pub energy: Energy,
    /// Filters.
    pub mels: usize,
    /// Where the first filter begins.
    pub low_hz: f64,
    /// Where the last filter ends.
    pub high_hz: f64,
    /// How they are spaced.
    pub scale: MelScale,
    /// Whether each is divided by half its width (Slaney's norm), so that all have the same area.
    pub same_area: bool,
}

/// Weights of neighbouring bins.
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

/// Makes log-mel spectrograms.
pub struct LogMel {
    options: MelOptions,
    window: Vec<f64>,
    filters: Vec<Filter>,
    transform: Arc<dyn RealToComplex<f64>>,
}

impl LogMel {
    /// Computes window and filters.
    ///
    /// # Errors
    /// A size or frequency is out of range.
    pub fn new(options: MelOptions) -> Result<Self> {
        let MelOptions { sample_rate_hz, fft, hop, mels, low_hz, high_hz, .. } = options;
        let check = |name: &str, good: bool, found: String, expected: &str| {
            if good { Ok(()) } else { Err(Error::argument(name, found, expected)) }
        };
        check(
            "samples of a frame",
            fft % 2 == 0 && (4..=1 << 20).contains(&fft),
            fft.to_string(),
            "even, 4 to 1048576",
        )?;
        check("hop", (1..=1 << 20).contains(&hop), hop.to_string(), "1 to 1048576")?;
        check("mel filters", (1..=1 << 12).contains(&mels), mels.to_string(), "1 to 4096")?;
        check("sample rate", (2..=1 << 20).contains(&sample_rate_hz), sample_rate_hz.to_string(), "2 to 1048576 Hz")?;
        let rising = 0.0 <= low_hz && low_hz < high_hz && high_hz.is_finite();
        check("mel frequencies", rising, format!("{low_hz} to {high_hz} Hz"), "rising, from 0 Hz on")?;
        let turn = std::f64::consts::TAU / fft as f64;
        Ok(Self {
            window: (0..fft).map(|i| 0.5 - 0.5 * (turn * i as f64).cos()).collect(),
            filters: filters(&options),
            transform: RealFftPlanner::new().plan_fft_forward(fft),
            options,
        })
    }

    /// Frames of `samples` samples.
    pub fn frames(&self, samples: usize) -> usize {
        1 + samples / self.options.hop
    }

    /// The spectrogram `[frames, mels]` of mono samples, in dB.
    ///
    /// # Errors
    /// There are too few samples to mirror the ends.
    pub fn of(&self, samples: &[f32]) -> Result<Vec<f32>> {
        let (fft, half) = (self.options.fft, self.options.fft / 2);
        if samples.len() <= half {
            let found = format!("{} samples", samples.len());
            return Err(Error::argument("audio", found, format!("more than {half}, to mirror the ends")));
        }
        let last = samples.len() - 1;
        let mut frame = vec![0.0; fft];
        let (mut spectrum, mut scratch) = (self.transform.make_output_vec(), self.transform.make_scratch_vec());
        let mut out = Vec::with_capacity(self.frames(samples.len()) * self.filters.len());
        for centre in (0..self.frames(samples.len())).map(|k| k * self.options.hop) {
            for (i, (x, window)) in frame.iter_mut().zip(&self.window).enumerate() {
                let at = (centre + i).abs_diff(half);
                let at = if at > last { 2 * last - at } else { at };
                *x = f64::from(samples[at]) * window;
            }
            let done = self.transform.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            done.map_err(|e| Error::argument("frame", e.to_string(), "one that can be transformed"))?;
            let energy = |bin: &Complex<f64>| match self.options.energy {
                Energy::Power => bin.norm_sqr(),
                Energy::RealPart => bin.re * bin.re,
            };
            let energies: Vec<f64> = spectrum.iter().map(energy).collect();
            for Filter { first, weights } in &self.filters {
                let sum: f64 = weights.iter().zip(&energies[*first..]).map(|(w, e)| w * e).sum();
                out.push((10.0 * sum.max(FLOOR).log10()) as f32);
            }
        }
        Ok(out)
    }
}

/// Triangles between neighbouring frequencies, evenly spaced on the scale.
fn filters(options: &MelOptions) -> Vec<Filter> {
    let MelOptions { scale, mels, .. } = *options;
    let (low, high) = (scale.mel(options.low_hz), scale.mel(options.high_hz));
    let corner = |i: usize| scale.hz(low + (high - low) * i as f64 / (mels + 1) as f64);
    let bin_hz = f64::from(options.sample_rate_hz / 2) / (options.fft / 2) as f64;
    (0..mels)
        .map(|i| {
            let (from, peak, to) = (corner(i), corner(i + 1), corner(i + 2));
            let scale = if options.same_area { 2.0 / (to - from) } else { 1.0 };
            let weight = |bin: usize| {
                let hz = bin as f64 * bin_hz;
                scale * ((hz - from) / (peak - from)).min((to - hz) / (to - peak)).max(0.0)
            };
            let weights: Vec<f64> = (0..=options.fft / 2).map(weight).collect();
            let first = weights.iter().position(|w| *w > 0.0).unwrap_or_default();
            let end = weights.iter().rposition(|w| *w > 0.0).map_or(first, |last| last + 1);
            Filter { first, weights: weights[first..end].to_vec() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: MelOptions = MelOptions {
        sample_rate_hz: 16_000,
        fft: 512,
        hop: 160,
        energy: Energy::Power,
        mels: 40,
        low_hz: 0.0,
        high_hz: 8000.0,
        scale: MelScale::Htk,
        same_area: false,
    };

    #[test]
    fn scales_are_inverse_and_known_at_some_places() {
        for scale in [MelScale::Htk, MelScale::Slaney] {
            for hz in [0.0, 440.0, 999.0, 1000.0, 1001.0, 8000.0] {
                assert!((scale.hz(scale.mel(hz)) - hz).abs() < 1e-8, "{scale:?} {hz}");
            }
        }
        assert!((MelScale::Htk.mel(1000.0) - 999.985_5).abs() < 1e-3);
        assert_eq!(MelScale::Slaney.mel(1000.0), 15.0);
        assert!((MelScale::Slaney.mel(6400.0) - 42.0).abs() < 1e-9);
    }

    #[test]
    fn a_tone_is_loudest_in_its_filter() {
        let tone: Vec<f32> = (0..8000).map(|i| (std::f32::consts::TAU * 1000.0 * i as f32 / 16_000.0).sin()).collect();
        let spectrogram = LogMel::new(OPTIONS).unwrap().of(&tone).unwrap();
        assert_eq!(spectrogram.len(), 51 * 40);
        let peak = OPTIONS.scale.mel(1000.0) / OPTIONS.scale.mel(8000.0) * 41.0 - 1.0;
        let frame = &spectrogram[25 * 40..26 * 40];
        let loudest = (0..40).max_by(|&a, &b| frame[a].total_cmp(&frame[b])).unwrap();
        assert!((loudest as f64 - peak).abs() < 1.0, "{loudest}, {peak}");
        // Silence is the floor; a real part is never more than the whole.
        let silent = LogMel::new(OPTIONS).unwrap().of(&[0.0; 400]).unwrap();
        assert!(silent.iter().all(|x| *x == -100.0));
        let real = LogMel::new(MelOptions { energy: Energy::RealPart, ..OPTIONS }).unwrap().of(&tone).unwrap();
        assert!(real.iter().zip(&spectrogram).all(|(real, whole)| real <= whole));
    }

    #[test]
    fn ends_are_mirrored_and_bad_options_refused() {
        let samples: Vec<f32> = (0..600).map(|i| ((i * i) as f32 * 0.01).sin()).collect();
        let mel = LogMel::new(OPTIONS).unwrap();
        // As many samples mirrored by hand: the same frames, 256 samples later.
        let mut mirrored: Vec<f32> = samples[1..=256].iter().rev().copied().collect();
        mirrored.extend(&samples);
        let hop = LogMel::new(MelOptions { hop: 256, ..OPTIONS }).unwrap();
        let (plain, by_hand) = (hop.of(&samples).unwrap(), hop.of(&mirrored).unwrap());
        assert!(plain[..80].iter().zip(&by_hand[40..120]).all(|(a, b)| (a - b).abs() < 1e-4));
        assert!(mel.of(&samples[..256]).is_err() && mel.of(&samples[..257]).is_ok());
        for bad in [
            MelOptions { fft: 511, ..OPTIONS },
            MelOptions { hop: 0, ..OPTIONS },
            MelOptions { mels: 0, ..OPTIONS },
            MelOptions { high_hz: f64::NAN, ..OPTIONS },
            MelOptions { sample_rate_hz: 0, ..OPTIONS },
        ] {
            assert!(LogMel::new(bad).is_err(), "{bad:?}");
        }
    }
}
