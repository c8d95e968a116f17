//! Products of activations with stored weights: `x [m, k]` times `w [n, k]` transposed.
//!
//! Every element is one dot product over sixteen lanes, lane `l` summing positions `16 i + l` in rising order, then the
//! lanes. Both kernels below keep to that, so an element depends on its own row and column alone: not on the batch, not on
//! the kernel, not on threads.
//!
//! - up to [`THIN`] rows of `x` (decoding): weights are read once, widened in registers, used for all rows of `x`;
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
struct Output<'a> {
    values: &'a [AtomicU32],
    width: usize,
    bias: Option<&'a [f32]>,
}

impl Output<'_> {
    #[inline(always)]
    fn set(&self, row: usize, col: usize, dot: f32) {
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
            // Several rows of `w` at a time only where the sums surely stay in registers.
            match m {
                1 if B::STEPS == 1 => dispatch(Sized::<_, 1, 4>(job)),
                2 if B::STEPS == 1 => dispatch(Sized::<_, 2, 4>(job)),
                1 => dispatch(Sized::<_, 1, 1>(job)),
                2 => dispatch(Sized::<_, 2, 1>(job)),
                3 => dispatch(Sized::<_, 3, 1>(job)),
                4 => dispatch(Sized::<_, 4, 1>(job)),
                5 => dispatch(Sized::<_, 5, 1>(job)),
                6 => dispatch(Sized::<_, 6, 1>(job)),
                7 => dispatch(Sized::<_, 7, 1>(job)),
                _ => dispatch(Sized::<_, 8, 1>(job)),
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

/// The job for `M` rows of `x`, taking `N` rows of `w` at a time.
struct Sized<J, const M: usize, const N: usize>(J);

impl<B: Block, const M: usize, const N: usize> Kernel for Sized<Thin<'_, B>, M, N> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Thin { x, w, stride, rows, out } = self.0;
        let x = x.panel(0).as_chunks::<M>().0;
        let mut row = rows.start;
        while row < rows.end {
            // The last rows of a range that is no multiple of N are computed again rather than differently.
            let count = (rows.end - row).min(N);
            let strips: [&[B]; N] = std::array::from_fn(|i| &w[(row + i.min(count - 1)) * stride..][..stride]);
            let sums = thin_dots::<S, B, M, N>(s, x, strips);
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
) -> [[S::V; M]; N] {
    let mut sums = [[s.splat(0.0); M]; N];
    let blocks = rows[0].len();
    let x = &x[..blocks * B::STEPS];
    let rows: [&[B]; N] = rows.map(|row| &row[..blocks]);
    for (i, x) in x.chunks_exact(B::STEPS).enumerate() {
        for n in 0..N {
            let block = &rows[n][i];
            let scales = block.scales(s);
            for step in 0..B::STEPS {
                let weights = block.weights(s, &scales, step);
                for m in 0..M {
                    sums[n][m] = s.fma(weights, s.load(&x[step][m]), sums[n][m]);
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
