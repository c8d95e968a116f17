//! Which of several openings suits the words best.
//!
//! A small model follows its words loosely: of a few openings, one suits them much better than the others. Linear heads
//! read from the text encoder's mean state what the words ask for and what they leave open; detectors of the same kind as
//! those of the evaluation, fitted on four seconds of other training pieces, hear what each opening is. The score is the
//! logarithm of the probability that both mean the same, summed over what is asked for.

use std::path::Path;

use musaic_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    Detectors, FAMILIES, Features, Stored, Verdict,
    net::{Net, PackedNet},
    tempo,
};

/// Below this probability of being asked for, an attribute is left out.
const ASKED: f32 = 0.3;
/// What a detector that is sure of the contrary still leaves possible.
const DOUBT: f32 = 0.02;
/// A silent, clipped or frozen opening loses against any other.
const WORTHLESS: f32 = -100.0;
/// Tempi this close are the same, in octaves: 3%.
const SAME_TEMPO: f64 = 0.043;

/// One linear head as it is stored: an output a value, and a last one for "not stated".
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredHead {
    /// Name of the attribute.
    pub attribute: String,
    /// Its values; of a tempo, beats a minute.
    pub values: Vec<String>,
    /// The head.
    pub net: PackedNet,
}

/// The ranker as it is stored, `ranker.json` of a model folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRanker {
    /// Width of the text encoder's states.
    pub width: usize,
    /// What the words ask for.
    pub words: Vec<StoredHead>,
    /// What a clip is.
    pub sound: Stored,
}

struct Head {
    attribute: String,
    values: Vec<String>,
    net: Net,
}

/// Chooses among openings.
pub struct Ranker {
    width: usize,
    words: Vec<Head>,
    sound: Detectors,
}

/// An attribute that the words ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    attribute: String,
    /// Probability that it is asked for at all.
    asked: f32,
    /// Values and their probabilities, if it is.
    values: Vec<(String, f32)>,
}

impl Ranker {
    /// From the bytes of a `ranker.json`.
    ///
    /// # Errors
    /// Not such a file, or its parts do not fit each other.
    pub fn parse(label: &Path, bytes: &[u8]) -> Result<Self> {
        let stored: StoredRanker = serde_json::from_slice(bytes).map_err(|e| Error::config(label, e.to_string()))?;
        let head = |head: StoredHead| -> std::result::Result<Head, String> {
            let net = head.net.unpack(stored.width, head.values.len() + 1)?;
            Ok(Head { attribute: head.attribute, values: head.values, net })
        };
        let words = stored.words.into_iter().map(head).collect::<std::result::Result<_, _>>();
        let fit = |what: String| Error::config(label, what);
        Ok(Self { width: stored.width, words: words.map_err(fit)?, sound: Detectors::new(stored.sound).map_err(fit)? })
    }

    /// What the words ask for, from the text encoder's mean state.
    ///
    /// # Errors
    /// The state has another width.
    pub fn wishes(&self, state: &[f32]) -> Result<Vec<Wish>> {
        if state.len() != self.width {
            return Err(Error::argument("text state", state.len().to_string(), format!("width {}", self.width)));
        }
        let wish = |head: &Head| {
            let all = head.net.probabilities(&[state.to_vec()]);
            let asked: f32 = all[..head.values.len()].iter().sum();
            let values = head.values.iter().cloned().zip(all.iter().map(|p| p / asked.max(1e-6))).collect();
            Wish { attribute: head.attribute.clone(), asked, values }
        };
        Ok(self.words.iter().map(wish).filter(|wish| wish.asked > ASKED).collect())
    }

    /// How well a clip (mono, at [`super::RATE_HZ`]) suits the wishes: 0 at best.
    pub fn score(&self, wishes: &[Wish], samples: &[f32]) -> f32 {
        let features = Features::of(samples);
        if features.failure.is_some() {
            return WORTHLESS;
        }
        let verdict = self.sound.judge(&features);
        let one = |wish: &Wish| {
            let heard = wish.values.iter().map(|(value, p)| p * heard(&wish.attribute, value, &verdict));
            wish.asked * (heard.sum::<f32>() + DOUBT).ln()
        };
        wishes.iter().map(one).sum()
    }
}

/// Probability that a clip has the value.
fn heard(attribute: &str, value: &str, verdict: &Verdict) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let ends = |margin: f32, low: &str, high: &str| match value {
        v if v == high => sigmoid(margin),
        v if v == low => sigmoid(-margin),
        _ => 4.0 * sigmoid(margin) * sigmoid(-margin),
    };
    match attribute {
        "drums" => {
            if value == "true" {
                verdict.drums
            } else {
                1.0 - verdict.drums
            }
        }
        "mode" => {
            if value == "minor" {
                verdict.minor
            } else {
                1.0 - verdict.minor
            }
        }
        "brightness" => ends(verdict.brightness, "dark", "bright"),
        "density" => ends(verdict.density, "sparse", "dense"),
        "family" => FAMILIES.iter().zip(&verdict.family).find(|(name, _)| **name == value).map_or(0.0, |(_, p)| *p),
        "tempo_bpm" => value.parse().map_or(0.0, |bpm: f64| {
            let near = |c: usize| tempo::distance(tempo::bpm(c), bpm) < SAME_TEMPO;
            verdict.tempi.iter().enumerate().filter(|(c, _)| near(*c)).map(|(_, p)| p).sum()
        }),
        // What this cannot hear neither helps nor harms.
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        let mut family = vec![0.0; FAMILIES.len()];
        family[1] = 0.9;
        let mut tempi = vec![0.0; tempo::CANDIDATES];
        let at = (0..tempo::CANDIDATES).find(|&c| tempo::distance(tempo::bpm(c), 120.0) < 0.011).unwrap();
        tempi[at] = 1.0;
        Verdict {
            tempo_bpm: 120.0,
            tempi,
            drums: 0.8,
            minor: 0.3,
            tonic: 0,
            keys: Vec::new(),
            family,
            brightness: 2.0,
            density: -1.0,
            in_key: 1.0,
            failure: None,
        }
    }

    #[test]
    fn what_is_heard_is_a_probability_of_the_value_asked_for() {
        let of = |attribute, value| heard(attribute, value, &verdict());
        assert!((of("drums", "true") + of("drums", "false") - 1.0).abs() < 1e-6 && of("drums", "true") > 0.7);
        assert!(of("mode", "major") > of("mode", "minor"));
        assert!(of("brightness", "bright") > of("brightness", "neutral"));
        assert!(of("brightness", "neutral") > of("brightness", "dark"));
        assert!(of("density", "sparse") > of("density", "dense"));
        assert_eq!(of("family", FAMILIES[1]), 0.9);
        // Octaves are one tempo; a fifth is not.
        assert_eq!((of("tempo_bpm", "120"), of("tempo_bpm", "60"), of("tempo_bpm", "90")), (1.0, 1.0, 0.0));
        assert_eq!(of("genre", "jazz"), 1.0);
    }
}
