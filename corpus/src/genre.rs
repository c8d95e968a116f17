//! The genres and their habits: tempo, drums, lead families, harmony colour and rhythm patterns.

use serde::{Deserialize, Serialize};

use crate::attributes::{Kit, named};
use crate::instruments::{Family, Instrument};

named! {
    /// Style of a piece.
    Genre {
        Pop = "pop", Rock = "rock", Jazz = "jazz", Blues = "blues", Folk = "folk", Classical = "classical",
        Ambient = "ambient", Techno = "techno", House = "house", HipHop = "hip hop", LoFi = "lo-fi", Funk = "funk",
        Reggae = "reggae", Bossa = "bossa nova", Country = "country", Cinematic = "cinematic", Metal = "metal",
    }
}

impl Genre {
    /// The tempi the genre is usually played at; ranges overlap widely on purpose.
    pub fn tempo_range(self) -> (i32, i32) {
        match self {
            Genre::Ambient => (60, 110),
            Genre::LoFi | Genre::HipHop => (62, 112),
            Genre::Blues | Genre::Reggae => (64, 130),
            Genre::Cinematic | Genre::Classical => (60, 170),
            Genre::Jazz => (80, 180),
            Genre::Folk | Genre::Country | Genre::Pop | Genre::Bossa => (75, 160),
            Genre::Funk => (88, 140),
            Genre::House => (100, 150),
            Genre::Techno => (110, 170),
            Genre::Rock => (95, 180),
            Genre::Metal => (100, 180),
        }
    }

    /// How often the genre has drums; near one half, so that genre does not give them away.
    pub fn drum_share(self) -> f64 {
        match self {
            Genre::Classical | Genre::Ambient => 0.35,
            Genre::Folk | Genre::Cinematic => 0.43,
            Genre::Rock | Genre::Metal | Genre::Techno | Genre::House | Genre::HipHop | Genre::Funk => 0.6,
            _ => 0.51,
        }
    }

