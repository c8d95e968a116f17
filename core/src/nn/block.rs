//! The formats a row of weights is stored in, as runs of blocks, and how values become blocks.
//!
//! `q8_0` and `q4_k` have the block layouts of ggml: scales first, then packed numbers.

use half::{bf16, f16};

use super::simd::Simd;

/// Some multiple of sixteen consecutive weights of one row.
pub(crate) trait Block: Copy + Send + Sync + 'static {
    /// Steps of sixteen weights.
    const STEPS: usize;
    /// Steps that share what it takes to unpack them; divides [`Block::STEPS`].
    const RUN: usize;
    /// What [`Block::weights`] needs of the block as a whole.
    type Scales: Copy;

    fn scales<S: Simd>(&self, s: S) -> Self::Scales;
    /// Sixteen weights.
    fn weights<S: Simd>(&self, s: S, scales: &Self::Scales, step: usize) -> S::V;
    /// The block nearest to `16 * STEPS` values.
    fn pack(values: &[f32]) -> Self;
}

/// Sixteen f32.
pub(crate) type F32x16 = [f32; 16];

impl Block for F32x16 {
    type Scales = ();
    const STEPS: usize = 1;
    const RUN: usize = 1;

    #[inline(always)]
    fn scales<S: Simd>(&self, _: S) {}

    #[inline(always)]
    fn weights<S: Simd>(&self, s: S, (): &(), _: usize) -> S::V {
        s.load(self)
    }

    fn pack(values: &[f32]) -> Self {
        std::array::from_fn(|i| values[i])
    }
}

impl Block for [bf16; 16] {
    type Scales = ();
    const STEPS: usize = 1;
    const RUN: usize = 1;

    #[inline(always)]
    fn scales<S: Simd>(&self, _: S) {}

    #[inline(always)]
    fn weights<S: Simd>(&self, s: S, (): &(), _: usize) -> S::V {
        s.load_bf16(self)
    }

    fn pack(values: &[f32]) -> Self {
        std::array::from_fn(|i| bf16::from_f32(values[i]))
    }
}

impl Block for [f16; 16] {
    type Scales = ();
    const STEPS: usize = 1;
    const RUN: usize = 1;

    #[inline(always)]
    fn scales<S: Simd>(&self, _: S) {}

    #[inline(always)]
    fn weights<S: Simd>(&self, s: S, (): &(), _: usize) -> S::V {
        s.load_f16(self)
    }

    fn pack(values: &[f32]) -> Self {
        std::array::from_fn(|i| f16::from_f32(values[i]))
    }
}

/// 32 signed bytes and their scale.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q8 {
    pub(super) scale: f16,
    values: [[i8; 16]; 2],
}

impl Q8 {
    /// The whole numbers.
    #[inline(always)]
    pub(super) fn bytes(&self) -> &[i8; 32] {
        self.values.as_flattened().first_chunk().unwrap_or(&[0; 32])
    }
}

impl Block for Q8 {
    type Scales = ();
    const STEPS: usize = 2;
    const RUN: usize = 2;

    #[inline(always)]
    fn scales<S: Simd>(&self, _: S) {}

    #[inline(always)]
    fn weights<S: Simd>(&self, s: S, (): &(), step: usize) -> S::V {
        s.mul(s.load_i8(&self.values[step]), s.splat_f16(self.scale))
    }

    fn pack(values: &[f32]) -> Self {
        let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let byte = |i: usize| (values[i] * inverse).round().clamp(-127.0, 127.0) as i8;
        Self {
            scale: f16::from_f32(scale),
            values: std::array::from_fn(|half| std::array::from_fn(|i| byte(16 * half + i))),
        }
    }
}

