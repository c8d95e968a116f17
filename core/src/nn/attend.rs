//! Attention of many heads over keys and values where they lie.
// Indices run over several arrays of one constant size at once.
#![allow(clippy::needless_range_loop)]

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    activation::exp,
    attend_tile::{TILE, Tile},
    block::{Block, F32x16},
    pool,
    simd::{Kernel, Simd, dispatch},
};

/// Queries worked on together, so that each key and value is read once for all of them.
pub(super) const GROUP: usize = 4;

/// Which keys are hidden.
#[derive(Clone, Copy)]
pub(super) enum Hidden<'a> {
    Nothing,
    Future,
    /// As `Future`, and what lies before the first position of each batch element.
    Outside(&'a [usize]),
    /// `[batch, keys]`, 1 = seen.
    Unseen(&'a [f32]),
}

/// Sizes of one call.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of queries that share one head of keys and values.
    pub group: usize,
    pub head_dim: usize,
    /// Positions a head has room for.
    pub capacity: usize,
    /// Positions held.
    pub count: usize,
    /// Queries.
    pub time: usize,
}

/// One call: `queries [batch, time, heads * head_dim]`; `keys` and `values`
/// `[batch, heads / group, capacity, blocks of a head]`.
#[derive(Clone, Copy)]
pub(super) struct Attend<'a, B> {
    pub sizes: Sizes,
    pub queries: &'a [f32],
    pub keys: &'a [B],
    pub values: &'a [B],
    pub scale: f32,
    pub hidden: Hidden<'a>,
    /// `[batch or 1, heads, time, count]`
    pub bias: Option<&'a [f32]>,
}

impl<B: Block> Attend<'_, B> {
    /// Fills `out [batch, time, heads * head_dim]`.
    pub(super) fn run(self, out: &mut [f32]) {
        let Sizes { batch, heads, head_dim, count, time, .. } = self.sizes;
        let out = pool::shared(out);
        // A tile costs the same however few queries it holds, so a small rest goes by groups.
        let tiles = time / TILE + usize::from(time % TILE > 2 * GROUP);
        let rest = time - time.min(tiles * TILE);
        let parts = tiles + rest.div_ceil(GROUP);
        let cost = count * head_dim * 2 * time.min(GROUP);
        pool::ranges(batch * heads * parts, 1, cost, |range| {
            for part in range {
                let (head, part) = (part / parts, part % parts);
                if part < tiles {
                    dispatch(Tile { call: self, head, first: part * TILE, out });
                    continue;
                }
                let first = time - rest + (part - tiles) * GROUP;
                match time - first {
                    1 => dispatch(One::<B, 1> { call: self, head, first, out }),
                    2 => dispatch(One::<B, 2> { call: self, head, first, out }),
                    3 => dispatch(One::<B, 3> { call: self, head, first, out }),
                    _ => dispatch(One::<B, GROUP> { call: self, head, first, out }),
                }
            }
        });
    }

    /// Number of keys up to the last that query `query` sees.
    #[inline(always)]
    pub(super) fn seen(&self, query: usize) -> usize {
        let Sizes { count, time, .. } = self.sizes;
        match self.hidden {
            Hidden::Future | Hidden::Outside(_) => (count + query + 1).saturating_sub(time).min(count),
            _ => count,
        }
    }

    /// Number of keys before the first that queries of a head (counted over the batch) see; queries that lie there
    /// themselves are padding and see what comes before them, so that they stay numbers.
    #[inline(always)]
    pub(super) fn skipped(&self, head: usize) -> usize {
        match self.hidden {
            Hidden::Outside(first) => first[head / self.sizes.heads],
            _ => 0,
        }
    }

    /// The first `seen` keys and values of a head of queries (counted over the batch).
    #[inline(always)]
    pub(super) fn rows(&self, head: usize, seen: usize) -> (&[B], &[B]) {
        let steps = self.sizes.head_dim.div_ceil(16);
        let begin = head / self.sizes.group * self.sizes.capacity * steps;
        (&self.keys[begin..begin + seen * steps], &self.values[begin..begin + seen * steps])
    }

    /// Where a query and its result begin.
    #[inline(always)]
    fn at(&self, head: usize, query: usize) -> usize {
        let Sizes { heads, head_dim, time, .. } = self.sizes;
        ((head / heads * time + query) * heads + head % heads) * head_dim
    }

    /// One query.
    #[inline(always)]
    pub(super) fn query(&self, head: usize, query: usize) -> &[f32] {
        &self.queries[self.at(head, query)..][..self.sizes.head_dim]
    }

    /// Divides by the totals and stores `C` times sixteen columns from `step` of the results of `sums.len()` queries.
    #[inline(always)]
    pub(super) fn write<S: Simd, const C: usize>(
        &self,
        s: S,
        (head, first): (usize, usize),
        sums: &[[S::V; C]],
        step: usize,
        totals: &[f32],
        out: &[AtomicU32],
    ) {
        let head_dim = self.sizes.head_dim;
        for (q, sums) in sums.iter().enumerate() {
            let out = &out[self.at(head, first + q)..][..head_dim];
            for c in 0..C {
                let begin = (step + c) * 16;
                let mut sixteen: F32x16 = [0.0; 16];
                s.store(sums[c], &mut sixteen);
                for (to, x) in out[begin..head_dim.min(begin + 16)].iter().zip(sixteen) {
                    to.store((x / totals[q]).to_bits(), Ordering::Relaxed);
                }
            }
        }
    }
}

