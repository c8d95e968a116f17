//! What is known about a piece: the attribute record, and how one is drawn from a seed.
//!
//! The record is the whole truth: composition is a pure function of it, captions and evaluation prompts read it. Mood
//! alone is drawn last, conditioned on mode, tempo, density and dynamics, so that the words fit what is heard; nearly
//! everything else is drawn independently, so that a model can tell the attributes apart.

use serde::{Deserialize, Serialize};

use crate::genre::Genre;
use crate::instruments::{Family, Instrument};
use crate::rng::{Stream, hash_name};

/// Declares an enum whose variants have a text name used in files, with the list of all of them.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $(#[doc = $text] #[serde(rename = $text)] $variant,)* }
        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The name used in files and on the command line.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}
pub(crate) use named;

named! {
    /// Tonal colour of the key.
    Mode { Major = "major", Minor = "minor" }
}
named! {
    /// Which minor scale a minor piece leans on; without effect in major.
    Flavour { Natural = "natural", Harmonic = "harmonic", Dorian = "dorian" }
}
named! {
    /// Time signature.
    Metre { FourFour = "4/4", ThreeFour = "3/4", SixEight = "6/8" }
}
named! {
    /// How many notes fall on a beat.
    Density { Sparse = "sparse", Medium = "medium", Dense = "dense" }
}
named! {
    /// Spectral colour: register, instruments and the filter on the mix.
    Brightness { Dark = "dark", Neutral = "neutral", Bright = "bright" }
}
named! {
    /// How hard the notes are played.
    Dynamics { Soft = "soft", Medium = "medium", Loud = "loud", Crescendo = "crescendo" }
}
named! {
    /// The feeling a listener would name.
    Mood {
        Happy = "happy", Sad = "sad", Calm = "calm", Energetic = "energetic", Tense = "tense", Dreamy = "dreamy",
        Gloomy = "gloomy", Romantic = "romantic", Epic = "epic", Playful = "playful", Nostalgic = "nostalgic",
        Mysterious = "mysterious", Hopeful = "hopeful", Aggressive = "aggressive",
    }
}
named! {
    /// How parts enter.
    Arrangement { Full = "full", Intro = "intro", Build = "build" }
}
named! {
    /// Three tempo classes, as captions name them.
    TempoBand { Slow = "slow", Moderate = "moderate", Fast = "fast" }
}
named! {
    /// What the fourth part does.
    TextureKind { Pad = "pad", Arpeggio = "arpeggio" }
}
named! {
    /// Drum sounds, as General MIDI percussion banks have them.
    Kit {
        Standard = "standard", Room = "room", Power = "power", Electronic = "electronic", Analog = "808",
        Jazz = "jazz", Brush = "brush",
    }
}
named! {
    /// Which list of seeds a piece comes from.
    Split { Train = "train", Test = "test" }
}

impl Split {
    /// The seed of piece `index`: bit 52 is the split, so that no index of one can meet any of the other.
    ///
    /// Seeds stay below 2^53, which every JSON reader keeps exactly.
    pub fn seed(self, index: u64) -> u64 {
        let hashed = hash_name(index, "musaic-corpus piece") >> 12;
        match self {
            Split::Train => hashed,
            Split::Test => hashed | 1 << 52,
        }
    }
}

impl Kit {
    /// Program of the percussion bank.
    pub fn program(self) -> u8 {
        [0, 8, 16, 24, 25, 32, 40][self as usize]
    }
}

impl Metre {
    /// Beats (pulses) in a bar: 6/8 has two dotted ones.
    pub fn beats(self) -> usize {
        match self {
            Metre::FourFour => 4,
            Metre::ThreeFour => 3,
            Metre::SixEight => 2,
        }
    }

    /// Grid steps (sixteenths) in a beat.
    pub fn steps_per_beat(self) -> usize {
        if self == Metre::SixEight { 6 } else { 4 }
    }

    /// Grid steps in a bar.
    pub fn steps(self) -> usize {
        self.beats() * self.steps_per_beat()
    }
}

impl Brightness {
    /// -1 dark, 0 neutral, 1 bright.
    pub fn tilt(self) -> i32 {
        self as i32 - 1
    }
}

impl TempoBand {
    /// The band a tempo belongs to.
    pub fn of(bpm: u16) -> Self {
        match bpm {
            0..95 => TempoBand::Slow,
            95..130 => TempoBand::Moderate,
            _ => TempoBand::Fast,
        }
    }
}

/// The fourth part: a held pad or running arpeggio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Texture {
    /// Who plays it.
    pub instrument: Instrument,
    /// What it plays.
    pub kind: TextureKind,
}

