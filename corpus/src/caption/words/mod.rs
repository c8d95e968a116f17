//! The words: for each attribute and value, adjectives, phrases, sentences and tags.
//!
//! `{}` in a phrase takes one of the entry's adjectives; named slots (`{bpm}`, `{key}`, `{one}`) are filled by the
//! caller. No list holds a word that another value of another attribute would deny: the tests look for such words.

mod feeling;
mod sound;
mod time;

pub(super) use feeling::{genre, mood};
pub(super) use sound::{brightness, density, drums, dynamics};
pub(super) use time::{BPM, KEY, metre, mode, tempo};

type Words = &'static [&'static str];

/// The ways of stating one attribute.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// Before the noun: "a slow piece".
    pub adjectives: Words,
    /// After the noun: "a piece at a slow tempo".
    pub after: Words,
    /// Alone: "The tempo is slow".
    pub sentences: Words,
    /// In a list of tags, beside the adjectives.
    pub tags: Words,
}
