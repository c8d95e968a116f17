//! Attention of sixteen queries of one head at a time, for prompts and texts.
//!
//! Lanes are queries here, where the kernel for few queries has the head's dimensions in its lanes; that leaves no sums across
//! lanes. Every sum is taken in the order of that kernel all the same, so that a query gets the same bits from both: a
//! prompt fed at once is the prompt fed step by step.
// Indices run over several arrays of one constant size at once.
#![allow(clippy::needless_range_loop)]

use std::sync::atomic::AtomicU32;

use super::{
    activation::exp,
    attend::{Attend, GROUP, Hidden, Sizes, weighted},
    block::Block,
    simd::{Kernel, Simd},
};

/// Queries in a tile, one a lane.
pub(super) const TILE: usize = 16;
/// Keys that meet the queries together.
const KEYS: usize = 4;

/// Up to sixteen queries from `first` of one head of one batch element (`head` counts over both).
pub(super) struct Tile<'a, B> {
    pub call: Attend<'a, B>,
    pub head: usize,
    pub first: usize,
    pub out: &'a [AtomicU32],
}

impl<B: Block> Kernel for Tile<'_, B> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { call, head, first, out } = self;
        let Sizes { heads, head_dim, count, time, .. } = call.sizes;
        let steps = head_dim.div_ceil(16);
        let present = (time - first).min(TILE);
        let seen = call.seen(first + present - 1);
        let (keys, values) = call.rows(head, seen);

        // Dimension by dimension, sixteen queries each.
        let mut queries = vec![[[0f32; TILE]; 16]; steps];
        for q in 0..present {
            for (d, x) in call.query(head, first + q).iter().enumerate() {
                queries[d / 16][d % 16][q] = *x;
            }
        }
        // Key by key; what lies beyond the last weighs nothing.
        let mut scores = vec![[f32::NEG_INFINITY; TILE]; seen.next_multiple_of(16)];
        let mut wide = vec![[[0f32; 16]; KEYS]; steps];
        let scale = s.splat(call.scale);
        for (keys, scores) in keys.chunks(KEYS * steps).zip(scores.chunks_mut(KEYS)) {
            for (k, key) in keys.chunks_exact(steps).enumerate() {
                for (key, wide) in key.iter().zip(&mut wide) {
                    s.store(key.weights(s, &key.scales(s), 0), &mut wide[k]);
                }
            }
            let dots = dots(s, &queries, &wide);
            for (dot, score) in dots.iter().zip(scores).take(keys.len() / steps) {
                s.store(s.mul(*dot, scale), score);
            }
        }
        if let Some(bias) = call.bias {
            for q in 0..present {
                let begin = (head * time + first + q) * count % bias.len();
                scores.iter_mut().zip(&bias[begin..begin + count]).for_each(|(x, b)| x[q] += b);
            }
        }
        match call.hidden {
            Hidden::Nothing => {}
            Hidden::Future | Hidden::Outside(_) => {
                let limits = std::array::from_fn(|q| call.seen((first + q).min(time - 1)) as f32);
                let (limits, hidden) = (s.load(&limits), s.splat(f32::NEG_INFINITY));
                for j in call.seen(first)..seen {
                    s.store(s.if_greater(limits, s.splat(j as f32), s.load(&scores[j]), hidden), &mut scores[j]);
                }
                let skipped = call.skipped(head);
                for score in scores.iter_mut().take(skipped.min(seen)) {
                    s.store(s.if_greater(limits, s.splat(skipped as f32), hidden, s.load(score)), score);
                }
            }
            Hidden::Unseen(seen) => {
                for (x, seen) in scores.iter_mut().zip(&seen[head / heads * count..][..count]) {
                    let x_or_lowest = s.add(s.load(x), s.splat((seen - 1.0) * f32::MAX));
                    s.store(s.max(x_or_lowest, s.splat(f32::MIN)), x);
                }
            }
        }
        let mut totals = [0f32; TILE];
        s.store(exponentials(s, scores.as_chunks_mut::<16>().0), &mut totals);

        let weights = scores.as_flattened();
        for q in (0..present).step_by(GROUP) {
            let own: [f32; GROUP] = std::array::from_fn(|i| totals[q + i]);
            let count = (present - q).min(GROUP);
            let mut step = 0;
            while step < steps {
                if steps - step >= 4 {
                    let sums = weighted::<S, B, GROUP, 4>(s, values, steps, step, &weights[q..], (1, TILE));
                    call.write(s, (head, first + q), &sums[..count], step, &own, out);
                    step += 4;
                } else {
                    let sums = weighted::<S, B, GROUP, 1>(s, values, steps, step, &weights[q..], (1, TILE));
                    call.write(s, (head, first + q), &sums[..count], step, &own, out);
                    step += 1;
                }
            }
        }
    }
}

/// Sixteen queries times a few keys. The sixteen partial sums of a dot product, there lanes of one vector, are added as
/// [`Simd::sum`] adds lanes: halves onto halves.
#[inline(always)]
fn dots<S: Simd>(s: S, queries: &[[[f32; TILE]; 16]], keys: &[[[f32; 16]; KEYS]]) -> [S::V; KEYS] {
    add(s, eighths(s, queries, keys, 0), eighths(s, queries, keys, 1))
}

#[inline(always)]
fn eighths<S: Simd>(s: S, queries: &[[[f32; TILE]; 16]], keys: &[[[f32; 16]; KEYS]], lane: usize) -> [S::V; KEYS] {
    add(s, fourths(s, queries, keys, lane), fourths(s, queries, keys, lane + 2))
}