    /// Drum kits that suit it.
    pub fn kits(self) -> &'static [Kit] {
        match self {
            Genre::Jazz | Genre::Bossa => &[Kit::Jazz, Kit::Brush],
            Genre::Folk | Genre::Country | Genre::Classical => &[Kit::Standard, Kit::Brush],
            Genre::Techno | Genre::House => &[Kit::Electronic, Kit::Analog],
            Genre::HipHop | Genre::LoFi => &[Kit::Analog, Kit::Standard],
            Genre::Ambient => &[Kit::Electronic, Kit::Standard],
            Genre::Rock | Genre::Metal | Genre::Cinematic => &[Kit::Power, Kit::Room],
            _ => &[Kit::Standard, Kit::Room],
        }
    }

    /// Lead families it favours.
    pub fn lead_families(self) -> &'static [Family] {
        match self {
            Genre::Pop => &[Family::Piano, Family::Synth],
            Genre::Rock | Genre::Metal => &[Family::Guitar],
            Genre::Jazz => &[Family::Brass, Family::Woodwind, Family::Piano],
            Genre::Blues => &[Family::Guitar, Family::Organ],
            Genre::Folk => &[Family::Guitar, Family::Woodwind],
            Genre::Classical => &[Family::Strings, Family::Piano, Family::Woodwind],
            Genre::Ambient => &[Family::Synth, Family::Choir],
            Genre::Techno | Genre::House => &[Family::Synth, Family::Organ],
            Genre::HipHop => &[Family::Mallet, Family::Choir],
            Genre::LoFi => &[Family::Piano, Family::Mallet],
            Genre::Funk => &[Family::Brass, Family::Organ],
            Genre::Reggae => &[Family::Organ, Family::Brass],
            Genre::Bossa => &[Family::Woodwind, Family::Mallet],
            Genre::Country => &[Family::Guitar, Family::Strings],
            Genre::Cinematic => &[Family::Strings, Family::Choir, Family::Brass],
        }
    }

    /// Bass instruments that suit it.
    pub fn basses(self) -> &'static [Instrument] {
        match self {
            Genre::Jazz | Genre::Bossa | Genre::Folk | Genre::Classical | Genre::Country | Genre::Blues => {
                &[Instrument::UprightBass, Instrument::UprightBass, Instrument::FingerBass]
            }
            Genre::Techno | Genre::House | Genre::Ambient | Genre::HipHop => {
                &[Instrument::SynthBass, Instrument::SynthBass, Instrument::FingerBass]
            }
            Genre::Funk => &[Instrument::SlapBass, Instrument::FingerBass],
            Genre::Rock | Genre::Metal => &[Instrument::PickBass, Instrument::FingerBass],
            _ => &[Instrument::FingerBass, Instrument::UprightBass, Instrument::SynthBass],
        }
    }

    /// Whether three-four and six-eight come naturally.
    pub fn odd_metres(self) -> bool {
        matches!(
            self,
            Genre::Folk
                | Genre::Classical
                | Genre::Ambient
                | Genre::Cinematic
                | Genre::Country
                | Genre::Jazz
                | Genre::Blues
        )
    }

    /// How far off-beat eighths are delayed, as a share of a beat.
    pub fn swing(self) -> f64 {
        match self {
            Genre::Jazz | Genre::Blues => 0.15,
            Genre::LoFi | Genre::HipHop => 0.08,
            Genre::Reggae => 0.06,
            _ => 0.0,
        }
    }

    /// Whether chords carry sevenths.
    pub fn sevenths(self) -> bool {
        matches!(self, Genre::Jazz | Genre::LoFi | Genre::Funk | Genre::Bossa | Genre::House)
    }

    /// Progressions as pairs: the one for major and its counterpart for minor.
    ///
    /// A token is a scale degree; `b` lowers it, `m` makes a (borrowed) minor chord, `d` a dominant seventh.
    pub fn progressions(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Genre::Jazz | Genre::LoFi => {
                &[("1 6 2 5", "1 6 4 5"), ("2 5 1 1", "4 5 1 1"), ("1 4 3 6", "1 4 7 3"), ("1 2 5 1", "1 4 5 1")]
            }
            Genre::Blues => &[("1d 4d 1d 5d", "1 4 1 5"), ("1d 1d 4d 5d", "1 1 4 5"), ("1d 4d 5d 1d", "1 4 5 1")],
            Genre::Bossa => &[("1 6 2 5", "1 4 5 1"), ("1 2 5 1", "1 6 4 5"), ("1 4m 1 5", "1 7 6 5")],
            Genre::Classical => {
                &[("1 4 5 1", "1 4 5 1"), ("1 5 6 4", "1 5 6 4"), ("1 6 2 5", "1 6 4 5"), ("1 5 1 5", "1 5 1 5")]
            }
            Genre::Techno | Genre::Ambient => {
                &[("1 1 4 4", "1 1 6 6"), ("1 4 1 5", "1 7 1 6"), ("1 6 4 1", "1 3 7 1"), ("1 5 4 4", "1 7 6 6")]
            }
            Genre::Reggae | Genre::Country => {
                &[("1 4 1 5", "1 4 1 5"), ("1 4 5 1", "1 4 5 1"), ("1 5 4 1", "1 7 4 1"), ("1 1 4 5", "1 1 4 5")]
            }
            Genre::Rock | Genre::Metal => {
                &[("1 b7 4 1", "1 6 7 1"), ("1 4 5 4", "1 7 6 7"), ("1 5 6 4", "1 6 3 7"), ("1 1 4 5", "1 1 6 5")]
            }
            Genre::Cinematic => {
                &[("1 5 6 4", "1 6 3 7"), ("1 4 6 5", "1 4 6 5"), ("1 3 4 5", "1 3 6 7"), ("1 4 4m 1", "1 6 4 5")]
            }
            Genre::Funk => &[("1d 4d 1d 4d", "1 4 1 4"), ("1 4 2 5", "1 7 6 5"), ("1 1 4 5", "1 1 4 5")],
            _ => &[
                ("1 5 6 4", "1 6 3 7"),
                ("1 6 4 5", "1 6 4 5"),
                ("1 4 6 5", "1 7 6 7"),
                ("1 4 1 5", "1 4 1 5"),
                ("1 3 4 5", "1 3 4 5"),
                ("1 4 5 1", "1 4 5 1"),
            ],
        }
    }
}
