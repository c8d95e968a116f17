//! How alike two pieces are: notes, onsets and loudness, each measured over time from the sound alone.

use musaic_core::{
    Result,
    media::{Audio, loudness, measure::spectra},
};
use serde::Serialize;

use super::{RATE_HZ, bands, hear, key::Pitches, onsets};

/// Frames of notes that are compared at once: half a second.
const NOTES: usize = 10;
/// Frames by which an onset may come early or late: 30 ms.
const SLACK: usize = 3;

/// What two pieces have in common.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Likeness {
    /// Mean cosine of the pitch classes of each half second, 0 to 1: the same notes at the same time are 1; strangers in the
    /// same key reach about a half.
    pub chroma: f64,
    /// Correlation of the onset envelopes, -1 to 1, for onsets within 30 ms.
    pub onsets: f64,
    /// Loudness of the second less that of the first, in LU; nothing where one is silent.
    pub louder_lu: Option<f64>,
}

/// What is compared.
pub struct Heard {
    chroma: Vec<[f32; 12]>,
    onsets: Vec<f32>,
    lufs: f64,
}

impl Heard {
    /// Measures a piece.
    ///
    /// # Errors
    /// A rate that cannot be converted, or more channels than loudness is defined for.
    pub fn of(audio: &Audio) -> Result<Self> {
        let samples = hear(audio.mixdown(), audio.sample_rate_hz)?;
        let pitches = Pitches::of(&spectra(&samples, RATE_HZ, 4096, 800));
        let frames: Vec<[f32; 12]> = pitches.totals();
        let chroma =
            frames.chunks(NOTES).map(|part| std::array::from_fn(|p| part.iter().map(|f| f[p]).sum())).collect();
        let envelope = onsets(&samples);
        let widest = |t: usize| {
            envelope[t.saturating_sub(SLACK)..envelope.len().min(t + SLACK + 1)].iter().copied().fold(0.0, f32::max)
        };
        let onsets = (0..envelope.len()).map(widest).collect();
        Ok(Self { chroma, onsets, lufs: loudness(audio)?.integrated_lufs })
    }

    /// Compares with another, from the start of both, as long as the shorter one.
    pub fn likeness(&self, other: &Self) -> Likeness {
        let pairs: Vec<_> = self.chroma.iter().zip(&other.chroma).filter_map(|(a, b)| cosine(a, b)).collect();
        let louder = other.lufs - self.lufs;
        Likeness {
            chroma: pairs.iter().sum::<f64>() / pairs.len().max(1) as f64,
            onsets: correlation(&self.onsets, &other.onsets),
            louder_lu: louder.is_finite().then_some(louder),
        }
    }
}

/// Of two sets of pitch classes; nothing where both are silent, 0 where one is.
fn cosine(a: &[f32; 12], b: &[f32; 12]) -> Option<f64> {
    let dot = |a: &[f32; 12], b: &[f32; 12]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
    let (aa, bb) = (dot(a, a), dot(b, b));
    if aa <= 0.0 && bb <= 0.0 { None } else { Some(dot(a, b) / (aa * bb).sqrt().max(1e-12)) }
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let (ma, mb) = (bands::mean(a), bands::mean(b));
    let product: f64 = a.iter().zip(b).map(|(x, y)| f64::from((x - ma) * (y - mb))).sum();
    let spread = f64::from(bands::deviation(a)) * f64::from(bands::deviation(b)) * len as f64;
    if spread > 1e-9 { product / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seconds of plucked tones, one each half second.
    fn tones(hz: [f64; 4], gain: f32, late_s: f64) -> Audio {
        let mut samples = vec![0.0f32; 32_000];
        for (i, hz) in hz.iter().enumerate() {
            let first = ((i as f64 * 0.5 + late_s) * 16_000.0) as usize;
            for (t, slot) in samples[first..].iter_mut().take(7_000).enumerate() {
                let t = t as f64 / 16_000.0;
                *slot += gain * ((std::f64::consts::TAU * hz * t).sin() * (-6.0 * t).exp()) as f32;
            }
        }
        Audio::mono(samples, 16_000)
    }

    #[test]
    fn the_same_is_alike_and_another_is_less() {
        let tune = Heard::of(&tones([440.0, 494.0, 523.0, 587.0], 0.3, 0.0)).unwrap();
        let same = tune.likeness(&tune);
        assert!(same.chroma > 0.999 && same.onsets > 0.999 && same.louder_lu.unwrap().abs() < 1e-9, "{same:?}");
        let louder = tune.likeness(&Heard::of(&tones([440.0, 494.0, 523.0, 587.0], 0.6, 0.0)).unwrap());
        assert!((louder.louder_lu.unwrap() - 6.02).abs() < 0.1, "{louder:?}");
        let other = tune.likeness(&Heard::of(&tones([466.0, 554.0, 622.0, 740.0], 0.3, 0.0)).unwrap());
        assert!(other.chroma < 0.5 && other.onsets > 0.8, "{other:?}");
        let late = tune.likeness(&Heard::of(&tones([440.0, 494.0, 523.0, 587.0], 0.3, 0.2)).unwrap());
        assert!(late.onsets < 0.5, "{late:?}");
    }

    #[test]
    fn silence_is_no_number_to_trip_over() {
        let silence = Heard::of(&Audio::mono(vec![0.0; 32_000], 16_000)).unwrap();
        let found = silence.likeness(&silence);
        assert_eq!((found.chroma, found.onsets, found.louder_lu), (0.0, 0.0, None));
    }
}
