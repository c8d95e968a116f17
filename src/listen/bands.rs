//! Levels in mel bands, how they rise and fall, and small statistics over time.

use musaic_core::media::measure::Spectra;

/// Frames between the two levels whose difference is a rise: 20 ms at 100 frames a second.
const LAG: usize = 2;

/// Levels in dB, `[frames][bands]`, of triangular bands evenly spaced on the mel scale from `low_hz` to the top.
///
/// What lies more than `range_db` under the loudest value is raised to there: nobody hears it beside the rest.
pub fn levels(spectra: &Spectra, bands: usize, low_hz: f64, range_db: f32) -> Vec<Vec<f32>> {
    let bins = spectra.frames.first().map_or(0, Vec::len);
    let filters = filters(bins, spectra.bin_hz, bands, low_hz);
    let level = |frame: &Vec<f32>| -> Vec<f32> {
        let power = |(first, weights): &(usize, Vec<f32>)| -> f32 {
            weights.iter().zip(&frame[*first..]).map(|(w, x)| w * x * x).sum()
        };
        filters.iter().map(|filter| 10.0 * (power(filter) + 1e-10).log10()).collect()
    };
    let mut levels: Vec<Vec<f32>> = spectra.frames.iter().map(level).collect();
    let floor = levels.iter().flatten().fold(f32::MIN, |a, &b| a.max(b)) - range_db;
    levels.iter_mut().flatten().for_each(|x| *x = x.max(floor));
    levels
}

/// First bin and weights of each band.
fn filters(bins: usize, bin_hz: f64, bands: usize, low_hz: f64) -> Vec<(usize, Vec<f32>)> {
    let mel = |hz: f64| 1127.0 * (hz / 700.0).ln_1p();
    let hz = |mel: f64| 700.0 * ((mel / 1127.0).exp() - 1.0);
    let top_hz = bin_hz * bins.saturating_sub(1) as f64;
    let (low, high) = (mel(low_hz), mel(top_hz));
    let edge = |i: usize| hz(low + (high - low) * i as f64 / (bands + 1) as f64);
    (0..bands)
        .map(|band| {
            let (left, middle, right) = (edge(band), edge(band + 1), edge(band + 2));
            let weight = |bin: usize| {
                let f = bin as f64 * bin_hz;
                ((f - left) / (middle - left)).min((right - f) / (right - middle)).max(0.0) as f32
            };
            let first = (left / bin_hz).ceil() as usize;
            let last = ((right / bin_hz).floor() as usize).min(bins.saturating_sub(1));
            let weights: Vec<f32> = (first..=last).map(weight).collect();
            if weights.iter().sum::<f32>() > 0.0 {
                (first, weights)
            } else {
                // Narrower than a bin: the nearest one stands for it.
                (((middle / bin_hz).round() as usize).min(bins.saturating_sub(1)), vec![1.0])
            }
        })
        .collect()
}

/// Change of each level over 20 ms, split in rises and falls (both positive), `[frames][bands]`.
pub fn changes(levels: &[Vec<f32>]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let split = |sign: f32| {
        (0..levels.len())
            .map(|t| match t.checked_sub(LAG) {
                None => vec![0.0; levels[t].len()],
                Some(s) => levels[t].iter().zip(&levels[s]).map(|(b, a)| (sign * (b - a)).max(0.0)).collect(),
            })
            .collect()
    };
    (split(1.0), split(-1.0))
}

/// Mean over the bands `range` of every frame.
pub fn envelope(rises: &[Vec<f32>], range: std::ops::Range<usize>) -> Vec<f32> {
    rises.iter().map(|frame| mean(&frame[range.clone()])).collect()
}

/// The values of one band over time.
pub fn column(frames: &[Vec<f32>], band: usize) -> Vec<f32> {
    frames.iter().map(|frame| frame[band]).collect()
}

/// Mean; 0 of nothing.
pub fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len().max(1) as f32
}

/// Standard deviation; 0 of nothing.
pub fn deviation(values: &[f32]) -> f32 {
    let centre = mean(values);
    (values.iter().map(|x| (x - centre).powi(2)).sum::<f32>() / values.len().max(1) as f32).sqrt()
}

/// Values at the given shares of the sorted list.
pub fn quantiles(values: &[f32], shares: &[f64]) -> Vec<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    shares.iter().map(|share| sorted.get((share * last).round() as usize).copied().unwrap_or(0.0)).collect()
}

/// Frames that are larger than the one before and not smaller than the one after.
pub fn peaks(envelope: &[f32]) -> Vec<usize> {
    (1..envelope.len().saturating_sub(1))
        .filter(|&t| envelope[t] > envelope[t - 1] && envelope[t] >= envelope[t + 1])
        .collect()
}
