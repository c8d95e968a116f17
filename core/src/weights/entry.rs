//! Where one tensor lies and how it is read.

use std::{collections::BTreeSet, path::Path};

use super::{
    bytes::{Bytes, broken},
    encoding::Encoding,
    gguf::GgufSettings,
    stream::Run,
};
use crate::{Result, WeightFormat};

/// Numbers gathered before they are handed on.
const GATHERED: usize = 1 << 16;

/// Order of the numbers in the file.
pub(super) enum Layout {
    /// As they are read: row by row.
    Plain,
    /// Steps between neighbours of each dimension, in elements.
    Strided(Vec<usize>),
}

/// One tensor of a file.
pub(super) struct Entry {
    /// Number of the file.
    pub(super) file: usize,
    /// First byte.
    pub(super) start: u64,
    /// Bytes from the first to the last number.
    pub(super) len: u64,
    /// Name of the type as the file has it.
    pub(super) dtype: String,
    /// How to read that type, unless it is not a type of weights.
    pub(super) encoding: Option<Encoding>,
    pub(super) layout: Layout,
}

/// What one file holds.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) tensors: Vec<(String, Vec<usize>, Entry)>,
    pub(super) metadata: Vec<(String, String)>,
    /// Names in a pickled table that were left inert.
    pub(super) inert: BTreeSet<String>,
    /// Where numbers begin, for kinds of files that note a hash of them.
    pub(super) data: Option<u64>,
    /// Of a GGUF file.
    pub(super) settings: Option<GgufSettings>,
}

impl Entry {
    pub(super) fn stream(
        &self,
        bytes: &Bytes,
        name: &str,
        shape: &[usize],
        sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let encoding = self.encoding.ok_or_else(|| self.unreadable(bytes.path(), name))?;
        match &self.layout {
            Layout::Plain => Run { bytes, start: self.start, len: self.len, encoding }.stream(sink),
            Layout::Strided(strides) => gather(&bytes.take(self.start, self.len)?, encoding, shape, strides, sink),
        }
    }

    /// Format whose blocks the bytes are, where a matrix can take them over.
    pub(super) fn packed(&self) -> Option<WeightFormat> {
        self.encoding.filter(|_| matches!(self.layout, Layout::Plain))?.packed()
    }

    /// The bytes themselves, in whole blocks.
    pub(super) fn stream_packed(&self, bytes: &Bytes, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let encoding = self.encoding.ok_or_else(|| self.unreadable(bytes.path(), ""))?;
        Run { bytes, start: self.start, len: self.len, encoding }.stream_bytes(sink)
    }

    fn unreadable(&self, path: &Path, name: &str) -> crate::Error {
        let hint = "weights are read from f64, f32, f16, bf16, integers, booleans and q2_k to q8_0; convert the checkpoint to one of these";
        broken(path, format!("tensor `{name}` is stored as {}", self.dtype), hint)
    }
}

/// Reads a view that is not laid out row by row; its bytes are all in `raw`.
fn gather(
    raw: &[u8],
    encoding: Encoding,
    shape: &[usize],
    strides: &[usize],
    sink: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let unit = encoding.unit();
    let (Some((&width, outer)), Some((&step, outer_strides))) = (shape.split_last(), strides.split_last()) else {
        return Ok(());
    };
    let mut index = vec![0; outer.len()];
    let (mut row, mut out) = (Vec::with_capacity(GATHERED * unit), Vec::new());
    let mut flush = |row: &mut Vec<u8>| {
        encoding.decode(0, row, &mut out);
        row.clear();
        sink(&out)
    };
    for _ in 0..outer.iter().product::<usize>() {
        let first: usize = index.iter().zip(outer_strides).map(|(i, s)| i * s).sum();
        for column in 0..width {
            let at = (first + column * step) * unit;
            row.extend_from_slice(&raw[at..at + unit]);
            if row.len() >= GATHERED * unit {
                flush(&mut row)?;
            }
        }
        for (i, &dim) in index.iter_mut().zip(outer).rev() {
            *i += 1;
            if *i < dim {
                break;
            }
            *i = 0;
        }
    }
    flush(&mut row)
}
