//! Products with quantised weights in whole numbers: activations are rounded to eight bits in groups of 32, as the weights are,
//! and each group's dot product is exact.
//!
//! An element is `sum over groups of (scale of the weights * scale of the activations) * whole number` in eight lanes: lane `l`
//! adds up groups `l`, `l + 8`, .., then the lanes are added. Both kernels below keep to that, so an element depends on its own row
//! and column alone: not on the batch, the kernel, threads, or the instruction set (where that rounds `a * b + c` once).
//!
//! - few rows of activations (decoding): weights are read in place, once;
//! - more rows, on processors with the instruction for it: sixteen rows of weights are laid side by side, four bytes of each, in a
//!   scratch that stays in the cache, so that one instruction adds four products in all sixteen.
// Indices run over several arrays of one constant size at once.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use half::f16;

use super::{
    block::{Q4k, Q8},
    bytes::{Bytes, Kernel, dispatch},
    pool,
    product::Output,
};

/// Values that share a scale.
pub(crate) const GROUP: usize = 32;
/// Groups whose scales fill a vector.
const EIGHT: usize = 8;
/// Rows of weights side by side.
const SIDE: usize = 16;
/// Most rows of activations that meet a weight at once, read in place and laid side by side.
const TALL: usize = 8;
const TALLER: usize = 6;
/// From so many rows on weights are laid side by side.
const WORTH_LAYING: usize = 9;
/// Rows of weights that stay in the cache while all activations pass by.
const RESIDENT: usize = 16;
/// Bytes that come from memory together.
const LINE: usize = 64;

/// Rows of activations in eight bits.
pub(crate) struct Activations {
    values: Vec<[i8; GROUP]>,
    /// For each group its scale; some more at the end, so that a vector can be read anywhere.
    scales: Vec<f32>,
    /// For each group the sum of what it stands for: scale times sum of its whole numbers.
    sums: Vec<f32>,
    rows: usize,
    groups: usize,
}

impl Activations {
    /// Rounds `x [rows, cols]`; rows are filled up with zeros to whole groups. A group with a number that is not finite becomes
    /// NaN.
    pub(crate) fn new(x: &[f32], cols: usize, groups: usize) -> Self {
        let rows = x.len() / cols;
        let mut all = Self {
            values: vec![[0; GROUP]; rows * groups + EIGHT],
            scales: vec![0.0; rows * groups + EIGHT],
            sums: vec![0.0; rows * groups + EIGHT],
            rows,
            groups,
        };
        struct Round<'a> {
            x: &'a [f32],
            cols: usize,
            into: &'a mut Activations,
        }
        impl Kernel for Round<'_> {
            type Out = ();

            #[inline(always)]
            fn run<S: Bytes>(self, s: S) {
                let into = self.into;
                let groups = into.groups;
                for (row, x) in self.x.chunks_exact(self.cols).enumerate() {
                    for (group, part) in x.chunks(GROUP).enumerate() {
                        let mut padded = [0f32; GROUP];
                        padded[..part.len()].copy_from_slice(part);
                        let at = row * groups + group;
                        let (scale, sum) = s.round(&padded, &mut into.values[at]);
                        into.scales[at] = scale;
                        into.sums[at] = scale * sum as f32;
                    }
                }
            }
        }
        dispatch(Round { x, cols, into: &mut all });
        all
    }

    /// Group `group` of row `row` as the numbers it stands for.
    #[cfg(test)]
    pub(crate) fn widened(&self, row: usize, group: usize) -> [f32; GROUP] {
        let at = row * self.groups + group;
        self.values[at].map(|value| f32::from(value) * self.scales[at])
    }
}

