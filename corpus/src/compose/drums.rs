//! Drum patterns: kick, snare and cymbals by genre, metre and density, with fills at section ends.

use super::{Frame, GridNote};
use crate::attributes::{Density, Metre};
use crate::genre::Genre;

const KICK: i32 = 36;
const SNARE: i32 = 38;
const RIM: i32 = 37;
const CLAP: i32 = 39;
const CLOSED: i32 = 42;
const OPEN: i32 = 46;
const CRASH: i32 = 49;
const RIDE: i32 = 51;
const TOMS: [i32; 3] = [48, 45, 41];

/// A bar as three rows of hits; `x` is a hit, `o` a soft one.
struct Groove {
    kick: &'static str,
    snare: &'static str,
    cymbal: &'static str,
    back: i32,
    top: i32,
}

const fn groove(kick: &'static str, snare: &'static str, cymbal: &'static str, back: i32, top: i32) -> Groove {
    Groove { kick, snare, cymbal, back, top }
}

fn select(frame: &Frame) -> Groove {
    let genre = frame.attributes.genre;
    match frame.attributes.metre {
        Metre::ThreeFour => groove("x...........", "....x...x...", "x.x.x.x.x.x.", SNARE, top_of(genre)),
        Metre::SixEight => groove("x.........x.", "......x.....", "x.x.x.x.x.x.", SNARE, top_of(genre)),
        Metre::FourFour => four_four(genre, frame.stream("drums/choice").below(2)),
    }
}

fn top_of(genre: Genre) -> i32 {
    if matches!(genre, Genre::Jazz | Genre::Blues | Genre::Bossa) { RIDE } else { CLOSED }
}

fn four_four(genre: Genre, variant: usize) -> Groove {
    match (genre, variant) {
        (Genre::Pop, 0) => groove("x.......x.x.....", "....x.......x...", "x.x.x.x.x.x.x.x.", SNARE, CLOSED),
        (Genre::Rock | Genre::Pop, 0..=1) => {
            groove("x.....x.x.......", "....x.......x...", "x.x.x.x.x.x.x.x.", SNARE, CLOSED)
        }
        (Genre::Jazz, _) => groove("o...o...o...o...", "..............o.", "x...x.x.x...x.x.", SNARE, RIDE),
        (Genre::Blues, _) => groove("x.......x.....x.", "....x.......x...", "x.x.x.x.x.x.x.x.", SNARE, RIDE),
        (Genre::Folk, _) => groove("x.......x.......", "....o.......o...", "x.x.x.x.x.x.x.x.", SNARE, CLOSED),
        (Genre::Classical, _) => groove("x.......x.......", "....o...o.o.o...", "x.......x.......", SNARE, RIDE),
        (Genre::Ambient, _) => groove("x.........x.....", "............o...", "..x...x...x...x.", RIM, CLOSED),
        (Genre::Techno, 0) => groove("x...x...x...x...", "....x.......x...", "..x...x...x...x.", CLAP, OPEN),
        (Genre::Techno, _) => groove("x...x...x...x...", "......o...o.....", "x.xxx.xxx.xxx.xx", RIM, CLOSED),
        (Genre::House, _) => groove("x...x...x...x...", "....x.......x...", "..x...x...x...x.", CLAP, OPEN),
        (Genre::HipHop, 0) => groove("x......x..x.....", "....x.......x...", "x.x.x.x.x.x.xxx.", SNARE, CLOSED),
        (Genre::HipHop | Genre::LoFi, _) => {
            groove("x.....x...x.....", "....x.......x...", "x.x.x.x.x.x.x.x.", SNARE, CLOSED)
        }
        (Genre::Funk, _) => groove("x..x......x..x..", "....x..o.o..x..o", "x.x.x.x.x.x.x.x.", SNARE, CLOSED),
        (Genre::Reggae, _) => groove("........x.......", "........x.......", "x.x.x.x.x.x.x.x.", RIM, CLOSED),
        (Genre::Bossa, _) => groove("x.....x.x.....x.", "x..x..x...x..x..", "x.x.x.x.x.x.x.x.", RIM, CLOSED),
        (Genre::Country, _) => groove("x.......x.......", "....x.......x...", "x.x.x.x.x.x.x.x.", SNARE, CLOSED),
        (Genre::Cinematic, _) => groove("x.....x.....x...", "............x...", "x...............", TOMS[2], CRASH),
        (Genre::Metal, _) => groove("x.xxx.xxx.xxx.xx", "....x.......x...", "x...x...x...x...", SNARE, RIDE),
        _ => groove("x.......x.......", "....x.......x...", "x.x.x.x.x.x.x.x.", SNARE, CLOSED),
    }
}