#[inline(always)]
fn fourths<S: Simd>(s: S, queries: &[[[f32; TILE]; 16]], keys: &[[[f32; 16]; KEYS]], lane: usize) -> [S::V; KEYS] {
    add(s, halves(s, queries, keys, lane), halves(s, queries, keys, lane + 4))
}

#[inline(always)]
fn halves<S: Simd>(s: S, queries: &[[[f32; TILE]; 16]], keys: &[[[f32; 16]; KEYS]], lane: usize) -> [S::V; KEYS] {
    let mut low = [s.splat(0.0); KEYS];
    let mut high = low;
    for (query, key) in queries.iter().zip(keys) {
        let (query_low, query_high) = (s.load(&query[lane]), s.load(&query[lane + 8]));
        for k in 0..KEYS {
            low[k] = s.fma(s.splat(key[k][lane]), query_low, low[k]);
            high[k] = s.fma(s.splat(key[k][lane + 8]), query_high, high[k]);
        }
    }
    add(s, low, high)
}

#[inline(always)]
fn add<S: Simd>(s: S, a: [S::V; KEYS], b: [S::V; KEYS]) -> [S::V; KEYS] {
    let mut sums = a;
    for k in 0..KEYS {
        sums[k] = s.add(a[k], b[k]);
    }
    sums
}

/// Turns the scores of each query into `exp(score - largest)` and gives the sums. A sum over keys has sixteen parts, part `i`
/// of keys `16 n + i`, like the lanes it is in the kernel for few queries.
#[inline(always)]
fn exponentials<S: Simd>(s: S, scores: &mut [[[f32; TILE]; 16]]) -> S::V {
    let mut largest = s.splat(f32::MIN);
    for x in scores.as_flattened() {
        largest = s.max(largest, s.load(x));
    }
    let mut parts = [s.splat(0.0); 16];
    for scores in scores {
        for i in 0..16 {
            let e = exp(s, s.sub(s.load(&scores[i]), largest));
            s.store(e, &mut scores[i]);
            parts[i] = s.add(parts[i], e);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            parts[i] = s.add(parts[i], parts[i + half]);
        }
    }
    parts[0]
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::{
        super::{attend::One, block::F32x16, pool, simd::on_each},
        *,
    };

    /// The same queries as one tile and in groups.
    #[derive(Clone)]
    struct Both<'a, B> {
        call: Attend<'a, B>,
        head: usize,
        first: usize,
    }

    impl<B: Block> Kernel for Both<'_, B> {
        type Out = [Vec<f32>; 2];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [Vec<f32>; 2] {
            let Self { call, head, first } = self;
            let mut outs = [vec![0f32; call.queries.len()], vec![0f32; call.queries.len()]];
            let [tile, groups] = &mut outs;
            Tile { call, head, first, out: pool::shared(tile) }.run(s);
            let out = pool::shared(groups);
            for first in first..(first + TILE).min(call.sizes.time) {
                One::<B, 1> { call, head, first, out }.run(s);
            }
            outs
        }
    }

    fn agree<B: Block>(spoil: fn(&mut [f32])) {
        let noise = |count: usize, seed: u32| -> Vec<f32> {
            let number =
                |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 9) as f32 / (1 << 22) as f32 - 1.0;
            (0..count as u32).map(number).collect()
        };
        for (heads, group, head_dim, time, count) in
            [(1, 1, 16, 1, 1), (2, 2, 64, 16, 16), (3, 1, 40, 21, 50), (4, 2, 16, 30, 30), (1, 1, 80, 9, 33)]
        {
            let (batch, capacity) = (2, count + 3);
            let sizes = Sizes { batch, heads, group, head_dim, capacity, count, time };
            let mut queries = noise(batch * time * heads * head_dim, 1);
            spoil(&mut queries);
            let blocks = |seed| -> Vec<B> {
                let mut all = noise(batch * heads / group * capacity * head_dim.next_multiple_of(16), seed);
                spoil(&mut all);
                all.chunks(16).map(B::pack).collect()
            };
            let (keys, values) = (blocks(5), blocks(9));
            let (bias, seen) = (noise(heads * time * count, 3), noise(batch * count, 4));
            let seen: Vec<f32> = seen.iter().map(|x| f32::from(u8::from(*x > 0.0))).collect();
            for (hidden, bias) in [
                (Hidden::Nothing, None),
                (Hidden::Future, None),
                (Hidden::Future, Some(&*bias)),
                (Hidden::Outside(&[0, 7]), None),
                (Hidden::Unseen(&seen), Some(&*bias)),
            ] {
                let call = Attend { sizes, queries: &queries, keys: &keys, values: &values, scale: 0.3, hidden, bias };
                for (head, first) in
                    (0..batch * heads).flat_map(|head| (0..time).step_by(TILE).map(move |at| (head, at)))
                {
                    for [tile, groups] in on_each(&Both { call, head, first }) {
                        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                        assert!(tile.iter().zip(&groups).all(same), "{time} over {count}, head {head}, from {first}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_is_its_queries_one_by_one_on_every_instruction_set() {
        let spoils: [fn(&mut [f32]); 4] =
            [|_| {}, |xs| xs.fill(0.0), |xs| xs.iter_mut().for_each(|x| *x *= 300.0), |xs| xs[7] = f32::NAN];
        for spoil in spoils {
            agree::<F32x16>(spoil);
            agree::<[f16; 16]>(spoil);
        }
    }
}
