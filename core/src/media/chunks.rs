//! Which parts of a long waveform an encoder hears.

use std::ops::Range;

/// Longest part, in seconds.
pub const CHUNK_S: usize = 60;

/// All of it: equal parts of at most [`CHUNK_S`] each, none padded. The default.
pub fn whole(samples: usize, sample_rate_hz: u32) -> Vec<Range<usize>> {
    let most = CHUNK_S * sample_rate_hz.max(1) as usize;
    let count = samples.div_ceil(most).max(1);
    // In 128 bits the product cannot overflow.
    let edge = |i: usize| (samples as u128 * i as u128 / count as u128) as usize;
    (0..count).map(|i| edge(i)..edge(i + 1)).collect()
}

/// What the reference hears: its loop over the parts takes steps of 60 up to the number of minutes, not seconds, so that
/// only the first 60 s of anything shorter than an hour are heard, and one part more for each hour.
pub fn first60(samples: usize, sample_rate_hz: u32) -> Vec<Range<usize>> {
    let second = sample_rate_hz.max(1) as usize;
    let minutes = samples / second / 60;
    let part = |start: usize| {
        let at = |seconds: usize| seconds.saturating_mul(second).min(samples);
        at(start)..at(start + CHUNK_S)
    };
    (0..minutes + 1).step_by(CHUNK_S).map(part).collect()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one part is meant
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_reference_hears_a_minute_an_hour() {
        assert_eq!(first60(0, 24_000), [0..0]);
        assert_eq!(first60(23_999, 24_000), [0..23_999]);
        assert_eq!(first60(2_880_000, 24_000), [0..1_440_000]);
        assert_eq!(first60(86_400_000, 24_000), [0..1_440_000, 1_440_000..2_880_000]);
    }

    #[test]
    fn a_little_more_than_a_minute_is_halved() {
        assert_eq!(whole(61 * 10, 10), [0..305, 305..610]);
        assert_eq!(whole(600, 10), [0..600]);
        assert_eq!(whole(0, 10), [0..0]);
    }

    proptest! {
        #[test]
        fn the_whole_is_covered_evenly(samples in 0usize..1_000_000, rate in 1u32..100) {
            let parts = whole(samples, rate);
            let mut at = 0;
            for part in &parts {
                prop_assert_eq!(part.start, at);
                prop_assert!(part.len() <= CHUNK_S * rate as usize);
                prop_assert!(part.len() + 1 >= samples / parts.len());
                at = part.end;
            }
            prop_assert_eq!(at, samples);
        }
    }
}
