//! What this machine can do at best: what estimates reckon with, and the limit that measured speeds are held against.

use std::{hint::black_box, thread, time::Instant};

/// Bytes read a pass for a figure that is reported: far more than any cache.
pub const BUFFER_BYTES: usize = 1 << 29;
/// How many passes that figure is the best of.
pub const PASSES: usize = 7;

/// Read bandwidth from memory with `threads` threads, in bytes a second: the best of `passes` over a buffer of `bytes`, as
/// others share the machine.
pub fn read_bandwidth(threads: usize, bytes: usize, passes: usize) -> f64 {
    let words = bytes / 8;
    // Not zero pages: those would all be one page of memory.
    let buffer: Vec<u64> = (0..words as u64).collect();
    let share = words.div_ceil(threads.max(1));
    let mut best = f64::INFINITY;
    for _ in 0..passes {
        let started = Instant::now();
        let total = thread::scope(|scope| {
            let workers: Vec<_> = buffer.chunks(share).map(|part| scope.spawn(move || sum(part))).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).fold(0, u64::wrapping_add)
        });
        black_box(total);
        best = best.min(started.elapsed().as_secs_f64());
    }
    bytes as f64 / best
}

/// Several independent sums, so that the loop waits for memory and not for the additions.
fn sum(part: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    for chunk in part.chunks_exact(32) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*x);
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}
