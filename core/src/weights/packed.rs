//! The packed file: safetensors whose large tensors are `q8_0` blocks, at 8.5 bits a weight.
//!
//! Any reader of safetensors can open such a file. A packed tensor is stored as `U8` of shape `[rows, bytes]`: the true
//! first dimension, and all others flattened to one row of `cols` weights, cut into blocks of 32. A block is 34 bytes: the
//! scale as little-endian f16, then 32 signed bytes; weight = scale x byte. The last block of a row is filled up with zeros.
//! The header's `__metadata__` has one more key, [`KEY`], with a JSON object that gives each packed tensor's format and true
//! shape:
//!
//! ```json
//! {"decoder.fc1.weight": {"format": "q8_0", "shape": [1024, 256]}}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::encoding::{BLOCK, BLOCK_BYTES, Encoding};

/// Key of the table in the header's `__metadata__`.
pub const KEY: &str = "musaic.packed";

/// How one tensor is packed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Packed {
    format: String,
    shape: Vec<usize>,
}

/// The table of a file.
pub(super) type Table = BTreeMap<String, Packed>;

/// Weights in one row of a tensor of this shape.
fn cols(shape: &[usize]) -> Option<usize> {
    shape.get(1..)?.iter().try_fold(1usize, |cols, &dim| cols.checked_mul(dim)).filter(|&cols| cols > 0)
}

impl Packed {
    pub(super) fn q8_0(shape: &[usize]) -> Self {
        Self { format: "q8_0".into(), shape: shape.to_vec() }
    }

    /// True shape and encoding, if the stored shape fits them.
    pub(super) fn resolve(&self, stored: &[usize]) -> Option<(Vec<usize>, Encoding)> {
        let cols = cols(&self.shape)?;
        let fits = self.format == "q8_0" && stored == self.stored_shape()?;
        fits.then(|| (self.shape.clone(), Encoding::Q8_0 { cols }))
    }

    /// Shape of the bytes in the file.
    pub(super) fn stored_shape(&self) -> Option<Vec<usize>> {
        let bytes = cols(&self.shape)?.div_ceil(BLOCK).checked_mul(BLOCK_BYTES)?;
        Some(vec![*self.shape.first()?, bytes])
    }

    /// Weights in one row.
    pub(super) fn cols(&self) -> usize {
        cols(&self.shape).unwrap_or(1)
    }
}
