//! How often the detectors are right on pieces whose truth is known.

use serde::Serialize;

use super::pieces::Piece;
use crate::listen::{FAMILIES, Verdict, net::Draws, tempo};

/// A count of right answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Right.
    pub right: usize,
    /// Asked.
    pub of: usize,
}

impl Tally {
    /// Counts one answer.
    pub fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// Of several answers.
    pub fn of(answers: impl Iterator<Item = bool>) -> Self {
        let mut tally = Self::default();
        answers.for_each(|right| tally.add(right));
        tally
    }

    /// In percent; 0 where nothing was asked.
    pub fn percent(self) -> f64 {
        100.0 * self.right as f64 / self.of.max(1) as f64
    }
}

/// What the detectors score on real pieces through the codec.
#[derive(Debug, Clone, Serialize)]
pub struct Validation {
    /// Pieces.
    pub pieces: usize,
    /// Within 8%, octaves allowed.
    pub tempo: Tally,
    /// Present or absent.
    pub drums: Tally,
    /// Major or minor.
    pub mode: Tally,
    /// The lead's family against each other family.
    pub family: Tally,
    /// The lead's family before all eight others.
    pub family_first: Tally,
    /// Of a dark and a bright piece, which is which; all such pairs.
    pub brightness: Tally,
    /// Of a sparse and a dense piece, which is which; all such pairs.
    pub density: Tally,
    /// Tonic and mode.
    pub key: Tally,
    /// Mean share of the notes in the detected key, percent.
    pub in_key: f64,
    /// Clips called worthless.
    pub failed: Tally,
    /// Tempo under shuffled truths: what chance gives.
    pub tempo_by_chance: f64,
}

/// Compares verdicts with the truth.
pub fn validate<'a>(all: impl Iterator<Item = (&'a Piece, &'a Verdict)>) -> Validation {
    let all: Vec<(&Piece, &Verdict)> = all.collect();
    let each = |right: &dyn Fn(&Piece, &Verdict) -> bool| Tally::of(all.iter().map(|(p, v)| right(p, v)));
    let ordered = |value: &dyn Fn(&Piece) -> &str, low: &str, high: &str, measure: &dyn Fn(&Verdict) -> f32| {
        let of = |wanted: &str| -> Vec<f32> {
            all.iter().filter(|(p, _)| value(p) == wanted).map(|(_, v)| measure(v)).collect()
        };
        let highs = of(high);
        Tally::of(of(low).into_iter().flat_map(|l| highs.iter().map(move |&h| h > l)).collect::<Vec<_>>().into_iter())
    };
    let mut family = Tally::default();
    for (piece, verdict) in &all {
        if let Some(own) = FAMILIES.iter().position(|f| *f == piece.family) {
            (0..FAMILIES.len()).filter(|&f| f != own).for_each(|f| family.add(verdict.family[own] > verdict.family[f]));
        }
    }
    let mut truths: Vec<f64> = all.iter().map(|(p, _)| p.attributes.tempo_bpm).collect();
    let mut draws = Draws(3);
    let mut by_chance = Tally::default();
    for _ in 0..50 {
        draws.shuffle(&mut truths);
        truths.iter().zip(&all).for_each(|(&t, (_, v))| by_chance.add(tempo::agrees(t, v.tempo_bpm)));
    }
    let minor = |p: &Piece| p.attributes.mode == "minor";
    Validation {
        pieces: all.len(),
        tempo: each(&|p, v| tempo::agrees(p.attributes.tempo_bpm, v.tempo_bpm)),
        drums: each(&|p, v| p.attributes.drums == (v.drums > 0.5)),
        mode: each(&|p, v| minor(p) == (v.minor > 0.5)),
        family,
        family_first: each(&|p, v| {
            let best = v.family.iter().fold(0.0f32, |a, &b| a.max(b));
            FAMILIES.iter().zip(&v.family).any(|(f, &x)| *f == p.family && x >= best)
        }),
        brightness: ordered(&|p| &p.attributes.brightness, "dark", "bright", &|v| v.brightness),
        density: ordered(&|p| &p.attributes.density, "sparse", "dense", &|v| v.density),
        key: each(&|p, v| p.attributes.tonic == v.tonic && minor(p) == (v.minor > 0.5)),
        in_key: 100.0 * all.iter().map(|(_, v)| v.in_key).sum::<f64>() / all.len().max(1) as f64,
        failed: each(&|_, v| v.failure.is_some()),
        tempo_by_chance: by_chance.percent(),
    }
}

/// An attribute, how often its detector must be right, and how often it is.
pub type Bar = (&'static str, f64, Tally);

impl Validation {
    /// The attributes that are scored.
    pub fn bars(&self) -> [Bar; 6] {
        [
            ("tempo", 85.0, self.tempo),
            ("drums", 95.0, self.drums),
            ("mode", 85.0, self.mode),
            ("family", 85.0, self.family),
            ("brightness", 85.0, self.brightness),
            ("density", 85.0, self.density),
        ]
    }

    /// As a Markdown table.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "Detectors on {} held-out pieces through the codec (10 s each):\n\n| attribute | right | needed | |\n|---|---|---|---|\n",
            self.pieces
        );
        for (name, bar, tally) in self.bars() {
            let good = if tally.percent() >= bar { "holds" } else { "**fails**" };
            text += &format!("| {name} | {:.1}% of {} | {bar:.0}% | {good} |\n", tally.percent(), tally.of);
        }
        text + &format!(
            "\nTempo by chance {:.1}%; family before all eight others {:.1}%; tonic and mode {:.1}%; notes in the \
                 detected key {:.1}%; called worthless {} of {}.\n",
            self.tempo_by_chance,
            self.family_first.percent(),
            self.key.percent(),
            self.in_key,
            self.failed.right,
            self.failed.of
        )
    }
}
