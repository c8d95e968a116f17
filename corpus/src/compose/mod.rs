//! Composition: from an attribute record to a score, as a pure function.
//!
//! Each part draws from its own named stream of the piece's seed and reads only the attributes it needs. Removing the
//! drums, swapping the lead or changing the tempo therefore leaves every other part note for note as it was, which is
//! what makes pairs of pieces that differ in one edit.

mod bass;
mod chords;
mod drums;
mod harmony;
mod melody;

pub use harmony::{Chord, Span, scale_of};

use crate::attributes::{Arrangement, Attributes, Density, Dynamics, Mood};
use crate::instruments::Instrument;
use crate::rng::Stream;
use crate::score::{Note, Part, Score, Track};

/// What the parts share: the grid, the chords and the record itself.
pub(crate) struct Frame<'a> {
    pub(crate) attributes: &'a Attributes,
    pub(crate) spans: Vec<Span>,
}

/// A note on the grid, before timing and dynamics: position and length in steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GridNote {
    pub(crate) step: usize,
    pub(crate) length: f64,
    pub(crate) key: i32,
    /// Velocity offset from the part's level.
    pub(crate) accent: i32,
}

impl Frame<'_> {
    pub(crate) fn stream(&self, name: &str) -> Stream {
        Stream::new(self.attributes.seed, name)
    }

    pub(crate) fn steps(&self) -> usize {
        self.attributes.metre.steps()
    }

    pub(crate) fn per_beat(&self) -> usize {
        self.attributes.metre.steps_per_beat()
    }

    pub(crate) fn bars(&self) -> usize {
        self.attributes.bars as usize
    }

    /// The chord sounding at a step of the piece.
    pub(crate) fn chord_at(&self, step: usize) -> &Chord {
        let index = self.spans.partition_point(|span| span.step <= step).saturating_sub(1);
        &self.spans[index].chord
    }

    /// The letter of the section a bar lies in.
    pub(crate) fn letter(&self, bar: usize) -> char {
        let index = bar / self.attributes.section_bars();
        self.attributes.form.chars().nth(index).or(self.attributes.form.chars().last()).unwrap_or('A')
    }

    pub(crate) fn is_section_end(&self, bar: usize) -> bool {
        (bar + 1).is_multiple_of(self.attributes.section_bars().max(2)) || bar + 1 == self.bars()
    }

    /// Short-note subdivision for dense parts: sixteenths turn to eighths where they would be a blur.
    pub(crate) fn quick_step(&self) -> usize {
        if self.attributes.tempo_bpm > 112 { 2 } else { 1 }
    }
}

/// Composes the piece described by `attributes`.
pub fn compose(attributes: &Attributes) -> Score {
    let frame = Frame { attributes, spans: harmony::spans(attributes) };
    let mut tracks = Vec::new();
    if let Some(instrument) = attributes.melody {
        let notes = melody::melody(&frame, instrument);
        tracks.push(frame.track(Part::Melody, instrument, 104, notes));
    }
    if let Some(instrument) = attributes.chords {
        let notes = chords::comping(&frame, instrument);
        let volume = if attributes.melody.is_some() { 80 } else { 100 };
        tracks.push(frame.track(Part::Chords, instrument, volume, notes));
    }
    if let Some(instrument) = attributes.bass {
        let notes = bass::bass(&frame);
        tracks.push(frame.track(Part::Bass, instrument, 94, notes));
    }
    if let Some(texture) = attributes.texture {
        let notes = chords::texture(&frame, texture);
        tracks.push(frame.track(Part::Texture, texture.instrument, 62, notes));
    }
    if attributes.drums {
        tracks.push(frame.drum_track(drums::drums(&frame)));
    }
    Score {
        tempo_bpm: f64::from(attributes.tempo_bpm),
        beats: (attributes.metre.beats() * frame.bars()) as f64,
        tracks,
    }
}

