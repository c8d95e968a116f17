//! Which frames of a video are read: plain arithmetic, and that of the reference beside it.

use std::{collections::BTreeSet, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

/// How windows are laid over a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selection {
    /// Windows of consecutive frames spread evenly from the first frame to the last, at most this many, and no more than it
    /// takes to see every frame. A clip shorter than a window gives one, over which its frames are spread evenly; frames of a
    /// clip whose rate varies are taken evenly in time.
    Spread {
        /// Most windows.
        windows: usize,
    },
    /// One window as the reference draws it ([`drawn`]), with a generator seeded by `seed`.
    Random {
        /// Seed of the draw.
        seed: u64,
    },
    /// All frames, as one window.
    Every,
}

/// The windows of a clip of `times.len()` frames, shown at these (rising) times in seconds, as numbers of frames.
/// `declared` is the number of frames the container declares, on which the reference relies.
pub fn windows(selection: Selection, frames: usize, times: &[f64], declared: Option<usize>) -> Vec<Vec<usize>> {
    let count = times.len();
    if count == 0 || frames == 0 {
        return Vec::new();
    }
    match selection {
        Selection::Every => vec![(0..count).collect()],
        Selection::Spread { windows } => {
            let slots = even_slots(times);
            spread(count, frames, windows)
                .into_iter()
                .map(|window| window.into_iter().map(|slot| slots.as_ref().map_or(slot, |slots| slots[slot])).collect())
                .collect()
        }
        Selection::Random { seed } => {
            let seen = declared.filter(|&declared| declared > 0).unwrap_or(count);
            let numbers = match end_range(frames, seen) {
                Some(ends) => drawn(frames, seen, draw(seed, &ends)),
                // Where the reference fails, all there is: exactly one window.
                None => (0..frames as i64).collect(),
            };
            // Before the first frame is the last one, as one of the reference's readers has it; a container that declares
            // more than it holds ends with its last.
            let number = |number: i64| usize::try_from(number).map_or(count - 1, |number| number.min(count - 1));
            vec![numbers.into_iter().map(number).collect()]
        }
    }
}

