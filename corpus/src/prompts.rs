//! Evaluation prompts: each states one attribute, with balanced values, in pairs that differ in that attribute alone.
//!
//! Two thirds come from the caption grammar over test seeds; one third is written by hand, in words and sentence shapes
//! the grammar does not make, because a model that only knows the grammar has not learned the attribute.

use serde::{Deserialize, Serialize};

use crate::attributes::{Attributes, Brightness, Density, Mode, Split, named};
use crate::caption::{Topic, caption_of};
use crate::error::Result;
use crate::instruments::{Family, Instrument};
use crate::rng::Stream;

named! {
    /// What a prompt can be evaluated on.
    Judged {
        Drums = "drums", Tempo = "tempo", Mode = "mode", Family = "family", Brightness = "brightness", Density = "density",
    }
}

named! {
    /// Where a prompt's words come from.
    Source { Template = "template", Handwritten = "handwritten" }
}

/// A prompt and the truth it states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// What is stated.
    pub attribute: Judged,
    /// Its value: `yes`/`no`, `slow`/`fast`, `major`/`minor`, `dark`/`bright`, `sparse`/`dense`, or a family.
    pub value: String,
    /// Number of the pair within the output; the two prompts of a pair carry different values.
    pub pair: u64,
    /// The prompt.
    pub text: String,
    /// Where it comes from.
    #[serde(default = "handwritten_source")]
    pub source: Source,
    /// What else it states.
    #[serde(default)]
    pub stated: Vec<String>,
}

fn handwritten_source() -> Source {
    Source::Handwritten
}

const HANDWRITTEN: &str = include_str!("../data/handwritten.jsonl");

/// The prompts written by hand for an attribute, pair after pair.
///
/// # Errors
/// If the data file in the binary is not what it should be; a test reads all of it.
pub fn handwritten(attribute: Judged) -> Result<Vec<Prompt>> {
    let all = HANDWRITTEN.lines().map(serde_json::from_str).collect::<std::result::Result<Vec<Prompt>, _>>()?;
    Ok(all.into_iter().filter(|prompt| prompt.attribute == attribute).collect())
}

/// `count` prompts (rounded up to whole pairs) on `attribute`, a third of them by hand as far as those last.
///
/// # Errors
/// As [`handwritten`].
pub fn prompts(split: Split, attribute: Judged, count: usize) -> Result<Vec<Prompt>> {
    let pairs = count.div_ceil(2);
    let mut out: Vec<Prompt> = handwritten(attribute)?.into_iter().take(pairs.div_ceil(3) * 2).collect();
    let mut index = 0;
    while out.len() < 2 * pairs {
        out.extend(template_pair(split, attribute, index));
        index += 1;
    }
    for (index, prompt) in out.iter_mut().enumerate() {
        prompt.pair = index as u64 / 2;
    }
    Ok(out)
}

/// Two prompts of one shape, with two values of the attribute.
fn template_pair(split: Split, attribute: Judged, index: u64) -> [Prompt; 2] {
    let seed = split.seed(index);
    let mut rng = Stream::new(seed, &format!("prompts/{}", attribute.name()));
    let base = Attributes::draw(seed);
    let values = values(attribute, index);
    let topics = topics(attribute, &mut rng);
    // Mood and style words can hint at an attribute: only topics that say nothing of it are added.
    values.map(|value| {
        let edited = edit(&base, attribute, value);
        let caption = caption_of(&edited, &topics, &mut rng.clone());
        Prompt {
            attribute,
            value: value.to_string(),
            pair: index,
            text: caption.text,
            source: Source::Template,
            stated: caption.stated.into_iter().collect(),
        }
    })
}

fn values(attribute: Judged, index: u64) -> [&'static str; 2] {
    match attribute {
        Judged::Drums => ["yes", "no"],
        Judged::Tempo => ["slow", "fast"],
        Judged::Mode => ["major", "minor"],
        Judged::Brightness => ["dark", "bright"],
        Judged::Density => ["sparse", "dense"],
        Judged::Family => {
            // Walks all families evenly: pair i holds family i and one at a distance that grows with every round.
            let count = Family::LEADS.len();
            let first = index as usize % count;
            let distance = 1 + (index as usize / count) % (count - 1);
            [Family::LEADS[first].name(), Family::LEADS[(first + distance) % count].name()]
        }
    }
}

fn topics(attribute: Judged, rng: &mut Stream) -> Vec<Topic> {
    let (main, mut others) = match attribute {
        Judged::Drums => {
            (Topic::Drums, vec![Topic::Genre, Topic::Tempo, Topic::Family, Topic::Brightness, Topic::Mode])
        }
        Judged::Tempo => {
            (Topic::Tempo, vec![Topic::Genre, Topic::Family, Topic::Brightness, Topic::Mode, Topic::Drums])
        }
        Judged::Mode => (Topic::Mode, vec![Topic::Genre, Topic::Tempo, Topic::Family, Topic::Drums, Topic::Density]),
        Judged::Family => (Topic::Family, vec![Topic::Tempo, Topic::Mode, Topic::Drums, Topic::Density]),
        Judged::Brightness => (Topic::Brightness, vec![Topic::Tempo, Topic::Mode, Topic::Drums, Topic::Density]),
        Judged::Density => (Topic::Density, vec![Topic::Tempo, Topic::Mode, Topic::Brightness, Topic::Family]),
    };
    let main = if attribute == Judged::Family && rng.chance(0.5) { Topic::Lead } else { main };
    rng.shuffle(&mut others);
    others.truncate(rng.weighted(&[0.4, 0.4, 0.2]));
    others.push(main);
    others
}

fn edit(base: &Attributes, attribute: Judged, value: &str) -> Attributes {
    let mut edited = base.clone();
    match attribute {
        Judged::Drums => edited.drums = value == "yes",
        Judged::Tempo => edited.tempo_bpm = if value == "slow" { 72 } else { 160 },
        Judged::Mode => edited.mode = if value == "major" { Mode::Major } else { Mode::Minor },
        Judged::Brightness => edited.brightness = if value == "dark" { Brightness::Dark } else { Brightness::Bright },
        Judged::Density => edited.density = if value == "sparse" { Density::Sparse } else { Density::Dense },
        Judged::Family => {
            let family = Family::LEADS.iter().copied().find(|family| family.name() == value).unwrap_or(Family::Piano);
            let drawn = Instrument::draw(family, base.brightness, false, &mut Stream::new(base.seed, "prompts/lead"));
            // Three instruments are called by the name of their family too rarely to stand for it.
            let lead = match drawn {
                Instrument::Harpsichord => Instrument::GrandPiano,
                Instrument::Accordion => Instrument::DrawbarOrgan,
                Instrument::Banjo => Instrument::NylonGuitar,
                other => other,
            };
            edited.melody = Some(lead);
        }
    }
    edited
}
