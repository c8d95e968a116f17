//! Products of activations with stored weights: `x [m, k]` times `w [n, k]` transposed.
//!
//! Every element is one dot product over sixteen lanes, lane `l` summing positions `16 i + l` in rising order, then the
//! lanes. Both kernels below keep to that, so an element depends on its own row and column alone: not on the batch, not on
//! the kernel, not on threads.
//!
//! - up to [`THIN`] rows of `x` (decoding): weights are read once, some rows of them side by side, widened in registers and
//!   used for all rows of `x`, while the next rows are on their way from memory;
//! - more rows: six rows of `w` at a time are widened into a scratch that stays in the cache and met by four rows of `x`
//!   in registers.
// Indices run over several arrays of one constant size at once.
#![allow(clippy::needless_range_loop)]

use std::{
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    block::Block,
    pool,
    simd::{Kernel, Simd, dispatch},
};

/// Most rows of `x` for the kernel that reads weights in place.
const THIN: usize = 8;
/// Rows of `x` in a register tile.
const PANEL: usize = 4;
/// Rows of `w` in a register tile.
const STRIP: usize = 6;
/// Bytes of `x` that stay in the second-level cache while rows of `w` pass by.
const RESIDENT: usize = 384 << 10;

/// Bytes that come from memory together.
const LINE: usize = 64;

/// `x` rearranged: for each group of rows, step by step, sixteen values of each row.
struct Panels {
    data: Vec<[f32; 16]>,
    rows: usize,
    height: usize,
    steps: usize,
}

impl Panels {
    fn new(x: &[f32], cols: usize, steps: usize, height: usize) -> Self {
        let rows = x.len() / cols;
        let panels = rows.div_ceil(height);
        let mut data = vec![[0f32; 16]; panels * steps * height];
        pool::rows_mut(&mut data, steps * height, steps * height * 16, |first, part| {
            for (i, panel) in part.chunks_exact_mut(steps * height).enumerate() {
                let begin = (first + i) * height;
                for row in begin..(begin + height).min(rows) {
                    for (step, values) in x[row * cols..(row + 1) * cols].chunks(16).enumerate() {
                        panel[step * height + row - begin][..values.len()].copy_from_slice(values);
                    }
                }
            }
        });
        Self { data, rows, height, steps }
    }

    fn panel(&self, index: usize) -> &[[f32; 16]] {
        &self.data[index * self.steps * self.height..][..self.steps * self.height]
    }
}

/// Where results go: `out [m, n]`.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    pub(super) values: &'a [AtomicU32],
    pub(super) width: usize,
    pub(super) bias: Option<&'a [f32]>,
}

impl Output<'_> {
    #[inline(always)]
    pub(super) fn set(&self, row: usize, col: usize, dot: f32) {
        let value = self.bias.map_or(dot, |bias| dot + bias[col]);
        self.values[row * self.width + col].store(value.to_bits(), Ordering::Relaxed);
    }
}

/// `out [m, n] = x [m, cols] · w [n, cols]ᵀ + bias`, rows of `w` being `stride` blocks each.
pub(crate) fn product<B: Block>(x: &[f32], cols: usize, w: &[B], stride: usize, bias: Option<&[f32]>, out: &mut [f32]) {
    if out.is_empty() || cols == 0 || stride == 0 {
        return;
    }
    let (m, n) = (x.len() / cols, w.len() / stride);
    let steps = stride * B::STEPS;
    let thin = m <= THIN;
    let x = Panels::new(x, cols, steps, if thin { m } else { PANEL });
    let out = Output { values: pool::shared(out), width: n, bias };
    let cost = m.saturating_mul(cols);
    if thin {
        pool::ranges(n, 4, cost, |rows| {
            let job = Thin { x: &x, w, stride, rows, out };
            match m {
                1 => dispatch(Sized::<_, 1>(job)),
                2 => dispatch(Sized::<_, 2>(job)),
                3 => dispatch(Sized::<_, 3>(job)),
                4 => dispatch(Sized::<_, 4>(job)),
                5 => dispatch(Sized::<_, 5>(job)),
                6 => dispatch(Sized::<_, 6>(job)),
                7 => dispatch(Sized::<_, 7>(job)),
                _ => dispatch(Sized::<_, 8>(job)),
            }
        });
    } else {
        let resident = (RESIDENT / (steps * 16 * 4 * PANEL)).max(4);
        let panels = x.data.len() / (x.steps * PANEL);
        for begin in (0..panels).step_by(resident) {
            let panels = begin..(begin + resident).min(panels);
            pool::ranges(n, STRIP, cost, |rows| {
                dispatch(Tiled { x: &x, panels: panels.clone(), w, stride, rows, out });
            });
        }
    }
}

struct Thin<'a, B> {
    x: &'a Panels,
    w: &'a [B],
    stride: usize,
    rows: Range<usize>,
    out: Output<'a>,
}

/// The job for `M` rows of `x`.
struct Sized<J, const M: usize>(J);

