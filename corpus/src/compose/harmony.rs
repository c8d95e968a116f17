//! Harmony: the scale, chord symbols and the plan of chords through the piece.
//!
//! Pitches here are semitones above the tonic. A piece walks four-bar progressions, one for each section letter, begins
//! in most cases and ends always on the tonic chord, so that the key is clear even in sixteen seconds.

use crate::attributes::{Attributes, Density, Flavour, Metre, Mode};
use crate::rng::Stream;

/// A chord and the scale that fits over it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chord {
    /// Semitones of its tones above the tonic, root first.
    pub tones: Vec<i32>,
    /// Seven semitone offsets: the key's scale with the chord's own alterations.
    pub scale: [i32; 7],
}

/// A chord from a grid step on.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// First step, from the start of the piece.
    pub step: usize,
    /// Length in steps.
    pub length: usize,
    /// What sounds.
    pub chord: Chord,
}

const MAJOR: [i32; 7] = [0, 2, 4, 5, 7, 9, 11];

/// The scale of a mode; the harmonic flavour raises its seventh over the dominant only.
pub fn scale_of(mode: Mode, flavour: Flavour) -> [i32; 7] {
    match (mode, flavour) {
        (Mode::Major, _) => MAJOR,
        (Mode::Minor, Flavour::Dorian) => [0, 2, 3, 5, 7, 9, 10],
        (Mode::Minor, _) => [0, 2, 3, 5, 7, 8, 10],
    }
}

impl Chord {
    /// The pitch of a diatonic index: 0 is the tonic, 7 the tonic an octave up.
    pub fn pitch(&self, index: i32) -> i32 {
        self.scale[index.rem_euclid(7) as usize] + 12 * index.div_euclid(7)
    }

    /// Whether a pitch (semitones above the tonic) belongs to the chord.
    pub fn contains(&self, pitch: i32) -> bool {
        self.tones.iter().any(|tone| (tone - pitch).rem_euclid(12) == 0)
    }

    /// The diatonic index of a chord tone nearest to `index`.
    pub fn snap(&self, index: i32) -> i32 {
        [0, 1, -1, 2, -2]
            .into_iter()
            .map(|offset| index + offset)
            .find(|&candidate| self.contains(self.pitch(candidate)))
            .unwrap_or(index)
    }

    /// A chord from a token such as `5`, `b7`, `4m` or `1d`; unknown tokens give the tonic.
    fn parse(token: &str, attributes: &Attributes, sevenths: bool) -> Chord {
        let scale = scale_of(attributes.mode, attributes.flavour);
        let degree = token.chars().find_map(|c| c.to_digit(10)).unwrap_or(1) as usize % 8;
        let degree = degree.max(1) - 1;
        // The sixth chord of the dorian scale is diminished; songs in it take the major one of natural minor.
        let dorian = attributes.mode == Mode::Minor && attributes.flavour == Flavour::Dorian;
        let scale = if dorian && degree == 5 { scale_of(Mode::Minor, Flavour::Natural) } else { scale };
        let diatonic = |steps: usize| {
            let index = degree + steps;
            scale[index % 7] + 12 * (index / 7) as i32
        };
        let root = if token.starts_with('b') { MAJOR[degree] - 1 } else { diatonic(0) };
        let mut tones = if token.ends_with('m') {
            vec![root, root + 3, root + 7]
        } else if token.ends_with('d') {
            vec![root, root + 4, root + 7, root + 10]
        } else if token.starts_with('b') {
            vec![root, root + 4, root + 7]
        } else {
            vec![diatonic(0), diatonic(2), diatonic(4)]
        };
        let harmonic = attributes.mode == Mode::Minor && attributes.flavour == Flavour::Harmonic;
        if harmonic && degree == 4 {
            tones[1] = root + 4;
        }
        if sevenths && tones.len() == 3 && token.len() == 1 {
            tones.push(diatonic(6));
        }
        Chord { scale: altered(scale, &tones), tones }
    }
}

/// Bends the scale to hold every chord tone, so that melodies never rub against the chord.
fn altered(mut scale: [i32; 7], tones: &[i32]) -> [i32; 7] {
    for tone in tones {
        let class = tone.rem_euclid(12);
        if !scale.contains(&class)
            && let Some(degree) = scale.iter_mut().skip(1).find(|degree| (**degree - class).abs() == 1)
        {
            *degree = class;
        }
    }
    scale
}

/// The chords of the whole piece.
pub(crate) fn spans(attributes: &Attributes) -> Vec<Span> {
    let table = attributes.genre.progressions();
    let mut rng = Stream::new(attributes.seed, "harmony");
    let first = rng.below(table.len());
    let second = (first + 1 + rng.below(table.len() - 1)) % table.len();
    let third = rng.below(table.len());
    let halves = rng.chance(0.5);
    let ending = *rng.pick(&["5", "4"]);
    let sevenths = attributes.genre.sevenths();
    let chord = |token: &str| Chord::parse(token, attributes, sevenths);
    let progression = |letter: char| {
        let pair = table[match letter {
            'A' => first,
            'B' => second,
            _ => third,
        }];
        let text = if attributes.mode == Mode::Major { pair.0 } else { pair.1 };
        text.split(' ').collect::<Vec<_>>()
    };
    let bars = attributes.bars as usize;
    let steps = attributes.metre.steps();
    let split = halves && bars <= 8 && attributes.metre == Metre::FourFour && attributes.density != Density::Sparse;
    let letters: Vec<char> = attributes.form.chars().collect();
    let section = attributes.section_bars();
    let mut spans: Vec<Span> = Vec::new();
    for bar in 0..bars {
        // Harmony changes its progression on four-bar groups: shorter sections vary the tune alone.
        let group = (bar / 4 * 4) / section;
        let tokens = progression(letters.get(group).copied().unwrap_or('A'));
        let (one, two) =
            if split { (tokens[(2 * bar) % 4], tokens[(2 * bar + 1) % 4]) } else { (tokens[bar % 4], tokens[bar % 4]) };
        let (one, two) = match bar {
            _ if bar + 1 == bars => ("1", "1"),
            _ if bar + 2 == bars => (one, ending),
            0 => ("1", two),
            _ => (one, two),
        };
        let halved = if split { steps / 2 } else { steps };
        let tonic_fix = |token: &'static str| if token == "1" && tokens.contains(&"1d") { "1d" } else { token };
        for (part, token) in [one, two].into_iter().take(steps / halved).enumerate() {
            let token = if split || bar + 2 != bars { token } else { ending };
            let token = if bar + 1 == bars { token } else { tonic_fix(token) };
            spans.push(Span { step: bar * steps + part * halved, length: halved, chord: chord(token) });
        }
    }
    spans
}