impl Q8 {
    /// Bytes of a block.
    pub(crate) const BYTES: usize = size_of::<Self>();

    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let values = std::array::from_fn(|half| std::array::from_fn(|i| bytes[2 + 16 * half + i].cast_signed()));
        Self { scale: f16::from_le_bytes([bytes[0], bytes[1]]), values }
    }

    pub(crate) fn to_bytes(self, out: &mut Vec<u8>) {
        out.extend(self.scale.to_le_bytes());
        out.extend(self.values.as_flattened().iter().map(|value| value.cast_unsigned()));
    }
}

/// 256 four-bit numbers in eight groups of 32, each with a six-bit scale and a six-bit minimum in units of the block's own.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q4k {
    pub(super) scale: f16,
    pub(super) minimum: f16,
    /// Eight scales and eight minima of six bits, packed.
    groups: [u8; 12],
    /// Byte `32 j + i`: value `i` of group `2 j` in the low half, of group `2 j + 1` in the high half.
    values: [[u8; 16]; 8],
}

impl Q4k {
    /// Bytes of a block.
    pub(crate) const BYTES: usize = size_of::<Self>();

    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            scale: f16::from_le_bytes([bytes[0], bytes[1]]),
            minimum: f16::from_le_bytes([bytes[2], bytes[3]]),
            groups: std::array::from_fn(|i| bytes[4 + i]),
            values: std::array::from_fn(|row| std::array::from_fn(|i| bytes[16 + 16 * row + i])),
        }
    }

    pub(crate) fn to_bytes(self, out: &mut Vec<u8>) {
        out.extend(self.scale.to_le_bytes());
        out.extend(self.minimum.to_le_bytes());
        out.extend(self.groups);
        out.extend(self.values.as_flattened());
    }
}

/// Scale of each group of 32, then the (negative) offset of each.
type GroupScales = [f32; 16];

impl Q4k {
    /// Six-bit scale of each group, a byte each, and its minimum.
    #[inline(always)]
    pub(super) fn words(&self) -> (u64, u64) {
        let word = |i: usize| {
            u64::from(u32::from_le_bytes([self.groups[i], self.groups[i + 1], self.groups[i + 2], self.groups[i + 3]]))
        };
        let (a, b, c) = (word(0), word(4), word(8));
        let top = |w: u64| (w >> 2) & 0x3030_3030;
        let scales = (a & 0x3f3f_3f3f) | (((c & 0x0f0f_0f0f) | top(a)) << 32);
        let minima = (b & 0x3f3f_3f3f) | ((((c >> 4) & 0x0f0f_0f0f) | top(b)) << 32);
        (scales, minima)
    }

    /// The whole numbers of groups `2 pair` (low halves) and `2 pair + 1` (high halves).
    #[inline(always)]
    pub(super) fn pair(&self, pair: usize) -> &[u8; 32] {
        self.values[2 * pair..].as_flattened().first_chunk().unwrap_or(&[0; 32])
    }
}

impl Block for Q4k {
    type Scales = GroupScales;
    const STEPS: usize = 16;
    const RUN: usize = 4;

    #[inline(always)]
    fn scales<S: Simd>(&self, s: S) -> GroupScales {
        let (scales, minima) = self.words();
        let (scale, offset) = (s.splat_f16(self.scale), s.splat_f16(-self.minimum));
        let lane = s.load(&std::array::from_fn(|l| l as f32));
        let units = s.if_greater(s.splat(8.0), lane, scale, offset);
        let mut all = [0f32; 16];
        s.store(s.mul(s.bytes(scales, minima), units), &mut all);
        all
    }

    #[inline(always)]
    fn weights<S: Simd>(&self, s: S, scales: &GroupScales, step: usize) -> S::V {
        let group = step / 2;
        let numbers = &self.values[step / 4 * 2 + step % 2];
        // Scale times number is exact in f32, so this rounds once with and without a fused instruction.
        s.load_levels(numbers, (group as u32 % 2) * 4, scales[group], scales[8 + group])
    }