impl<B: Block, const M: usize> Kernel for Sized<Thin<'_, B>, M> {
    type Out = ();

    /// Takes several rows of `w` at a time, so that there are sums enough to hide how long one addition takes, but no more
    /// than stay in registers.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match (S::WIDE, M) {
            (true, 1..=4) => self.0.take::<S, M, 4>(s),
            (false, 1) => self.0.take::<S, M, 4>(s),
            (true, _) | (false, 2) => self.0.take::<S, M, 2>(s),
            _ => self.0.take::<S, M, 1>(s),
        }
    }
}

impl<B: Block> Thin<'_, B> {
    #[inline(always)]
    fn take<S: Simd, const M: usize, const N: usize>(self, s: S) {
        let Self { x, w, stride, rows, out } = self;
        let x = x.panel(0).as_chunks::<M>().0;
        let mut row = rows.start;
        while row < rows.end {
            // The last rows of a range that is no multiple of N are computed again rather than differently.
            let count = (rows.end - row).min(N);
            let strips: [&[B]; N] = std::array::from_fn(|i| &w[(row + i.min(count - 1)) * stride..][..stride]);
            let next = w.get((row + count) * stride..).unwrap_or_default();
            let sums = thin_dots::<S, B, M, N>(s, x, strips, next);
            for (i, sums) in sums.iter().take(count).enumerate() {
                for (m, sum) in sums.iter().enumerate() {
                    out.set(m, row + i, s.sum(*sum));
                }
            }
            row += count;
        }
    }
}

#[inline(always)]
fn thin_dots<S: Simd, B: Block, const M: usize, const N: usize>(
    s: S,
    x: &[[[f32; 16]; M]],
    rows: [&[B]; N],
    next: &[B],
) -> [[S::V; M]; N] {
    let mut sums = [[s.splat(0.0); M]; N];
    let blocks = rows[0].len();
    for (i, x) in x[..blocks * B::STEPS].chunks_exact(B::STEPS).enumerate() {
        // Plain loops: what is called through the standard library's `from_fn` may not be compiled for `S`.
        let mut here = [&rows[0][i]; N];
        for n in 1..N {
            here[n] = &rows[n][i];
        }
        let mut scales = [here[0].scales(s); N];
        for n in 1..N {
            scales[n] = here[n].scales(s);
        }
        for n in 0..N {
            for line in 0..size_of::<B>().div_ceil(LINE) {
                s.prefetch(next, (n * blocks + i) * size_of::<B>() + line * LINE);
            }
        }
        for (run, x) in x.chunks_exact(B::RUN).enumerate() {
            for n in 0..N {
                for step in 0..B::RUN {
                    let weights = here[n].weights(s, &scales[n], run * B::RUN + step);
                    for m in 0..M {
                        sums[n][m] = s.fma(weights, s.load(&x[step][m]), sums[n][m]);
                    }
                }
            }
        }
    }
    sums
}

struct Tiled<'a, B> {
    x: &'a Panels,
    panels: Range<usize>,
    w: &'a [B],
    stride: usize,
    rows: Range<usize>,
    out: Output<'a>,
}

