//! Accompaniment: voiced chords in the genre's rhythm, broken chords, pads and arpeggios.

use super::{Chord, Frame, GridNote};
use crate::attributes::{Density, Metre, Texture, TextureKind};
use crate::genre::Genre;
use crate::instruments::Instrument;

/// How an accompaniment moves.
enum Style {
    /// Whole chords on these steps of the bar.
    Block(&'static [usize]),
    /// One tone at a time, every so many steps.
    Broken(usize),
    /// Bass tone on the first step, chord on the others.
    OomPah(&'static [usize]),
}

pub(super) fn comping(frame: &Frame, instrument: Instrument) -> Vec<GridNote> {
    let style = style(frame, instrument);
    let power = matches!(instrument, Instrument::OverdriveGuitar | Instrument::DistortionGuitar);
    let centre = chord_centre(frame, instrument);
    let last = frame.bars() - 1;
    let mut previous: Option<Vec<i32>> = None;
    let mut notes = Vec::new();
    for (index, span) in frame.spans.iter().enumerate() {
        let keys = voice(frame, &span.chord, centre, previous.as_deref(), power);
        let bar = span.step / frame.steps();
        if bar == last {
            hold(&mut notes, span.step, frame.steps() as f64 * 0.97, &keys);
        } else {
            play(frame, &style, index, &keys, instrument, &mut notes);
        }
        previous = Some(keys);
    }
    notes
}

fn style(frame: &Frame, instrument: Instrument) -> Style {
    let mut rng = frame.stream("chords");
    let (broken, variant) = (rng.unit(), rng.below(3));
    let genre = frame.attributes.genre;
    let plucked = !instrument.info().sustains;
    let likes_broken = matches!(genre, Genre::Classical | Genre::Folk | Genre::Ambient | Genre::Cinematic | Genre::Pop);
    let density = frame.density();
    if density == Density::Sparse {
        return if plucked && frame.attributes.melody.is_none() && broken < 0.4 {
            Style::Broken(frame.per_beat())
        } else {
            Style::Block(&[0])
        };
    }
    if plucked && broken < if likes_broken { 0.6 } else { 0.15 } {
        let step = if density == Density::Dense { frame.quick_step() } else { 2 };
        return Style::Broken(step.min(2));
    }
    match frame.attributes.metre {
        Metre::ThreeFour if density == Density::Dense => Style::OomPah(&[0, 2, 4, 6, 8, 10]),
        Metre::ThreeFour => Style::OomPah(&[0, 4, 8]),
        Metre::SixEight if density == Density::Dense => Style::OomPah(&[0, 2, 4, 6, 8, 10]),
        Metre::SixEight => Style::Block([&[0usize, 6][..], &[0, 4, 6, 10], &[0, 4, 6]][variant]),
        Metre::FourFour if density == Density::Dense => dense_style(genre, variant, frame.quick_step()),
        Metre::FourFour => medium_style(genre, variant),
    }
}

fn medium_style(genre: Genre, variant: usize) -> Style {
    match genre {
        Genre::Jazz => Style::Block([&[0usize, 6][..], &[6, 14], &[0, 10]][variant]),
        Genre::Reggae => Style::Block(&[4, 12]),
        Genre::House | Genre::Techno => Style::Block([&[0usize, 3, 6, 10][..], &[2, 6, 10, 14], &[0, 6, 12]][variant]),
        Genre::Funk => Style::Block([&[0usize, 6, 11][..], &[2, 7, 10], &[0, 3, 10]][variant]),
        Genre::Bossa => Style::Block(&[0, 3, 6, 10, 12]),
        Genre::Country | Genre::Folk => Style::OomPah(&[0, 4, 8, 12]),
        Genre::HipHop | Genre::LoFi => Style::Block([&[0usize, 10][..], &[0, 7], &[0, 6]][variant]),
        Genre::Ambient | Genre::Cinematic => Style::Block([&[0usize][..], &[0, 8], &[0, 12]][variant]),
        _ => Style::Block([&[0usize, 4, 8, 12][..], &[0, 6, 8, 14], &[0, 6, 12]][variant]),
    }
}

fn dense_style(genre: Genre, variant: usize, quick: usize) -> Style {
    match genre {
        Genre::Reggae => Style::Block(&[2, 3, 6, 7, 10, 11, 14, 15]),
        Genre::Metal if quick == 1 => Style::Block(&[0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15]),
        Genre::Funk if quick == 1 => Style::Block(&[0, 2, 3, 6, 7, 10, 11, 13, 14]),
        Genre::Jazz | Genre::Bossa => {
            Style::Block([&[0usize, 3, 6, 8, 11, 14][..], &[0, 2, 6, 8, 10, 14], &[2, 4, 6, 10, 12, 14]][variant])
        }
        Genre::Classical | Genre::Ambient => Style::Broken(quick),
        Genre::Country | Genre::Folk => Style::OomPah(&[0, 2, 4, 6, 8, 10, 12, 14]),
        _ => Style::Block(
            [&[0usize, 2, 4, 6, 8, 10, 12, 14][..], &[0, 2, 3, 6, 8, 10, 11, 14], &[0, 3, 6, 8, 11, 12, 14]][variant],
        ),
    }
}

fn play(frame: &Frame, style: &Style, index: usize, keys: &[i32], instrument: Instrument, notes: &mut Vec<GridNote>) {
    let span = &frame.spans[index];
    let offset = span.step % frame.steps();
    match style {
        Style::Broken(every) => {
            // Up and down through the tones, from the lowest on each chord.
            let wave: Vec<usize> = match keys.len() {
                0..=2 => (0..keys.len()).collect(),
                3 => vec![0, 2, 1, 2],
                n => (0..n).chain((1..n - 1).rev()).collect(),
            };
            for (count, step) in (0..span.length).step_by(*every).enumerate() {
                let key = keys[wave[count % wave.len()]];
                let length = if instrument.info().sustains { *every as f64 } else { (*every * 2) as f64 };
                notes.push(GridNote { step: span.step + step, length, key, accent: -4 });
            }
        }
        Style::Block(steps) | Style::OomPah(steps) => {
            let inside: Vec<usize> =
                steps.iter().copied().filter(|s| (offset..offset + span.length).contains(s)).collect();
            let opening = index == 0 && !inside.contains(&0);
            if opening || inside.is_empty() {
                hold(notes, span.step, inside.first().map_or(span.length, |s| s - offset) as f64 * 0.8, keys);
            }
            for (place, &step) in inside.iter().enumerate() {
                let end = inside.get(place + 1).copied().unwrap_or(offset + span.length);
                let slot = (end - step) as f64;
                let length = slot * touch(frame);
                let start = span.step - offset + step;
                match style {
                    Style::OomPah(_) if step == 0 => hold(notes, start, slot, &keys[..1]),
                    Style::OomPah(_) => hold(notes, start, length, &keys[1.min(keys.len() - 1)..]),
                    _ => hold(notes, start, length, keys),
                }
            }
        }
    }
}

/// Share of its slot a chord sounds.
fn touch(frame: &Frame) -> f64 {
    match frame.attributes.genre {
        _ if frame.density() == Density::Sparse => 0.97,
        Genre::Reggae | Genre::Funk => 0.4,
        Genre::House | Genre::Techno | Genre::Metal => 0.6,
        _ => 0.92,
    }
}

fn hold(notes: &mut Vec<GridNote>, step: usize, length: f64, keys: &[i32]) {
    for &key in keys {
        notes.push(GridNote { step, length, key, accent: -6 });
    }
}

fn chord_centre(frame: &Frame, instrument: Instrument) -> i32 {
    let info = instrument.info();
    let base = if frame.attributes.melody.is_some() { 57 } else { 62 };
    (base + 7 * frame.attributes.brightness.tilt()).clamp(info.low + 6, info.high - 8)
}

/// Voices a chord near `centre`, choosing the inversion that moves least from the one before.
fn voice(frame: &Frame, chord: &Chord, centre: i32, previous: Option<&[i32]>, power: bool) -> Vec<i32> {
    let tonic = i32::from(frame.attributes.tonic);
    let mut tones: Vec<i32> = if power {
        vec![chord.tones[0], chord.tones.get(2).copied().unwrap_or(chord.tones[0] + 7)]
    } else {
        chord.tones.clone()
    };
    // Four tones low down are mud: leave out the fifth of a seventh chord.
    if tones.len() == 4 && centre < 60 {
        tones.remove(2);
    }
    let mut best: Option<(i32, Vec<i32>)> = None;
    for inversion in 0..tones.len() {
        if power && inversion > 0 {
            break;
        }
        let lowest = tonic + tones[inversion];
        let low = centre - 6 + (lowest - (centre - 6)).rem_euclid(12);
        for low in [low, low - 12] {
            let keys: Vec<i32> = (0..tones.len())
                .map(|i| tones[(inversion + i) % tones.len()] - tones[inversion])
                .map(|interval| low + interval.rem_euclid(12))
                .collect();
            let mean = keys.iter().sum::<i32>() / keys.len() as i32;
            let movement = previous.map_or(0, |p| (p.iter().sum::<i32>() / p.len().max(1) as i32 - mean).abs());
            // Neighbouring semitones inside a chord are harsh, the more so low down: prefer the inversion that parts them.
            let rub = keys.iter().any(|a| keys.iter().any(|b| b - a == 1));
            let cost = if rub { 14 } else { 0 }
                + 2 * (mean - centre).abs()
                + 3 * movement
                + if previous.is_none() { inversion as i32 * 2 } else { 0 };
            if best.as_ref().is_none_or(|(c, _)| cost < *c) {
                best = Some((cost, keys));
            }
        }
    }
    best.map(|(_, keys)| keys).unwrap_or_default()
}

/// The fourth part: long chords, or a run through the chord tones.
pub(super) fn texture(frame: &Frame, texture: Texture) -> Vec<GridNote> {
    let info = texture.instrument.info();
    let centre = (67 + 7 * frame.attributes.brightness.tilt()).clamp(info.low + 6, info.high - 10);
    let last = frame.bars() - 1;
    let every = match frame.density() {
        Density::Sparse => frame.per_beat(),
        Density::Medium => 2,
        Density::Dense => frame.quick_step(),
    };
    let mut previous: Option<Vec<i32>> = None;
    let mut notes = Vec::new();
    for span in &frame.spans {
        let mut keys = voice(frame, &span.chord, centre, previous.as_deref(), false);
        keys.sort_unstable();
        if texture.kind == TextureKind::Pad || span.step / frame.steps() == last {
            hold(&mut notes, span.step, span.length as f64 * 0.99, &keys);
        } else {
            let mut run = keys.clone();
            run.push(keys[0] + 12);
            for (count, step) in (0..span.length).step_by(every).enumerate() {
                let key = run[count % run.len()];
                notes.push(GridNote { step: span.step + step, length: every as f64 * 0.95, key, accent: -6 });
            }
        }
        previous = Some(keys);
    }
    notes
}
