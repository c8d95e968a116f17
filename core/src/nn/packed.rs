//! A weight matrix in blocks of one format, built piece by piece.

use candle_core::{Result, Tensor, bail};
use half::{bf16, f16};

use super::{
    block::{Block, F32x16, Q4k, Q8},
    integer, pool,
    product::{product, widen_row},
};
use crate::WeightFormat;

/// Blocks of one row after another; rows that are no whole number of blocks are filled up with zeros.
#[derive(Clone)]
pub(super) enum Packed {
    F32(Vec<F32x16>),
    Bf16(Vec<[bf16; 16]>),
    F16(Vec<[f16; 16]>),
    Q8(Vec<Q8>),
    Q4k(Vec<Q4k>),
}

/// The same expression for the blocks of whichever format.
macro_rules! each {
    ($packed:expr, $blocks:ident => $body:expr) => {
        match $packed {
            Packed::F32($blocks) => $body,
            Packed::Bf16($blocks) => $body,
            Packed::F16($blocks) => $body,
            Packed::Q8($blocks) => $body,
            Packed::Q4k($blocks) => $body,
        }
    };
}

/// Values in a block of the type of a vector's elements.
fn width<B: Block>(_: &[B]) -> usize {
    16 * B::STEPS
}

impl Packed {
    /// `format` where the columns divide into its blocks, else the next wider one: `q4_k` needs a multiple of 256,
    /// `q8_0` of 32, the others nothing.
    pub(super) fn format_for(format: WeightFormat, cols: usize) -> WeightFormat {
        match format {
            WeightFormat::Q4K if cols.is_multiple_of(256) => WeightFormat::Q4K,
            WeightFormat::Q4K | WeightFormat::Q8_0 if cols.is_multiple_of(32) => WeightFormat::Q8_0,
            WeightFormat::Q4K | WeightFormat::Q8_0 => WeightFormat::Bf16,
            other => other,
        }
    }

    fn reserve(format: WeightFormat, rows: usize, cols: usize) -> Result<Self> {
        fn blocks<B: Block>(rows: usize, cols: usize) -> Result<Vec<B>> {
            let mut blocks: Vec<B> = Vec::new();
            let stride = cols.div_ceil(width::<B>(&blocks));
            let reserved = rows.checked_mul(stride).map(|count| blocks.try_reserve_exact(count));
            if !matches!(reserved, Some(Ok(()))) {
                bail!("no memory for a matrix of {rows} rows and {cols} columns");
            }
            Ok(blocks)
        }
        Ok(match format {
            WeightFormat::F32 => Self::F32(blocks(rows, cols)?),
            WeightFormat::Bf16 => Self::Bf16(blocks(rows, cols)?),
            WeightFormat::F16 => Self::F16(blocks(rows, cols)?),
            WeightFormat::Q8_0 => Self::Q8(blocks(rows, cols)?),
            WeightFormat::Q4K => Self::Q4k(blocks(rows, cols)?),
        })
    }

    pub(super) fn format(&self) -> WeightFormat {
        match self {
            Self::F32(_) => WeightFormat::F32,
            Self::Bf16(_) => WeightFormat::Bf16,
            Self::F16(_) => WeightFormat::F16,
            Self::Q8(_) => WeightFormat::Q8_0,
            Self::Q4k(_) => WeightFormat::Q4K,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        each!(self, blocks => size_of_val(blocks.as_slice()))
    }

    /// `x [m, cols]` times the transposed matrix, plus `bias`, into `out [m, rows]`. With quantised weights `x` is rounded to
    /// eight bits as well ([`super::integer`]).
    pub(super) fn product(&self, x: &[f32], cols: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        match self {
            Self::Q8(blocks) => integer::product(x, cols, blocks, cols.div_ceil(width(blocks)), bias, out),
            Self::Q4k(blocks) => integer::product(x, cols, blocks, cols.div_ceil(width(blocks)), bias, out),
            _ => self.product_f32(x, cols, bias, out),
        }
    }

    /// As [`Packed::product`], with `x` as it is.
    pub(super) fn product_f32(&self, x: &[f32], cols: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        each!(self, blocks => product(x, cols, blocks, cols.div_ceil(width(blocks)), bias, out));
    }

    /// Row `row` as f32.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        each!(self, blocks => {
            let stride = out.len().div_ceil(width(blocks));
            widen_row(&blocks[row * stride..][..stride], out);
        });
    }

    /// As a tensor of the format's own type on the main processor; quantised formats as f32.
    pub(super) fn into_tensor(self, rows: usize, cols: usize) -> Result<Tensor> {
        fn unpad<T: candle_core::WithDType>(blocks: Vec<[T; 16]>, rows: usize, cols: usize) -> Result<Tensor> {
            let padded = cols.next_multiple_of(16);
            let flat = Tensor::from_vec(blocks.into_flattened(), (rows, padded), &candle_core::Device::Cpu)?;
            if padded == cols { Ok(flat) } else { flat.narrow(1, 0, cols)?.contiguous() }
        }
        match self {
            Self::F32(blocks) => unpad(blocks, rows, cols),
            Self::Bf16(blocks) => unpad(blocks, rows, cols),
            Self::F16(blocks) => unpad(blocks, rows, cols),
            quantised => quantised.to_f32(rows, cols),
        }
    }

    /// As an f32 tensor on the main processor.
    pub(super) fn to_f32(&self, rows: usize, cols: usize) -> Result<Tensor> {
        let mut values = vec![0f32; rows * cols];
        pool::rows_mut(&mut values, cols, cols, |first, part| {
            for (i, out) in part.chunks_exact_mut(cols).enumerate() {
                self.row(first + i, out);
            }
        });
        Tensor::from_vec(values, (rows, cols), &candle_core::Device::Cpu)
    }
}

