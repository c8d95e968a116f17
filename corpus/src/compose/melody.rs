//! Melody: two-bar motifs, one for each section letter, laid over the chords with chord tones on strong steps.

use super::{Frame, GridNote};
use crate::attributes::{Density, Metre};
use crate::genre::Genre;
use crate::instruments::Instrument;
use crate::rng::Stream;

/// One note of a motif: position and length in the bar, and steps away from the phrase's anchor.
#[derive(Clone, Copy)]
struct MotifNote {
    step: usize,
    length: usize,
    offset: i32,
}

/// Bars of motif for a section letter: statement and answer.
struct Motif {
    bars: [Vec<MotifNote>; 2],
    anchors: [i32; 4],
}

pub(super) fn melody(frame: &Frame, instrument: Instrument) -> Vec<GridNote> {
    let tonic = i32::from(frame.attributes.tonic);
    let centre = centre(frame, instrument);
    let mut notes = Vec::new();
    for bar in 0..frame.bars() {
        let motif = motif(frame, frame.letter(bar));
        let in_section = bar % frame.attributes.section_bars();
        if bar + 1 == frame.bars() {
            let index = frame.chord_at(bar * frame.steps()).snap(nearest_index(frame, bar, centre - tonic));
            let key = tonic + frame.chord_at(bar * frame.steps()).pitch(index / 7 * 7);
            let key = fit(key, instrument);
            notes.push(GridNote { step: bar * frame.steps(), length: frame.steps() as f64 * 0.95, key, accent: 6 });
            continue;
        }
        for note in &motif.bars[(in_section + bar / 4 % 2) % 2] {
            let step = bar * frame.steps() + note.step;
            let chord = frame.chord_at(step);
            let anchor = nearest_index(frame, bar, centre - tonic) + motif.anchors[bar % 4];
            let mut index = anchor + note.offset;
            let strong = note.step.is_multiple_of(frame.steps() / 2) || note.length >= frame.per_beat();
            if strong {
                index = chord.snap(index);
            }
            let key = fit(tonic + chord.pitch(index), instrument);
            let length = note.length as f64 * frame.articulation();
            let every = restrike(frame, instrument);
            for (index, offset) in (0..note.length).step_by(every).enumerate() {
                let accent = if index == 0 { 8 } else { 2 };
                notes.push(GridNote { step: step + offset, length: length.min(every as f64), key, accent });
            }
        }
    }
    notes
}

/// Steps after which a held note is struck again: a sparse line of sounds that die at once would be mostly silence.
fn restrike(frame: &Frame, instrument: Instrument) -> usize {
    if frame.density() != Density::Sparse || !instrument.dies_quickly() {
        return usize::MAX;
    }
    let beats = (1.4 * f64::from(frame.attributes.tempo_bpm) / 60.0) as usize;
    beats.max(1) * frame.per_beat()
}

/// The register of the tune: the brightness moves it by nearly an octave either way.
fn centre(frame: &Frame, instrument: Instrument) -> i32 {
    let info = instrument.info();
    let wanted = 69 + 9 * frame.attributes.brightness.tilt();
    wanted.clamp(info.low + 7, info.high - 9)
}

/// The diatonic index whose pitch is nearest to `semitones` above the tonic.
fn nearest_index(frame: &Frame, bar: usize, semitones: i32) -> i32 {
    let chord = frame.chord_at(bar * frame.steps());
    let guess = semitones * 7 / 12;
    (guess - 2..=guess + 2).min_by_key(|&index| (chord.pitch(index) - semitones).abs()).unwrap_or(guess)
}

/// Moves a key by octaves into the instrument's range.
fn fit(mut key: i32, instrument: Instrument) -> i32 {
    let info = instrument.info();
    while key > info.high {
        key -= 12;
    }
    while key < info.low {
        key += 12;
    }
    key
}

fn motif(frame: &Frame, letter: char) -> Motif {
    let mut rng = frame.stream(&format!("melody/{letter}"));
    let rhythm = |rng: &mut Stream| bar_rhythm(frame, rng);
    let first = contour(rhythm(&mut rng), frame, &mut rng);
    let mut second = if rng.chance(0.55) {
        // The answer keeps the statement's rhythm and turns its line.
        let slots = first.iter().map(|note| (note.step, note.length)).collect();
        contour(slots, frame, &mut rng)
    } else {
        contour(rhythm(&mut rng), frame, &mut rng)
    };
    breathe(&mut second, frame);
    let arc = *rng.pick(&[[0, 1, 2, 0], [0, 0, 1, 0], [2, 1, 0, 0], [0, 2, 1, -1], [0, -1, 1, 0]]);
    let lift = if letter == 'B' { 2 } else { 0 };
    Motif { bars: [first, second], anchors: arc.map(|a| a + lift) }
}

