//! A composed piece: tracks of notes in beats, free of anything about sound beyond program, volume and pan.

use serde::{Deserialize, Serialize};

/// One note. Times are in beats from the start of the piece.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Onset, in beats.
    pub start: f64,
    /// Length, in beats.
    pub length: f64,
    /// MIDI key; a drum on the percussion track.
    pub key: u8,
    /// MIDI velocity, 1 to 127.
    pub velocity: u8,
}

/// What a track does in the piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The tune.
    Melody,
    /// The accompaniment.
    Chords,
    /// The bass line.
    Bass,
    /// Pad or arpeggio.
    Texture,
    /// Percussion.
    Drums,
}

/// One part with its sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// Role of the track.
    pub part: Part,
    /// General MIDI program, or drum kit.
    pub program: u8,
    /// Channel volume, 0 to 127.
    pub volume: u8,
    /// Channel pan, 0 left to 127 right.
    pub pan: u8,
    /// Notes, ordered by onset.
    pub notes: Vec<Note>,
}

/// A whole piece.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Beats a minute.
    pub tempo_bpm: f64,
    /// Length in beats.
    pub beats: f64,
    /// The tracks; at most five.
    pub tracks: Vec<Track>,
}

impl Score {
    /// Length in seconds, without the ring-out.
    pub fn seconds(&self) -> f64 {
        self.beats * 60.0 / self.tempo_bpm
    }

    /// The track of a part, if the piece has it.
    pub fn track(&self, part: Part) -> Option<&Track> {
        self.tracks.iter().find(|track| track.part == part)
    }
}