/// Everything known about a piece. Composition is a pure function of this record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    /// Seed of every random choice.
    pub seed: u64,
    /// Style of harmony and rhythm.
    pub genre: Genre,
    /// Beats a minute; dotted quarters in 6/8.
    pub tempo_bpm: u16,
    /// Tonic pitch class, 0 = C.
    pub tonic: u8,
    /// Major or minor.
    pub mode: Mode,
    /// Kind of minor.
    pub flavour: Flavour,
    /// Time signature.
    pub metre: Metre,
    /// Length in bars.
    pub bars: u8,
    /// Who plays the tune.
    pub melody: Option<Instrument>,
    /// Who plays the chords.
    pub chords: Option<Instrument>,
    /// Who plays the bass line.
    pub bass: Option<Instrument>,
    /// Pad or arpeggio.
    pub texture: Option<Texture>,
    /// Whether there are drums.
    pub drums: bool,
    /// Drum sounds, if any.
    pub kit: Kit,
    /// Notes a beat, as a class.
    pub density: Density,
    /// Spectral colour, as a class.
    pub brightness: Brightness,
    /// Loudness of playing.
    pub dynamics: Dynamics,
    /// Feeling.
    pub mood: Mood,
    /// Section letters, such as `AABA`.
    pub form: String,
    /// How parts enter.
    pub arrangement: Arrangement,
}

impl Attributes {
    /// Draws a record from a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Stream::new(seed, "attributes");
        let genre = *rng.pick(Genre::ALL);
        let (low, high) = genre.tempo_range();
        // Half of the pieces ignore the genre's habit, which keeps tempo spread evenly and genre from giving it away.
        let tempo_bpm = if rng.chance(0.5) { rng.int(60, 180) } else { rng.int(low, high) } as u16;
        let tonic = rng.below(12) as u8;
        let mode = *rng.pick(Mode::ALL);
        let flavour = *rng.pick(Flavour::ALL);
        let metre = draw_metre(genre, tempo_bpm, &mut rng);
        let bars = draw_bars(metre, tempo_bpm, &mut rng);
        let density = *rng.pick(Density::ALL);
        let brightness = *rng.pick(Brightness::ALL);
        let dynamics = Dynamics::ALL[rng.weighted(&[0.28, 0.36, 0.28, 0.08])];
        let drums = rng.chance(genre.drum_share());
        let kit = *rng.pick(genre.kits());
        let mut parts = Stream::new(seed, "attributes/parts");
        let (melody, chords, bass, texture) = draw_parts(genre, brightness, &mut parts);
        let sections = section_count(bars as usize);
        let form = draw_form(sections, &mut rng);
        let accompanied = chords.is_some() && melody.is_some();
        let arrangement = match rng.weighted(&[0.82, 0.11, 0.07]) {
            1 if accompanied && sections >= 3 => Arrangement::Intro,
            2 if accompanied && sections >= 4 => Arrangement::Build,
            _ => Arrangement::Full,
        };
        let mood = draw_mood(mode, tempo_bpm, density, brightness, dynamics, &mut rng);
        Self {
            seed,
            genre,
            tempo_bpm,
            tonic,
            mode,
            flavour,
            metre,
            bars,
            melody,
            chords,
            bass,
            texture,
            drums,
            kit,
            density,
            brightness,
            dynamics,
            mood,
            form,
            arrangement,
        }
    }

    /// The instrument a listener notices first.
    pub fn lead(&self) -> Instrument {
        self.melody
            .or(self.chords)
            .or(self.texture.map(|texture| texture.instrument))
            .or(self.bass)
            .unwrap_or(Instrument::GrandPiano)
    }

    /// The different instruments, lead first.
    pub fn instruments(&self) -> Vec<Instrument> {
        let all = [Some(self.lead()), self.melody, self.chords, self.bass, self.texture.map(|t| t.instrument)];
        let mut seen = Vec::new();
        for instrument in all.into_iter().flatten() {
            if !seen.contains(&instrument) {
                seen.push(instrument);
            }
        }
        seen
    }

    /// Seconds in a bar.
    pub fn bar_seconds(&self) -> f64 {
        self.metre.beats() as f64 * 60.0 / f64::from(self.tempo_bpm)
    }

    /// Bars in a section of the form.
    pub fn section_bars(&self) -> usize {
        (self.bars as usize / self.form.len().max(1)).max(1)
    }

    /// Slow, moderate or fast.
    pub fn tempo_band(&self) -> TempoBand {
        TempoBand::of(self.tempo_bpm)
    }
}

fn draw_metre(genre: Genre, tempo: u16, rng: &mut Stream) -> Metre {
    let free = if genre.odd_metres() { [0.56, 0.26, 0.18] } else { [0.86, 0.09, 0.05] };
    // A dotted beat above 110 leaves no time for its three eighths.
    let weights = if tempo > 110 { [free[0], free[1], 0.0] } else { free };
    Metre::ALL[rng.weighted(&weights)]
}

/// Whole bars lasting 16 to 24 s, a multiple of four where one fits.
fn draw_bars(metre: Metre, tempo: u16, rng: &mut Stream) -> u8 {
    let bar = metre.beats() as f64 * 60.0 / f64::from(tempo);
    let fits: Vec<u8> = (3..=60).filter(|&n| (15.99..=24.01).contains(&(f64::from(n) * bar))).collect();
    for step in [4, 2, 1] {
        let good: Vec<u8> = fits.iter().copied().filter(|n| n % step == 0).collect();
        if !good.is_empty() {
            return *rng.pick(&good);
        }
    }
    8
}

