//! The choice among openings: a few beginnings of a take are made together, and the one that suits the words best is played.

use std::thread;

use musaic_core::{
    Result,
    media::{Audio, resample},
    role::{Cancel, Conditioning, DecodeOptions, Decoder},
};

use crate::listen::{RATE_HZ, Ranker};

/// Seconds of each opening that are made and heard before one is chosen.
const OPENING_S: f64 = 4.0;

/// Number of the opening among `count` that suits the words best; 0 where there is nothing to choose by.
///
/// # Errors
/// The options do not fit the decoder, or the arithmetic fails.
pub fn choose(
    decoder: &mut dyn Decoder,
    ranker: &Ranker,
    conditioning: &Conditioning,
    options: &DecodeOptions,
    count: u32,
    cancel: &Cancel,
) -> Result<u32> {
    if count < 2 {
        return Ok(0);
    }
    let rate = decoder.spec().sample_rate_hz;
    let Some(openings) = decoder.openings(conditioning, options, count as usize, OPENING_S, cancel)? else {
        return Ok(0);
    };
    let wishes = ranker.wishes(&openings.words)?;
    if wishes.is_empty() {
        return Ok(0);
    }
    let score = |samples: Vec<f32>| -> Result<f32> {
        let heard = resample(&Audio::mono(samples, rate), RATE_HZ)?.mixdown();
        Ok(ranker.score(&wishes, &heard))
    };
    let scores: Vec<Result<f32>> = thread::scope(|scope| {
        let threads: Vec<_> = openings.audio.into_iter().map(|samples| scope.spawn(|| score(samples))).collect();
        // A thread that panicked scores nothing; the others still do.
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(f32::MIN))).collect()
    });
    let mut best = (0, f32::NEG_INFINITY);
    for (opening, score) in (0..).zip(scores) {
        let score = score?;
        tracing::debug!(opening, score, "opening");
        if score > best.1 {
            best = (opening, score);
        }
    }
    Ok(best.0)
}
