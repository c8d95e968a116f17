//! Words for tempo, key, mode and metre.

use super::{Entry, Words};
use crate::attributes::{Metre, Mode, TempoBand};

const TEMPO_AFTER: Words = &[
    "at a {} tempo",
    "at a {} pace",
    "with a {} tempo",
    "with a {} pulse",
    "moving at a {} speed",
    "taken at a {} tempo",
    "that goes along at a {} pace",
    "in a {} tempo",
];

const TEMPO_SENTENCES: Words = &[
    "The tempo is {}",
    "Keep the pace {}",
    "It moves at a {} pace",
    "The speed is {}",
    "Tempo: {}",
    "It has a {} pulse",
    "Make the tempo {}",
    "The rhythm is {}",
];

/// Words for a tempo class.
pub fn tempo(band: TempoBand) -> Entry {
    let (adjectives, tags): (Words, Words) = match band {
        TempoBand::Slow => (
            &[
                "slow",
                "laid-back",
                "unhurried",
                "leisurely",
                "downtempo",
                "lazy",
                "slow-moving",
                "easygoing",
                "sluggish",
                "slow-paced",
                "plodding",
                "ambling",
                "dragging",
                "patient",
                "slow",
                "slow",
                "relaxed",
                "lumbering",
                "lingering",
            ],
            &["slow tempo", "adagio", "largo", "low bpm", "slow pace", "taking its time", "lento"],
        ),
        TempoBand::Moderate => (
            &[
                "moderate",
                "mid-tempo",
                "medium-paced",
                "medium-tempo",
                "moderately paced",
                "walking-pace",
                "steady-paced",
                "medium-speed",
                "comfortably paced",
                "strolling",
                "middling",
                "measured",
            ],
            &["moderate tempo", "medium tempo", "andante", "moderato", "mid tempo", "neither rushed nor dragging"],
        ),
        TempoBand::Fast => (
            &[
                "fast",
                "quick",
                "upbeat",
                "brisk",
                "uptempo",
                "rapid",
                "speedy",
                "swift",
                "racing",
                "fast-paced",
                "fast",
                "hurried",
                "rushing",
                "galloping",
                "zippy",
                "nimble",
                "quick-moving",
                "high-speed",
                "breakneck",
                "fleet",
            ],
            &["fast tempo", "allegro", "presto", "high bpm", "vivace", "quick pace", "up-tempo"],
        ),
    };
    Entry { adjectives, after: TEMPO_AFTER, sentences: TEMPO_SENTENCES, tags }
}

/// Words for a tempo in numbers; slots `{bpm}`, `{near}` and `{spelled}`.
pub const BPM: Entry = Entry {
    adjectives: &["{bpm} bpm", "{bpm}-bpm"],
    after: &[
        "at {bpm} bpm",
        "at {bpm} BPM",
        "at {bpm} beats per minute",
        "with a tempo of {bpm}",
        "around {near} bpm",
        "at about {near} bpm",
        "with a tempo around {near}",
        "at roughly {near} beats a minute",
        "({bpm} bpm)",
        "clocking in at {bpm} bpm",
        "at tempo {bpm}",
        "at {spelled} bpm",
        "at {spelled} beats per minute",
        "counting {spelled} beats a minute",
        "beating {bpm} times a minute",
    ],
    sentences: &[
        "The tempo is {bpm} bpm",
        "Tempo {bpm}",
        "It runs at {bpm} beats per minute",
        "About {near} bpm",
        "{bpm} BPM",
        "Set the metronome to {bpm}",
        "The tempo is {spelled}",
        "{spelled} beats every minute",
        "Play it at {bpm}",
        "The pulse is {bpm} a minute",
    ],
    tags: &["{bpm} bpm", "{bpm} BPM", "{bpm}bpm", "tempo {bpm}", "tempo: {bpm}", "~{near} bpm", "{spelled} bpm"],
};

/// Words for the key, tonic and mode; slot `{key}`.
pub const KEY: Entry = Entry {
    adjectives: &["{key}"],
    after: &["in {key}", "in the key of {key}", "written in {key}", "set in {key}", "in {key}", "centred on {key}"],
    sentences: &[
        "The key is {key}",
        "It is in {key}",
        "Key: {key}",
        "Written in {key}",
        "The tonality is {key}",
        "Use {key}",
    ],
    tags: &["{key}", "key of {key}", "key: {key}", "in {key}"],
};

/// Words for major or minor alone.
pub fn mode(mode: Mode) -> Entry {
    match mode {
        Mode::Major => Entry {
            adjectives: &["major-key", "major", "major-mode"],
            after: &[
                "in a major key",
                "in major",
                "in the major mode",
                "with major chords",
                "with a major tonality",
                "built on major harmony",
                "using a major scale",
                "harmonised in major",
                "of a major character",
            ],
            sentences: &[
                "The key is major",
                "It is in a major key",
                "Use major harmony",
                "It stays in major",
                "The chords are in major",
                "A major scale is used",
                "Keep it in major",
                "The mode is major",
            ],
            tags: &["major key", "major", "major scale", "major tonality", "major mode", "mode: major"],
        },
        Mode::Minor => Entry {
            adjectives: &["minor-key", "minor", "minor-mode"],
            after: &[
                "in a minor key",
                "in minor",
                "in the minor mode",
                "with minor chords",
                "with a minor tonality",
                "built on minor harmony",
                "using a minor scale",
                "harmonised in minor",
                "of a minor character",
            ],
            sentences: &[
                "The key is minor",
                "It is in a minor key",
                "Use minor harmony",
                "It stays in minor",
                "The chords are in minor",
                "A minor scale is used",
                "Keep it in minor",
                "The mode is minor",
            ],
            tags: &["minor key", "minor", "minor scale", "minor tonality", "minor mode", "mode: minor"],
        },
    }
}

/// Words for the time signature.
pub fn metre(metre: Metre) -> Entry {
    match metre {
        Metre::FourFour => Entry {
            adjectives: &["4/4", "four-four"],
            after: &[
                "in 4/4",
                "in four-four time",
                "in common time",
                "with four beats to the bar",
                "in 4/4 time",
                "counted in four",
            ],
            sentences: &[
                "It is in 4/4",
                "The metre is four-four",
                "Four beats to the bar",
                "The time signature is 4/4",
            ],
            tags: &["4/4", "common time", "4/4 time", "four to the bar"],
        },
        Metre::ThreeFour => Entry {
            adjectives: &["3/4", "three-four", "waltz-like", "waltzing"],
            after: &[
                "in 3/4",
                "in three-four time",
                "in waltz time",
                "with three beats to the bar",
                "in triple metre",
                "with a waltz feel",
                "counted in three",
                "like a waltz",
            ],
            sentences: &[
                "It is in 3/4",
                "It waltzes along",
                "Three beats to the bar",
                "The time signature is 3/4",
                "It is a waltz",
            ],
            tags: &["3/4", "waltz", "3/4 time", "triple metre", "three to the bar"],
        },
        Metre::SixEight => Entry {
            adjectives: &["6/8", "six-eight", "lilting"],
            after: &[
                "in 6/8",
                "in six-eight time",
                "in compound time",
                "with a lilting 6/8 feel",
                "with a rolling six-eight pulse",
            ],
            sentences: &["It is in 6/8", "The metre is six-eight", "It sways in 6/8", "The time signature is 6/8"],
            tags: &["6/8", "six eight", "6/8 time", "compound metre"],
        },
    }
}
