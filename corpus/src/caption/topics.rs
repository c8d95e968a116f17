//! Topics: what can be said of a piece, and one random way of saying it.

use super::names;
use super::words::{self, Entry};
use crate::attributes::{Arrangement, Attributes, Mode, TextureKind};
use crate::rng::Stream;

/// Something a caption can state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Style.
    Genre,
    /// Tempo in words.
    Tempo,
    /// Tempo in numbers.
    Bpm,
    /// Tonic and mode.
    Key,
    /// Major or minor.
    Mode,
    /// Time signature.
    Metre,
    /// Lead instrument by name.
    Lead,
    /// Lead instrument by family.
    Family,
    /// One instrument alone.
    Solo,
    /// Who accompanies.
    Chords,
    /// Who plays the bass.
    Bass,
    /// Pad or arpeggio.
    Texture,
    /// Drums or none.
    Drums,
    /// Number of notes.
    Density,
    /// Spectral colour.
    Brightness,
    /// Feeling.
    Mood,
    /// Loudness of playing.
    Dynamics,
    /// Sections and entries.
    Structure,
}

/// How a topic is put into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Before the noun.
    Adjective,
    /// After the noun.
    After,
    /// A sentence without its full stop.
    Sentence,
    /// An entry in a list.
    Tag,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Topic; 18] = [
        Topic::Genre,
        Topic::Tempo,
        Topic::Bpm,
        Topic::Key,
        Topic::Mode,
        Topic::Metre,
        Topic::Lead,
        Topic::Family,
        Topic::Solo,
        Topic::Chords,
        Topic::Bass,
        Topic::Texture,
        Topic::Drums,
        Topic::Density,
        Topic::Brightness,
        Topic::Mood,
        Topic::Dynamics,
        Topic::Structure,
    ];

    /// Names of the attributes the topic states.
    pub fn states(self) -> &'static [&'static str] {
        match self {
            Topic::Genre => &["genre"],
            Topic::Tempo => &["tempo"],
            Topic::Bpm => &["tempo", "bpm"],
            Topic::Key => &["key", "mode"],
            Topic::Mode => &["mode"],
            Topic::Metre => &["metre"],
            Topic::Lead => &["lead", "family"],
            Topic::Family => &["family"],
            Topic::Solo => &["lead", "family", "solo", "drums"],
            Topic::Chords => &["chords"],
            Topic::Bass => &["bass"],
            Topic::Texture => &["texture"],
            Topic::Drums => &["drums"],
            Topic::Density => &["density"],
            Topic::Brightness => &["brightness"],
            Topic::Mood => &["mood"],
            Topic::Dynamics => &["dynamics"],
            Topic::Structure => &["structure"],
        }
    }

    /// How readily a caption mentions it, against the others.
    pub(super) fn weight(self) -> f64 {
        match self {
            Topic::Drums => 2.2,
            Topic::Genre | Topic::Tempo | Topic::Brightness | Topic::Density | Topic::Mood => 1.6,
            // A number is the hardest thing to learn, so it is said often.
            Topic::Bpm => 2.0,
            Topic::Mode | Topic::Lead | Topic::Family => 1.3,
            Topic::Key => 1.0,
            Topic::Dynamics | Topic::Solo => 0.7,
            Topic::Metre | Topic::Chords | Topic::Bass | Topic::Texture => 0.4,
            Topic::Structure => 0.25,
        }
    }

    /// Whether the piece has this to be said of it.
    pub(super) fn applies(self, attributes: &Attributes) -> bool {
        match self {
            Topic::Solo => attributes.instruments().len() == 1 && !attributes.drums,
            Topic::Chords => attributes.melody.is_some() && attributes.chords.is_some_and(|c| c != attributes.lead()),
            Topic::Bass => attributes.bass.is_some(),
            Topic::Texture => attributes.texture.is_some(),
            Topic::Structure => structure(attributes).is_some(),
            _ => true,
        }
    }

    /// Whether two topics would say the same thing twice.
    pub(super) fn overlaps(self, other: Topic) -> bool {
        let lead = [Topic::Lead, Topic::Family, Topic::Solo];
        let same = |group: &[Topic]| group.contains(&self) && group.contains(&other);
        same(&lead) || same(&[Topic::Tempo, Topic::Bpm]) || same(&[Topic::Key, Topic::Mode])
    }
}