/// The numbers in `windows`, each once and rising; and the windows again, as positions among them.
pub fn once(windows: &[Vec<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let numbers: Vec<usize> = windows.iter().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let position = |number: &usize| numbers.binary_search(number).unwrap_or_default();
    let windows = windows.iter().map(|window| window.iter().map(position).collect()).collect();
    (numbers, windows)
}

/// Slots of each window over `count` slots.
fn spread(count: usize, frames: usize, windows: usize) -> Vec<Vec<usize>> {
    if count <= frames {
        return vec![(0..frames).map(|k| k * count / frames).collect()];
    }
    let windows = windows.min(count.div_ceil(frames)).max(1);
    let room = count - frames;
    let start = |j: usize| match windows {
        1 => room / 2,
        _ => (j * room + (windows - 1) / 2) / (windows - 1),
    };
    (0..windows).map(|j| (start(j)..start(j) + frames).collect()).collect()
}

/// For a clip whose rate varies: the frame that is shown in the middle of each of as many even slots as there are frames.
/// Nothing for an even clip, whose slots are its frames.
fn even_slots(times: &[f64]) -> Option<Vec<usize>> {
    /// Share of gaps that may be uneven: a camera drops a frame now and then.
    const STRAY: f64 = 0.05;
    let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (first, last) = (times.first()?, times.last()?);
    if gaps.len() < 2 || !gaps.iter().all(|gap| gap.is_finite()) {
        return None;
    }
    gaps.sort_by(f64::total_cmp);
    let median = gaps[gaps.len() / 2];
    let uneven = gaps.iter().filter(|&&gap| gap < 0.5 * median || gap > 1.5 * median).count();
    if uneven as f64 <= STRAY * gaps.len() as f64 {
        return None;
    }
    // The last frame is taken to last as long as the others do on average.
    let step = (last - first) / (times.len() - 1) as f64;
    let mut shown = 0;
    let mut slots = Vec::with_capacity(times.len());
    for slot in 0..times.len() {
        let at = first + (slot as f64 + 0.5) * step;
        while shown + 1 < times.len() && times[shown + 1] <= at {
            shown += 1;
        }
        slots.push(shown);
    }
    Some(slots)
}

/// The ends the reference draws from, for windows of `clip_len` of `seg_len` frames; nothing where it fails.
pub fn end_range(clip_len: usize, seg_len: usize) -> Option<RangeInclusive<usize>> {
    let first = if seg_len >= clip_len { clip_len } else { 0 };
    (first < seg_len).then(|| first..=seg_len - 1)
}

/// The reference's frames for a drawn end: `clip_len` numbers spread from `clip_len` before the end to the end, cut to the
/// frame before it and to whole numbers. With fewer frames than a window all are the one before the end; -1 if there is none.
pub fn drawn(clip_len: usize, seg_len: usize, end: usize) -> Vec<i64> {
    let start = if seg_len >= clip_len { end.saturating_sub(clip_len) } else { end };
    let (start, end) = (start as f64, end as f64);
    let step = (end - start) / clip_len.saturating_sub(1).max(1) as f64;
    let at = |k: usize| if k > 0 && k == clip_len - 1 { end } else { k as f64 * step + start };
    // `min` last, as numpy clips: the upper bound wins where the two cross.
    (0..clip_len).map(|k| at(k).max(start).min(end - 1.0).trunc() as i64).collect()
}

/// A number of `range`, each as likely: splitmix64 of the seed.
fn draw(seed: u64, range: &RangeInclusive<usize>) -> usize {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let count = (range.end() - range.start() + 1) as u128;
    range.start() + ((u128::from(z) * count) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn even(count: usize) -> Vec<f64> {
        (0..count).map(|i| i as f64 / 25.0).collect()
    }

    fn spread_over(count: usize, windows_: usize) -> Vec<Vec<usize>> {
        windows(Selection::Spread { windows: windows_ }, 32, &even(count), None)
    }

    #[test]
    fn windows_reach_from_end_to_end() {
        let found = spread_over(1000, 4);
        assert_eq!(found.iter().map(|window| window[0]).collect::<Vec<_>>(), [0, 323, 645, 968]);
        assert!(found.iter().all(|window| window.windows(2).all(|pair| pair[1] == pair[0] + 1)));
        assert_eq!(spread_over(1000, 1)[0][0], 484);
        // No more windows than it takes to see all.
        assert_eq!(spread_over(40, 4), [(0..32).collect::<Vec<_>>(), (8..40).collect()]);
        assert_eq!(spread_over(32, 4), [(0..32).collect::<Vec<_>>()]);
    }

    #[test]
    fn shared_numbers_are_there_once() {
        assert_eq!(once(&[vec![3, 3, 5], vec![5, 9]]), (vec![3, 5, 9], vec![vec![0, 0, 1], vec![1, 2]]));
    }

    #[test]
    fn short_clips_are_spread_evenly() {
        let found = &spread_over(12, 4)[0];
        assert_eq!((found.len(), found[0], found[31]), (32, 0, 11));
        for frame in 0..12 {
            assert!((2..=3).contains(&found.iter().filter(|&&x| x == frame).count()), "{found:?}");
        }
        assert_eq!(spread_over(1, 4), [vec![0; 32]]);
        assert!(spread_over(0, 4).is_empty());
    }

    #[test]
    fn uneven_clips_are_taken_evenly_in_time() {
        // One second at 40 frames a second, then two at 10.
        let times: Vec<f64> = (0..40).map(|i| i as f64 / 40.0).chain((0..20).map(|i| 1.0 + i as f64 / 10.0)).collect();
        let found = windows(Selection::Spread { windows: 1 }, 60, &times, None);
        let second = found[0].iter().filter(|&&frame| frame >= 40).count();
        assert!((38..=42).contains(&second), "{found:?}");
        // Time stamps in whole milliseconds are even enough, and so is a clip that lost a frame.
        let rounded: Vec<f64> =
            (0..100).filter(|&i| i != 50).map(|i| (i as f64 * 1000.0 / 30.0).round() / 1e3).collect();
        assert_eq!(even_slots(&rounded), None);
    }

    #[test]
    fn the_reference_draws_one_window() {
        let (mut least, mut most) = (usize::MAX, 0);
        for seed in 0..2000 {
            let found = windows(Selection::Random { seed }, 32, &even(40), Some(40));
            assert_eq!(found, windows(Selection::Random { seed }, 32, &even(40), None));
            assert_eq!((found.len(), found[0].len(), found[0][31]), (1, 32, found[0][0] + 31));
            (least, most) = (least.min(found[0][0]), most.max(found[0][0]));
        }
        assert_eq!((least, most), (0, 7));
        // Where it fails: exactly a window, no declared number, a number that is too large.
        assert_eq!(windows(Selection::Random { seed: 1 }, 32, &even(32), Some(32))[0], (0..32).collect::<Vec<_>>());
        assert_eq!(windows(Selection::Random { seed: 1 }, 32, &even(33), Some(0))[0], (0..32).collect::<Vec<_>>());
        assert!(windows(Selection::Random { seed: 1 }, 32, &even(5), Some(4000))[0].iter().all(|&frame| frame < 5));
    }

    proptest! {
        #[test]
        fn all_numbers_are_frames(
            gaps in proptest::collection::vec(0f64..2.0, 1..200), frames in 1usize..40, many in 1usize..6, seed: u64,
        ) {
            let times: Vec<f64> = gaps.iter().scan(0.0, |at, gap| { *at += gap; Some(*at) }).collect();
            for selection in [Selection::Spread { windows: many }, Selection::Random { seed }, Selection::Every] {
                for window in windows(selection, frames, &times, None) {
                    prop_assert!(window.iter().all(|&frame| frame < times.len()));
                    prop_assert!(window.windows(2).all(|pair| pair[0] <= pair[1]));
                    prop_assert!(selection == Selection::Every || window.len() == frames);
                }
            }
        }
    }
}
