//! Scoring clips that were generated from prompts, and the controls.

use serde::Serialize;

use super::{
    prompts::Prompt,
    repeats::{RUNS, Repeats},
    validate::{Tally, Validation},
};
use crate::listen::{FAMILIES, Verdict, net::Draws, tempo};

/// Shuffles of the prompts that the control is averaged over.
const SHUFFLES: usize = 200;

/// A prompt with what the detectors say of its clip.
#[derive(Debug, Clone, Serialize)]
pub struct Scored {
    /// What was asked.
    pub prompt: Prompt,
    /// What came.
    pub verdict: Verdict,
}

/// The score on one attribute.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// The attribute.
    pub attribute: String,
    /// Clips.
    pub clips: usize,
    /// As prompted.
    pub prompted: Tally,
    /// Those of the handwritten prompts.
    pub handwritten: Tally,
    /// Percent under shuffled prompts.
    pub shuffled: f64,
    /// Real pieces through the codec.
    pub real: Tally,
    /// The detector is right often enough for the score to count.
    pub counts: bool,
}

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// One line an attribute.
    pub scores: Vec<Score>,
    /// Worthless clips of all.
    pub failed: Tally,
    /// Mean share of notes in the detected key, percent.
    pub in_key: f64,
    /// The same of real pieces.
    pub in_key_real: f64,
    /// Runs of codes that occur in training pieces.
    pub repeats: Repeats,
    /// The same of real test pieces.
    pub repeats_real: Repeats,
}

/// Judges what can be judged of clips on one attribute: one answer a clip, or a pair where two are compared.
fn answers(attribute: &str, prompts: &[&Prompt], verdicts: &[&Verdict]) -> Vec<(usize, bool)> {
    let each = |right: &dyn Fn(&Prompt, &Verdict) -> bool| -> Vec<(usize, bool)> {
        prompts.iter().zip(verdicts).enumerate().map(|(i, (p, v))| (i, right(p, v))).collect()
    };
    let family = |name: &str| FAMILIES.iter().position(|f| *f == name);
    // The other prompt of the pair.
    let mate = |i: usize| (0..prompts.len()).find(|&j| j != i && prompts[j].pair == prompts[i].pair);
    let ordered = |high: &str, measure: &dyn Fn(&Verdict) -> f32| -> Vec<(usize, bool)> {
        let highs = (0..prompts.len()).filter(|&i| prompts[i].value == high);
        highs
            .filter_map(|i| {
                let j = mate(i).filter(|&j| prompts[j].value != high)?;
                Some((i, measure(verdicts[i]) > measure(verdicts[j])))
            })
            .collect()
    };
    match attribute {
        "tempo" => each(&|p, v| p.value.parse().is_ok_and(|bpm| tempo::agrees(bpm, v.tempo_bpm))),
        "drums" => each(&|p, v| (p.value == "yes") == (v.drums > 0.5)),
        "mode" => each(&|p, v| (p.value == "minor") == (v.minor > 0.5)),
        "brightness" => ordered("bright", &|v| v.brightness),
        "density" => ordered("dense", &|v| v.density),
        _ => (0..prompts.len())
            .filter_map(|i| {
                let (own, other) = (family(&prompts[i].value)?, family(&prompts[mate(i)?].value)?);
                Some((i, verdicts[i].family[own] > verdicts[i].family[other]))
            })
            .collect(),
    }
}

/// Scores one attribute.
pub fn score(attribute: &str, all: &[Scored], validation: &Validation) -> Score {
    let prompts: Vec<&Prompt> = all.iter().map(|s| &s.prompt).collect();
    let verdicts: Vec<&Verdict> = all.iter().map(|s| &s.verdict).collect();
    let own = answers(attribute, &prompts, &verdicts);
    let mut order: Vec<&Verdict> = verdicts.clone();
    let mut draws = Draws(5);
    let mut shuffled = Tally::default();
    for _ in 0..SHUFFLES {
        draws.shuffle(&mut order);
        answers(attribute, &prompts, &order).into_iter().for_each(|(_, right)| shuffled.add(right));
    }
    let bar = validation.bars().into_iter().find(|(name, ..)| *name == attribute);
    let (_, needed, real) = bar.unwrap_or(("", 100.0, Tally::default()));
    Score {
        attribute: attribute.into(),
        clips: all.len(),
        prompted: Tally::of(own.iter().map(|(_, right)| *right)),
        handwritten: Tally::of(
            own.iter().filter(|(i, _)| prompts[*i].source == "handwritten").map(|(_, right)| *right),
        ),
        shuffled: shuffled.percent(),
        real,
        counts: real.percent() >= needed,
    }
}

impl Report {
    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| attribute | clips | as prompted | handwritten alone | prompts shuffled | real pieces | over shuffled |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for s in &self.scores {
            let note = if s.counts { "" } else { " (detector below its bar: counts as failed)" };
            text += &format!(
                "| {}{note} | {} | {:.1}% of {} | {:.1}% of {} | {:.1}% | {:.1}% | {:+.1} points |\n",
                s.attribute,
                s.clips,
                s.prompted.percent(),
                s.prompted.of,
                s.handwritten.percent(),
                s.handwritten.of,
                s.shuffled,
                s.real.percent(),
                s.prompted.percent() - s.shuffled,
            );
        }
        text += &format!(
            "\nWorthless clips: {} of {} ({:.1}%). Notes in the detected key: {:.1}%, real pieces {:.1}%.\n\n",
            self.failed.right,
            self.failed.of,
            self.failed.percent(),
            self.in_key,
            self.in_key_real
        );
        text += "| run of codes, frames | generated, % seen in training | real test pieces, % |\n|---|---|---|\n";
        for (i, run) in RUNS.iter().enumerate() {
            text += &format!("| {run} | {:.2} | {:.2} |\n", self.repeats.percent[i], self.repeats_real.percent[i]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(attribute: &str, value: &str, pair: u64) -> Prompt {
        let attribute = attribute.to_owned();
        Prompt { attribute, value: value.into(), pair, text: String::new(), source: "template".into() }
    }

    fn verdict(family: usize, brightness: f32, tempo_bpm: f64) -> Verdict {
        let mut families = vec![0.0; FAMILIES.len()];
        families[family] = 1.0;
        let (tempi, drums, minor, tonic, density, in_key, failure) = (Vec::new(), 0.9, 0.1, 0, 0.0, 1.0, None);
        Verdict {
            tempo_bpm,
            tempi,
            drums,
            minor,
            tonic,
            keys: Vec::new(),
            family: families,
            brightness,
            density,
            in_key,
            failure,
        }
    }

    #[test]
    fn pairs_are_compared_within_themselves() {
        let prompts = [prompt("brightness", "dark", 0), prompt("brightness", "bright", 0)];
        let verdicts = [verdict(0, -1.0, 100.0), verdict(0, 2.0, 100.0)];
        let ask = |a: &str, order: [usize; 2], prompts: &[Prompt; 2]| {
            answers(a, &[&prompts[0], &prompts[1]], &order.map(|i| &verdicts[i]))
        };
        assert_eq!(ask("brightness", [0, 1], &prompts), [(1, true)]);
        assert_eq!(ask("brightness", [1, 0], &prompts), [(1, false)]);
        let prompts = [prompt("family", "piano", 4), prompt("family", "guitar", 4)];
        assert_eq!(ask("family", [0, 1], &prompts), [(0, true), (1, false)]);
        let prompts = [prompt("tempo", "50", 0), prompt("tempo", "120", 1)];
        assert_eq!(ask("tempo", [0, 1], &prompts), [(0, true), (1, false)]);
    }
}