/// What holds for the form, if anything worth saying does.
fn structure(attributes: &Attributes) -> Option<Entry> {
    match (attributes.arrangement, attributes.form.as_str()) {
        (Arrangement::Intro, _) => Some(Entry {
            adjectives: &[],
            after: &[
                "with a short intro",
                "that opens with an introduction before the tune",
                "where the melody enters later",
            ],
            sentences: &["It opens with a short introduction", "The melody waits for an intro"],
            tags: &["intro", "with intro"],
        }),
        (Arrangement::Build, _) => Some(Entry {
            adjectives: &["gradually building", "layered"],
            after: &["that builds up layer by layer", "where parts enter one after another", "with a gradual build-up"],
            sentences: &["It builds up step by step", "Instruments join one by one"],
            tags: &["build-up", "gradual build"],
        }),
        (_, form) if form.len() > 1 && form.chars().all(|c| c == 'A') => Some(Entry {
            adjectives: &["repetitive", "looping"],
            after: &["built on one repeated idea", "that repeats a single phrase", "made of one looping section"],
            sentences: &["One idea repeats throughout", "It loops a single section"],
            tags: &["loop", "repetitive", "one section"],
        }),
        (_, "AABA") => Some(Entry {
            adjectives: &[],
            after: &["in AABA form", "with an A A B A structure", "in song form with a bridge"],
            sentences: &["The form is AABA", "A bridge comes before the last section"],
            tags: &["AABA", "song form"],
        }),
        (_, "ABAB") => Some(Entry {
            adjectives: &[],
            after: &["alternating two sections", "in ABAB form", "where two ideas take turns"],
            sentences: &["Two sections alternate", "The form is ABAB"],
            tags: &["ABAB", "two alternating sections"],
        }),
        _ => None,
    }
}

fn key_name(attributes: &Attributes, rng: &mut Stream) -> String {
    const NAMES: [&[&str]; 12] = [
        &["C"],
        &["C sharp", "D flat", "C#", "Db"],
        &["D"],
        &["E flat", "Eb", "D sharp"],
        &["E"],
        &["F"],
        &["F sharp", "F#", "G flat"],
        &["G"],
        &["A flat", "Ab", "G sharp"],
        &["A"],
        &["B flat", "Bb"],
        &["B"],
    ];
    let tonic = rng.word(NAMES[usize::from(attributes.tonic) % 12]);
    let (letter, plain) = (rng.chance(0.12), !tonic.contains(' '));
    match attributes.mode {
        Mode::Major => format!("{tonic} major"),
        Mode::Minor if letter && plain => format!("{tonic}m"),
        Mode::Minor => format!("{tonic} minor"),
    }
}