    fn pack(values: &[f32]) -> Self {
        let fits: [(f32, f32); 8] = std::array::from_fn(|g| fit_group(&values[32 * g..32 * (g + 1)]));
        let largest = |f: fn(&(f32, f32)) -> f32| fits.iter().map(f).fold(0f32, f32::max);
        let scale = f16::from_f32(largest(|f| f.0) / 63.0);
        let minimum = f16::from_f32(largest(|f| f.1) / 63.0);
        let six = |x: f32, unit: f16| {
            if unit.to_f32() > 0.0 { (x / unit.to_f32()).round().clamp(0.0, 63.0) as u8 } else { 0 }
        };
        let s: [u8; 8] = std::array::from_fn(|g| six(fits[g].0, scale));
        let m: [u8; 8] = std::array::from_fn(|g| six(fits[g].1, minimum));
        let groups = std::array::from_fn(|i| match i {
            0..4 => s[i] | (s[i + 4] >> 4) << 6,
            4..8 => m[i - 4] | (m[i] >> 4) << 6,
            _ => (s[i - 4] & 15) | (m[i - 4] & 15) << 4,
        });
        // Numbers are chosen again for the scales as rounded.
        let number = |group: usize, i: usize| {
            let (step, low) = (scale.to_f32() * f32::from(s[group]), minimum.to_f32() * f32::from(m[group]));
            if step > 0.0 { ((values[32 * group + i] + low) / step).round().clamp(0.0, 15.0) as u8 } else { 0 }
        };
        let values = std::array::from_fn(|row| {
            let (pair, half) = (row / 2, row % 2);
            std::array::from_fn(|i| number(2 * pair, 16 * half + i) | number(2 * pair + 1, 16 * half + i) << 4)
        });
        Self { scale, minimum, groups, values }
    }
}

