//! What instruments and families are called.

use super::words::Entry;
use crate::instruments::{Family, Instrument};

/// Names of an instrument; each is also true of its family.
pub fn instrument(instrument: Instrument) -> &'static [&'static str] {
    match instrument {
        Instrument::GrandPiano => &["piano", "grand piano", "acoustic piano", "concert grand"],
        Instrument::BrightPiano => &["piano", "upright piano", "pop piano"],
        Instrument::ElectricPiano => &["electric piano", "Rhodes piano", "e-piano", "Rhodes"],
        Instrument::Harpsichord => &["harpsichord", "cembalo", "baroque keyboard"],
        Instrument::NylonGuitar => {
            &["nylon guitar", "classical guitar", "Spanish guitar", "nylon-string guitar", "guitar"]
        }
        Instrument::SteelGuitar => &["acoustic guitar", "steel-string guitar", "folk guitar", "guitar"],
        Instrument::JazzGuitar => &["jazz guitar", "hollow-body guitar", "archtop guitar", "guitar"],
        Instrument::CleanGuitar => &["clean electric guitar", "electric guitar", "clean guitar", "guitar"],
        Instrument::OverdriveGuitar => &["overdriven guitar", "electric guitar", "crunchy guitar", "gritty guitar"],
        Instrument::DistortionGuitar => &["distorted guitar", "fuzz guitar", "electric guitar", "distortion guitar"],
        Instrument::Banjo => &["banjo", "five-string banjo", "plucked banjo"],
        Instrument::Violin => &["violin", "fiddle", "solo violin"],
        Instrument::Viola => &["viola", "solo viola"],
        Instrument::Cello => &["cello", "violoncello", "solo cello"],
        Instrument::StringEnsemble => &["strings", "string ensemble", "string section", "string orchestra", "violins"],
        Instrument::SlowStrings => &["legato strings", "strings", "string ensemble", "orchestral strings"],
        Instrument::Pizzicato => &["pizzicato strings", "plucked strings", "pizzicato"],
        Instrument::Trumpet => &["trumpet", "cornet-like trumpet", "trumpet solo"],
        Instrument::Trombone => &["trombone", "slide trombone"],
        Instrument::FrenchHorn => &["french horn", "horn", "orchestral horn"],
        Instrument::BrassSection => &["brass section", "horn section", "brass ensemble", "trumpets and trombones"],
        Instrument::Flute => &["flute", "concert flute", "transverse flute"],
        Instrument::PanFlute => &["pan flute", "panpipes", "pan pipes"],
        Instrument::Clarinet => &["clarinet", "B-flat clarinet"],
        Instrument::Oboe => &["oboe", "oboe solo"],
        Instrument::AltoSax => &["alto saxophone", "saxophone", "alto sax", "sax"],
        Instrument::TenorSax => &["tenor saxophone", "saxophone", "tenor sax", "sax"],
        Instrument::SquareLead => &["square-wave synth", "chiptune synth", "synth lead", "8-bit synth"],
        Instrument::SawLead => &["saw synth", "sawtooth lead", "synth lead", "lead synthesizer"],
        Instrument::WarmPad => &["synth pad", "analogue pad", "synthesizer pad"],
        Instrument::PolySynth => &["polysynth", "synthesizer", "polyphonic synth", "synth"],
        Instrument::SynthBrass => &["synth stabs", "eighties synth", "synthesizer", "synth"],
        Instrument::DrawbarOrgan => &["drawbar organ", "Hammond organ", "organ", "tonewheel organ"],
        Instrument::RockOrgan => &["rock organ", "Hammond organ", "organ", "electric organ"],
        Instrument::ChurchOrgan => &["church organ", "pipe organ", "organ", "cathedral organ"],
        Instrument::Accordion => &["accordion", "squeezebox", "musette accordion"],
        Instrument::Vibraphone => &["vibraphone", "vibes", "vibraphone mallets"],
        Instrument::Marimba => &["marimba", "wooden marimba", "marimba mallets"],
        Instrument::Xylophone => &["xylophone", "wooden xylophone"],
        Instrument::Glockenspiel => &["glockenspiel", "glockenspiel bells", "orchestral bells"],
        Instrument::MusicBox => &["music box", "musical box", "clockwork music box"],
        Instrument::Celesta => &["celesta", "celeste", "celesta bells"],
        Instrument::ChoirAahs => &["choir", "voices", "choral voices", "vocal ensemble", "singing choir"],
        Instrument::VoiceOohs => &["humming voices", "wordless vocals", "oohing voices", "vocal oohs"],
        Instrument::UprightBass => &["upright bass", "double bass", "acoustic bass", "contrabass"],
        Instrument::FingerBass => &["bass guitar", "electric bass", "fingered bass"],
        Instrument::PickBass => &["picked bass", "bass guitar", "electric bass"],
        Instrument::SlapBass => &["slap bass", "slapped bass", "bass guitar"],
        Instrument::SynthBass => &["synth bass", "bass synth", "electronic bass"],
    }
}