impl Frame<'_> {
    fn track(&self, part: Part, instrument: Instrument, volume: u8, notes: Vec<GridNote>) -> Track {
        let info = instrument.info();
        let pan = match part {
            Part::Melody | Part::Bass | Part::Drums => 64,
            Part::Chords => 48,
            Part::Texture => 82,
        };
        Track {
            part,
            program: info.program,
            volume: (f32::from(volume) * info.gain).clamp(20.0, 127.0) as u8,
            pan,
            notes: self.perform(part, notes),
        }
    }

    fn drum_track(&self, notes: Vec<GridNote>) -> Track {
        Track {
            part: Part::Drums,
            program: self.attributes.kit.program(),
            volume: 92,
            pan: 64,
            notes: self.perform(Part::Drums, notes),
        }
    }

    /// From the grid to time and touch: entries of parts, swing, slight looseness, dynamics.
    fn perform(&self, part: Part, mut notes: Vec<GridNote>) -> Vec<Note> {
        let attributes = self.attributes;
        let mut rng = self.stream(match part {
            Part::Melody => "perform/melody",
            Part::Chords => "perform/chords",
            Part::Bass => "perform/bass",
            Part::Texture => "perform/texture",
            Part::Drums => "perform/drums",
        });
        let entry = self.entry_step(part);
        let per_beat = self.per_beat() as f64;
        let total = (self.steps() * self.bars()) as f64;
        let loose = 0.006 * f64::from(attributes.tempo_bpm) / 60.0;
        notes.sort_by(|a, b| a.step.cmp(&b.step).then(a.key.cmp(&b.key)));
        let mut out = Vec::with_capacity(notes.len());
        for note in notes {
            let (timing, touch) = (rng.uniform(-1.0, 1.0), rng.int(-5, 5));
            if note.step < entry || note.step as f64 >= total {
                continue;
            }
            let straight = note.step as f64 / per_beat;
            let start = (straight + self.swing(note.step) + loose * timing).max(0.0);
            let end = (straight + note.length / per_beat).min(total / per_beat);
            let velocity = self.level(note.step as f64 / total) + note.accent + touch + metric_accent(note.step, self);
            out.push(Note {
                start,
                length: (end - start).max(0.08),
                key: note.key.clamp(12, 115) as u8,
                velocity: velocity.clamp(16, 124) as u8,
            });
        }
        out
    }

    fn swing(&self, step: usize) -> f64 {
        if self.per_beat() != 4 {
            return 0.0;
        }
        let amount = self.attributes.genre.swing();
        match step % 4 {
            2 => amount,
            3 => amount * 0.5,
            _ => 0.0,
        }
    }

    fn level(&self, position: f64) -> i32 {
        match self.attributes.dynamics {
            Dynamics::Soft => 54,
            Dynamics::Medium => 80,
            Dynamics::Loud => 106,
            Dynamics::Crescendo => 44 + (68.0 * position) as i32,
        }
    }

    fn entry_step(&self, part: Part) -> usize {
        let section = self.attributes.section_bars() * self.steps();
        match (self.attributes.arrangement, part) {
            (Arrangement::Intro, Part::Melody) => section,
            (Arrangement::Build, Part::Melody | Part::Bass | Part::Drums) => section,
            _ => 0,
        }
    }

    /// Share of its slot a note sounds: long for gentle moods, short for lively ones.
    pub(crate) fn articulation(&self) -> f64 {
        match self.attributes.mood {
            Mood::Playful => 0.55,
            Mood::Energetic | Mood::Aggressive | Mood::Happy | Mood::Tense => 0.8,
            Mood::Calm | Mood::Dreamy | Mood::Romantic | Mood::Sad => 1.0,
            _ => 0.92,
        }
    }

    pub(crate) fn density(&self) -> Density {
        self.attributes.density
    }
}

fn metric_accent(step: usize, frame: &Frame) -> i32 {
    match step {
        s if s % frame.steps() == 0 => 6,
        s if s % frame.per_beat() == 0 => 2,
        _ => -3,
    }
}
