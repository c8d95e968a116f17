//! Laws of captions and prompts.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use musaic_corpus::attributes::{Attributes, Brightness, Density, Mode, Split, TempoBand};
use musaic_corpus::caption::{Topic, caption, caption_of, captions};
use musaic_corpus::instruments::Family;
use musaic_corpus::prompts::{Judged, Source, handwritten, prompts};
use musaic_corpus::rng::Stream;

fn piece(id: u64) -> Attributes {
    Attributes::draw(Split::Train.seed(id))
}

fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|w| !w.is_empty())
        .map(Into::into)
        .collect()
}

/// Whether `phrase` occurs in `text` on word boundaries.
fn says(text: &str, phrase: &str) -> bool {
    format!(" {} ", words(text).join(" ")).contains(&format!(" {} ", words(phrase).join(" ")))
}

/// Words that are true of one value of an attribute and of nothing else.
fn telling(attributes: &Attributes) -> Vec<(&'static str, &'static [&'static str], &'static [&'static str])> {
    const SLOW: &[&str] = &["slow", "slow tempo", "adagio", "sluggish", "unhurried", "leisurely", "downtempo", "largo"];
    const FAST: &[&str] = &["fast", "presto", "brisk", "uptempo", "rapid", "speedy", "allegro", "high bpm"];
    const DARK: &[&str] = &["muffled", "murky", "muted", "dull", "velvety", "low register", "warm"];
    const BRIGHT: &[&str] = &["sparkling", "crisp", "glassy", "trebly", "brilliant", "high register", "bright"];
    const SPARSE: &[&str] = &["sparse", "few notes", "spacious", "minimal", "stripped-down"];
    const DENSE: &[&str] =
        &["dense texture", "many notes", "bustling", "full of notes", "note-filled", "lots of notes"];
    const MAJOR: &[&str] = &["major"];
    const MINOR: &[&str] = &["minor"];
    const DRUMS: &[&str] = &[
        "with drums",
        "drum-driven",
        "there are drums",
        "add drums",
        "kick and snare",
        "drum groove",
        "with percussion",
    ];
    const NONE: &[&str] =
        &["no drums", "drumless", "without drums", "beatless", "no percussion", "without percussion", "without a beat"];
    let mut out = Vec::new();
    match attributes.tempo_band() {
        TempoBand::Slow => out.push(("tempo", SLOW, FAST)),
        TempoBand::Fast => out.push(("tempo", FAST, SLOW)),
        TempoBand::Moderate => out.extend([("tempo", &[][..], FAST), ("tempo", &[][..], SLOW)]),
    }
    match attributes.brightness {
        Brightness::Dark => out.push(("brightness", DARK, BRIGHT)),
        Brightness::Bright => out.push(("brightness", BRIGHT, DARK)),
        Brightness::Neutral => out.extend([("brightness", &[][..], DARK), ("brightness", &[][..], BRIGHT)]),
    }
    match attributes.density {
        Density::Sparse => out.push(("density", SPARSE, DENSE)),
        Density::Dense => out.push(("density", DENSE, SPARSE)),
        Density::Medium => out.extend([("density", &[][..], DENSE), ("density", &[][..], SPARSE)]),
    }
    let (yes, no) = if attributes.mode == Mode::Major { (MAJOR, MINOR) } else { (MINOR, MAJOR) };
    out.push(("mode", yes, no));
    let (yes, no) = if attributes.drums { (DRUMS, NONE) } else { (NONE, DRUMS) };
    out.push(("drums", yes, no));
    out
}

#[test]
fn captions_contradict_nothing() {
    for id in 0..2000 {
        let attributes = piece(id);
        for caption in captions(&attributes, id, 8) {
            for (attribute, yes, no) in telling(&attributes) {
                for phrase in no {
                    assert!(!says(&caption.text, phrase), "{id} {attribute}: \"{}\" says \"{phrase}\"", caption.text);
                }
                if yes.iter().any(|phrase| says(&caption.text, phrase)) {
                    assert!(
                        caption.stated.contains(attribute),
                        "{id}: \"{}\" states {attribute} silently",
                        caption.text
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_stated_is_in_the_words_and_nothing_else_is() {
    for id in 0..1500 {
        let attributes = piece(id);
        let other = |attribute: &str| {
            let mut edited = attributes.clone();
            match attribute {
                "tempo" => edited.tempo_bpm = if attributes.tempo_band() == TempoBand::Fast { 70 } else { 160 },
                "mode" => edited.mode = if attributes.mode == Mode::Major { Mode::Minor } else { Mode::Major },
                "brightness" => edited.brightness = Brightness::ALL[(attributes.brightness as usize + 1) % 3],
                "density" => edited.density = Density::ALL[(attributes.density as usize + 1) % 3],
                _ => edited.tonic = (attributes.tonic + 1) % 12,
            }
            edited
        };
        let one = caption(&attributes, &mut Stream::new(id, "test"));
        for attribute in ["tempo", "mode", "brightness", "density", "key"] {
            let two = caption(&other(attribute), &mut Stream::new(id, "test"));
            assert_eq!(one.stated, two.stated);
            let differs = one.text != two.text;
            assert_eq!(differs, one.stated.contains(attribute), "{attribute}: \"{}\" and \"{}\"", one.text, two.text);
        }
    }
}

#[test]
fn every_topic_can_be_asked_for() {
    for id in 0..300 {
        let attributes = piece(id);
        for topic in Topic::ALL {
            let caption = caption_of(&attributes, &[topic], &mut Stream::new(id, "topic"));
            assert!(!caption.text.contains(['{', '}']), "{}", caption.text);
            assert!(!caption.text.is_empty(), "{topic:?} of piece {id} says nothing");
        }
    }
}

#[test]
fn captions_are_many_and_varied() {
    let (mut vocabulary, mut texts) = (HashSet::new(), HashSet::new());
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    for id in 0..4000 {
        for caption in captions(&piece(id), id, 8) {
            vocabulary.extend(words(&caption.text).into_iter().filter(|word| word.chars().all(char::is_alphabetic)));
            *sizes.entry(caption.stated.len()).or_default() += 1;
            texts.insert(caption.text);
        }
    }
    assert!(vocabulary.len() >= 700, "{} words", vocabulary.len());
    assert!(texts.len() > 30_000, "{} distinct captions of 32000", texts.len());
    assert!(sizes.len() >= 8, "captions state {sizes:?} attributes");
}

#[test]
fn handwritten_prompts_are_balanced_and_new() {
    let templates: BTreeSet<String> =
        (0..2000).flat_map(|id| captions(&piece(id), id, 8)).map(|caption| caption.text.to_lowercase()).collect();
    for &attribute in Judged::ALL {
        let prompts = handwritten(attribute).unwrap();
        assert_eq!(prompts.len(), 40, "{}", attribute.name());
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for prompt in &prompts {
            *counts.entry(&prompt.value).or_default() += 1;
            assert_eq!(prompt.source, Source::Handwritten);
            assert!(!templates.contains(&prompt.text.to_lowercase()), "{}", prompt.text);
        }
        let (most, least) = (counts.values().max().unwrap(), counts.values().min().unwrap());
        assert!(most - least <= 1, "{counts:?}");
        assert!(prompts.chunks(2).all(|pair| pair[0].pair == pair[1].pair && pair[0].value != pair[1].value));
    }
}

#[test]
fn prompts_come_in_balanced_pairs() {
    for &attribute in Judged::ALL {
        let prompts = prompts(Split::Test, attribute, 120).unwrap();
        assert_eq!(prompts.len(), 120);
        assert_eq!(prompts.iter().filter(|prompt| prompt.source == Source::Handwritten).count(), 40);
        let values: BTreeSet<&str> = prompts.iter().map(|prompt| prompt.value.as_str()).collect();
        assert_eq!(values.len(), if attribute == Judged::Family { Family::LEADS.len() } else { 2 });
        for pair in prompts.chunks(2) {
            assert_ne!(pair[0].value, pair[1].value);
            assert_eq!(pair[0].stated, pair[1].stated);
            assert_ne!(pair[0].text, pair[1].text);
        }
    }
}
