//! Small digital filters: half-band decimator, biquads, a room.

use std::f32::consts::PI;

/// Halves the sample rate through a windowed-sinc low-pass with its edge below the new Nyquist frequency.
pub(super) fn halve(xs: &[f32]) -> Vec<f32> {
    const TAPS: usize = 63;
    // 0.235 of the old rate: the pass band ends at 0.94 of the new Nyquist frequency.
    let kernel: Vec<f32> = (0..TAPS)
        .map(|i| {
            let t = i as f32 - (TAPS / 2) as f32;
            let sinc = if t == 0.0 { 2.0 * 0.235 } else { (2.0 * PI * 0.235 * t).sin() / (PI * t) };
            let x = i as f32 / (TAPS - 1) as f32;
            sinc * (0.42 - 0.5 * (2.0 * PI * x).cos() + 0.08 * (4.0 * PI * x).cos())
        })
        .collect();
    let mut padded = vec![0.0; TAPS / 2];
    padded.extend_from_slice(xs);
    padded.resize(xs.len() + TAPS, 0.0);
    (0..xs.len() / 2).map(|i| padded[2 * i..2 * i + TAPS].iter().zip(&kernel).map(|(x, k)| x * k).sum()).collect()
}

/// A second-order section; coefficients after R. Bristow-Johnson's audio EQ cookbook.
pub(super) struct Biquad {
    b: [f32; 3],
    a: [f32; 2],
    z: [f32; 2],
}

impl Biquad {
    fn new(b: [f32; 3], a: [f32; 3]) -> Self {
        Self { b: b.map(|x| x / a[0]), a: [a[1] / a[0], a[2] / a[0]], z: [0.0; 2] }
    }

    pub(super) fn low_pass(hz: f32, rate: f32) -> Self {
        let w = 2.0 * PI * (hz / rate).min(0.49);
        let (cos, alpha) = (w.cos(), w.sin() / (2.0 * std::f32::consts::FRAC_1_SQRT_2));
        Self::new([(1.0 - cos) / 2.0, 1.0 - cos, (1.0 - cos) / 2.0], [1.0 + alpha, -2.0 * cos, 1.0 - alpha])
    }

    pub(super) fn high_pass(hz: f32, rate: f32) -> Self {
        let w = 2.0 * PI * hz / rate;
        let (cos, alpha) = (w.cos(), w.sin() / (2.0 * std::f32::consts::FRAC_1_SQRT_2));
        Self::new([(1.0 + cos) / 2.0, -1.0 - cos, (1.0 + cos) / 2.0], [1.0 + alpha, -2.0 * cos, 1.0 - alpha])
    }

    pub(super) fn high_shelf(hz: f32, gain_db: f32, rate: f32) -> Self {
        let a = 10f32.powf(gain_db / 40.0);
        let w = 2.0 * PI * (hz / rate).min(0.45);
        let cos = w.cos();
        let beta = 2.0 * a.sqrt() * w.sin() * std::f32::consts::FRAC_1_SQRT_2;
        Self::new(
            [
                a * ((a + 1.0) + (a - 1.0) * cos + beta),
                -2.0 * a * ((a - 1.0) + (a + 1.0) * cos),
                a * ((a + 1.0) + (a - 1.0) * cos - beta),
            ],
            [
                (a + 1.0) - (a - 1.0) * cos + beta,
                2.0 * ((a - 1.0) - (a + 1.0) * cos),
                (a + 1.0) - (a - 1.0) * cos - beta,
            ],
        )
    }

    pub(super) fn run(&mut self, xs: &mut [f32]) {
        for x in xs {
            let y = self.b[0] * *x + self.z[0];
            self.z[0] = self.b[1] * *x - self.a[0] * y + self.z[1];
            self.z[1] = self.b[2] * *x - self.a[1] * y;
            *x = y;
        }
    }
}

/// Schroeder's room: four damped combs, two all-passes. Adds `amount` of it to the signal; `size` scales its length.
pub(super) fn reverb(xs: &mut [f32], amount: f32, size: f32, rate: f32) {
    if amount <= 0.0 {
        return;
    }
    let mut wet = vec![0.0f32; xs.len()];
    for seconds in [0.0297, 0.0371, 0.0411, 0.0437] {
        comb(xs, &mut wet, (seconds * size * rate) as usize, 0.70 + 0.12 * size.min(1.3), 0.35);
    }
    for seconds in [0.005, 0.0017] {
        all_pass(&mut wet, (seconds * rate) as usize, 0.7);
    }
    for (x, w) in xs.iter_mut().zip(&wet) {
        *x += amount * 0.25 * w;
    }
}

fn comb(xs: &[f32], out: &mut [f32], delay: usize, feedback: f32, damping: f32) {
    let mut line = vec![0.0f32; delay.max(1)];
    let (mut at, mut low) = (0, 0.0);
    for (x, y) in xs.iter().zip(out) {
        let delayed = line[at];
        low += (1.0 - damping) * (delayed - low);
        line[at] = x + feedback * low;
        at = if at + 1 == line.len() { 0 } else { at + 1 };
        *y += delayed;
    }
}

fn all_pass(xs: &mut [f32], delay: usize, gain: f32) {
    let mut line = vec![0.0f32; delay.max(1)];
    let mut at = 0;
    for x in xs {
        let delayed = line[at];
        let input = *x + gain * delayed;
        line[at] = input;
        *x = delayed - gain * input;
        at = if at + 1 == line.len() { 0 } else { at + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone_after_halving(hz: f64) -> f32 {
        let turn = std::f64::consts::TAU * hz / 32_000.0;
        let tone: Vec<f32> = (0..32_000).map(|i| (turn * f64::from(i)).sin() as f32).collect();
        let out = halve(&tone);
        assert_eq!(out.len(), 16_000);
        out[500..15_500].iter().fold(0.0, |peak, x| peak.max(x.abs()))
    }

    #[test]
    fn halving_keeps_the_band_and_stops_images() {
        assert!((tone_after_halving(440.0) - 1.0).abs() < 0.01);
        assert!((tone_after_halving(5000.0) - 1.0).abs() < 0.02);
        assert!(tone_after_halving(10_000.0) < 0.002, "an image gets through");
    }
}
