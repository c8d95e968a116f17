//! Tempo up to octaves: how well the onsets agree with themselves a beat, half a beat, two beats later.
//!
//! 48 candidates cover one octave, 90 to 180 beats a minute. Each is described by the autocorrelation of three onset
//! envelopes at simple multiples of its period; a network shared by all candidates scores the description. What no
//! measure can tell, whether 75 or 150 is meant, is left open.

use super::bands;

/// Candidates in the octave.
pub const CANDIDATES: usize = 48;
const SLOWEST_BPM: f64 = 90.0;
const MULTIPLES: [f64; 12] = [0.25, 1.0 / 3.0, 0.5, 2.0 / 3.0, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0];
const MAX_LAG: usize = 700;

/// Tempo of a candidate.
pub fn bpm(candidate: usize) -> f64 {
    SLOWEST_BPM * 2f64.powf(candidate as f64 / CANDIDATES as f64)
}

/// Distance of two tempi in octaves, whole octaves left out: 0 to 0.5.
pub fn distance(a: f64, b: f64) -> f64 {
    let octaves = (a / b).log2();
    (octaves - octaves.round()).abs()
}

/// Whether two tempi agree within 8%, octaves allowed.
pub fn agrees(a: f64, b: f64) -> bool {
    distance(a, b) < 1.08f64.log2()
}

/// Descriptions of all candidates, from onset envelopes at `frame_rate_hz`.
pub fn candidates(envelopes: &[Vec<f32>], frame_rate_hz: f64) -> Vec<Vec<f32>> {
    let correlations: Vec<Vec<f32>> = envelopes.iter().map(|envelope| autocorrelation(envelope)).collect();
    let describe = |candidate: usize| {
        let period = 60.0 * frame_rate_hz / bpm(candidate);
        let mut row = Vec::with_capacity(correlations.len() * MULTIPLES.len() + 2);
        for correlation in &correlations {
            // Half a step to either side, so that a multiple of eight beats does not fall between two candidates.
            row.extend(MULTIPLES.map(|multiple| {
                [-0.0075, -0.0037, 0.0, 0.0037, 0.0075]
                    .map(|off| at(correlation, multiple * period * (1.0 + off)))
                    .into_iter()
                    .fold(f32::MIN, f32::max)
            }));
        }
        let place = candidate as f32 / CANDIDATES as f32 - 0.5;
        row.extend([place, 4.0 * place * place]);
        row
    };
    (0..CANDIDATES).map(describe).collect()
}

/// Of the root of the envelope, without its mean; lag 0 is 1, longer lags are not smaller for having fewer terms.
fn autocorrelation(envelope: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = envelope.iter().map(|x| x.max(0.0).sqrt()).collect();
    let centre = bands::mean(&roots);
    let x: Vec<f32> = roots.iter().map(|x| x - centre).collect();
    let lags = MAX_LAG.min(x.len());
    let raw: Vec<f32> = (0..lags)
        .map(|lag| x[lag..].iter().zip(&x).map(|(a, b)| a * b).sum::<f32>() / (x.len() - lag) as f32)
        .collect();
    let scale = 1.0 / raw.first().copied().unwrap_or(1.0).max(1e-9);
    let get = |i: usize| raw.get(i).copied().unwrap_or(0.0);
    (0..lags).map(|i| scale * (0.25 * get(i.saturating_sub(1)) + 0.5 * get(i) + 0.25 * get(i + 1))).collect()
}

fn at(values: &[f32], place: f64) -> f32 {
    let (whole, part) = (place.floor() as usize, place.fract() as f32);
    match (values.get(whole), values.get(whole + 1)) {
        (Some(a), Some(b)) => a + part * (b - a),
        _ => 0.0,
    }
}