pub(super) fn drums(frame: &Frame) -> Vec<GridNote> {
    let mut groove = select(frame);
    if frame.density() == Density::Sparse && frame.attributes.tempo_bpm >= 120 && frame.steps() == 16 {
        // A hit on every beat is not sparse at this tempo: half time.
        (groove.kick, groove.snare) = ("x...............", "........x.......");
    }
    let mut rng = frame.stream("drums");
    let mut notes = Vec::new();
    let steps = frame.steps();
    let last = frame.bars() - 1;
    for bar in 0..frame.bars() {
        let base = bar * steps;
        let (fills, shape) = (rng.chance(0.75), rng.below(3));
        if bar == last {
            notes.extend([hit(base, KICK, 8), hit(base, CRASH, 4)]);
            continue;
        }
        let fill = fills && frame.is_section_end(bar) && frame.density() != Density::Sparse;
        let until = if fill { steps - frame.per_beat() } else { steps };
        if bar.is_multiple_of(frame.attributes.section_bars().max(4)) && frame.density() != Density::Sparse && bar > 0 {
            notes.push(hit(base, CRASH, -4));
        }
        row(&mut notes, base, until, groove.kick, KICK, 8, frame);
        row(&mut notes, base, until, groove.snare, groove.back, 6, frame);
        top(&mut notes, base, until, &groove, frame);
        if fill {
            play_fill(&mut notes, base + until, frame, shape);
        }
    }
    if !notes.iter().any(|note| note.step == 0) {
        notes.push(hit(0, KICK, 6));
    }
    notes
}

fn hit(step: usize, key: i32, accent: i32) -> GridNote {
    GridNote { step, length: 1.0, key, accent }
}

/// A row of the groove; sparse pieces keep only what falls on the beat.
fn row(notes: &mut Vec<GridNote>, base: usize, until: usize, text: &str, key: i32, accent: i32, frame: &Frame) {
    for (step, mark) in text.chars().enumerate().take(until) {
        let kept = match frame.density() {
            Density::Sparse => mark == 'x' && step.is_multiple_of(frame.per_beat()),
            // Sixteenths of a fast tempo would make any piece sound dense.
            Density::Medium => frame.attributes.tempo_bpm < 125 || step.is_multiple_of(2),
            Density::Dense => true,
        };
        match mark {
            'x' if kept => notes.push(hit(base + step, key, accent)),
            'o' if kept => notes.push(hit(base + step, key, accent - 22)),
            _ => {}
        }
    }
}

/// The cymbal row, thinned or doubled to follow the density.
fn top(notes: &mut Vec<GridNote>, base: usize, until: usize, groove: &Groove, frame: &Frame) {
    match frame.density() {
        Density::Sparse => {
            for step in (0..until).step_by(frame.steps() / 2) {
                notes.push(hit(base + step, groove.top, -12));
            }
        }
        // Eighths turn to quarters at a fast tempo, for the same reason.
        Density::Medium if frame.attributes.tempo_bpm >= 125 && groove.cymbal.starts_with("x.x") => {
            for step in (0..until).step_by(frame.per_beat()) {
                notes.push(hit(base + step, groove.top, -8));
            }
        }
        Density::Medium => row(notes, base, until, groove.cymbal, groove.top, -8, frame),
        Density::Dense => {
            row(notes, base, until, groove.cymbal, groove.top, -6, frame);
            let every = frame.quick_step();
            for step in (0..until).step_by(every) {
                if groove.cymbal.as_bytes().get(step) == Some(&b'.') {
                    notes.push(hit(base + step, CLOSED, -20));
                }
            }
        }
    }
}

fn play_fill(notes: &mut Vec<GridNote>, start: usize, frame: &Frame, shape: usize) {
    let every = frame.quick_step();
    let steps: Vec<usize> = (0..frame.per_beat()).step_by(every).collect();
    for (index, &step) in steps.iter().enumerate() {
        let key = match shape {
            0 => SNARE,
            1 => TOMS[(index * 3 / steps.len()).min(2)],
            _ if index % 2 == 0 => SNARE,
            _ => TOMS[1],
        };
        notes.push(hit(start + step, key, 2 + 2 * index as i32));
    }
}
