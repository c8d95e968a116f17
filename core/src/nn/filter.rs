//! Convolution without a patch matrix: a tile of outputs stays in registers while inputs pass by.
//!
//! A piece of the input is copied into a scratch that stays in the second-level cache, split into `stride` phases so that
//! whatever the stride, neighbouring outputs read neighbouring inputs. A transposed convolution is the same work: its
//! phases are further output channels, put side by side at the end.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    pool,
    simd::{Kernel, Simd, dispatch},
};

/// Output channels in a register tile.
const TALL: usize = 8;
/// Times sixteen outputs in a register tile.
const LONG: usize = 3;
const SPAN: usize = LONG * 16;
/// Bytes of input that stay in the cache while weights pass by.
const RESIDENT: usize = 384 << 10;

/// Weights rearranged for the tiles: for every eight output channels, input channel by input channel and tap by tap.
#[derive(Clone)]
pub(super) struct Filter {
    weights: Vec<[f32; TALL]>,
    outputs: usize,
    inputs: usize,
    taps: usize,
}

/// Where taps and outputs lie.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub stride: usize,
    pub dilation: usize,
    /// Zeros before the first input.
    pub before: usize,
    /// Outputs of one channel.
    pub length: usize,
    /// Outputs of the filter that are side by side in one real channel (1 but for transposed convolutions).
    pub interleave: usize,
    /// Length of a real channel: at most `length * interleave`.
    pub total: usize,
}

impl Filter {
    /// From `weight(output, input, tap)`.
    pub(super) fn new(outputs: usize, inputs: usize, taps: usize, weight: impl Fn(usize, usize, usize) -> f32) -> Self {
        let mut weights = vec![[0f32; TALL]; outputs.div_ceil(TALL) * inputs * taps];
        for output in 0..outputs {
            for input in 0..inputs {
                for tap in 0..taps {
                    let at = (output / TALL * inputs + input) * taps + tap;
                    weights[at][output % TALL] = weight(output, input, tap);
                }
            }
        }
        Self { weights, outputs, inputs, taps }
    }

    /// The weights in the order `[output, input, tap]`.
    pub(super) fn weights(&self) -> Vec<f32> {
        let per_output = self.inputs * self.taps;
        (0..self.outputs * per_output)
            .map(|i| {
                let (output, rest) = (i / per_output, i % per_output);
                self.weights[output / TALL * per_output + rest][output % TALL]
            })
            .collect()
    }

    /// `xs [batch, inputs, time]` to `out [batch, outputs / interleave, total]`; `bias` is for real channels.
    pub(super) fn run(&self, xs: &[f32], time: usize, geometry: Geometry, bias: Option<&[f32]>, out: &mut [f32]) {
        if xs.is_empty() || geometry.length == 0 {
            return;
        }
        let batch = xs.len() / (self.inputs * time);
        let reach = self.reach(&geometry);
        // As many outputs at a time as keep the input they need in the cache.
        let fit = RESIDENT / 4 / (self.inputs * geometry.stride);
        let share = geometry.length.div_ceil(pool::threads() * 2);
        let block = fit.saturating_sub(reach).min(share).clamp(1, 4096).next_multiple_of(SPAN);
        let pieces = geometry.length.div_ceil(block);
        let groups = self.outputs.div_ceil(TALL);
        // Few pieces: the output channels are shared out too.
        let parts = (pool::threads() * 2).div_ceil(batch * pieces).clamp(1, groups);
        let out = pool::shared(out);
        let cost = self.outputs * self.inputs * self.taps * block / parts;
        pool::ranges(batch * pieces * parts, 1, cost, |jobs| {
            for job in jobs {
                let (element, piece, part) = (job / parts / pieces, job / parts % pieces, job % parts);
                dispatch(Piece {
                    filter: self,
                    xs: &xs[element * self.inputs * time..(element + 1) * self.inputs * time],
                    time,
                    geometry,
                    first: piece * block,
                    count: block.min(geometry.length - piece * block),
                    groups: groups * part / parts..groups * (part + 1) / parts,
                    bias,
                    out: &out[element * self.outputs / geometry.interleave * geometry.total..],
                });
            }
        });
    }

    /// How far beyond its own place in its phase an output reads.
    fn reach(&self, geometry: &Geometry) -> usize {
        (self.taps - 1) * geometry.dilation / geometry.stride
    }
}

/// Outputs `first .. first + count` of some groups of channels of one batch element.
struct Piece<'a> {
    filter: &'a Filter,
    xs: &'a [f32],
    time: usize,
    geometry: Geometry,
    first: usize,
    count: usize,
    groups: std::ops::Range<usize>,
    bias: Option<&'a [f32]>,
    out: &'a [AtomicU32],
}