/// Whole rows as the blocks of a quantised format, in the bytes that ggml stores.
///
/// # Errors
/// The columns do not divide into the format's blocks, or it has none.
pub(crate) fn pack_rows(format: WeightFormat, cols: usize, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let mut packer = Packer::new(Packed::format_for(format, cols), values.len() / cols.max(1), cols)?;
    packer.push(values)?;
    match packer.finish()? {
        Packed::Q8(blocks) => blocks.into_iter().for_each(|block| block.to_bytes(out)),
        Packed::Q4k(blocks) => blocks.into_iter().for_each(|block| block.to_bytes(out)),
        other => bail!("{} has no blocks", other.format()),
    }
    Ok(())
}

/// The format that rows of `cols` values really get where `format` is asked for.
pub(crate) fn format_for(format: WeightFormat, cols: usize) -> WeightFormat {
    Packed::format_for(format, cols)
}

/// Packs values as they come.
pub(super) struct Packer {
    packed: Packed,
    rows: usize,
    cols: usize,
    /// Values pushed so far.
    taken: usize,
    /// The beginning of the next block.
    pending: Vec<f32>,
}

impl Packer {
    pub(super) fn new(format: WeightFormat, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self { packed: Packed::reserve(format, rows, cols)?, rows, cols, taken: 0, pending: Vec::new() })
    }

    pub(super) fn format(&self) -> WeightFormat {
        self.packed.format()
    }

    pub(super) fn push(&mut self, values: &[f32]) -> Result<()> {
        let room = self.rows * self.cols - self.taken;
        if values.len() > room {
            bail!("a matrix [{}, {}] has room for {room} more values, {} came", self.rows, self.cols, values.len());
        }
        let (taken, cols, pending) = (self.taken, self.cols, &mut self.pending);
        self.taken += values.len();
        each!(&mut self.packed, blocks => push_blocks(blocks, pending, values, taken, cols));
        Ok(())
    }

    /// The next blocks as they are stored in files, for a quantised format whose rows are whole blocks.
    pub(super) fn push_blocks(&mut self, bytes: &[u8]) -> Result<()> {
        let (size, values) = match self.packed {
            Packed::Q8(_) => (Q8::BYTES, 16 * Q8::STEPS),
            Packed::Q4k(_) => (Q4k::BYTES, 16 * Q4k::STEPS),
            _ => bail!("a matrix of {} takes no blocks", self.packed.format()),
        };
        let count = bytes.len() / size * values;
        let room = self.rows * self.cols - self.taken;
        if !bytes.len().is_multiple_of(size) || !self.pending.is_empty() || count > room {
            bail!("a matrix [{}, {}] with room for {room} more values got {} bytes", self.rows, self.cols, bytes.len());
        }
        self.taken += count;
        match &mut self.packed {
            Packed::Q8(blocks) => blocks.extend(bytes.as_chunks().0.iter().map(Q8::from_bytes)),
            Packed::Q4k(blocks) => blocks.extend(bytes.as_chunks().0.iter().map(Q4k::from_bytes)),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Packed> {
        let (rows, cols) = (self.rows, self.cols);
        if self.taken != rows * cols {
            bail!("a matrix [{rows}, {cols}] got {} values of {}", self.taken, rows * cols);
        }
        Ok(self.packed)
    }
}

/// Appends `values`, the first of which is number `taken` of the matrix.
fn push_blocks<B: Block>(blocks: &mut Vec<B>, pending: &mut Vec<f32>, values: &[f32], taken: usize, cols: usize) {
    let width = 16 * B::STEPS;
    let (mut rest, mut col) = (values, taken % cols.max(1));
    while !rest.is_empty() {
        // Whole blocks at once, up to the end of the row where that is not the end of a block.
        let straight = if cols.is_multiple_of(width) { rest.len() } else { rest.len().min(cols - col) };
        let whole = straight / width;
        if pending.is_empty() && whole > 0 {
            let old = blocks.len();
            blocks.resize(old + whole, B::pack(&vec![0.0; width]));
            pool::rows_mut(&mut blocks[old..], 1, width * 8, |first, part| {
                for (block, values) in part.iter_mut().zip(rest[first * width..].chunks_exact(width)) {
                    *block = B::pack(values);
                }
            });
            rest = &rest[whole * width..];
            col = (col + whole * width) % cols;
            continue;
        }
        let count = rest.len().min(width - pending.len()).min(cols - col);
        pending.extend_from_slice(&rest[..count]);
        rest = &rest[count..];
        col = (col + count) % cols;
        if col == 0 || pending.len() == width {
            pending.resize(width, 0.0);
            blocks.push(B::pack(pending));
            pending.clear();
        }
    }
}
