//! From floats to integers: rounding to nearest, saturation at full scale, optional dither.
//!
//! Full scale is `2^(bits - 1)`, as on reading, so integers survive a round trip exactly and only +1 saturates.

/// How samples are stored in wav and flac.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SampleFormat {
    /// 16-bit integers.
    #[default]
    Pcm16,
    /// 24-bit integers.
    Pcm24,
    /// 32-bit floats (wav only; flac then takes 24 bit). Nothing is rounded or cut.
    Float32,
}

/// Noise that turns the rounding error into hiss instead of distortion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dither {
    /// None: silence stays digital silence, and integer sources come back bit for bit.
    #[default]
    None,
    /// Triangular noise of one step to each side, drawn from a counter and this seed.
    Triangular(u64),
}

/// Turns samples into integers of some depth.
pub(super) struct Quantizer {
    scale: f64,
    dither: Dither,
    drawn: u64,
}

impl Quantizer {
    pub fn new(bits: u32, dither: Dither) -> Self {
        Self { scale: f64::from(1u32 << (bits - 1)), dither, drawn: 0 }
    }

    /// The nearest integer within the range.
    pub fn quantize(&mut self, x: f32) -> i32 {
        let noise = match self.dither {
            Dither::None => 0.0,
            Dither::Triangular(seed) => {
                self.drawn += 1;
                let bits = mix(seed ^ mix(self.drawn));
                // Two independent uniforms out of one draw.
                (f64::from((bits >> 32) as u32) - f64::from(bits as u32)) / f64::from(u32::MAX)
            }
        };
        (f64::from(x) * self.scale + noise).round().clamp(-self.scale, self.scale - 1.0) as i32
    }
}

/// The finaliser of SplitMix64: a good hash of a counter.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_and_saturates() {
        let mut quantizer = Quantizer::new(16, Dither::None);
        let got = [0.0, 1.0, -1.0, 5.0, -5.0, 1.4 / 32768.0, -1.6 / 32768.0].map(|x| quantizer.quantize(x));
        assert_eq!(got, [0, 32767, -32768, 32767, -32768, 1, -2]);
    }

    #[test]
    fn dither_is_repeatable_and_keeps_the_mean() {
        let run = |seed| {
            let mut quantizer = Quantizer::new(16, Dither::Triangular(seed));
            (0..40_000).map(|_| quantizer.quantize(0.3 / 32768.0)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let mean = run(1).iter().map(|&x| f64::from(x)).sum::<f64>() / 40_000.0;
        assert!((mean - 0.3).abs() < 0.02, "{mean}");
        assert!(run(1).iter().all(|x| (-1..=2).contains(x)));
    }
}