/// Names of the family an instrument is in, where the general word fits it.
pub fn family(of: Instrument) -> &'static [&'static str] {
    match (of.family(), of) {
        (_, Instrument::Harpsichord) => &["keyboard", "keyboard instrument"],
        (_, Instrument::Accordion) => &["accordion", "reed organ"],
        (_, Instrument::Banjo) => &["plucked banjo", "banjo"],
        (Family::Piano, _) => &["piano", "piano", "keys", "piano keyboard"],
        (Family::Guitar, _) => &["guitar", "guitar", "guitars", "six-string"],
        (Family::Strings, _) => &["strings", "string instruments", "orchestral strings", "strings"],
        (Family::Brass, _) => &["brass", "horns", "brass instruments", "brass"],
        (Family::Woodwind, _) => &["woodwind", "woodwinds", "wind instrument", "winds"],
        (Family::Synth, _) => &["synth", "synthesizer", "synthesiser", "synths", "synth keyboard"],
        (Family::Organ, _) => &["organ", "organ", "organ sounds"],
        (Family::Mallet, Instrument::Glockenspiel | Instrument::MusicBox | Instrument::Celesta) => {
            &["bells", "chimes", "tuned bells", "mallets"]
        }
        (Family::Mallet, _) => &["mallets", "mallet instruments", "tuned bars", "mallet instrument"],
        (Family::Choir, _) => &["choir", "voices", "vocals", "chorus", "singers"],
        (Family::Bass, _) => &["bass"],
    }
}

/// The name with its article: plural and collective names take none.
pub fn with_article(name: &str) -> String {
    const BARE: [&str; 19] = [
        "strings",
        "voices",
        "horns",
        "brass",
        "woodwinds",
        "winds",
        "vocals",
        "keys",
        "bells",
        "chimes",
        "mallets",
        "guitars",
        "synths",
        "instruments",
        "singers",
        "bars",
        "violins",
        "oohs",
        "panpipes",
    ];
    let last = name.rsplit(' ').next().unwrap_or(name);
    let bare = BARE.contains(&last) || ["pizzicato", "pipes", "trombones", "sounds", "stabs", "vibes"].contains(&last);
    if bare { name.to_string() } else { format!("a {name}") }
}

/// Phrases for the lead; `{}` is the name, `{one}` the name with article.
pub const LEAD: Entry = Entry {
    adjectives: &["{}", "{}", "{}-led", "{}-based"],
    after: &[
        "led by {one}",
        "with {one} in the lead",
        "featuring {one}",
        "played on {one}",
        "with {one} melody",
        "carried by {one}",
        "for {}",
        "on {}",
        "with {one} up front",
        "centred on {one}",
        "where {one} takes the lead",
        "with {one} as the main voice",
        "with {one}",
        "starring {one}",
        "performed on {}",
        "in which {one} stands out",
    ],
    sentences: &[
        "The lead is {one}",
        "The main instrument is {one}",
        "Featured: {}",
        "It features {one}",
        "Lead instrument: {}",
        "Use {one} as the main instrument",
        "Let {one} lead",
        "You hear {one} in front",
        "Write it for {}",
    ],
    tags: &["{}", "{}", "{} lead", "lead: {}", "{} music", "{} in front"],
};

/// Phrases for the accompaniment.
pub const CHORDS: Entry = Entry {
    adjectives: &[],
    after: &[
        "with {} chords",
        "accompanied by {one}",
        "backed by {one}",
        "over {} chords",
        "with {one} underneath",
        "supported by {} harmonies",
        "with {} accompaniment",
    ],
    sentences: &[
        "Chords are played on {}",
        "The accompaniment is {one}",
        "Harmony comes from {one}",
        "It is accompanied by {one}",
    ],
    tags: &["{} chords", "{} accompaniment"],
};

/// Phrases for the bass line.
pub const BASS: Entry = Entry {
    adjectives: &[],
    after: &[
        "with {one}",
        "with {one} line",
        "over {one}",
        "with {} holding the low end",
        "anchored by {one}",
        "with a line on {}",
    ],
    sentences: &["The low end is {one}", "A bass line is played on {}", "There is {one}", "Underneath runs {one}"],
    tags: &["{}", "bass line", "{} line"],
};

/// Phrases for a pad.
pub const PAD: Entry = Entry {
    adjectives: &[],
    after: &["with a pad of {}", "over a bed of {}", "with sustained {} behind", "on a carpet of {}"],
    sentences: &["Sustained {} lie behind", "There is a pad of {}"],
    tags: &["{} pad", "pads"],
};

/// Phrases for an arpeggio.
pub const ARPEGGIO: Entry = Entry {
    adjectives: &[],
    after: &["with {} arpeggios", "over arpeggios on {}", "with broken chords on {}", "with rippling {} figures"],
    sentences: &["Arpeggios run on {}", "There are {} arpeggios"],
    tags: &["{} arpeggios", "arpeggio"],
};

/// Phrases for a piece that one instrument plays alone.
pub const SOLO: Entry = Entry {
    adjectives: &["solo {}", "unaccompanied {}"],
    after: &[
        "for solo {}",
        "played by {one} alone",
        "with nothing but {one}",
        "for {} only",
        "on a single instrument, {one}",
    ],
    sentences: &["Only {one} plays", "It is {one} alone", "Nothing but {}", "No other instrument than {one}"],
    tags: &["solo {}", "{} only", "{} solo", "unaccompanied {}"],
};
