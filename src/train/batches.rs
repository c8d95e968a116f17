//! Prepared batches: a safetensors file that any program can write.
//!
//! | tensor | shape | holds |
//! |---|---|---|
//! | `codes` | `[steps, rows, codebooks, frames]` | codes of the codec, not delayed |
//! | `ids` | `[steps, rows, words]` | token ids of the text |
//! | `mask` | `[steps, rows, words]` | 1 word, 0 padding |
//! | `keep` | `[steps, rows]`, optional | 0: this row is trained without its text |

use std::path::Path;

use musaic_core::{
    Error, Result,
    weights::{Checkpoint, Source},
};

use super::parameters::ModelConfig;

/// The batch of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Pieces.
    pub rows: usize,
    /// Codebooks of each.
    pub codebooks: usize,
    /// Frames of each.
    pub frames: usize,
    /// Tokens of the text of each, with padding.
    pub words: usize,
    /// `[rows, codebooks, frames]`.
    pub codes: Vec<u32>,
    /// `[rows, words]`.
    pub ids: Vec<u32>,
    /// `[rows, words]`, 1 or 0.
    pub mask: Vec<f32>,
    /// `[rows]`, 1 or 0.
    pub keep: Vec<f32>,
}

impl Batch {
    /// Codes of one codebook of one piece.
    pub fn codes_of(&self, row: usize, codebook: usize) -> &[u32] {
        let begin = (row * self.codebooks + codebook) * self.frames;
        &self.codes[begin..begin + self.frames]
    }
}

/// All batches of a file, in memory.
pub struct Batches {
    steps: usize,
    /// Shapes of one batch, and all values of the file.
    batch: Batch,
    sha256: String,
}

impl Batches {
    /// Reads and checks a file for a model.
    ///
    /// # Errors
    /// The file cannot be read, a tensor is missing, or shapes, codes or ids do not fit the model; a piece must not be longer
    /// than `max_position_embeddings` columns.
    pub fn open(path: &Path, config: &ModelConfig) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let shape = |name: &str| file.tensors().get(name).map(Vec::as_slice);
        let bad = |name: &str, expected: String| {
            let found = shape(name).map_or("no such tensor".into(), |found| format!("shape {found:?}"));
            Error::format(path, format!("`{name}` {expected}"), found)
        };
        let lm = &config.decoder;
        let Some(&[steps, rows, codebooks, frames]) = shape("codes") else {
            return Err(bad("codes", "[steps, rows, codebooks, frames]".into()));
        };
        let columns = frames.saturating_add(codebooks);
        if steps == 0
            || rows == 0
            || frames == 0
            || codebooks != lm.num_codebooks
            || columns > lm.max_position_embeddings
        {
            let longest = lm.max_position_embeddings.saturating_sub(codebooks);
            let expected = format!("[1 or more, 1 or more, {}, 1 to {longest}]", lm.num_codebooks);
            return Err(bad("codes", expected));
        }
        let Some(&[.., words]) = shape("ids") else { return Err(bad("ids", format!("[{steps}, {rows}, words]"))) };
        for name in ["ids", "mask"] {
            if shape(name) != Some(&[steps, rows, words]) || !(1..=512).contains(&words) {
                return Err(bad(name, format!("[{steps}, {rows}, 1 to 512]")));
            }
        }
        let keep = match shape("keep") {
            None => vec![1; steps * rows],
            Some(found) if found == [steps, rows] => integers(path, &file, "keep", 2)?,
            Some(_) => return Err(bad("keep", format!("[{steps}, {rows}]"))),
        };
        let batch = Batch {
            rows,
            codebooks,
            frames,
            words,
            codes: integers(path, &file, "codes", lm.vocab_size)?,
            ids: integers(path, &file, "ids", config.text_encoder.vocab_size)?,
            mask: integers(path, &file, "mask", 2)?.into_iter().map(|v| v as f32).collect(),
            keep: keep.into_iter().map(|v| v as f32).collect(),
        };
        Ok(Self { steps, batch, sha256: file.sha256()?.to_owned() })
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.steps
    }

    /// Never: a file without batches is refused.
    pub fn is_empty(&self) -> bool {
        self.steps == 0
    }

    /// sha256 of the file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The batch of a step counted from 0; after the last one it begins again.
    pub fn get(&self, step: u64) -> Batch {
        let all = &self.batch;
        let at = (step % self.steps as u64) as usize;
        let (codes, words) = (all.rows * all.codebooks * all.frames, all.rows * all.words);
        Batch {
            codes: all.codes[at * codes..(at + 1) * codes].to_vec(),
            ids: all.ids[at * words..(at + 1) * words].to_vec(),
            mask: all.mask[at * words..(at + 1) * words].to_vec(),
            keep: all.keep[at * all.rows..(at + 1) * all.rows].to_vec(),
            ..*all
        }
    }
}

/// All values of a tensor of whole numbers from 0 to below `end`.
fn integers(path: &Path, file: &Checkpoint, name: &str, end: usize) -> Result<Vec<u32>> {
    let mut values = Vec::new();
    file.read(name, &mut |piece| {
        for &value in piece {
            if value.fract() != 0.0 || value < 0.0 || value >= end as f32 {
                return Err(Error::format(path, format!("whole numbers below {end} in `{name}`"), value.to_string()));
            }
            values.push(value as u32);
        }
        Ok(())
    })?;
    Ok(values)
}
