//! Whether a long piece can be heard to be made in windows.
//!
//! At each place where the model's window slid, and at the tail, three measures are compared with the same measures all
//! over the piece: the step between the second before and the second after (at most 3 dB, or the 95th percentile of the
//! piece's own steps if that is more), spectral flatness and flux of the half second around (within the 5th to the 95th
//! percentile of the piece). A place that is like any other leaves the range of flatness or flux in one case of ten, so
//! the share outside is told beside the share of all other places.

use musaic_core::media::{
    decibels,
    measure::{rms, spectra},
};
use serde::Serialize;

use super::validate::Tally;
use crate::listen::RATE_HZ;

/// A step that is never called a fault, in dB.
const SMALL_STEP_DB: f64 = 3.0;
/// Width of a spectrum in samples: 64 ms.
const FFT: usize = 1024;
/// Spectra a second.
const SPECTRA: usize = 50;
/// Steps are looked for this often a second.
const PLACES: usize = 4;

/// Places that pass, of joins or of all places.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Smooth {
    /// Level.
    pub step: Tally,
    /// Noisiness.
    pub flatness: Tally,
    /// Change of the spectrum.
    pub flux: Tally,
}

/// Joins and tails of several pieces.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Joins {
    /// Pieces.
    pub pieces: usize,
    /// Where the window slid.
    pub joins: Smooth,
    /// The last second.
    pub tails: Smooth,
    /// Everywhere.
    pub anywhere: Smooth,
    /// Largest step at a join, in dB.
    pub largest_step_db: f64,
}

/// Value at `share` of the sorted `values`.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = share * (sorted.len().saturating_sub(1)) as f64;
    sorted.get(at.round() as usize).copied().unwrap_or(0.0)
}

/// Means over the half second around each spectrum.
fn around(values: &[f32]) -> Vec<f64> {
    let half = SPECTRA / 4;
    let mean = |at: usize| {
        let part = &values[at.saturating_sub(half)..values.len().min(at + half)];
        part.iter().map(|&x| f64::from(x)).sum::<f64>() / part.len().max(1) as f64
    };
    (0..values.len()).map(mean).collect()
}

/// What is measured of a piece.
struct Measures<'a> {
    samples: &'a [f32],
    flatness: Vec<f64>,
    flux: Vec<f64>,
    bounds: [(f64, f64); 2],
    largest_step_db: f64,
}

impl<'a> Measures<'a> {
    fn of(samples: &'a [f32]) -> Self {
        let spectra = spectra(samples, RATE_HZ, FFT, RATE_HZ as usize / SPECTRA);
        let (flatness, flux) = (around(&spectra.flatness()), around(&spectra.flux()));
        let bounds = [&flatness, &flux].map(|v| (percentile(v, 0.05), percentile(v, 0.95)));
        let mut all = Self { samples, flatness, flux, bounds, largest_step_db: SMALL_STEP_DB };
        let steps: Vec<f64> = all.places().map(|at| all.step_db(at)).collect();
        all.largest_step_db = percentile(&steps, 0.95).max(SMALL_STEP_DB);
        all
    }

    /// Places with a whole second on either side, as samples.
    fn places(&self) -> impl Iterator<Item = usize> {
        let second = RATE_HZ as usize;
        (second..self.samples.len().saturating_sub(second) + 1).step_by(second / PLACES)
    }

    /// From the second before to the second after, in dB; either way.
    fn step_db(&self, at: usize) -> f64 {
        let second = RATE_HZ as usize;
        let after = &self.samples[at..self.samples.len().min(at + second)];
        let level = |part: &[f32]| decibels(rms(part).max(1e-5));
        (level(&self.samples[at.saturating_sub(second)..at]) - level(after)).abs()
    }

    fn judge(&self, at: usize, into: &mut Smooth) {
        into.step.add(self.step_db(at) <= self.largest_step_db);
        let frame = (at * SPECTRA / RATE_HZ as usize).min(self.flux.len().saturating_sub(1));
        let within = |values: &[f64], (low, high): (f64, f64)| (low..=high).contains(&values[frame]);
        into.flatness.add(within(&self.flatness, self.bounds[0]));
        into.flux.add(within(&self.flux, self.bounds[1]));
    }
}

impl Joins {
    /// Adds a mono piece at [`RATE_HZ`] whose window slid at `joins` (in samples).
    pub fn add(&mut self, samples: &[f32], joins: &[usize]) {
        let second = RATE_HZ as usize;
        if samples.len() < 4 * second {
            return;
        }
        let measures = Measures::of(samples);
        self.pieces += 1;
        for &at in joins.iter().filter(|&&at| at >= second && at + second <= samples.len()) {
            measures.judge(at, &mut self.joins);
            self.largest_step_db = self.largest_step_db.max(measures.step_db(at));
        }
        measures.judge(samples.len() - second, &mut self.tails);
        for at in measures.places() {
            measures.judge(at, &mut self.anywhere);
        }
    }

    /// As a Markdown table.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} pieces, {} joins; largest step at a join {:.1} dB.\n\n\
             | measure | joins that pass | tails that pass | all places that pass |\n|---|---|---|---|\n",
            self.pieces, self.joins.step.of, self.largest_step_db
        );
        let cell = |tally: Tally| format!("{:.1}% of {}", tally.percent(), tally.of);
        let columns = [&self.joins, &self.tails, &self.anywhere];
        let mut row = |name: &str, pick: fn(&Smooth) -> Tally| {
            let [joins, tails, all] = columns.map(|s| cell(pick(s)));
            text += &format!("| {name} | {joins} | {tails} | {all} |\n");
        };
        row("step between neighbouring seconds", |s| s.step);
        row("flatness within 5-95%", |s| s.flatness);
        row("flux within 5-95%", |s| s.flux);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(seconds: usize) -> Vec<f32> {
        let second = RATE_HZ as usize;
        (0..seconds * second).map(|i| 0.2 * (i as f32 * 0.11).sin() * (1.0 + 0.3 * (i as f32 * 3e-4).sin())).collect()
    }

    #[test]
    fn a_seam_is_found_and_a_steady_tone_has_none() {
        let second = RATE_HZ as usize;
        let mut none = Joins::default();
        none.add(&steady(30), &[10 * second]);
        assert_eq!((none.joins.step, none.pieces), (Tally { right: 1, of: 1 }, 1));

        let mut piece = steady(30);
        piece[10 * second..].iter_mut().for_each(|x| *x *= 0.3);
        let mut stepped = Joins::default();
        stepped.add(&piece, &[10 * second, 20 * second]);
        assert_eq!(stepped.joins.step, Tally { right: 1, of: 2 });
        assert!((stepped.largest_step_db - 10.5).abs() < 1.0, "{}", stepped.largest_step_db);

        let mut piece = steady(30);
        let mut state = 1u32;
        for x in &mut piece[20 * second - 2000..20 * second + 2000] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *x += 0.05 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0);
        }
        let mut noisy = Joins::default();
        noisy.add(&piece, &[10 * second, 20 * second]);
        assert_eq!(noisy.joins.flatness, Tally { right: 1, of: 2 });
        assert_eq!(noisy.joins.flux, Tally { right: 1, of: 2 });
    }
}