fn section_count(bars: usize) -> usize {
    match bars {
        n if n % 4 == 0 && n >= 12 => n / 4,
        n if n % 4 == 0 => 4,
        n if n % 2 == 0 => n / 2,
        _ => 1,
    }
}

fn draw_form(sections: usize, rng: &mut Stream) -> String {
    let pattern = *rng.pick(&["AABA", "ABAB", "AABB", "AAAA", "ABAC", "AAAB", "ABBA", "ABCA"]);
    pattern.chars().cycle().take(sections).collect()
}

type Parts = (Option<Instrument>, Option<Instrument>, Option<Instrument>, Option<Texture>);

/// Draws who plays: many solos and duos, since a small model learns from clear pieces.
fn draw_parts(genre: Genre, brightness: Brightness, rng: &mut Stream) -> Parts {
    let favourite = genre.lead_families();
    let weights: Vec<f64> = Family::LEADS.iter().map(|f| if favourite.contains(f) { 2.2 } else { 1.0 }).collect();
    let family = Family::LEADS[rng.weighted(&weights)];
    let layout = rng.weighted(&[0.24, 0.10, 0.16, 0.12, 0.20, 0.12, 0.06]);
    // All draws are made whatever the layout, so that layouts differ in parts, not in luck.
    let soloist = Instrument::draw(family, brightness, false, rng);
    let chordal = Instrument::draw(family, brightness, true, rng);
    let backing_family = *rng.pick(&[
        Family::Piano,
        Family::Guitar,
        Family::Piano,
        family,
        Family::Strings,
        Family::Synth,
        Family::Organ,
    ]);
    let backing = Instrument::draw(backing_family, brightness, true, rng);
    let bass = *rng.pick(genre.basses());
    let kind = *rng.pick(TextureKind::ALL);
    let texture_family = match kind {
        TextureKind::Pad => *rng.pick(&[Family::Strings, Family::Synth, Family::Choir]),
        TextureKind::Arpeggio => *rng.pick(&[Family::Piano, Family::Guitar, Family::Mallet, Family::Synth]),
    };
    let mut texture = Texture { instrument: Instrument::draw(texture_family, brightness, true, rng), kind };
    if kind == TextureKind::Pad && !texture.instrument.info().sustains {
        texture.instrument = Instrument::StringEnsemble;
    }
    let with_self = if soloist.info().chordal { soloist } else { chordal };
    match layout {
        // A wind player cannot accompany himself: those solos are a single line.
        0 if !with_self.info().chordal => (Some(with_self), None, None, None),
        0 => (Some(with_self), Some(with_self), None, None),
        1 => (Some(soloist), None, None, None),
        2 => (Some(soloist), Some(backing), None, None),
        3 => (Some(soloist), None, Some(bass), None),
        4 => (Some(soloist), Some(backing), Some(bass), None),
        5 => (Some(soloist), Some(backing), Some(bass), Some(texture)),
        _ => (None, Some(chordal), Some(bass), None),
    }
}

fn draw_mood(
    mode: Mode,
    tempo: u16,
    density: Density,
    brightness: Brightness,
    dynamics: Dynamics,
    rng: &mut Stream,
) -> Mood {
    let major = if mode == Mode::Major { 1.0 } else { 0.0 };
    let minor = 1.0 - major;
    let speed = (f64::from(tempo) - 60.0) / 120.0;
    let activity = density as usize as f64 / 2.0;
    let force = match dynamics {
        Dynamics::Soft => 0.0,
        Dynamics::Medium => 0.5,
        Dynamics::Loud => 1.0,
        Dynamics::Crescendo => 0.7,
    };
    let bright = brightness as usize as f64 / 2.0;
    let arousal = (2.0 * speed + activity + force) / 4.0;
    let quiet = 1.0 - arousal;
    // Squares make the preference sharp without forbidding neighbours; a mood against its mode has weight zero.
    let weight = |mood: Mood| match mood {
        Mood::Happy => major * (0.3 + arousal) * (0.5 + bright),
        Mood::Sad => minor * quiet * quiet * 2.0,
        Mood::Calm => quiet.powi(3) * 2.0,
        Mood::Energetic => arousal.powi(3) * 2.5,
        Mood::Tense => minor * (0.2 + arousal),
        Mood::Dreamy => quiet.powi(2) * (1.2 - force),
        Mood::Gloomy => minor * (1.2 - bright) * (1.0 - speed),
        Mood::Romantic => major * quiet * (1.2 - activity),
        Mood::Epic => force.powi(2) * (0.3 + activity),
        Mood::Playful => major * (0.2 + arousal) * (1.1 - force) * (0.4 + bright),
        Mood::Nostalgic => 0.6 * quiet,
        Mood::Mysterious => minor * (1.1 - activity) * (1.1 - force),
        Mood::Hopeful => major * 0.7 * (0.5 + bright),
        Mood::Aggressive => minor * arousal.powi(2) * force * 3.0,
    };
    let weights: Vec<f64> = Mood::ALL.iter().map(|&mood| weight(mood).max(0.0)).collect();
    Mood::ALL[rng.weighted(&weights)]
}