/// Drops the last short notes of an answer, so that phrases breathe.
fn breathe(notes: &mut Vec<MotifNote>, frame: &Frame) {
    let limit = frame.steps() * 3 / 4;
    if frame.density() != Density::Dense && notes.len() > 2 {
        notes.retain(|note| note.step < limit);
        if let Some(last) = notes.last_mut() {
            last.length = last.length.max(frame.per_beat().min(frame.steps() - last.step));
        }
    }
}

/// Random walk with a pull to the middle, so that lines move by step, leap now and then and come home.
fn contour(slots: Vec<(usize, usize)>, frame: &Frame, rng: &mut Stream) -> Vec<MotifNote> {
    let mut position = rng.int(-1, 2);
    let leaps = if matches!(frame.attributes.genre, Genre::Cinematic | Genre::Jazz | Genre::Bossa) { 0.3 } else { 0.2 };
    let mut notes = Vec::with_capacity(slots.len());
    for (step, length) in slots {
        notes.push(MotifNote { step, length, offset: position });
        let size = if rng.chance(leaps) { rng.int(2, 4) } else { 1 };
        let down = rng.chance(0.5 + 0.12 * f64::from(position));
        let stay = rng.chance(0.1);
        if !stay {
            position += if down { -size } else { size };
        }
        position = position.clamp(-4, 5);
    }
    notes
}

/// Note slots `(step, length)` of a bar, by density.
fn bar_rhythm(frame: &Frame, rng: &mut Stream) -> Vec<(usize, usize)> {
    let beats = frame.attributes.metre.beats();
    let per_beat = frame.per_beat();
    let lengths: Vec<usize> = match frame.density() {
        Density::Sparse => sparse_lengths(frame, rng),
        density => {
            let mut lengths = Vec::new();
            if density == Density::Medium && frame.attributes.metre == Metre::FourFour && syncopated(frame, rng) {
                lengths.extend_from_slice(rng.pick::<&[usize]>(&[
                    &[3, 3, 2, 4, 4],
                    &[4, 3, 3, 2, 4],
                    &[3, 3, 4, 2, 4],
                ]));
            } else {
                for _ in 0..beats {
                    lengths.extend_from_slice(beat_cell(frame, density, rng));
                }
            }
            lengths
        }
    };
    let mut slots = Vec::with_capacity(lengths.len());
    let mut step = 0;
    for length in lengths {
        if step < beats * per_beat {
            slots.push((step, length));
        }
        step += length;
    }
    slots
}

fn syncopated(frame: &Frame, rng: &mut Stream) -> bool {
    let share = match frame.attributes.genre {
        Genre::Funk | Genre::Bossa | Genre::Reggae | Genre::HipHop | Genre::House => 0.6,
        Genre::Classical | Genre::Ambient | Genre::Folk | Genre::Country => 0.08,
        _ => 0.3,
    };
    rng.chance(share)
}

fn sparse_lengths(frame: &Frame, rng: &mut Stream) -> Vec<usize> {
    let pick = rng.unit();
    // At a fast beat a sparse line holds whole bars; at a slow one it may move once.
    let hold = match frame.attributes.tempo_bpm {
        0..80 => 0.15,
        80..130 => 0.4,
        _ => 0.7,
    };
    match frame.attributes.metre {
        Metre::FourFour if pick < hold => vec![16],
        Metre::FourFour if pick < hold + 0.15 => vec![12, 4],
        Metre::FourFour => vec![8, 8],
        Metre::ThreeFour if pick < hold + 0.1 => vec![12],
        Metre::ThreeFour => vec![8, 4],
        Metre::SixEight if pick < hold + 0.2 => vec![12],
        Metre::SixEight => vec![6, 6],
    }
}

fn beat_cell(frame: &Frame, density: Density, rng: &mut Stream) -> &'static [usize] {
    let options: &[&'static [usize]] = match (density, frame.per_beat(), frame.quick_step()) {
        (Density::Dense, 4, 1) => &[&[1, 1, 1, 1], &[2, 1, 1], &[1, 1, 2], &[1, 1, 1, 1]],
        (Density::Dense, 4, _) => &[&[2, 2], &[2, 2], &[2, 2], &[2, 1, 1]],
        (Density::Dense, _, 1) => &[&[2, 2, 2], &[1, 1, 2, 2], &[2, 1, 1, 2], &[1, 1, 1, 1, 2]],
        (Density::Dense, _, _) => &[&[2, 2, 2]],
        (_, 4, 1) => &[&[4], &[2, 2], &[4], &[3, 1], &[2, 2]],
        (_, 4, _) => &[&[4], &[4], &[2, 2], &[4]],
        _ => &[&[6], &[4, 2], &[4, 2], &[2, 2, 2]],
    };
    options[rng.below(options.len())]
}
