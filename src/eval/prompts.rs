//! The prompts that a model is scored on: each states the attribute it is scored for.
//!
//! `musaic-corpus prompts` writes those of drums, mode, family, brightness and density, a third of them by hand. A tempo in
//! beats a minute is stated by captions of test pieces, spread evenly over slow, moderate and fast, and by prompts that
//! were written by hand for this module.

use std::path::Path;

use musaic_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::pieces::{Piece, json_lines, parse_lines};

/// Prompts that state a tempo as a number, in wordings that the caption grammar does not make.
const HANDWRITTEN_TEMPO: &str = include_str!("../../corpus/data/handwritten-tempo.jsonl");
/// What is scored, in the order of the report.
pub const ATTRIBUTES: [&str; 6] = ["tempo", "drums", "mode", "family", "brightness", "density"];

/// A prompt and what it states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The attribute.
    pub attribute: String,
    /// Its value; for a tempo the beats a minute.
    pub value: String,
    /// The two prompts of a pair differ in the value and get the same seed.
    pub pair: u64,
    /// The words.
    pub text: String,
    /// `handwritten` or `template`.
    #[serde(default = "by_hand")]
    pub source: String,
}

fn by_hand() -> String {
    "handwritten".into()
}

/// Up to `count` prompts on `attribute`: those of `folder/ATTRIBUTE.jsonl`, or for tempo those of the test pieces.
///
/// # Errors
/// The file cannot be read or is not what it should be.
pub fn prompts(folder: &Path, attribute: &str, count: usize, test: &[Piece]) -> Result<Vec<Prompt>> {
    if attribute == "tempo" {
        return tempo(count, test);
    }
    let path = folder.join(format!("{attribute}.jsonl"));
    let mut all: Vec<Prompt> = json_lines(&path)?;
    if let Some(other) = all.iter().find(|prompt| prompt.attribute != attribute) {
        return Err(Error::format(path, format!("prompts on {attribute}"), other.attribute.clone()));
    }
    all.truncate(count.next_multiple_of(2));
    Ok(all)
}

fn tempo(count: usize, test: &[Piece]) -> Result<Vec<Prompt>> {
    let mut all: Vec<Prompt> = parse_lines(Path::new("built-in handwritten-tempo.jsonl"), HANDWRITTEN_TEMPO)?;
    all.truncate(count.div_ceil(3));
    let mut bands: [Vec<(f64, &str)>; 3] = Default::default();
    for piece in test {
        // A number alone is enough, a word for the band as well is welcome; one caption a piece.
        let stated = piece.captions.iter().find_map(|c| stated_bpm(&c.text).map(|bpm| (bpm, c.text.as_str())));
        if let Some((bpm, text)) = stated {
            bands[if bpm < 95.0 { 0 } else { 1 + usize::from(bpm >= 130.0) }].push((bpm, text));
        }
    }
    let longest = bands.iter().map(Vec::len).max().unwrap_or(0);
    let spread = (0..longest).flat_map(|i| bands.iter().filter_map(move |band| band.get(i)));
    let templates = spread.take(count.saturating_sub(all.len())).enumerate().map(|(i, (bpm, text))| Prompt {
        attribute: "tempo".into(),
        value: bpm.to_string(),
        pair: 1000 + i as u64,
        text: (*text).into(),
        source: "template".into(),
    });
    all.extend(templates.collect::<Vec<_>>());
    Ok(all)
}

/// The tempo that a text states in digits.
fn stated_bpm(text: &str) -> Option<f64> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u32>().ok());
    numbers.rfind(|bpm| (50..=200).contains(bpm)).map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handwritten_tempi_are_balanced() {
        let all = tempo(120, &[]).unwrap();
        assert_eq!(all.len(), 40);
        let bpm: Vec<f64> = all.iter().map(|p| p.value.parse().unwrap()).collect();
        assert!(bpm.iter().all(|bpm| (60.0..=180.0).contains(bpm)));
        for (low, high) in [(0.0, 95.0), (95.0, 130.0), (130.0, 200.0)] {
            assert!(bpm.iter().filter(|x| (low..high).contains(*x)).count() >= 13);
        }
    }

    #[test]
    fn a_number_is_read_from_a_caption() {
        assert_eq!(stated_bpm("a 3/4 cue (82 bpm)."), Some(82.0));
        assert_eq!(stated_bpm("808 drums"), None);
    }
}
