//! Listening: what a clip is, judged from its sound alone, and which of several clips suits the words best.
//!
//! [`Features`] are measured from 16 kHz mono audio; small networks ([`net`]), fitted by `musaic eval fit` on training pieces
//! that went through the codec, turn them into [`Verdict`]s. `musaic eval detectors` checks them on held-out pieces. The
//! [`Ranker`] has networks of its own, fitted on other pieces, so that what chooses is not what judges.

mod bands;
pub use bands::levels as mel_levels;
pub mod key;
pub mod likeness;
pub mod net;
mod ranker;
mod sound;
pub mod tags;
pub mod tempo;

pub use ranker::Ranker;

#[cfg(test)]
mod tests;

use std::path::Path;

use musaic_core::{
    Error, Result,
    files::read_capped,
    media::{
        Audio,
        measure::{rms, rms_per_second_db, spectra},
        resample,
    },
};
use serde::{Deserialize, Serialize};

use self::{
    key::{Key, Pitches},
    net::{Net, Norm, PackedNet},
};

/// Largest file of fitted networks that is read.
pub const MAX_BYTES: u64 = 64 << 20;
/// Rate that all features are measured at.
pub const RATE_HZ: u32 = 16_000;
/// Families a lead can be of, in the order of the network's outputs.
pub const FAMILIES: [&str; 9] =
    ["piano", "guitar", "strings", "brass", "woodwind", "synth", "organ", "mallet", "choir"];
/// Level that clips are brought to before they are described: how loud a clip is shall not count.
const LEVEL: f64 = 0.1;
/// A rise over 20 ms, mean over the bands in dB, that counts as an onset: half of what a soft piano note makes.
pub const ONSET_DB: f32 = 1.5;

/// Mono samples at any rate as they are heard: at [`RATE_HZ`].
///
/// # Errors
/// A rate that cannot be converted.
pub fn hear(samples: Vec<f32>, rate_hz: u32) -> Result<Vec<f32>> {
    Ok(resample(&Audio::mono(samples, rate_hz), RATE_HZ)?.mixdown())
}

/// Samples between two frames of [`onsets`]: 10 ms.
pub const ONSET_HOP: usize = 160;

/// How much rises in each frame of mono `samples` at [`RATE_HZ`]: mean over the bands in dB, over 20 ms.
pub fn onsets(samples: &[f32]) -> Vec<f32> {
    let (rises, _) = bands::changes(&bands::levels(&spectra(samples, RATE_HZ, 1024, ONSET_HOP), 40, 30.0, 60.0));
    bands::envelope(&rises, 0..40)
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Features {
    /// Descriptions of the tempo candidates.
    pub tempo: Vec<Vec<f32>>,
    /// Descriptions of the twelve tonics.
    pub key: Vec<Vec<f32>>,
    /// What it sounds like.
    pub sound: Vec<f32>,
    pitches: Pitches,
    /// What makes a clip worthless.
    pub failure: Option<Failure>,
}

/// Why a clip is worthless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Its loudest second is under -50 dBFS.
    Silent,
    /// More than 0.1% of its samples are at full scale.
    Clipped,
    /// Nothing begins after the first second.
    OneNote,
}

impl Features {
    /// Measures mono `samples` at [`RATE_HZ`].
    pub fn of(samples: &[f32]) -> Self {
        let gain = (LEVEL / rms(samples).max(1e-5)) as f32;
        let scaled: Vec<f32> = samples.iter().map(|x| x * gain).collect();
        let middle = spectra(&scaled, RATE_HZ, 1024, 160);
        let short = spectra(&scaled, RATE_HZ, 512, 160);
        let long = spectra(&scaled, RATE_HZ, 4096, 800);
        let (rises, _) = bands::changes(&bands::levels(&middle, 40, 30.0, 60.0));
        let envelopes = [0..40, 0..10, 30..40].map(|group| bands::envelope(&rises, group));
        let pitches = Pitches::of(&long);
        Self {
            tempo: tempo::candidates(&envelopes, middle.frame_rate_hz),
            key: pitches.candidates(),
            sound: sound::describe(&middle, &short, &long),
            pitches,
            failure: failure(samples, &envelopes[0]),
        }
    }
}

fn failure(samples: &[f32], onsets: &[f32]) -> Option<Failure> {
    let loudest = rms_per_second_db(samples, RATE_HZ).into_iter().fold(f64::NEG_INFINITY, f64::max);
    let full = samples.iter().filter(|x| x.abs() >= 0.9995).count();
    if loudest < -50.0 {
        Some(Failure::Silent)
    } else if full * 1000 > samples.len() {
        Some(Failure::Clipped)
    // The last windows reach past the end, where the cut itself sounds like an onset.
    } else if onsets.iter().take(onsets.len().saturating_sub(8)).skip(100).all(|&rise| rise < ONSET_DB) {
        Some(Failure::OneNote)
    } else {
        None
    }
}

