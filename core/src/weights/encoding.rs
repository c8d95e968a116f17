//! How numbers lie in a file, and their conversion to f32.
//!
//! The loops are plain maps over fixed-size chunks without branches, which the compiler turns into vector code.

use half::f16;

use super::ggml::Blocks;
use crate::WeightFormat;

/// Weights in one `q8_0` block.
pub(super) const BLOCK: usize = 32;
/// Bytes of one `q8_0` block: an f16 scale and a signed byte a weight.
pub(super) const BLOCK_BYTES: usize = 2 + BLOCK;

/// Type of the stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    U64,
    I32,
    U32,
    I16,
    U16,
    I8,
    U8,
    Bool,
    /// Blocks of [`BLOCK`] weights; every row of `cols` weights starts a new block, and its last block is padded.
    Q8_0 {
        cols: usize,
    },
    /// Blocks of ggml; rows are whole blocks.
    Blocks(Blocks),
}

impl Encoding {
    /// Bytes that are read as one: an element, or a block.
    pub(super) fn unit(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Q8_0 { .. } => BLOCK_BYTES,
            Self::Blocks(blocks) => blocks.size().0,
        }
    }

    /// Bytes and numbers of a unit.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::Q8_0 { .. } => (BLOCK_BYTES, BLOCK),
            Self::Blocks(blocks) => blocks.size(),
            plain => (plain.unit(), 1),
        }
    }

    /// The format whose blocks these bytes are, as a matrix holds them.
    pub(super) fn packed(self) -> Option<WeightFormat> {
        match self {
            // A row that ends within a block is filled up here, and not there.
            Self::Q8_0 { cols } if cols.is_multiple_of(BLOCK) => Some(WeightFormat::Q8_0),
            Self::Blocks(Blocks::Q4K) => Some(WeightFormat::Q4K),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
            Self::Q8_0 { .. } => "q8_0",
            Self::Blocks(blocks) => blocks.name(),
        }
    }

    /// Replaces `out` by the numbers in `bytes`, which begin at unit number `first` of the tensor and are whole units.
    pub(super) fn decode(self, first: u64, bytes: &[u8], out: &mut Vec<f32>) {
        out.clear();
        match self {
            Self::F64 => each::<8>(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => each::<4>(bytes, out, f32::from_le_bytes),
            Self::F16 => each::<2>(bytes, out, |b| widen(u16::from_le_bytes(b))),
            Self::Bf16 => each::<2>(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            Self::I64 => each::<8>(bytes, out, |b| i64::from_le_bytes(b) as f32),
            Self::U64 => each::<8>(bytes, out, |b| u64::from_le_bytes(b) as f32),
            Self::I32 => each::<4>(bytes, out, |b| i32::from_le_bytes(b) as f32),
            Self::U32 => each::<4>(bytes, out, |b| u32::from_le_bytes(b) as f32),
            Self::I16 => each::<2>(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
            Self::U16 => each::<2>(bytes, out, |b| f32::from(u16::from_le_bytes(b))),
            Self::I8 => each::<1>(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
            Self::U8 => each::<1>(bytes, out, |b| f32::from(b[0])),
            Self::Bool => each::<1>(bytes, out, |b| f32::from(u8::from(b[0] != 0))),
            Self::Q8_0 { cols } => unpack(cols, first, bytes, out),
            Self::Blocks(blocks) => blocks.decode(bytes, out),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, convert: impl Fn([u8; N]) -> f32) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|&chunk| convert(chunk)));
}

/// f16 to f32 by moving bits; exact for every value, subnormals, infinities and NaN included.
fn widen(half: u16) -> f32 {
    const SUBNORMAL: f32 = f32::from_bits(113 << 23);
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff) << 13;
    // Rebias the exponent from 15 to 127; all ones go on to all ones.
    let normal = rest + (112 << 23) + if rest >= 0x7c00 << 13 { 112 << 23 } else { 0 };
    // An implicit leading one is added and subtracted again, which lets the adder do the normalisation.
    let small = (f32::from_bits(rest + (113 << 23)) - SUBNORMAL).to_bits();
    f32::from_bits(sign | if rest < 1 << 23 { small } else { normal })
}

fn unpack(cols: usize, first: u64, bytes: &[u8], out: &mut Vec<f32>) {
    let per_row = cols.div_ceil(BLOCK).max(1) as u64;
    for (number, block) in (first..).zip(bytes.as_chunks::<BLOCK_BYTES>().0) {
        let scale = widen(u16::from_le_bytes([block[0], block[1]]));
        let start = (number % per_row) as usize * BLOCK;
        let count = cols.saturating_sub(start).min(BLOCK);
        out.extend(block[2..2 + count].iter().map(|&q| scale * f32::from(q.cast_signed())));
    }
}

/// Packs rows of `cols` weights into `q8_0` blocks behind `out`. `values` are whole rows.
pub(super) fn pack(cols: usize, values: &[f32], out: &mut Vec<u8>) {
    for row in values.chunks(cols.max(1)) {
        for block in row.chunks(BLOCK) {
            let largest = block.iter().fold(0f32, |largest, v| largest.max(v.abs()));
            let scale = largest / 127.0;
            // The stored scale is the rounded one, so the bytes are rounded against it too.
            let stored = f16::from_f32(scale);
            let inverse = if stored.to_f32() > 0.0 { 1.0 / stored.to_f32() } else { 0.0 };
            out.extend_from_slice(&stored.to_le_bytes());
            let quant = |v: &f32| (v * inverse).round().clamp(-127.0, 127.0) as i8;
            out.extend(block.iter().map(|v| quant(v).cast_unsigned()));
            out.resize(out.len() + BLOCK - block.len(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (widen(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#06x}");
        }
    }

    #[test]
    fn integers_and_bools() {
        let mut out = Vec::new();
        Encoding::I64.decode(0, &(-3i64).to_le_bytes(), &mut out);
        assert_eq!(out, [-3.0]);
        Encoding::Bool.decode(0, &[0, 1, 7], &mut out);
        assert_eq!(out, [0.0, 1.0, 1.0]);
        Encoding::F64.decode(0, &0.5f64.to_le_bytes(), &mut out);
        assert_eq!(out, [0.5]);
        Encoding::I8.decode(0, &[0xff], &mut out);
        assert_eq!(out, [-1.0]);
    }

    #[test]
    fn packing_is_close_and_packing_again_changes_nothing() {
        for cols in [1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..3 * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
            let (mut packed, mut back, mut again) = (Vec::new(), Vec::new(), Vec::new());
            pack(cols, &values, &mut packed);
            assert_eq!(packed.len(), 3 * cols.div_ceil(BLOCK) * BLOCK_BYTES);
            Encoding::Q8_0 { cols }.decode(0, &packed, &mut back);
            assert_eq!(back.len(), values.len());
            let worst = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 3.0 / 127.0 * 0.51, "{cols}: {worst}");
            pack(cols, &back, &mut again);
            assert_eq!(packed, again, "{cols}");
        }
    }
}