impl<B: Block> Kernel for Tiled<'_, B> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, panels, w, stride, rows, out } = self;
        let mut strip = vec![[[0f32; 16]; STRIP]; x.steps];
        for first in rows.clone().step_by(STRIP) {
            let count = (rows.end - first).min(STRIP);
            for i in 0..count {
                widen(s, &w[(first + i) * stride..][..stride], &mut strip, i);
            }
            for panel in panels.clone() {
                let tall = x.panel(panel).as_chunks::<PANEL>().0;
                let rows_here = (x.rows - panel * PANEL).min(PANEL);
                let mut dots = [[0f32; STRIP]; PANEL];
                if S::WIDE {
                    tile::<S, PANEL, STRIP>(s, tall, &strip, 0, 0, &mut dots);
                } else {
                    // Sixteen registers hold two by three pairs of halves.
                    for i in (0..PANEL).step_by(2) {
                        for j in (0..STRIP).step_by(3) {
                            tile::<S, 2, 3>(s, tall, &strip, i, j, &mut dots);
                        }
                    }
                }
                for (i, dots) in dots.iter().take(rows_here).enumerate() {
                    for (j, dot) in dots.iter().take(count).enumerate() {
                        out.set(panel * PANEL + i, first + j, *dot);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn widen<S: Simd, B: Block>(s: S, row: &[B], strip: &mut [[[f32; 16]; STRIP]], at: usize) {
    for (block, strip) in row.iter().zip(strip.chunks_exact_mut(B::STEPS)) {
        let scales = block.scales(s);
        for step in 0..B::STEPS {
            s.store(block.weights(s, &scales, step), &mut strip[step][at]);
        }
    }
}

#[inline(always)]
fn tile<S: Simd, const M: usize, const N: usize>(
    s: S,
    x: &[[[f32; 16]; PANEL]],
    w: &[[[f32; 16]; STRIP]],
    i: usize,
    j: usize,
    dots: &mut [[f32; STRIP]; PANEL],
) {
    let mut sums = [[s.splat(0.0); N]; M];
    for (x, w) in x.iter().zip(w) {
        for m in 0..M {
            let x = s.load(&x[i + m]);
            for n in 0..N {
                sums[m][n] = s.fma(s.load(&w[j + n]), x, sums[m][n]);
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            dots[i + m][j + n] = s.sum(sums[m][n]);
        }
    }
}

/// Writes one stored row as f32 into `out`, whose length is the number of columns.
pub(crate) fn widen_row<B: Block>(row: &[B], out: &mut [f32]) {
    struct Widen<'a, B>(&'a [B], &'a mut [f32]);
    impl<B: Block> Kernel for Widen<'_, B> {
        type Out = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for (block, out) in self.0.iter().zip(self.1.chunks_mut(16 * B::STEPS)) {
                let scales = block.scales(s);
                for (step, out) in out.chunks_mut(16).enumerate() {
                    let mut sixteen = [0f32; 16];
                    s.store(block.weights(s, &scales, step), &mut sixteen);
                    out.copy_from_slice(&sixteen[..out.len()]);
                }
            }
        }
    }
    dispatch(Widen(row, out));
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            block::{F32x16, Q4k, Q8},
            simd::on_each,
        },
        *,
    };

    /// The same product by both kernels, as bits.
    #[derive(Clone)]
    struct Both<'a, B> {
        x: &'a [f32],
        cols: usize,
        w: &'a [B],
        stride: usize,
    }

    impl<B: Block> Kernel for Both<'_, B> {
        type Out = [Vec<f32>; 2];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [Vec<f32>; 2] {
            let Self { x, cols, w, stride } = self;
            let (m, n) = (x.len() / cols, w.len() / stride);
            let mut outs = [vec![0f32; m * n], vec![0f32; m * n]];
            let [thin, tiled] = &mut outs;
            let values = pool::shared(thin);
            let panels = Panels::new(x, cols, stride * B::STEPS, m);
            let out = Output { values, width: n, bias: None };
            let job = Thin { x: &panels, w, stride, rows: 0..n, out };
            match m {
                1 => Sized::<_, 1>(job).run(s),
                2 => Sized::<_, 2>(job).run(s),
                3 => Sized::<_, 3>(job).run(s),
                5 => Sized::<_, 5>(job).run(s),
                _ => Sized::<_, 8>(job).run(s),
            }
            let values = pool::shared(tiled);
            let x = Panels::new(x, cols, stride * B::STEPS, PANEL);
            let out = Output { values, width: n, bias: None };
            Tiled { x: &x, panels: 0..m.div_ceil(PANEL), w, stride, rows: 0..n, out }.run(s);
            outs
        }
    }

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let number = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 9) as f32 / (1 << 22) as f32 - 1.0;
        (0..count as u32).map(number).collect()
    }

    fn agree<B: Block>(spoil: fn(&mut [f32])) {
        let width = 16 * B::STEPS;
        for (m, n, blocks) in [(1, 1, 1), (2, 4, 2), (3, 7, 1), (5, 6, 3), (8, 9, 2)] {
            let cols = width * blocks;
            let mut values = noise(n * cols, 1);
            let mut x = noise(m * cols, 7);
            spoil(&mut values);
            spoil(&mut x);
            let w: Vec<B> = values.chunks(width).map(B::pack).collect();
            let mut plain = vec![0f32; n * cols];
            w.chunks(blocks).zip(plain.chunks_mut(cols)).for_each(|(row, out)| widen_row(row, out));
            for [thin, tiled] in on_each(&Both { x: &x, cols, w: &w, stride: blocks }) {
                for (i, (a, b)) in thin.iter().zip(&tiled).enumerate() {
                    assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{m} x {n}: {a} and {b}");
                    let (x, w) = (&x[i / n * cols..][..cols], &plain[i % n * cols..][..cols]);
                    let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let close = (f64::from(*a) - exact).abs() <= 1e-6 * size + 1e-30;
                    assert!(close || !size.is_finite() && !a.is_finite(), "{m} x {n}: {a}, exactly {exact}");
                }
            }
        }
    }

    #[test]
    fn kernels_agree_to_the_bit_on_every_instruction_set() {
        let spoils: [fn(&mut [f32]); 5] = [
            |_| {},
            |values| values.fill(0.0),
            |values| values[3] = f32::NAN,
            |values| values[5] = f32::INFINITY,
            |values| values.iter_mut().step_by(3).for_each(|x| *x *= 1e-30),
        ];
        for spoil in spoils {
            agree::<F32x16>(spoil);
            agree::<[half::bf16; 16]>(spoil);
            agree::<[half::f16; 16]>(spoil);
            agree::<Q8>(spoil);
            agree::<Q4k>(spoil);
        }
    }
}
