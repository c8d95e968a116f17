//! Does a model repeat what it was trained on: runs of codes that occur in training pieces.

use std::collections::HashSet;

use serde::Serialize;

/// Lengths of the runs that are looked for, in frames of 20 ms.
pub const RUNS: [usize; 6] = [4, 8, 12, 16, 24, 32];

/// All runs of the training pieces' first codebook.
pub struct Runs {
    seen: Vec<HashSet<u64>>,
}

/// How many runs were seen in training.
#[derive(Debug, Clone, Serialize)]
pub struct Repeats {
    /// Clips that were looked at.
    pub clips: usize,
    /// Percent of the runs of each of [`RUNS`] that occur in a training piece.
    pub percent: Vec<f64>,
}

impl Runs {
    /// Of training pieces.
    pub fn new<'a>(codes: impl Iterator<Item = &'a [u32]> + Clone) -> Self {
        let seen = RUNS.map(|run| codes.clone().flat_map(move |ids| ids.windows(run).filter_map(hash)).collect());
        Self { seen: seen.into() }
    }

    /// Looks for the runs of other clips.
    pub fn repeats<'a>(&self, codes: impl Iterator<Item = &'a [u32]> + Clone) -> Repeats {
        let share = |(run, seen): (&usize, &HashSet<u64>)| {
            let (mut found, mut all) = (0u64, 0u64);
            for hash in codes.clone().flat_map(|ids| ids.windows(*run)).filter_map(hash) {
                all += 1;
                found += u64::from(seen.contains(&hash));
            }
            100.0 * found as f64 / all.max(1) as f64
        };
        Repeats { clips: codes.clone().count(), percent: RUNS.iter().zip(&self.seen).map(share).collect() }
    }
}

/// Of a run (FNV-1a); none for one that is a single code throughout, which is silence or a held sound everywhere.
fn hash(run: &[u32]) -> Option<u64> {
    if run.iter().all(|id| *id == run[0]) {
        return None;
    }
    Some(run.iter().fold(0xcbf2_9ce4_8422_2325, |hash, id| (hash ^ u64::from(*id)).wrapping_mul(0x0100_0000_01b3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_found() {
        let train: Vec<u32> = (0..40).collect();
        let runs = Runs::new([train.as_slice()].into_iter());
        let same = runs.repeats([train.as_slice()].into_iter());
        assert!(same.percent.iter().all(|p| *p == 100.0));
        let other: Vec<u32> = (0..40).rev().collect();
        let none = runs.repeats([other.as_slice(), &[7; 40]].into_iter());
        assert!(none.percent.iter().all(|p| *p == 0.0), "{none:?}");
    }
}
