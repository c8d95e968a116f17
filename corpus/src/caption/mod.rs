//! Captions: from attributes to descriptions and requests in many wordings.
//!
//! A caption states a random subset of the attributes: some before the noun, some after it, some in sentences of their
//! own or as a list of tags. It also returns what it states, so that training can weigh and evaluation can check it.
//! Wordings never seen in training are the test that matters, hence many synonyms and few fixed shapes.

mod frames;
mod names;
mod topics;
mod words;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::rng::Stream;
pub use topics::Topic;
use topics::{Form, say};

/// A description and the attributes it states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caption {
    /// The words.
    pub text: String,
    /// Names of the attributes the words state.
    pub stated: BTreeSet<String>,
}

/// `count` captions of a piece, from its own stream.
pub fn captions(attributes: &Attributes, seed: u64, count: usize) -> Vec<Caption> {
    let mut rng = Stream::new(seed, "captions");
    (0..count).map(|_| caption(attributes, &mut rng)).collect()
}

/// One caption of a random subset of the attributes.
pub fn caption(attributes: &Attributes, rng: &mut Stream) -> Caption {
    // Most prompts say one to four things; some say everything.
    let wanted = 1 + rng.weighted(&[0.16, 0.22, 0.20, 0.15, 0.10, 0.07, 0.04, 0.03, 0.03]);
    let mut topics: Vec<Topic> = Vec::new();
    for _ in 0..wanted {
        let weights: Vec<f64> = Topic::ALL
            .iter()
            .map(|&topic| {
                let free = topic.applies(attributes) && !topics.iter().any(|&t| t == topic || t.overlaps(topic));
                // A soloist leaves nothing to say of drums.
                let clash = |a, b| topic == a && topics.contains(&b);
                let clash = clash(Topic::Drums, Topic::Solo) || clash(Topic::Solo, Topic::Drums);
                if free && !clash { topic.weight() } else { 0.0 }
            })
            .collect();
        if weights.iter().sum::<f64>() > 0.0 {
            topics.push(Topic::ALL[rng.weighted(&weights)]);
        }
    }
    caption_of(attributes, &topics, rng)
}

/// A caption that states exactly `topics`, in any order; topics that do not apply to the piece are left out.
///
/// The draws do not depend on attribute values: the same stream over two records gives two captions that differ in the
/// words for what differs.
pub fn caption_of(attributes: &Attributes, topics: &[Topic], rng: &mut Stream) -> Caption {
    let mut topics: Vec<Topic> = topics.iter().copied().filter(|topic| topic.applies(attributes)).collect();
    rng.shuffle(&mut topics);
    let stated = topics.iter().flat_map(|topic| topic.states()).map(|name| name.to_string()).collect();
    let list = rng.chance(0.25) && !topics.is_empty();
    let text = if list { listing(attributes, &topics, rng) } else { prose(attributes, &topics, rng) };
    let style = rng.weighted(&[0.45, 0.40, 0.15]);
    let (comma, exclaim) = (rng.chance(0.5), rng.chance(0.03));
    let text = articles(&text);
    let text = match style {
        0 => text.to_lowercase(),
        1 => capitalised(&text),
        _ => text,
    };
    let text = text.trim().trim_end_matches(['.', ',']).to_string();
    let ended = if exclaim && !list {
        format!("{text}!")
    } else if (style == 1 || text.contains(". ")) && !list && comma | (style == 1) {
        format!("{text}.")
    } else {
        text
    };
    Caption { text: ended, stated }
}

fn listing(attributes: &Attributes, topics: &[Topic], rng: &mut Stream) -> String {
    let separator = rng.word(&[", ", ", ", ", ", " ", "; ", " / ", " | "]);
    let noun = rng.word(frames::NOUNS);
    let frame = rng.word(frames::LISTS);
    let tags: Vec<String> = topics.iter().filter_map(|&topic| say(topic, Form::Tag, attributes, rng)).collect();
    frame.replace("{tags}", &tags.join(separator)).replace("{noun}", noun)
}

