//! The corpus: its pieces and what is known about them, from `train.jsonl` and `test.jsonl`.

use std::path::{Path, PathBuf};

use musaic_core::{Error, Result};
use serde::{Deserialize, de::DeserializeOwned};

/// One piece.
#[derive(Debug, Clone, Deserialize)]
pub struct Piece {
    /// Number within its split.
    pub id: u64,
    /// Its audio, relative to the corpus.
    pub file: PathBuf,
    /// Family of the lead.
    pub family: String,
    /// What it was composed from.
    pub attributes: Attributes,
    /// Descriptions.
    pub captions: Vec<Caption>,
}

/// What a piece was composed from, as far as it is judged.
#[derive(Debug, Clone, Deserialize)]
pub struct Attributes {
    /// Beats a minute.
    pub tempo_bpm: f64,
    /// Pitch class of the tonic.
    pub tonic: usize,
    /// `major` or `minor`.
    pub mode: String,
    /// Whether there are drums.
    pub drums: bool,
    /// `sparse`, `medium` or `dense`.
    pub density: String,
    /// `dark`, `neutral` or `bright`.
    pub brightness: String,
}

/// A description and what it states.
#[derive(Debug, Clone, Deserialize)]
pub struct Caption {
    /// The words.
    pub text: String,
    /// Names of the attributes that they state.
    pub stated: Vec<String>,
}

/// The first `count` pieces of a split.
///
/// # Errors
/// The list cannot be read, or holds no piece.
pub fn pieces(corpus: &Path, split: &str, count: usize) -> Result<Vec<Piece>> {
    let path = corpus.join(format!("{split}.jsonl"));
    let mut pieces: Vec<Piece> = json_lines(&path)?;
    pieces.sort_by_key(|piece| piece.id);
    pieces.truncate(count);
    if pieces.is_empty() {
        return Err(Error::format(path, "one piece a line", "none"));
    }
    Ok(pieces)
}

/// A file with one JSON value a line.
///
/// # Errors
/// It cannot be read or a line is not what it should be.
pub fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    parse_lines(path, &text)
}

/// As [`json_lines`], from text.
///
/// # Errors
/// A line is not what it should be.
pub fn parse_lines<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<T>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| Error::format(path, "JSON lines", format!("line {}: {e}", i + 1)))
        })
        .collect()
}
