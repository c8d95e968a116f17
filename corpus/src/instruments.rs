//! The instruments: General MIDI program, family, playing range and how they sound.

use serde::{Deserialize, Serialize};

use crate::attributes::{Brightness, named};
use crate::rng::Stream;

named! {
    /// What a listener would call the group an instrument belongs to.
    Family {
        Piano = "piano", Guitar = "guitar", Strings = "strings", Brass = "brass", Woodwind = "woodwind",
        Synth = "synth", Organ = "organ", Mallet = "mallet", Choir = "choir", Bass = "bass",
    }
}

impl Family {
    /// The families a lead can come from: all but bass.
    pub const LEADS: &'static [Family] = &[
        Family::Piano,
        Family::Guitar,
        Family::Strings,
        Family::Brass,
        Family::Woodwind,
        Family::Synth,
        Family::Organ,
        Family::Mallet,
        Family::Choir,
    ];
}

/// What composition and rendering need to know about an instrument.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Family it is named by.
    pub family: Family,
    /// General MIDI program, from 0.
    pub program: u8,
    /// Lowest comfortable MIDI key.
    pub low: i32,
    /// Highest comfortable MIDI key.
    pub high: i32,
    /// Whether it can play chords alone.
    pub chordal: bool,
    /// Whether a held note keeps sounding.
    pub sustains: bool,
    /// Volume correction, so that parts balance across programs.
    pub gain: f32,
    /// -1 dark, 0 neutral, 1 bright by nature.
    pub tilt: i32,
}

macro_rules! instruments {
    ($($id:ident $text:literal $family:ident $program:literal $low:literal..$high:literal
       $chordal:literal $sustains:literal $gain:literal $tilt:literal;)*) => {
        named! {
            /// One sound of the sound font.
            Instrument { $($id = $text,)* }
        }
        const TABLE: &[Info] = &[$(Info {
            family: Family::$family, program: $program, low: $low, high: $high,
            chordal: $chordal, sustains: $sustains, gain: $gain, tilt: $tilt,
        },)*];
    };
}

instruments! {
    GrandPiano "grand piano" Piano 0 33..98 true false 1.0 0;
    BrightPiano "bright piano" Piano 1 36..98 true false 1.0 1;
    ElectricPiano "electric piano" Piano 4 36..92 true false 1.0 -1;
    Harpsichord "harpsichord" Piano 6 36..90 true false 0.8 1;
    NylonGuitar "nylon guitar" Guitar 24 40..81 true false 1.1 -1;
    SteelGuitar "acoustic guitar" Guitar 25 40..84 true false 1.0 1;
    JazzGuitar "jazz guitar" Guitar 26 40..82 true false 1.1 -1;
    CleanGuitar "clean electric guitar" Guitar 27 40..86 true false 1.0 0;
    OverdriveGuitar "overdriven guitar" Guitar 29 40..84 false true 0.7 0;
    DistortionGuitar "distorted guitar" Guitar 30 40..84 false true 0.65 1;
    Banjo "banjo" Guitar 105 48..84 true false 0.9 1;
    Violin "violin" Strings 40 55..96 false true 0.9 1;
    Viola "viola" Strings 41 48..84 false true 0.95 0;
    Cello "cello" Strings 42 36..74 false true 1.0 -1;
    StringEnsemble "string ensemble" Strings 48 36..92 true true 0.85 0;
    SlowStrings "slow strings" Strings 49 36..90 true true 0.9 -1;
    Pizzicato "pizzicato strings" Strings 45 40..88 true false 1.1 1;
    Trumpet "trumpet" Brass 56 54..86 false true 0.8 1;
    Trombone "trombone" Brass 57 40..72 false true 0.85 -1;
    FrenchHorn "french horn" Brass 60 41..77 true true 0.95 -1;
    BrassSection "brass section" Brass 61 40..82 true true 0.8 1;
    Flute "flute" Woodwind 73 60..96 false true 0.9 1;
    PanFlute "pan flute" Woodwind 75 58..92 false true 0.9 0;
    Clarinet "clarinet" Woodwind 71 50..88 false true 0.9 -1;
    Oboe "oboe" Woodwind 68 58..88 false true 0.85 0;
    AltoSax "alto saxophone" Woodwind 65 49..82 false true 0.85 0;
    TenorSax "tenor saxophone" Woodwind 66 44..78 false true 0.85 -1;
    SquareLead "square synth" Synth 80 40..96 false true 0.6 1;
    SawLead "saw synth" Synth 81 40..96 false true 0.6 1;
    WarmPad "warm synth pad" Synth 89 36..88 true true 0.9 -1;
    PolySynth "polysynth" Synth 90 36..90 true true 0.75 0;
    SynthBrass "synth brass" Synth 62 36..86 true true 0.75 0;
    DrawbarOrgan "drawbar organ" Organ 16 36..92 true true 0.75 0;
    RockOrgan "rock organ" Organ 18 36..92 true true 0.7 1;
    ChurchOrgan "church organ" Organ 19 36..90 true true 0.7 -1;
    Accordion "accordion" Organ 21 41..88 true true 0.8 1;
    Vibraphone "vibraphone" Mallet 11 53..89 true false 1.0 -1;
    Marimba "marimba" Mallet 12 45..91 true false 1.1 -1;
    Xylophone "xylophone" Mallet 13 60..100 false false 1.0 1;
    Glockenspiel "glockenspiel" Mallet 9 67..101 false false 0.9 1;
    MusicBox "music box" Mallet 10 60..96 true false 1.0 1;
    Celesta "celesta" Mallet 8 60..98 true false 1.0 0;
    ChoirAahs "choir" Choir 52 43..82 true true 0.9 0;
    VoiceOohs "humming voices" Choir 53 43..80 true true 0.9 -1;
    UprightBass "upright bass" Bass 32 28..55 false false 1.1 -1;
    FingerBass "bass guitar" Bass 33 28..55 false false 1.0 0;
    PickBass "picked bass" Bass 34 28..55 false false 0.95 1;
    SlapBass "slap bass" Bass 36 28..55 false false 0.9 1;
    SynthBass "synth bass" Bass 38 28..55 false true 0.9 0;
}

impl Instrument {
    /// Facts of this instrument.
    pub fn info(self) -> &'static Info {
        &TABLE[self as usize]
    }

    /// The family it is named by.
    pub fn family(self) -> Family {
        self.info().family
    }

    /// Whether a note fades within about half a second, however long it is held.
    pub fn dies_quickly(self) -> bool {
        matches!(
            self,
            Instrument::Pizzicato
                | Instrument::Xylophone
                | Instrument::Marimba
                | Instrument::Banjo
                | Instrument::Harpsichord
        )
    }

    /// Draws one of `family`, leaning to those whose natural colour agrees with `brightness`.
    ///
    /// With `chordal`, only those that play chords alone, unless the family has none (the woodwinds): then they play
    /// them as a group.
    pub fn draw(family: Family, brightness: Brightness, chordal: bool, rng: &mut Stream) -> Instrument {
        let wanted = brightness.tilt();
        let chordal = chordal && Instrument::ALL.iter().any(|i| i.family() == family && i.info().chordal);
        let weight = |instrument: &Instrument| {
            let info = instrument.info();
            match (info.tilt - wanted).abs() {
                _ if info.family != family || (chordal && !info.chordal) => 0.0,
                0 => 1.0,
                1 => 0.6,
                _ => 0.12,
            }
        };
        let weights: Vec<f64> = Instrument::ALL.iter().map(weight).collect();
        Instrument::ALL[rng.weighted(&weights)]
    }
}
