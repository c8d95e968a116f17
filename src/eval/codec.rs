//! How well the codec gives back what went in.

use musaic_core::media::measure::spectra;
use serde::Serialize;

use crate::listen::{RATE_HZ, mel_levels};

/// Reconstruction of one or several pieces.
#[derive(Debug, Clone, Serialize)]
pub struct Reconstruction {
    /// Pieces.
    pub pieces: usize,
    /// Scale-invariant ratio of signal to distortion, mean, in dB.
    pub si_sdr_mean_db: f64,
    /// Its median.
    pub si_sdr_median_db: f64,
    /// Mean distance of the levels in 64 mel bands, in dB.
    pub log_mel_db: f64,
}

/// Scale-invariant signal-to-distortion ratio of `estimate`, in dB.
pub fn si_sdr_db(truth: &[f32], estimate: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let scale = dot(truth, estimate) / dot(truth, truth).max(1e-12);
    let rest = truth.iter().zip(estimate).map(|(t, e)| (f64::from(*e) - scale * f64::from(*t)).powi(2)).sum::<f64>();
    10.0 * ((scale * scale * dot(truth, truth)).max(1e-12) / rest.max(1e-12)).log10()
}

/// Mean absolute difference of levels in 64 mel bands at [`RATE_HZ`], 60 dB deep, frames of 64 ms every 16 ms.
pub fn log_mel_db(truth: &[f32], estimate: &[f32]) -> f64 {
    let levels = |x: &[f32]| mel_levels(&spectra(x, RATE_HZ, 1024, 256), 64, 30.0, 60.0);
    let (a, b) = (levels(truth), levels(estimate));
    let differences = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| f64::from((a - b).abs()));
    differences.sum::<f64>() / a.iter().flatten().count().max(1) as f64
}

impl Reconstruction {
    /// Of pairs (SI-SDR, log-mel distance).
    pub fn of(mut all: Vec<(f64, f64)>) -> Self {
        let count = all.len().max(1) as f64;
        let mean = |pick: fn(&(f64, f64)) -> f64| all.iter().map(pick).sum::<f64>() / count;
        let (si_sdr_mean_db, log_mel_db) = (mean(|x| x.0), mean(|x| x.1));
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let si_sdr_median_db = all.get(all.len() / 2).map_or(0.0, |x| x.0);
        Self { pieces: all.len(), si_sdr_mean_db, si_sdr_median_db, log_mel_db }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_error_is_measured() {
        let truth: Vec<f32> = (0..16_000).map(|i| (i as f32 * 0.1).sin()).collect();
        let noisy: Vec<f32> = truth.iter().enumerate().map(|(i, x)| 0.5 * x + 0.05 * (i as f32 * 0.77).sin()).collect();
        assert!((si_sdr_db(&truth, &noisy) - 20.0).abs() < 0.1);
        assert!(log_mel_db(&truth, &truth) < 1e-6 && log_mel_db(&truth, &noisy) > 1.0);
    }
}