/// `Q` queries from `first` of one head of one batch element (`head` counts over both).
pub(super) struct One<'a, B, const Q: usize> {
    pub call: Attend<'a, B>,
    pub head: usize,
    pub first: usize,
    pub out: &'a [AtomicU32],
}

impl<B: Block, const Q: usize> Kernel for One<'_, B, Q> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { call, head, first, out } = self;
        let Sizes { heads, head_dim, count, time, .. } = call.sizes;
        let steps = head_dim.div_ceil(16);
        let seen = call.seen(first + Q - 1);
        let (keys, values) = call.rows(head, seen);

        let mut queries = vec![[[0f32; 16]; Q]; steps];
        for q in 0..Q {
            for (step, values) in call.query(head, first + q).chunks(16).enumerate() {
                queries[step][q][..values.len()].copy_from_slice(values);
            }
        }

        // Scores, one padded row for each query; what lies beyond the row weighs nothing.
        let width = seen.next_multiple_of(16);
        let mut scores = vec![f32::NEG_INFINITY; Q * width];
        for (j, key) in keys.chunks_exact(steps).enumerate() {
            let mut sums = [s.splat(0.0); Q];
            for (key, query) in key.iter().zip(&queries) {
                let key = key.weights(s, &key.scales(s), 0);
                for q in 0..Q {
                    sums[q] = s.fma(key, s.load(&query[q]), sums[q]);
                }
            }
            for q in 0..Q {
                scores[q * width + j] = s.sum(sums[q]) * call.scale;
            }
        }
        let mut totals = [0f32; Q];
        for q in 0..Q {
            let row = &mut scores[q * width..(q + 1) * width];
            if let Some(bias) = call.bias {
                let begin = (head * time + first + q) * count;
                let begin = begin % bias.len();
                row.iter_mut().zip(&bias[begin..begin + count]).for_each(|(x, b)| *x += b);
            }
            match call.hidden {
                Hidden::Nothing => {}
                Hidden::Future | Hidden::Outside(_) => {
                    let (skipped, seen) = (call.skipped(head), call.seen(first + q));
                    row[seen..].fill(f32::NEG_INFINITY);
                    if skipped < seen {
                        row[..skipped].fill(f32::NEG_INFINITY);
                    }
                }
                // Adding the lowest finite number makes a fully hidden row uniform instead of NaN.
                Hidden::Unseen(seen) => {
                    for (x, seen) in row.iter_mut().zip(&seen[head / heads * count..][..count]) {
                        *x = (*x + (seen - 1.0) * f32::MAX).max(f32::MIN);
                    }
                }
            }
            totals[q] = exponentials(s, row.as_chunks_mut::<16>().0);
        }

        let mut step = 0;
        while step < steps {
            if steps - step >= 4 {
                let sums = weighted::<S, B, Q, 4>(s, values, steps, step, &scores, (width, 1));
                call.write(s, (head, first), &sums, step, &totals, out);
                step += 4;
            } else {
                let sums = weighted::<S, B, Q, 1>(s, values, steps, step, &scores, (width, 1));
                call.write(s, (head, first), &sums, step, &totals, out);
                step += 1;
            }
        }
    }
}

/// Turns scores into `exp(score - largest)` and gives their sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, row: &mut [[f32; 16]]) -> f32 {
    let mut largest = s.splat(f32::MIN);
    for x in row.iter() {
        largest = s.max(largest, s.load(x));
    }
    let mut lanes = [0f32; 16];
    s.store(largest, &mut lanes);
    let largest = s.splat(lanes.into_iter().fold(f32::MIN, f32::max));
    let mut total = s.splat(0.0);
    for x in row {
        let e = exp(s, s.sub(s.load(x), largest));
        s.store(e, x);
        total = s.add(total, e);
    }
    s.sum(total)
}

/// Sums of `values` for `C` times sixteen columns from `step`; value `j` weighs `weights[q * query + j * key]` for query `q`.
#[inline(always)]
pub(super) fn weighted<S: Simd, B: Block, const Q: usize, const C: usize>(
    s: S,
    values: &[B],
    steps: usize,
    step: usize,
    weights: &[f32],
    (query, key): (usize, usize),
) -> [[S::V; C]; Q] {
    let mut sums = [[s.splat(0.0); C]; Q];
    for (j, value) in values.chunks_exact(steps).enumerate() {
        let value = &value[step..step + C];
        for (c, value) in value.iter().enumerate() {
            let value = value.weights(s, &value.scales(s), 0);
            for q in 0..Q {
                sums[q][c] = s.fma(s.splat(weights[q * query + j * key]), value, sums[q][c]);
            }
        }
    }
    sums
}
