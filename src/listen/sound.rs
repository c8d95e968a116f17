//! What a clip sounds like, as one long list of numbers: colour, attacks and decays, tones against noise.

use musaic_core::media::measure::Spectra;

use super::bands::{self, column, deviation, envelope, mean, peaks, quantiles};

/// Hits that the picture of an attack is averaged over.
const HITS: usize = 20;
/// Frames between two of them, 60 ms.
const APART: usize = 6;

/// Everything, from spectra of 1024, 512 (both 100 frames a second) and 4096 samples.
pub fn describe(middle: &Spectra, short: &Spectra, long: &Spectra) -> Vec<f32> {
    let levels = bands::levels(middle, 40, 30.0, 60.0);
    let (rises, falls) = bands::changes(&levels);
    let mut out = Vec::with_capacity(1200);
    for band in 0..40 {
        let (level, rise, fall) = (column(&levels, band), column(&rises, band), column(&falls, band));
        let root = |x: &[f32]| (x.iter().map(|x| x * x).sum::<f32>() / x.len().max(1) as f32).sqrt();
        out.extend([mean(&level), deviation(&level), mean(&rise), mean(&fall), root(&rise), root(&fall)]);
        out.extend(quantiles(&level, &[0.1, 0.5, 0.9]));
    }
    for group in [0..40, 0..10, 10..20, 20..30, 30..40] {
        onset_rates(&envelope(&rises, group), middle.frame_rate_hz, &mut out);
    }
    for first in (0..40).step_by(8) {
        roughness(&envelope(&levels, first..first + 8), &mut out);
    }
    tones(long, &mut out);
    colour(middle, &mut out);
    attacks(short, &mut out);
    out
}

/// Onsets a second, at three absolute and three relative strengths.
fn onset_rates(envelope: &[f32], frame_rate_hz: f64, out: &mut Vec<f32>) {
    let seconds = (envelope.len() as f64 / frame_rate_hz).max(1e-3) as f32;
    let loudest = envelope.iter().fold(1e-6f32, |a, &b| a.max(b));
    let peaks = peaks(envelope);
    let thresholds = [1.0, 2.0, 4.0, 0.1 * loudest, 0.25 * loudest, 0.5 * loudest];
    out.extend(thresholds.map(|limit| peaks.iter().filter(|&&t| envelope[t] > limit).count() as f32 / seconds));
}

/// How far the level moves within 40, 80, 160, 320 and 640 ms.
fn roughness(level: &[f32], out: &mut Vec<f32>) {
    out.extend([4, 8, 16, 32, 64].map(|lag: usize| {
        let moves: Vec<f32> =
            level.get(lag..).unwrap_or_default().iter().zip(level).map(|(b, a)| (b - a).powi(2)).collect();
        10.0 * (mean(&moves) + 1e-3).log10()
    }));
}

/// Level, flatness and number of partials in six registers.
fn tones(long: &Spectra, out: &mut Vec<f32>) {
    for (low, high) in [(50, 200), (200, 500), (500, 1000), (1000, 2000), (2000, 4000), (4000, 8000)] {
        let bin = |hz: i32| (f64::from(hz) / long.bin_hz) as usize;
        let (mut power, mut geometric, mut partials) = (0.0f64, 0.0f64, 0.0f64);
        for frame in &long.frames {
            let range = bin(low)..bin(high).min(frame.len().saturating_sub(1));
            let loudest = frame.iter().fold(0.0f32, |a, &b| a.max(b));
            let powers = || frame[range.clone()].iter().map(|&x| f64::from(x).powi(2));
            let bins = range.len().max(1) as f64;
            power += powers().sum::<f64>() / bins;
            geometric += (powers().map(|p| (p + 1e-12).ln()).sum::<f64>() / bins).exp();
            partials += range
                .filter(|&i| i > 0 && frame[i] > frame[i - 1] && frame[i] >= frame[i + 1] && frame[i] > 0.02 * loudest)
                .count() as f64;
        }
        let frames = long.frames.len().max(1) as f64;
        out.push(10.0 * (power / frames + 1e-10).log10() as f32);
        out.push((geometric / (power + 1e-10)) as f32);
        out.push((partials / frames) as f32);
    }
}

/// Centre of gravity, roll-off and flatness.
fn colour(middle: &Spectra, out: &mut Vec<f32>) {
    let centroids: Vec<f32> = middle.centroid_hz().into_iter().filter(|&hz| hz > 0.0).collect();
    let flatness = middle.flatness();
    out.extend([(mean(&centroids) + 50.0).ln(), deviation(&centroids) / 1000.0, mean(&flatness), deviation(&flatness)]);
    let bins = middle.frames.first().map_or(0, Vec::len);
    let power: Vec<f64> =
        (0..bins).map(|bin| middle.frames.iter().map(|f| f64::from(f[bin]).powi(2)).sum::<f64>()).collect();
    let all = power.iter().sum::<f64>().max(1e-9);
    for share in [0.5, 0.85, 0.95, 0.99] {
        let mut sum = 0.0;
        let bin = power.iter().position(|p| {
            sum += p;
            sum >= share * all
        });
        out.push((bin.unwrap_or(0) as f64 * middle.bin_hz + 50.0).ln() as f32);
    }
}

/// The mean picture of the strongest attacks in treble, middle and bass, and how strong rises get in each band.
fn attacks(short: &Spectra, out: &mut Vec<f32>) {
    let levels = bands::levels(short, 24, 40.0, 70.0);
    let (rises, _) = bands::changes(&levels);
    for band in 0..24 {
        out.extend(quantiles(&column(&rises, band), &[0.8, 0.9, 0.95, 0.98]));
        out.extend(quantiles(&column(&levels, band), &[0.25, 0.75, 0.97]));
    }
    for group in [16..24, 8..16, 0..8] {
        let strength = envelope(&rises, group);
        let mut order: Vec<usize> =
            peaks(&strength).into_iter().filter(|&t| t >= 4 && t + 14 < strength.len()).collect();
        order.sort_by(|&a, &b| strength[b].total_cmp(&strength[a]));
        let mut hits: Vec<usize> = Vec::new();
        for t in order {
            if hits.len() < HITS && hits.iter().all(|&hit| hit.abs_diff(t) >= APART) {
                hits.push(t);
            }
        }
        // Before, at, and after the attack, in steps that widen.
        for (from, to) in [(-3, -1), (0, 1), (1, 2), (2, 3), (3, 5), (5, 8), (8, 14)] {
            #[allow(clippy::needless_range_loop)] // every row of `levels` is indexed by it
            for band in 0..24 {
                let values: Vec<f32> = hits
                    .iter()
                    .flat_map(|&hit| (from..to).map(move |off: isize| hit.saturating_add_signed(off)))
                    .map(|t| levels[t][band])
                    .collect();
                out.push(mean(&values));
            }
        }
        let strengths: Vec<f32> = hits.iter().map(|&hit| strength[hit]).collect();
        out.extend([mean(&strengths), deviation(&strengths), hits.len() as f32]);
    }
}
