//! The delay pattern: codebook `k` runs `k` steps behind codebook 0, so that each step predicts one token of every codebook
//! knowing the coarser codes of the same frame.
//!
//! Conventions: rows are batch major, codebook minor (`row = b * codebooks + k`). Column 0 is the start token, which is also
//! the pad token. Frame `f` of codebook `k` stands in column `f + delay(k) + 1`. In stereo, codebooks `2k` (left) and
//! `2k + 1` (right) share the delay `k`.

use candle_core::{DType, Device, Tensor};
use musaic_core::{Error, Result};

/// Token ids `[batch * codebooks, length]` in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    /// Number of pieces.
    pub batch: usize,
    /// Codebooks of each.
    pub codebooks: usize,
    /// Columns (delayed) or frames (not delayed).
    pub length: usize,
    /// Ids, row after row.
    pub ids: Vec<u32>,
}

impl Codes {
    /// All of them `id`.
    pub fn filled(batch: usize, codebooks: usize, length: usize, id: u32) -> Self {
        Self { batch, codebooks, length, ids: vec![id; batch * codebooks * length] }
    }

    /// From a tensor `[batch, codebooks, length]` or `[batch * codebooks, length]` of any integer type.
    ///
    /// # Errors
    /// The rows are no multiple of `codebooks`, or an id is negative or beyond 32 bits.
    pub fn from_tensor(ids: &Tensor, codebooks: usize) -> Result<Self> {
        let length = ids.dims().last().copied().unwrap_or(0);
        let flat = ids.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let rows = flat.len().checked_div(length).unwrap_or(0);
        if codebooks == 0 || !rows.is_multiple_of(codebooks) || ids.rank() < 2 {
            let expected = format!("[batch, {codebooks}, length]");
            return Err(Error::argument("codes", format!("shape {:?}", ids.dims()), expected));
        }
        let ids = flat.into_iter().map(u32::try_from).collect::<Result<Vec<_>, _>>();
        let ids = ids.map_err(|_| Error::argument("codes", "a negative or huge id", "ids below the codebook size"))?;
        Ok(Self { batch: rows / codebooks, codebooks, length, ids })
    }

    /// As a tensor `[batch, codebooks, length]` u32.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn to_tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_slice(&self.ids, (self.batch, self.codebooks, self.length), device)
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.ids[row * self.length..(row + 1) * self.length]
    }

    fn row_mut(&mut self, row: usize) -> &mut [u32] {
        &mut self.ids[row * self.length..(row + 1) * self.length]
    }

    /// A part of the columns, as many rows.
    pub fn columns(&self, range: std::ops::Range<usize>) -> Self {
        let mut ids = Vec::with_capacity(self.batch * self.codebooks * range.len());
        for row in 0..self.batch * self.codebooks {
            ids.extend_from_slice(&self.row(row)[range.clone()]);
        }
        Self { length: range.len(), ids, ..*self }
    }
}

/// Delays of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelayPattern {
    codebooks: usize,
    channels: usize,
    pad: u32,
}

/// What is given at every place of a delayed sequence, and where generation begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternMask {
    /// Number of leading columns that are given as a whole.
    pub first: usize,
    /// Columns.
    pub length: usize,
    /// Row after row: a given token, or nothing where a token is free.
    pub given: Vec<Option<u32>>,
}

impl DelayPattern {
    /// `codebooks` counts both channels in stereo.
    ///
    /// # Errors
    /// More than 2 channels, or an odd number of codebooks in stereo.
    pub fn new(codebooks: usize, channels: usize, pad: u32) -> Result<Self> {
        if codebooks == 0 || !matches!(channels, 1 | 2) || !codebooks.is_multiple_of(channels) {
            let found = format!("{codebooks} codebooks, {channels} channels");
            return Err(Error::argument("num_codebooks", found, "1 or 2 channels of as many codebooks each"));
        }
        Ok(Self { codebooks, channels, pad })
    }

    /// Codebooks of all channels.
    pub fn codebooks(&self) -> usize {
        self.codebooks
    }