/// Weights whose groups of 32 are whole numbers with a scale.
pub(crate) trait Whole: Copy + Send + Sync + 'static {
    /// Groups in a block.
    const GROUPS: usize;
    /// Blocks that are taken at once: eight groups.
    const RUN: usize = EIGHT / Self::GROUPS;

    /// Adds the dot products of at most [`Whole::RUN`] blocks of `N` rows of weights with `M` rows of activations, whose groups
    /// begin at `group`, to `sums`.
    fn add<S: Bytes, const M: usize, const N: usize>(
        s: S,
        blocks: [&[Self]; N],
        x: &Tall<'_, M>,
        group: usize,
        sums: &mut [[S::F; M]; N],
    );

    /// Lays a row of blocks down as row `at` of a strip.
    fn lay<S: Bytes>(s: S, row: &[Self], at: usize, strip: &mut Strip);

    /// Adds the products of group `group` of sixteen rows of weights with `M` rows of activations.
    fn meet<S: Bytes, const M: usize>(s: S, strip: &Strip, x: &Tall<'_, M>, group: usize, sums: &mut [S::F16; M]);
}

/// `M` rows of activations.
pub(crate) struct Tall<'a, const M: usize> {
    values: [&'a [[i8; GROUP]]; M],
    scales: [&'a [f32]; M],
    sums: [&'a [f32]; M],
}

impl<'a, const M: usize> Tall<'a, M> {
    fn of(x: &'a Activations, first: usize) -> Self {
        let at = |m: usize| (first + m) * x.groups;
        Self {
            values: std::array::from_fn(|m| &x.values[at(m)..][..x.groups + EIGHT]),
            scales: std::array::from_fn(|m| &x.scales[at(m)..][..x.groups + EIGHT]),
            sums: std::array::from_fn(|m| &x.sums[at(m)..][..x.groups + EIGHT]),
        }
    }
}

impl<const M: usize> Tall<'_, M> {
    /// Whole numbers of eight groups from `group` on.
    #[inline(always)]
    fn eight(&self, m: usize, group: usize) -> &[[i8; GROUP]; EIGHT] {
        self.values[m][group..].first_chunk().unwrap_or(&[[0; GROUP]; EIGHT])
    }
}

/// Eight groups from `group` on.
#[inline(always)]
fn eight(all: &[f32], group: usize) -> &[f32; EIGHT] {
    all[group..].first_chunk().unwrap_or(&[0.0; EIGHT])
}

/// Sixteen rows of weights side by side.
pub(crate) struct Strip {
    /// For each group eight times four bytes of each row.
    quads: Vec<[u8; 4 * SIDE]>,
    /// For each group the scale of each row, and what is added for its sum of activations.
    scales: Vec<[f32; SIDE]>,
    offsets: Vec<[f32; SIDE]>,
    /// What the whole numbers of a group begin with.
    before: Vec<[i32; SIDE]>,
}

impl Strip {
    fn new(groups: usize) -> Self {
        Self {
            quads: vec![[0; 4 * SIDE]; groups * EIGHT],
            scales: vec![[0.0; SIDE]; groups],
            offsets: vec![[0.0; SIDE]; groups],
            before: vec![[0; SIDE]; groups],
        }
    }
}

impl Whole for Q8 {
    const GROUPS: usize = 1;

    #[inline(always)]
    fn add<S: Bytes, const M: usize, const N: usize>(
        s: S,
        blocks: [&[Self]; N],
        x: &Tall<'_, M>,
        group: usize,
        sums: &mut [[S::F; M]; N],
    ) {
        for n in 0..N {
            let scales = match blocks[n] {
                [a, b, c, d, e, f, g, h] => s.halves([a, b, c, d, e, f, g, h].map(|block| block.scale)),
                rest => {
                    let mut scales = [f16::ZERO; EIGHT];
                    scales.iter_mut().zip(rest).for_each(|(scale, block)| *scale = block.scale);
                    s.halves(scales)
                }
            };
            // Spelt out, here and below, so that all eight stay in registers.
            let weights = match blocks[n] {
                [a, b, c, d, e, f, g, h] => [a, b, c, d, e, f, g, h].map(|block| s.signed(block.bytes())),
                rest => {
                    let mut weights = [s.signed(&[0; GROUP]); EIGHT];
                    for (weights, block) in weights.iter_mut().zip(rest) {
                        *weights = s.signed(block.bytes());
                    }
                    weights
                }
            };
            for m in 0..M {
                let x_here = x.eight(m, group);
                let dots = [
                    s.dot_signed(weights[0], &x_here[0]),
                    s.dot_signed(weights[1], &x_here[1]),
                    s.dot_signed(weights[2], &x_here[2]),
                    s.dot_signed(weights[3], &x_here[3]),
                    s.dot_signed(weights[4], &x_here[4]),
                    s.dot_signed(weights[5], &x_here[5]),
                    s.dot_signed(weights[6], &x_here[6]),
                    s.dot_signed(weights[7], &x_here[7]),
                ];
                let factors = s.times(scales, s.load(eight(x.scales[m], group)));
                sums[n][m] = s.fma(s.totals(dots), factors, sums[n][m]);
            }
        }
    }

    #[inline(always)]
    fn lay<S: Bytes>(s: S, row: &[Self], at: usize, strip: &mut Strip) {
        for (group, block) in row.iter().enumerate() {
            let bytes = block.bytes();
            for (quad, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                strip.quads[group * EIGHT + quad][4 * at..4 * at + 4].copy_from_slice(&bytes.map(i8::cast_unsigned));
            }
            strip.scales[group][at] = s.half(block.scale);
            // Activations go in with 128 added.
            strip.before[group][at] = -128 * bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>();
        }
    }

    #[inline(always)]
    fn meet<S: Bytes, const M: usize>(s: S, strip: &Strip, x: &Tall<'_, M>, group: usize, sums: &mut [S::F16; M]) {
        let mut dots = [s.whole16(&strip.before[group]); M];
        for quad in 0..EIGHT {
            let w = &strip.quads[group * EIGHT + quad];
            for m in 0..M {
                let x = x.values[m][group].as_chunks::<4>().0[quad].map(|x| x ^ -128);
                dots[m] = s.quads_signed(dots[m], w, x);
            }
        }
        let scales = s.load16(&strip.scales[group]);
        for m in 0..M {
            sums[m] = s.scaled16(dots[m], scales, x.scales[m][group], sums[m]);
        }
    }
}

impl Whole for Q4k {
    const GROUPS: usize = 8;

    #[inline(always)]
    fn add<S: Bytes, const M: usize, const N: usize>(
        s: S,
        blocks: [&[Self]; N],
        x: &Tall<'_, M>,
        group: usize,
        sums: &mut [[S::F; M]; N],
    ) {
        for n in 0..N {
            let block = &blocks[n][0];
            let (scales, minima) = block.words();
            let scales = s.scaled_bytes(scales, s.half(block.scale));
            let minima = s.scaled_bytes(minima, -s.half(block.minimum));
            let (a, b) = (s.nibbles(block.pair(0)), s.nibbles(block.pair(1)));
            let (c, d) = (s.nibbles(block.pair(2)), s.nibbles(block.pair(3)));
            for m in 0..M {
                let x_here = x.eight(m, group);
                let dots = [
                    s.dot_unsigned(a.0, &x_here[0]),
                    s.dot_unsigned(a.1, &x_here[1]),
                    s.dot_unsigned(b.0, &x_here[2]),
                    s.dot_unsigned(b.1, &x_here[3]),
                    s.dot_unsigned(c.0, &x_here[4]),
                    s.dot_unsigned(c.1, &x_here[5]),
                    s.dot_unsigned(d.0, &x_here[6]),
                    s.dot_unsigned(d.1, &x_here[7]),
                ];
                sums[n][m] = s.fma(minima, s.load(eight(x.sums[m], group)), sums[n][m]);
                let factors = s.times(scales, s.load(eight(x.scales[m], group)));
                sums[n][m] = s.fma(s.totals(dots), factors, sums[n][m]);
            }
        }
    }

    #[inline(always)]
    fn lay<S: Bytes>(s: S, row: &[Self], at: usize, strip: &mut Strip) {
        for (number, block) in row.iter().enumerate() {
            let (scales, minima) = block.words();
            let (mut all, mut lows) = ([0f32; EIGHT], [0f32; EIGHT]);
            s.store(s.scaled_bytes(scales, s.half(block.scale)), &mut all);
            s.store(s.scaled_bytes(minima, -s.half(block.minimum)), &mut lows);
            for group in 0..EIGHT {
                strip.scales[number * EIGHT + group][at] = all[group];
                strip.offsets[number * EIGHT + group][at] = lows[group];
            }
            for pair in 0..EIGHT / 2 {
                let first = (number * EIGHT + 2 * pair) * EIGHT;
                for (quad, bytes) in block.pair(pair).as_chunks::<4>().0.iter().enumerate() {
                    strip.quads[first + quad][4 * at..4 * at + 4].copy_from_slice(&bytes.map(|byte| byte & 15));
                    strip.quads[first + EIGHT + quad][4 * at..4 * at + 4].copy_from_slice(&bytes.map(|byte| byte >> 4));
                }
            }
        }
    }

    #[inline(always)]
    fn meet<S: Bytes, const M: usize>(s: S, strip: &Strip, x: &Tall<'_, M>, group: usize, sums: &mut [S::F16; M]) {
        let mut dots = [s.whole16(&[0; SIDE]); M];
        for quad in 0..EIGHT {
            let w = &strip.quads[group * EIGHT + quad];
            for m in 0..M {
                dots[m] = s.quads_unsigned(dots[m], w, x.values[m][group].as_chunks::<4>().0[quad]);
            }
        }
        let (scales, offsets) = (s.load16(&strip.scales[group]), s.load16(&strip.offsets[group]));
        for m in 0..M {
            sums[m] = s.fma16(offsets, x.sums[m][group], sums[m]);
            sums[m] = s.scaled16(dots[m], scales, x.scales[m][group], sums[m]);
        }
    }
}

/// `out [m, n] = x [m, cols] · w [n, cols]ᵀ + bias`, rows of `w` being `stride` blocks each.
pub(crate) fn product<B: Whole>(x: &[f32], cols: usize, w: &[B], stride: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    if out.is_empty() || cols == 0 || stride == 0 {
        return;
    }
    let (m, n) = (x.len() / cols, w.len() / stride);
    let x = Activations::new(x, cols, stride * B::GROUPS);
    let out = Output { values: pool::shared(out), width: n, bias };
    pool::ranges(n, SIDE, m.saturating_mul(cols), |rows| {
        dispatch(Job { x: &x, w, stride, rows, out });
    });
}

struct Job<'a, B> {
    x: &'a Activations,
    w: &'a [B],
    stride: usize,
    rows: Range<usize>,
    out: Output<'a>,
}