fn prose(attributes: &Attributes, topics: &[Topic], rng: &mut Stream) -> String {
    let frame = match rng.word(frames::PROSE) {
        "{more}" if topics.is_empty() => "{np}",
        frame => frame,
    };
    let usage = rng.word(frames::USES);
    let alone = !frame.contains("{np}") && !frame.contains("{bare}");
    // Up to half of what is to be said goes to sentences of its own, where the frame has room for them.
    let split = if alone {
        0
    } else if frame.contains("{more}") && topics.len() > 1 {
        topics.len() - 1 - rng.below(topics.len() / 2)
    } else {
        topics.len()
    };
    let phrase = noun_phrase(attributes, &topics[..split], rng);
    let mut sentences: Vec<String> =
        topics[split..].iter().filter_map(|&topic| say(topic, Form::Sentence, attributes, rng)).collect();
    for sentence in sentences.iter_mut().skip(1) {
        *sentence = capitalised(sentence);
    }
    let more = sentences.join(". ");
    let bare = phrase.strip_prefix("a ").or(phrase.strip_prefix("some ")).unwrap_or(&phrase);
    frame.replace("{np}", &phrase).replace("{bare}", bare).replace("{more}", &more).replace("{use}", usage)
}

/// `a slow, dark piano piece in A minor without drums`.
fn noun_phrase(attributes: &Attributes, topics: &[Topic], rng: &mut Stream) -> String {
    let mass = rng.chance(0.22);
    let noun = if mass { rng.word(frames::MASS) } else { rng.word(frames::NOUNS) };
    let joint = rng.word(&[", ", " ", ", "]);
    let (mut before, mut modifiers, mut after): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
    for &topic in topics {
        let modifier = matches!(topic, Topic::Genre | Topic::Lead | Topic::Family | Topic::Solo);
        let early = match topic {
            Topic::Genre => rng.chance(0.8),
            Topic::Key | Topic::Bpm | Topic::Drums | Topic::Metre => rng.chance(0.25),
            _ => rng.chance(0.5),
        };
        let form = if early && before.len() + modifiers.len() < 4 { Form::Adjective } else { Form::After };
        let phrase = say(topic, form, attributes, rng).map(|text| (form, text));
        // Topics without adjectives go after the noun.
        match phrase.or_else(|| say(topic, Form::After, attributes, rng).map(|text| (Form::After, text))) {
            Some((Form::Adjective, text)) if modifier => modifiers.push(text),
            Some((Form::Adjective, text)) => before.push(text),
            Some((_, text)) => after.push(text),
            None => {}
        }
    }
    let mut phrase = before.join(joint);
    for word in modifiers.iter().map(String::as_str).chain([noun]) {
        if !phrase.is_empty() {
            phrase.push(' ');
        }
        phrase.push_str(word);
    }
    for (index, text) in after.iter().enumerate() {
        let last = index + 1 == after.len() && index > 0;
        let link = match rng.below(4) {
            0 if index > 0 => ", ",
            1 if last && !text.starts_with(['a', 'b']) => " and ",
            2 if index > 0 => ", ",
            _ => " ",
        };
        phrase.push_str(link);
        phrase.push_str(text);
    }
    if mass { format!("some {phrase}") } else { format!("a {phrase}") }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Turns `a` into `an` before a vowel sound.
fn articles(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let mut out = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let next = words.get(index + 1).map(|next| next.to_lowercase()).unwrap_or_default();
        // An eight at the start of a tempo ("an 85 bpm tune") and key letters read as their names.
        let letters = ["f ", "f#", "a ", "e "].iter().any(|l| format!("{next} ").starts_with(l)) || next == "fm";
        let vowel = next.starts_with(['a', 'e', 'i', 'o', 'u', '8'])
            && !["eu", "uni", "one"].iter().any(|p| next.starts_with(p));
        let sounded = vowel || letters || next == "edm" || next.starts_with("18");
        let key = next.starts_with("ab") && next.len() <= 2;
        out.push(if *word == "a" && (sounded || key) { "an" } else { word });
    }
    out.join(" ")
}