impl Kernel for Piece<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { filter, geometry, .. } = self;
        let Geometry { stride, dilation, .. } = geometry;
        // One phase of one channel, long enough for whole tiles.
        let width = self.count.next_multiple_of(SPAN) + filter.reach(&geometry);
        let mut scratch = vec![0f32; filter.inputs * stride * width];
        self.gather(width, &mut scratch);
        let taps: Vec<usize> =
            (0..filter.taps).map(|k| k * dilation % stride * width + k * dilation / stride).collect();
        for group in self.groups.clone() {
            let size = filter.inputs * filter.taps;
            let weights = &filter.weights[group * size..(group + 1) * size];
            let rows = (filter.outputs - group * TALL).min(TALL);
            for begin in (0..self.count).step_by(SPAN) {
                let mut tile = [[[0f32; 16]; LONG]; TALL];
                let source = Source { scratch: &scratch, channel: stride * width, taps: &taps, begin };
                if !S::WIDE {
                    // Sixteen registers hold two channels of three pairs of halves.
                    for row in (0..rows).step_by(2) {
                        accumulate::<S, 2>(s, weights, &source, row, &mut tile);
                    }
                } else if rows <= 2 {
                    accumulate::<S, 2>(s, weights, &source, 0, &mut tile);
                } else {
                    accumulate::<S, TALL>(s, weights, &source, 0, &mut tile);
                }
                self.scatter(group * TALL, rows, begin, &tile);
            }
        }
    }
}

impl Piece<'_> {
    /// Fills the scratch `[inputs, stride, width]`; what lies outside the input stays zero.
    #[inline(always)]
    fn gather(&self, width: usize, scratch: &mut [f32]) {
        let Geometry { stride, before, .. } = self.geometry;
        let start = self.first * stride;
        for (xs, channel) in self.xs.chunks_exact(self.time).zip(scratch.chunks_exact_mut(stride * width)) {
            for (phase, row) in channel.chunks_exact_mut(width).enumerate() {
                // Position i of this phase is input start + phase + i * stride - before.
                let skip = before.saturating_sub(start + phase).div_ceil(stride);
                let from = start + phase + skip * stride;
                if skip >= width || from < before || from - before >= self.time {
                    continue;
                }
                let (xs, row) = (&xs[from - before..], &mut row[skip..]);
                if stride == 1 {
                    let count = xs.len().min(row.len());
                    row[..count].copy_from_slice(&xs[..count]);
                } else {
                    row.iter_mut().zip(xs.iter().step_by(stride)).for_each(|(to, x)| *to = *x);
                }
            }
        }
    }

    #[inline(always)]
    fn scatter(&self, channel: usize, rows: usize, begin: usize, tile: &[[[f32; 16]; LONG]; TALL]) {
        let Geometry { interleave, total, .. } = self.geometry;
        let count = (self.count - begin).min(SPAN);
        for (row, tile) in tile.iter().take(rows).enumerate() {
            let (real, phase) = ((channel + row) / interleave, (channel + row) % interleave);
            let bias = self.bias.map_or(0.0, |bias| bias[real]);
            let out = &self.out[real * total..(real + 1) * total];
            let start = ((self.first + begin) * interleave + phase).min(total);
            let values = tile.as_flattened()[..count].iter();
            if interleave == 1 {
                values.zip(&out[start..]).for_each(|(x, to)| to.store((x + bias).to_bits(), Ordering::Relaxed));
            } else {
                let out = out[start..].iter().step_by(interleave);
                values.zip(out).for_each(|(x, to)| to.store((x + bias).to_bits(), Ordering::Relaxed));
            }
        }
    }
}

struct Source<'a> {
    scratch: &'a [f32],
    /// Length of one input channel.
    channel: usize,
    taps: &'a [usize],
    begin: usize,
}

/// `R` rows of the tile from `row`.
#[inline(always)]
fn accumulate<S: Simd, const R: usize>(
    s: S,
    weights: &[[f32; TALL]],
    source: &Source<'_>,
    row: usize,
    tile: &mut [[[f32; 16]; LONG]; TALL],
) {
    let mut sums = [[s.splat(0.0); LONG]; R];
    let weights = weights.chunks_exact(source.taps.len());
    for (weights, xs) in weights.zip(source.scratch.chunks_exact(source.channel)) {
        for (weights, tap) in weights.iter().zip(source.taps) {
            let xs = &xs[source.begin + tap..][..SPAN].as_chunks::<16>().0[..LONG];
            for r in 0..R {
                let weight = s.splat(weights[row + r]);
                for (l, x) in xs.iter().enumerate() {
                    sums[r][l] = s.fma(weight, s.load(x), sums[r][l]);
                }
            }
        }
    }
    for r in 0..R {
        for l in 0..LONG {
            s.store(sums[r][l], &mut tile[row + r][l]);
        }
    }
}
