//! What can be said of a track from its sound: tempo, key, drums, instruments, colour, loudness, each with how sure that is.

use musaic_core::{
    Result,
    media::{Audio, loudness},
};
use serde::Serialize;

use super::{Detectors, FAMILIES, Features, RATE_HZ, hear, tempo};

/// Length of what the detectors were fitted on, in seconds.
const WINDOW_S: f64 = 10.0;
/// Most windows of a track that are judged.
const WINDOWS: usize = 8;
/// Names of the pitch classes.
const PITCHES: [&str; 12] = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];

/// A word and how sure it is, 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tag {
    /// The word.
    pub name: String,
    /// Probability.
    pub confidence: f64,
}

/// What is said of a track.
#[derive(Debug, Clone, Serialize)]
pub struct Tags {
    /// Length in seconds.
    pub duration_s: f64,
    /// Beats a minute; half or double may be meant.
    pub tempo_bpm: f64,
    /// Probability of the tempo within 8%, octaves taken together.
    pub tempo_confidence: f64,
    /// Key, such as `F# minor`.
    pub key: Tag,
    /// Integrated loudness in LUFS; nothing for silence.
    pub loudness_lufs: Option<f64>,
    /// Largest sample in dBFS.
    pub peak_dbfs: f64,
    /// `drums` or `no drums`.
    pub drums: Tag,
    /// Families of instruments that lead, likeliest first; those under a tenth are left out.
    pub instruments: Vec<Tag>,
    /// `bright` or `dark`.
    pub brightness: Tag,
    /// `dense` or `sparse`.
    pub density: Tag,
    /// Windows of ten seconds that were judged.
    pub windows: usize,
}

impl Tags {
    /// Listens to windows spread over the whole track and takes the mean of what the detectors say. They were fitted on
    /// synthesised music: for other music their confidence is only an order.
    ///
    /// # Errors
    /// A rate that cannot be converted.
    pub fn of(audio: &Audio, detectors: &Detectors) -> Result<Self> {
        let samples = hear(audio.mixdown(), audio.sample_rate_hz)?;
        let long = (WINDOW_S * f64::from(RATE_HZ)) as usize;
        let count = (samples.len() / long).clamp(1, WINDOWS);
        let room = samples.len().saturating_sub(long);
        let mut tempi = vec![0f64; tempo::CANDIDATES];
        let mut keys = vec![0f64; 24];
        let mut families = vec![0f64; FAMILIES.len()];
        let (mut drums, mut bright, mut dense) = (0.0, 0.0, 0.0);
        for window in 0..count {
            // One window lies in the middle, several from end to end.
            let first = if count == 1 { room / 2 } else { room * window / (count - 1) };
            let part = &samples[first..samples.len().min(first + long)];
            let verdict = detectors.judge(&Features::of(part));
            let add = |sum: &mut [f64], new: &[f32]| {
                sum.iter_mut().zip(new).for_each(|(sum, new)| *sum += f64::from(*new) / count as f64);
            };
            add(&mut tempi, &verdict.tempi);
            add(&mut keys, &verdict.keys);
            add(&mut families, &verdict.family);
            drums += f64::from(verdict.drums) / count as f64;
            bright += logistic(verdict.brightness) / count as f64;
            dense += logistic(verdict.density) / count as f64;
        }
        let best = largest(&tempi);
        let near = |other: &(usize, &f64)| tempo::agrees(tempo::bpm(other.0), tempo::bpm(best));
        let key = largest(&keys);
        let sound = loudness(audio)?;
        // Of silence the detectors would still say something.
        let heard = if sound.integrated_lufs.is_finite() { 1.0 } else { 0.0 };
        for sure in tempi.iter_mut().chain(&mut keys).chain(&mut families) {
            *sure *= heard;
        }
        drums *= heard;
        let mut instruments: Vec<_> = FAMILIES.iter().zip(&families).map(|(name, p)| tag(name, *p)).collect();
        instruments.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        instruments.retain(|tag| tag.confidence >= 0.1);
        Ok(Self {
            duration_s: audio.duration_s(),
            tempo_bpm: tempo::bpm(best),
            tempo_confidence: tempi.iter().enumerate().filter(near).map(|(_, p)| p).sum(),
            key: tag(&format!("{} {}", PITCHES[key / 2], if key % 2 == 1 { "minor" } else { "major" }), keys[key]),
            loudness_lufs: sound.integrated_lufs.is_finite().then_some(sound.integrated_lufs),
            peak_dbfs: sound.sample_peak_dbfs,
            drums: either("drums", "no drums", drums),
            instruments,
            brightness: either("bright", "dark", bright),
            density: either("dense", "sparse", dense),
            windows: count,
        })
    }
}

fn tag(name: &str, confidence: f64) -> Tag {
    Tag { name: name.to_owned(), confidence }
}

fn either(yes: &str, no: &str, p: f64) -> Tag {
    if p >= 0.5 { tag(yes, p) } else { tag(no, 1.0 - p) }
}

fn logistic(x: f32) -> f64 {
    1.0 / (1.0 + f64::from(-x).exp())
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_click_track_has_its_tempo() {
        // Soft clicks over a held A minor chord, 120 beats a minute.
        let mut samples = vec![0.0f32; 16_000 * 12];
        for (n, slot) in samples.iter_mut().enumerate() {
            let t = n as f64 / 16_000.0;
            let chord = [220.0, 261.63, 329.63].map(|hz| (std::f64::consts::TAU * hz * t).sin()).iter().sum::<f64>();
            let beat = t % 0.5;
            let click = (-60.0 * beat).exp() * (std::f64::consts::TAU * 1800.0 * beat).sin();
            *slot = (0.05 * chord + 0.4 * click) as f32;
        }
        let tags = Tags::of(&Audio::mono(samples, 16_000), &Detectors::built_in().unwrap()).unwrap();
        assert!(tempo::agrees(tags.tempo_bpm, 120.0), "{tags:?}");
        assert!((0.0..=1.0 + 1e-6).contains(&tags.tempo_confidence));
        assert_eq!((tags.windows, tags.duration_s), (1, 12.0));
        assert!(tags.loudness_lufs.is_some());
    }

    #[test]
    fn silence_and_a_moment_are_described_too() {
        for samples in [vec![0.0; 160_000], vec![0.1; 16]] {
            let tags = Tags::of(&Audio::mono(samples, 16_000), &Detectors::built_in().unwrap()).unwrap();
            assert!(tags.tempo_confidence.is_finite() && tags.key.confidence.is_finite());
            if tags.loudness_lufs.is_none() {
                assert!(tags.tempo_confidence == 0.0 && tags.key.confidence == 0.0 && tags.instruments.is_empty());
            }
        }
    }
}