/// Step and (positive) minimum of the sixteen levels `step * n - minimum` that suit `values` best: starts from the whole
/// range, tries narrower ones, and fits both numbers to each choice of levels by least squares.
fn fit_group(values: &[f32]) -> (f32, f32) {
    let low = values.iter().copied().fold(0f32, f32::min);
    let high = values.iter().copied().fold(f32::MIN, f32::max).max(0.0);
    let range = high - low;
    if !(range > 0.0 && range.is_finite()) {
        return (0.0, 0.0);
    }
    let level = |x: f32, step: f32, minimum: f32| ((x + minimum) / step).round().clamp(0.0, 15.0);
    let error = |step: f32, minimum: f32| {
        values.iter().map(|&x| (step * level(x, step, minimum) - minimum - x).powi(2)).sum::<f32>()
    };
    let mut best = (range / 15.0, -low);
    let mut least = error(best.0, best.1);
    for shrink in [1.0, 0.95, 0.9, 0.85, 0.8, 0.75] {
        let (mut step, mut minimum) = (range * shrink / 15.0, -low * shrink);
        for _ in 0..2 {
            let [mut n, mut nn, mut x, mut nx] = [0f32; 4];
            for &value in values {
                let level = level(value, step, minimum);
                (n, nn, x, nx) = (n + level, nn + level * level, x + value, nx + level * value);
            }
            let count = values.len() as f32;
            let spread = count * nn - n * n;
            if spread <= 0.0 {
                break;
            }
            step = (count * nx - n * x) / spread;
            minimum = ((step * n - x) / count).max(0.0);
            if minimum == 0.0 && nn > 0.0 {
                step = nx / nn;
            }
            if step <= 0.0 {
                break;
            }
            let error = error(step, minimum);
            if error < least {
                (best, least) = ((step, minimum), error);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::simd::{Plain, on_each};

    fn unpack<B: Block>(block: &B) -> Vec<f32> {
        (0..B::STEPS).flat_map(|step| block.weights(Plain, &block.scales(Plain), step)).collect()
    }

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        (0..count).map(|_| (0..6).map(|_| uniform() - 0.5).sum::<f32>()).collect()
    }

    /// All weights of a block.
    #[derive(Clone)]
    struct All<B>(B);

    impl<B: Block> super::super::simd::Kernel for All<B> {
        type Out = Vec<u32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<u32> {
            let scales = self.0.scales(s);
            let mut sixteen = [0f32; 16];
            let mut all = Vec::new();
            for step in 0..B::STEPS {
                s.store(self.0.weights(s, &scales, step), &mut sixteen);
                // One of the many that are not numbers.
                all.extend(sixteen.map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }));
            }
            all
        }
    }

    #[test]
    fn blocks_are_the_same_numbers_on_every_instruction_set() {
        let bytes = |i: usize| (i * 151 + 7) as u8;
        for scale in [0.37f32, 0.0, -2.0, 6e-8, 65504.0, f32::INFINITY, f32::NAN] {
            let scale = f16::from_f32(scale);
            for shift in 0..8 {
                let values = std::array::from_fn(|h| std::array::from_fn(|i| bytes(16 * h + i + 32 * shift) as i8));
                let all = on_each(&All(Q8 { scale, values }));
                let expected: Vec<_> = values.as_flattened().iter().map(|x| f32::from(*x) * scale.to_f32()).collect();
                for (got, want) in all[0].iter().zip(expected) {
                    assert!(*got == want.to_bits() || want.is_nan() && f32::from_bits(*got).is_nan());
                }
                assert!(all.iter().all(|other| *other == all[0]), "q8_0 with scale {scale}");
                let groups = std::array::from_fn(|i| bytes(i + 12 * shift));
                let values = std::array::from_fn(|h| std::array::from_fn(|i| bytes(16 * h + i + shift)));
                for minimum in [f16::from_f32(0.01), scale] {
                    let all = on_each(&All(Q4k { scale, minimum, groups, values }));
                    assert!(all.iter().all(|other| *other == all[0]), "q4_k with scale {scale}");
                }
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_published_layouts() {
        assert_eq!((size_of::<Q8>(), size_of::<Q4k>()), (34, 144));
    }

    #[test]
    fn q8_error_is_half_a_step() {
        for seed in 0..50 {
            let values = noise(32, seed);
            let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
            // Half a step, and the scale's own rounding to f16 (at most 2^-11 of the value).
            let bound = largest / 127.0 * 0.5 + largest / 2048.0;
            for (a, b) in values.iter().zip(unpack(&Q8::pack(&values))) {
                assert!((a - b).abs() <= bound, "{a} became {b}");
            }
        }
    }

    #[test]
    fn q4k_error_is_near_that_of_fifteen_steps() {
        for seed in 0..50 {
            let values = noise(256, seed);
            let back = unpack(&Q4k::pack(&values));
            let square = |xs: &[f32]| xs.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let errors: Vec<_> = values.iter().zip(&back).map(|(a, b)| a - b).collect();
            // Uniform steps over +-2.1 sigma, the usual range of 32 samples: sigma * 4.2 / 15 / sqrt(12) = 0.081 sigma.
            let relative = (square(&errors) / square(&values)).sqrt();
            assert!(relative < 0.085, "{relative}");
        }
    }

    #[test]
    fn extreme_blocks() {
        for fill in [0.0, 1.5, -1.5, 1e-30] {
            let values = vec![fill; 256];
            for (name, back) in [("q4_k", unpack(&Q4k::pack(&values))), ("q8_0", unpack(&Q8::pack(&values[..32])))] {
                assert!(
                    back.iter().all(|x| (x - fill).abs() <= fill.abs() * 0.02 + 1e-8),
                    "{name} {fill}: {}",
                    back[0]
                );
            }
        }
        let mut values = noise(256, 1);
        values[7] = f32::NAN;
        assert!(unpack(&Q4k::pack(&values)).len() == 256 && unpack(&Q8::pack(&values[..32])).len() == 32);
    }
}