    /// Codebooks of one channel.
    pub fn channel_codebooks(&self) -> usize {
        self.codebooks / self.channels
    }

    /// Steps codebook `k` is behind.
    pub fn delay(&self, k: usize) -> usize {
        k / self.channels
    }

    /// The largest delay.
    pub fn max_delay(&self) -> usize {
        self.channel_codebooks() - 1
    }

    /// Start token and filling.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Whether a sequence of `max_length` columns is delayed at all: the reference leaves shorter ones as they are.
    pub fn applies(&self, max_length: usize) -> bool {
        max_length + 1 >= 2 * self.channel_codebooks()
    }

    /// The pattern for `ids` (start token first, not delayed) in a sequence of `max_length` columns.
    ///
    /// # Errors
    /// More ids than columns, or another number of codebooks.
    pub fn mask(&self, ids: &Codes, max_length: usize) -> Result<PatternMask> {
        if ids.codebooks != self.codebooks || ids.length > max_length {
            let found = format!("{} codebooks of {} ids", ids.codebooks, ids.length);
            return Err(Error::argument("ids", found, format!("{} of at most {max_length}", self.codebooks)));
        }
        let rows = ids.batch * ids.codebooks;
        if !self.applies(max_length) {
            return Ok(PatternMask { first: ids.length, length: max_length, given: vec![None; rows * max_length] });
        }
        let mut given = Vec::with_capacity(rows * max_length);
        for row in 0..rows {
            let delay = self.delay(row % self.codebooks);
            given.extend((0..max_length).map(|column| {
                if column <= delay || column > max_length - self.channel_codebooks() + delay {
                    Some(self.pad)
                } else {
                    ids.row(row).get(column - delay).copied()
                }
            }));
        }
        let free = |b: usize| {
            let row = b * self.codebooks * max_length;
            given[row..row + max_length].iter().position(Option::is_none)
        };
        let first = (0..ids.batch).filter_map(free).min().unwrap_or(ids.length);
        Ok(PatternMask { first, length: max_length, given })
    }

    /// Removes start and filling: delayed ids back to `[batch, codebooks, frames]`.
    ///
    /// # Errors
    /// The rows do not hold equally many codes.
    pub fn revert(&self, delayed: &Codes) -> Result<Codes> {
        let mut ids = Vec::with_capacity(delayed.ids.len());
        let mut length = None;
        for row in 0..delayed.batch * delayed.codebooks {
            let before = ids.len();
            ids.extend(delayed.row(row).iter().filter(|&&id| id != self.pad));
            let codes = ids.len() - before;
            if *length.get_or_insert(codes) != codes {
                return Err(Error::argument("ids", "rows of different length", "a delayed sequence"));
            }
        }
        Ok(Codes { batch: delayed.batch, codebooks: delayed.codebooks, length: length.unwrap_or(0), ids })
    }
}

impl PatternMask {
    /// Puts the given tokens over `ids`, which begins at column 0 and may be shorter than the pattern.
    ///
    /// # Errors
    /// More columns or other rows than the pattern has.
    pub fn apply(&self, ids: &Codes) -> Result<Codes> {
        let mut applied = ids.clone();
        if ids.length > self.length || ids.batch * ids.codebooks * self.length != self.given.len() {
            let found = format!("{} rows of {}", ids.batch * ids.codebooks, ids.length);
            return Err(Error::argument("ids", found, format!("rows of at most {}", self.length)));
        }
        for row in 0..ids.batch * ids.codebooks {
            let given = &self.given[row * self.length..];
            for (id, given) in applied.row_mut(row).iter_mut().zip(given) {
                *id = given.unwrap_or(*id);
            }
        }
        Ok(applied)
    }

    /// `[rows, columns]` i64 with -1 where a token is free.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn to_tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        let values: Vec<_> = self.given.iter().map(|id| id.map_or(-1, i64::from)).collect();
        Tensor::from_vec(values, (self.given.len() / self.length.max(1), self.length), device)
    }
}
