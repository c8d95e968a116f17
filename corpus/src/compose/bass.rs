//! Bass lines: roots first, with the figure of the genre.

use super::{Chord, Frame, GridNote};
use crate::attributes::{Density, Metre};
use crate::genre::Genre;

/// A step of a bass figure: position in the bar, length, and which tone.
type Figure = &'static [(usize, usize, Tone)];

#[derive(Clone, Copy)]
enum Tone {
    Root,
    Fifth,
    Octave,
}
use Tone::{Fifth, Octave, Root};

const WHOLE: Figure = &[(0, 16, Root)];
const HALVES: Figure = &[(0, 8, Root), (8, 8, Fifth)];
const QUARTERS: Figure = &[(0, 4, Root), (4, 4, Root), (8, 4, Fifth), (12, 4, Root)];
const POP: Figure = &[(0, 6, Root), (6, 2, Root), (8, 6, Root), (14, 2, Fifth)];
const DRIVE: Figure = &[
    (0, 2, Root),
    (2, 2, Root),
    (4, 2, Root),
    (6, 2, Root),
    (8, 2, Root),
    (10, 2, Root),
    (12, 2, Root),
    (14, 2, Fifth),
];
const OCTAVES: Figure = &[
    (0, 2, Root),
    (2, 2, Octave),
    (4, 2, Root),
    (6, 2, Octave),
    (8, 2, Root),
    (10, 2, Octave),
    (12, 2, Root),
    (14, 2, Octave),
];
const OFFBEAT: Figure = &[(2, 2, Root), (6, 2, Root), (10, 2, Root), (14, 2, Root)];
const FUNK: Figure = &[(0, 3, Root), (3, 1, Root), (6, 2, Octave), (8, 2, Root), (11, 2, Fifth), (14, 2, Octave)];
const REGGAE: Figure = &[(0, 3, Root), (6, 2, Root), (8, 3, Fifth), (12, 4, Root)];
const BOSSA: Figure = &[(0, 6, Root), (6, 2, Fifth), (8, 6, Fifth), (14, 2, Root)];
const HIPHOP: Figure = &[(0, 6, Root), (7, 3, Root), (10, 4, Octave)];
const GALLOP: Figure = &[
    (0, 2, Root),
    (2, 1, Root),
    (3, 1, Root),
    (4, 2, Root),
    (6, 1, Root),
    (7, 1, Root),
    (8, 2, Root),
    (10, 1, Root),
    (11, 1, Root),
    (12, 2, Root),
    (14, 1, Fifth),
    (15, 1, Root),
];
const WALTZ: Figure = &[(0, 8, Root), (8, 4, Fifth)];
const WALTZ_HOLD: Figure = &[(0, 12, Root)];
const WALTZ_BUSY: Figure = &[(0, 4, Root), (4, 2, Fifth), (6, 2, Octave), (8, 4, Fifth)];
const JIG: Figure = &[(0, 6, Root), (6, 6, Fifth)];
const JIG_BUSY: Figure = &[(0, 4, Root), (4, 2, Fifth), (6, 4, Octave), (10, 2, Fifth)];

fn figure(frame: &Frame) -> Figure {
    match (frame.attributes.metre, frame.density()) {
        (Metre::ThreeFour | Metre::SixEight, Density::Sparse) => WALTZ_HOLD,
        (Metre::ThreeFour, Density::Medium) => WALTZ,
        (Metre::ThreeFour, Density::Dense) => WALTZ_BUSY,
        (Metre::SixEight, Density::Medium) => JIG,
        (Metre::SixEight, Density::Dense) => JIG_BUSY,
        (Metre::FourFour, Density::Sparse) => WHOLE,
        (Metre::FourFour, density) => {
            four_four(frame.attributes.genre, density == Density::Dense, frame.quick_step() == 1)
        }
    }
}

fn four_four(genre: Genre, dense: bool, room: bool) -> Figure {
    match (genre, dense) {
        (Genre::Ambient | Genre::Cinematic | Genre::Classical, false) => HALVES,
        (Genre::Ambient, true) => POP,
        (Genre::Techno, false) | (Genre::House, false) => OFFBEAT,
        (Genre::Techno | Genre::House, true) => OCTAVES,
        (Genre::Rock | Genre::Pop, false) => POP,
        (Genre::Metal, true) if room => GALLOP,
        (Genre::Metal | Genre::Rock | Genre::Pop | Genre::Cinematic, _) => DRIVE,
        (Genre::Funk, _) => FUNK,
        (Genre::Reggae, _) => REGGAE,
        (Genre::Bossa, _) => BOSSA,
        (Genre::HipHop | Genre::LoFi, _) => HIPHOP,
        (Genre::Country | Genre::Folk, false) => HALVES,
        _ => QUARTERS,
    }
}