/// What the detectors say.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Beats a minute, up to octaves.
    pub tempo_bpm: f64,
    /// Probability of each tempo candidate, see [`tempo::bpm`].
    #[serde(skip)]
    pub tempi: Vec<f32>,
    /// Probability of drums.
    pub drums: f32,
    /// Probability of minor.
    pub minor: f32,
    /// Pitch class of the tonic.
    pub tonic: usize,
    /// Probability of each key: the tonics from C, major then minor.
    #[serde(skip)]
    pub keys: Vec<f32>,
    /// Probability of each of [`FAMILIES`] as the lead.
    pub family: Vec<f32>,
    /// Evidence for bright over dark, in logits.
    pub brightness: f32,
    /// Evidence for dense over sparse, in logits.
    pub density: f32,
    /// Share of the notes that belong to the detected key.
    pub in_key: f64,
    /// What makes it worthless.
    pub failure: Option<Failure>,
}

/// Networks and scales as they are stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// How they were made.
    pub about: String,
    /// Scale of [`Features::tempo`].
    pub tempo_norm: Norm,
    /// Scale of [`Features::key`].
    pub key_norm: Norm,
    /// Scale of [`Features::sound`].
    pub sound_norm: Norm,
    /// One output a candidate.
    pub tempo: PackedNet,
    /// Major and minor of each tonic.
    pub key: PackedNet,
    /// No, yes.
    pub drums: PackedNet,
    /// One output a family.
    pub family: PackedNet,
    /// Dark, bright.
    pub brightness: PackedNet,
    /// Sparse, dense.
    pub density: PackedNet,
}

/// The detectors, ready to judge.
pub struct Detectors {
    stored: Stored,
    tempo: Net,
    key: Net,
    drums: Net,
    family: Net,
    brightness: Net,
    density: Net,
}

impl Detectors {
    /// Those that come with the program.
    ///
    /// # Errors
    /// The file that was built in is damaged.
    pub fn built_in() -> Result<Self> {
        Self::parse(Path::new("built-in detectors.json"), include_bytes!("../eval/detectors.json"))
    }

    /// From a file of `musaic eval fit`.
    ///
    /// # Errors
    /// It cannot be read or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, &read_capped(path, MAX_BYTES)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let stored = serde_json::from_slice(bytes).map_err(|e| Error::config(path, e.to_string()))?;
        Self::new(stored).map_err(|what| Error::config(path, what))
    }

    /// From what is stored, or what is wrong with it.
    ///
    /// # Errors
    /// A network does not fit its inputs or outputs.
    pub fn new(stored: Stored) -> std::result::Result<Self, String> {
        let quiet = Features::of(&[]);
        let measured = [quiet.tempo[0].len(), quiet.key[0].len(), quiet.sound.len()];
        let scaled = [stored.tempo_norm.width(), stored.key_norm.width(), stored.sound_norm.width()];
        if measured != scaled {
            return Err(format!("scales for {scaled:?} features, expected {measured:?}: fit them again"));
        }
        let (tempo, key, sound) = (stored.tempo_norm.width(), stored.key_norm.width(), stored.sound_norm.width());
        Ok(Self {
            tempo: stored.tempo.unpack(tempo, 1)?,
            key: stored.key.unpack(key, 2)?,
            drums: stored.drums.unpack(sound, 2)?,
            family: stored.family.unpack(sound, FAMILIES.len())?,
            brightness: stored.brightness.unpack(sound, 2)?,
            density: stored.density.unpack(sound, 2)?,
            stored,
        })
    }

    /// How they were made.
    pub fn about(&self) -> &str {
        &self.stored.about
    }

    /// Judges a clip.
    pub fn judge(&self, features: &Features) -> Verdict {
        let all = |norm: &Norm, rows: &[Vec<f32>]| -> Vec<Vec<f32>> { rows.iter().map(|r| norm.apply(r)).collect() };
        let tempi = self.tempo.probabilities(&all(&self.stored.tempo_norm, &features.tempo));
        let keys = self.key.probabilities(&all(&self.stored.key_norm, &features.key));
        let sound = [self.stored.sound_norm.apply(&features.sound)];
        let margin = |net: &Net| {
            let logits = net.logits(&sound[0]);
            logits[1] - logits[0]
        };
        let key = Key { tonic: largest(&keys) / 2, minor: largest(&keys) % 2 == 1 };
        Verdict {
            tempo_bpm: tempo::bpm(largest(&tempi)),
            tempi,
            drums: self.drums.probabilities(&sound)[1],
            minor: keys.iter().skip(1).step_by(2).sum(),
            tonic: key.tonic,
            keys,
            family: self.family.probabilities(&sound),
            brightness: margin(&self.brightness),
            density: margin(&self.density),
            in_key: features.pitches.share_in(key),
            failure: features.failure,
        }
    }
}

fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0)
}
