//! The block types of ggml: how their bytes become numbers.
//!
//! All numbers are little-endian; scales are f16. Nothing here can fail: every byte means something. Layouts are those of
//! `ggml-common.h`, and every type is tested against the numbers of another reader.

use half::f16;

/// Numbers in a block of the older types.
pub(super) const SMALL: usize = 32;
/// Numbers in a block of the `k` types.
pub(super) const LARGE: usize = 256;

/// A type whose rows are whole blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Blocks {
    /// Bytes and numbers of a block.
    pub(super) const fn size(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (18, SMALL),
            Self::Q4_1 => (20, SMALL),
            Self::Q5_0 => (22, SMALL),
            Self::Q5_1 => (24, SMALL),
            Self::Q2K => (84, LARGE),
            Self::Q3K => (110, LARGE),
            Self::Q4K => (144, LARGE),
            Self::Q5K => (176, LARGE),
            Self::Q6K => (210, LARGE),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Appends the numbers of whole blocks.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::Q4_0 => each(bytes, out, q4_0),
            Self::Q4_1 => each(bytes, out, q4_1),
            Self::Q5_0 => each(bytes, out, q5_0),
            Self::Q5_1 => each(bytes, out, q5_1),
            Self::Q2K => each(bytes, out, q2_k),
            Self::Q3K => each(bytes, out, q3_k),
            Self::Q4K => each(bytes, out, q4_k),
            Self::Q5K => each(bytes, out, q5_k),
            Self::Q6K => each(bytes, out, q6_k),
        }
    }
}

fn each<const BYTES: usize, const COUNT: usize>(
    bytes: &[u8],
    out: &mut Vec<f32>,
    decode: impl Fn(&[u8; BYTES], &mut [f32; COUNT]),
) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    let before = out.len();
    out.resize(before + blocks.len() * COUNT, 0.0);
    for (block, out) in blocks.iter().zip(out[before..].as_chunks_mut::<COUNT>().0) {
        decode(block, out);
    }
}

fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

/// Number `i` of sixteen bytes: low halves first, then high ones.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }
}

/// The fifth bit of number `i`.
fn fifth(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

fn q4_0(b: &[u8; 18], out: &mut [f32; SMALL]) {
    let scale = half(b[0], b[1]);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * (f32::from(nibble(&b[2..], i)) - 8.0);
    }
}

fn q4_1(b: &[u8; 20], out: &mut [f32; SMALL]) {
    let (scale, minimum) = (half(b[0], b[1]), half(b[2], b[3]));
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * f32::from(nibble(&b[4..], i)) + minimum;
    }
}

fn q5_0(b: &[u8; 22], out: &mut [f32; SMALL]) {
    let scale = half(b[0], b[1]);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * (f32::from(nibble(&b[6..], i) | fifth(&b[2..6], i)) - 16.0);
    }
}

fn q5_1(b: &[u8; 24], out: &mut [f32; SMALL]) {
    let (scale, minimum) = (half(b[0], b[1]), half(b[2], b[3]));
    for (i, out) in out.iter_mut().enumerate() {
        *out = scale * f32::from(nibble(&b[8..], i) | fifth(&b[4..8], i)) + minimum;
    }
}

/// Sixteen groups of sixteen two-bit numbers; a byte of `scales` has a group's scale below and its minimum above.
fn q2_k(b: &[u8; 84], out: &mut [f32; LARGE]) {
    let (scales, numbers) = (&b[..16], &b[16..80]);
    let (scale, minimum) = (half(b[80], b[81]), half(b[82], b[83]));
    for (g, (out, s)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (step, low) = (scale * f32::from(s & 15), minimum * f32::from(s >> 4));
        let (first, shift) = (g / 8 * 32 + g % 2 * 16, g % 8 / 2 * 2);
        for (out, n) in out.iter_mut().zip(&numbers[first..]) {
            *out = step * f32::from(n >> shift & 3) - low;
        }
    }
}

/// As `q2_k` with a third bit, set where nothing is taken off, and scales of six bits instead of minima.
fn q3_k(b: &[u8; 110], out: &mut [f32; LARGE]) {
    let (bits, numbers, scales) = (&b[..32], &b[32..96], &b[96..108]);
    let scale = half(b[108], b[109]);
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = if g < 8 { scales[g] & 15 } else { scales[g - 8] >> 4 };
        let six = low | (scales[8 + g % 4] >> (g / 4 * 2) & 3) << 4;
        let step = scale * (f32::from(six) - 32.0);
        let (first, shift) = (g / 8 * 32 + g % 2 * 16, g % 8 / 2 * 2);
        let (third, bits) = (g / 8 * 4 + g % 8 / 2, &bits[g % 2 * 16..]);
        for (out, (n, bits)) in out.iter_mut().zip(numbers[first..].iter().zip(bits)) {
            let taken = if bits >> third & 1 == 1 { 0.0 } else { 4.0 };
            *out = step * (f32::from(n >> shift & 3) - taken);
        }
    }
}

/// Scale and minimum of each of eight groups, from the twelve bytes that hold them in six bits each.
fn six_bits(b: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|g| {
        let (s, m) = if g < 4 {
            (b[g] & 63, b[g + 4] & 63)
        } else {
            (b[g + 4] & 15 | (b[g - 4] >> 6) << 4, b[g + 4] >> 4 | (b[g] >> 6) << 4)
        };
        (f32::from(s), f32::from(m))
    })
}

fn q4_k(b: &[u8; 144], out: &mut [f32; LARGE]) {
    let (scale, minimum, numbers) = (half(b[0], b[1]), half(b[2], b[3]), &b[16..]);
    for (g, (out, (s, m))) in out.as_chunks_mut::<32>().0.iter_mut().zip(six_bits(&b[4..16])).enumerate() {
        let (step, low, shift) = (scale * s, minimum * m, g % 2 * 4);
        for (out, n) in out.iter_mut().zip(&numbers[g / 2 * 32..]) {
            *out = step * f32::from(n >> shift & 15) - low;
        }
    }
}

fn q5_k(b: &[u8; 176], out: &mut [f32; LARGE]) {
    let (scale, minimum, fifths, numbers) = (half(b[0], b[1]), half(b[2], b[3]), &b[16..48], &b[48..]);
    for (g, (out, (s, m))) in out.as_chunks_mut::<32>().0.iter_mut().zip(six_bits(&b[4..16])).enumerate() {
        let (step, low, shift) = (scale * s, minimum * m, g % 2 * 4);
        for (out, (n, fifth)) in out.iter_mut().zip(numbers[g / 2 * 32..].iter().zip(fifths)) {
            *out = step * f32::from(n >> shift & 15 | (fifth >> g & 1) << 4) - low;
        }
    }
}

fn q6_k(b: &[u8; 210], out: &mut [f32; LARGE]) {
    let (lows, highs, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let scale = half(b[208], b[209]);
    for (g, (out, s)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let step = scale * f32::from(s.cast_signed());
        // Within a half of 128: four runs of 32, of which the lower two share their bytes with the upper two.
        let (run, part) = (g % 8 / 2, g % 2 * 16);
        let lows = &lows[g / 8 * 64 + run % 2 * 32 + part..];
        let highs = &highs[g / 8 * 32 + part..];
        for (out, (low, high)) in out.iter_mut().zip(lows.iter().zip(highs)) {
            *out = step * (f32::from(low >> (run / 2 * 4) & 15 | (high >> (2 * run) & 3) << 4) - 32.0);
        }
    }
}