impl<B: Whole> Kernel for Job<'_, B> {
    type Out = ();

    #[inline(always)]
    fn run<S: Bytes>(self, s: S) {
        if S::WIDE && self.x.rows >= WORTH_LAYING {
            self.side_by_side(s);
        } else {
            self.in_place(s);
        }
    }
}

impl<B: Whole> Job<'_, B> {
    #[inline(always)]
    fn in_place<S: Bytes>(&self, s: S) {
        if self.x.rows == 1 {
            return self.take::<S, 1, 4>(s, 0, self.rows.clone());
        }
        for first in self.rows.clone().step_by(RESIDENT) {
            let rows = first..(first + RESIDENT).min(self.rows.end);
            for begin in (0..self.x.rows).step_by(TALL) {
                match (self.x.rows - begin).min(TALL) {
                    1 => self.take::<S, 1, 4>(s, begin, rows.clone()),
                    2 => self.take::<S, 2, 2>(s, begin, rows.clone()),
                    3 => self.take::<S, 3, 2>(s, begin, rows.clone()),
                    4 => self.take::<S, 4, 2>(s, begin, rows.clone()),
                    5 => self.take::<S, 5, 1>(s, begin, rows.clone()),
                    6 => self.take::<S, 6, 1>(s, begin, rows.clone()),
                    7 => self.take::<S, 7, 1>(s, begin, rows.clone()),
                    _ => self.take::<S, 8, 1>(s, begin, rows.clone()),
                }
            }
        }
    }

    #[inline(always)]
    fn side_by_side<S: Bytes>(&self, s: S) {
        let mut strip = Strip::new(self.x.groups);
        for first in self.rows.clone().step_by(SIDE) {
            let count = (self.rows.end - first).min(SIDE);
            for at in 0..count {
                B::lay(s, &self.w[(first + at) * self.stride..][..self.stride], at, &mut strip);
            }
            for begin in (0..self.x.rows).step_by(TALLER) {
                match (self.x.rows - begin).min(TALLER) {
                    1 => self.meet::<S, 1>(s, &strip, begin, first, count),
                    2 => self.meet::<S, 2>(s, &strip, begin, first, count),
                    3 => self.meet::<S, 3>(s, &strip, begin, first, count),
                    4 => self.meet::<S, 4>(s, &strip, begin, first, count),
                    5 => self.meet::<S, 5>(s, &strip, begin, first, count),
                    _ => self.meet::<S, 6>(s, &strip, begin, first, count),
                }
            }
        }
    }

    #[inline(always)]
    fn meet<S: Bytes, const M: usize>(&self, s: S, strip: &Strip, begin: usize, first: usize, count: usize) {
        let tall = Tall::<M>::of(self.x, begin);
        let mut lanes = [[[0f32; SIDE]; EIGHT]; M];
        for lane in 0..EIGHT {
            let mut sums = [s.zero16(); M];
            for group in (lane..self.x.groups).step_by(EIGHT) {
                B::meet::<S, M>(s, strip, &tall, group, &mut sums);
            }
            for m in 0..M {
                s.store16(sums[m], &mut lanes[m][lane]);
            }
        }
        for m in 0..M {
            for at in 0..count {
                let mut row = [0f32; EIGHT];
                for lane in 0..EIGHT {
                    row[lane] = lanes[m][lane][at];
                }
                self.out.set(begin + m, first + at, s.sum(s.load(&row)));
            }
        }
    }

    #[inline(always)]
    fn take<S: Bytes, const M: usize, const N: usize>(&self, s: S, begin: usize, rows: Range<usize>) {
        let tall = Tall::<M>::of(self.x, begin);
        let mut row = rows.start;
        while row < rows.end {
            // The last rows of a range that is no multiple of N are computed again rather than differently.
            let count = (rows.end - row).min(N);
            let strips: [&[B]; N] =
                std::array::from_fn(|i| &self.w[(row + i.min(count - 1)) * self.stride..][..self.stride]);
            let next = self.w.get((row + count) * self.stride..).unwrap_or_default();
            let mut sums = [[s.zero(); M]; N];
            for i in (0..self.stride).step_by(B::RUN) {
                let run = i..(i + B::RUN).min(self.stride);
                let mut blocks = [&strips[0][run.clone()]; N];
                for n in 1..N {
                    blocks[n] = &strips[n][run.clone()];
                }
                if begin == 0 {
                    for n in 0..N {
                        for line in 0..(run.len() * size_of::<B>()).div_ceil(LINE) {
                            s.prefetch(next, (n * self.stride + i) * size_of::<B>() + line * LINE);
                        }
                    }
                }
                B::add::<S, M, N>(s, blocks, &tall, i * B::GROUPS, &mut sums);
            }
            for (i, sums) in sums.iter().take(count).enumerate() {
                for (m, sum) in sums.iter().enumerate() {
                    self.out.set(begin + m, row + i, s.sum(*sum));
                }
            }
            row += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{block::Block, bytes::on_each, product::widen_row},
        *,
    };

    /// The same product by both kernels.
    #[derive(Clone)]
    struct Both<'a, B> {
        x: &'a [f32],
        cols: usize,
        w: &'a [B],
        stride: usize,
    }

    impl<B: Whole> Kernel for Both<'_, B> {
        type Out = [Vec<f32>; 2];

        #[inline(always)]
        fn run<S: Bytes>(self, s: S) -> [Vec<f32>; 2] {
            let Self { x, cols, w, stride } = self;
            let (m, n) = (x.len() / cols, w.len() / stride);
            let x = &Activations::new(x, cols, stride * B::GROUPS);
            [false, true].map(|laid| {
                let mut out = vec![0f32; m * n];
                let output = Output { values: pool::shared(&mut out), width: n, bias: None };
                let job = Job { x, w, stride, rows: 0..n, out: output };
                if laid {
                    job.side_by_side(s);
                } else {
                    job.in_place(s);
                }
                out
            })
        }
    }

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn agree<B: Block + Whole>(spoil: fn(&mut [f32])) {
        let width = 16 * B::STEPS;
        for (m, n, blocks) in [(1, 1, 1), (2, 4, 2), (3, 17, 1), (5, 6, 3), (8, 9, 11), (13, 33, 9)] {
            let cols = width * blocks;
            let values = noise(n * cols, 1);
            let mut x = noise(m * cols, 7);
            spoil(&mut x);
            let w: Vec<B> = values.chunks(width).map(B::pack).collect();
            let mut plain = vec![0f32; n * cols];
            w.chunks(blocks).zip(plain.chunks_mut(cols)).for_each(|(row, out)| widen_row(row, out));
            let rounded = Activations::new(&x, cols, cols / GROUP);
            let groups = cols / GROUP;
            let rounded: Vec<f32> = (0..m * groups).flat_map(|at| rounded.widened(at / groups, at % groups)).collect();
            let all = on_each(&Both { x: &x, cols, w: &w, stride: blocks });
            let bits = |out: &[f32]| -> Vec<u32> {
                out.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
            };
            let fused = |which: usize| bits(&all[which][0]);
            for [thin, laid] in &all {
                assert_eq!(bits(thin), bits(laid), "{m} x {n} x {cols}");
                for (i, got) in thin.iter().enumerate() {
                    let (x, w) = (&rounded[i / n * cols..][..cols], &plain[i % n * cols..][..cols]);
                    let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let close = (f64::from(*got) - exact).abs() <= 4e-6 * size + 1e-30;
                    assert!(close || exact.is_nan() && got.is_nan(), "{m} x {n}: {got}, exactly {exact}");
                }
            }
            // All that round `a * b + c` once are the same to the bit; the portable one may not.
            for which in 1..all.len() {
                assert_eq!(fused(1), fused(which));
            }
        }
    }

    #[test]
    fn kernels_agree_to_the_bit_and_are_exact_for_rounded_activations() {
        let spoils: [fn(&mut [f32]); 5] = [
            |_| {},
            |x| x.fill(0.0),
            |x| x[3] = f32::NAN,
            |x| x[5] = f32::NEG_INFINITY,
            |x| x.iter_mut().step_by(3).for_each(|x| *x *= 1e-33),
        ];
        for spoil in spoils {
            agree::<Q8>(spoil);
            agree::<Q4k>(spoil);
        }
    }

    #[test]
    fn activations_are_off_by_half_a_step_at_most() {
        let x = noise(3 * 96, 5);
        let rounded = Activations::new(&x, 96, 3);
        for (i, part) in x.chunks(GROUP).enumerate() {
            let largest = part.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (a, b) in part.iter().zip(rounded.widened(i / 3, i % 3)) {
                assert!((a - b).abs() <= 0.5001 * largest / 127.0, "{a} became {b}");
            }
        }
    }
}