fn walks(frame: &Frame) -> bool {
    matches!(frame.attributes.genre, Genre::Jazz | Genre::Blues)
        && frame.attributes.metre == Metre::FourFour
        && frame.density() != Density::Sparse
}

pub(super) fn bass(frame: &Frame) -> Vec<GridNote> {
    if walks(frame) {
        return walking(frame);
    }
    let figure = figure(frame);
    let last = frame.bars() - 1;
    let mut notes = Vec::new();
    for bar in 0..frame.bars() {
        let base = bar * frame.steps();
        if bar == last {
            let key = root_key(frame, frame.chord_at(base));
            notes.push(GridNote { step: base, length: frame.steps() as f64 * 0.95, key, accent: 4 });
            continue;
        }
        for &(step, length, tone) in figure {
            let chord = frame.chord_at(base + step);
            let key = root_key(frame, chord)
                + match tone {
                    Root => 0,
                    Fifth => fifth(frame, chord),
                    Octave => 12,
                };
            // A chord that starts inside the bar must be heard on its root.
            let key = if frame.spans.iter().any(|s| s.step == base + step) { root_key(frame, chord) } else { key };
            notes.push(GridNote { step: base + step, length: length as f64 * 0.9, key, accent: 2 });
        }
        if figure[0].0 != 0 && bar == 0 {
            // An off-beat figure would leave the first beat of the piece silent.
            let key = root_key(frame, frame.chord_at(base));
            notes.push(GridNote { step: base, length: 2.0, key, accent: 4 });
        }
    }
    notes
}

/// Quarter notes through chord tones, approaching the next root by step.
fn walking(frame: &Frame) -> Vec<GridNote> {
    let mut rng = frame.stream("bass");
    let mut notes = Vec::new();
    let total = frame.bars() * 4;
    for beat in 0..total {
        let step = beat * 4;
        let chord = frame.chord_at(step);
        let root = root_key(frame, chord);
        let start = frame.spans.iter().rev().find(|span| span.step <= step).map_or(0, |span| span.step);
        let place = (step - start) / 4;
        let (detour, above) = (rng.chance(0.3), rng.chance(0.5));
        let next = if beat + 1 < total { root_key(frame, frame.chord_at(step + 4)) } else { root };
        let leaving = beat + 1 < total && next != root;
        let key = match place {
            0 => root,
            _ if leaving && place >= 1 && frame.spans.iter().any(|s| s.step == step + 4) => {
                approach(frame, chord, next, above)
            }
            1 => root + third(chord),
            2 => root + fifth(frame, chord),
            _ if detour => root + 12,
            _ => root + third(chord),
        };
        if beat + 4 > total && place > 0 {
            continue;
        }
        let length = if beat + 4 == total { 15.0 } else { 3.7 };
        notes.push(GridNote { step, length, key, accent: 2 });
    }
    notes
}

/// The scale tone next to `target`, from above or below.
fn approach(frame: &Frame, chord: &Chord, target: i32, above: bool) -> i32 {
    let tonic = i32::from(frame.attributes.tonic);
    let direction = if above { 1 } else { -1 };
    (1..=2)
        .map(|distance| target + direction * distance)
        .find(|key| chord.scale.contains(&(key - tonic).rem_euclid(12)))
        .unwrap_or(target)
}

fn third(chord: &Chord) -> i32 {
    chord.tones.get(1).map_or(4, |tone| tone - chord.tones[0])
}

/// The chord's own fifth above its root, or below it where the line would climb high.
fn fifth(frame: &Frame, chord: &Chord) -> i32 {
    let up = chord.tones.get(2).map_or(7, |tone| tone - chord.tones[0]);
    if root_key(frame, chord) + up > 50 { up - 12 } else { up }
}

/// The root between E1 and D#2 or, for bright pieces, up to an octave more.
fn root_key(frame: &Frame, chord: &Chord) -> i32 {
    let low = if frame.attributes.brightness.tilt() > 0 { 33 } else { 29 };
    let class = (i32::from(frame.attributes.tonic) + chord.tones[0]).rem_euclid(12);
    low + (class - low).rem_euclid(12)
}