/// One random way of saying `topic` in `form`; none where the topic has no words of that form.
///
/// The number of draws does not depend on the attribute values, so that two records that differ in one attribute give
/// captions that differ in its words alone.
pub(super) fn say(topic: Topic, form: Form, attributes: &Attributes, rng: &mut Stream) -> Option<String> {
    let mut draws = [rng.next_u64(), rng.next_u64(), rng.next_u64()].map(|seed| Stream::new(seed, "say"));
    let mut nouns: &[&str] = &[];
    let mut scenes: &[&str] = &[];
    let mut name: Option<&str> = None;
    let [pattern_rng, word_rng, slot_rng] = &mut draws;
    let entry = match topic {
        Topic::Genre => words::genre(attributes.genre),
        Topic::Tempo => words::tempo(attributes.tempo_band()),
        Topic::Bpm => words::BPM,
        Topic::Key => words::KEY,
        Topic::Mode => words::mode(attributes.mode),
        Topic::Metre => words::metre(attributes.metre),
        Topic::Drums => words::drums(attributes.drums),
        Topic::Density => words::density(attributes.density),
        Topic::Brightness => words::brightness(attributes.brightness),
        Topic::Dynamics => words::dynamics(attributes.dynamics),
        Topic::Structure => structure(attributes)?,
        Topic::Mood => {
            let mood = words::mood(attributes.mood);
            (nouns, scenes) = (mood.nouns, mood.scenes);
            mood.entry
        }
        Topic::Lead | Topic::Solo | Topic::Chords | Topic::Bass | Topic::Texture => {
            let (instrument, entry) = match topic {
                Topic::Chords => (attributes.chords?, names::CHORDS),
                Topic::Bass => (attributes.bass?, names::BASS),
                Topic::Texture => attributes.texture.map(|texture| match texture.kind {
                    TextureKind::Pad => (texture.instrument, names::PAD),
                    TextureKind::Arpeggio => (texture.instrument, names::ARPEGGIO),
                })?,
                Topic::Solo => (attributes.lead(), names::SOLO),
                _ => (attributes.lead(), names::LEAD),
            };
            name = Some(slot_rng.word(names::instrument(instrument)));
            entry
        }
        Topic::Family => {
            name = Some(slot_rng.word(names::family(attributes.lead())));
            names::LEAD
        }
    };
    let patterns = match form {
        Form::Adjective => entry.adjectives,
        Form::After => entry.after,
        Form::Sentence => entry.sentences,
        Form::Tag
            if entry.tags.is_empty() || (name.is_none() && !entry.adjectives.is_empty() && pattern_rng.chance(0.5)) =>
        {
            entry.adjectives
        }
        Form::Tag => entry.tags,
    };
    if patterns.is_empty() {
        return None;
    }
    let mut text = pattern_rng.word(patterns).to_string();
    if let Some(name) = name {
        text = text.replace("{one}", &names::with_article(name)).replace("{}", name);
    } else if text.contains("{}") {
        text = text.replace("{}", word_rng.word(entry.adjectives));
    }
    if text.contains("{noun}") {
        text = text.replace("{noun}", slot_rng.word(nouns));
    }
    if text.contains("{scene}") {
        text = text.replace("{scene}", slot_rng.word(scenes));
    }
    if text.contains("{key}") {
        text = text.replace("{key}", &key_name(attributes, slot_rng));
    }
    if text.contains("{spelled}") {
        text = text.replace("{spelled}", &spelled(attributes.tempo_bpm, slot_rng));
    }
    let near = (f64::from(attributes.tempo_bpm) / 5.0).round() as u32 * 5;
    Some(text.replace("{bpm}", &attributes.tempo_bpm.to_string()).replace("{near}", &near.to_string()))
}

/// A number below 200 in words: `ninety-six`, `a hundred and four`, `one hundred twelve`.
fn spelled(number: u16, rng: &mut Stream) -> String {
    const ONES: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let (hundred, joint) = (rng.word(&["a hundred", "one hundred"]), rng.word(&[" and ", " "]));
    let rest = usize::from(number) % 100;
    let small = match (rest / 10, rest % 10) {
        (0 | 1, _) => ONES[rest].to_string(),
        (tens, 0) => TENS[tens].to_string(),
        (tens, ones) => format!("{}-{}", TENS[tens], ONES[ones]),
    };
    match (number >= 100, rest) {
        (true, 0) => hundred.to_string(),
        (true, _) => format!("{hundred}{joint}{small}"),
        (false, _) => small,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled() {
        let ways = |n| -> std::collections::BTreeSet<String> {
            (0..50).map(|seed| spelled(n, &mut Stream::new(seed, "test"))).collect()
        };
        assert_eq!(ways(60).into_iter().collect::<Vec<_>>(), ["sixty"]);
        assert_eq!(ways(75).into_iter().collect::<Vec<_>>(), ["seventy-five"]);
        assert!(ways(112).contains("one hundred and twelve") && ways(112).contains("a hundred twelve"));
        assert!(ways(100).contains("a hundred") && ways(180).contains("one hundred eighty"));
    }
}
