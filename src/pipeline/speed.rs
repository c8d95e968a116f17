//! How long a piece will take, from a measurement of a few milliseconds of what takes the time: products of the weights
//! with a few rows (guided and not, of each piece that is made at once), one after another.

use std::{hint::black_box, time::Instant};

use candle_core::{Device, Tensor};
use musaic_core::{
    Result, WeightFormat,
    nn::{Matrix, MatrixBuilder},
};
use musaic_decoders::musicgen::LmConfig;

use super::machine;

/// Shape of the product that is timed: small enough to be made and run at once, large enough that all threads take part.
const ROWS: usize = 256;
const COLS: usize = 1024;
/// Shape of a product whose time is all overhead: starting the threads, allocating the result.
const TINY: usize = 32;
/// Products timed of each shape; the middle one counts.
const RUNS: usize = 41;
/// Weights of more bytes than this do not stay in the caches: memory is a limit, too.
const CACHE_BYTES: f64 = 32e6;
/// Bytes read to measure memory, and how often.
const MEMORY_BYTES: usize = 48 << 20;
const MEMORY_PASSES: usize = 2;
/// What else a step does (norms, activations, sampling), in products of the tiny shape for each product of weights.
const OTHER_WORK: f64 = 2.0;
/// Time of the codec for a parameter and second of sound on one thread, from docs/BENCHMARKS.md. It is the lesser part.
const CODEC_S: f64 = 2.4e-9;

/// What one step of the language model reads and does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Parameters read: all of the layers but the cross-attention's keys and values, and the heads.
    pub parameters: usize,
    /// Products of a weight matrix.
    pub products: usize,
}

impl Step {
    /// A step of a MusicGen decoder.
    pub fn of(lm: &LmConfig) -> Self {
        let (d, layers) = (lm.hidden_size, lm.num_hidden_layers);
        Self {
            parameters: layers * (6 * d * d + 2 * d * lm.ffn_dim) + lm.num_codebooks * lm.vocab_size * d,
            products: 8 * layers + lm.num_codebooks,
        }
    }
}

/// The work of one take, or of several pieces that are made together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Of the language model, once a frame.
    pub step: Step,
    /// Rows that each product has: two a piece, guided and not.
    pub rows: usize,
    /// Number of steps.
    pub steps: f64,
    /// Bytes of keys and values that an average step reads.
    pub cache_bytes: f64,
    /// Parameters of the codec.
    pub codec_parameters: u64,
    /// Seconds of sound, of all pieces together.
    pub seconds: f64,
}

/// What was measured, for one format of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Seconds that a product takes whatever its size.
    pub call_s: f64,
    /// Bytes of weights that the kernel goes through in a second.
    pub weights_bytes_per_s: f64,
    /// Bytes read from memory in a second; unlimited where the weights stay in the caches.
    pub memory_bytes_per_s: f64,
}

impl Speed {
    /// Measures this machine's CPU for `work` with weights in `format`: some 5 milliseconds, 30 for a large model.
    ///
    /// # Errors
    /// Memory runs out.
    pub fn measure(work: &Work, format: WeightFormat) -> Result<Self> {
        let call_s = product_s(&matrix(TINY, TINY, WeightFormat::F32)?, work.rows)?;
        let weights = matrix(ROWS, COLS, format)?;
        let product_s = (product_s(&weights, work.rows)? - call_s).max(1e-9);
        let large = work.weight_bytes(format) > CACHE_BYTES;
        let threads = musaic_core::nn::threads();
        Ok(Self {
            call_s,
            weights_bytes_per_s: weights.bytes() as f64 / product_s,
            memory_bytes_per_s: if large {
                machine::read_bandwidth(threads, MEMORY_BYTES, MEMORY_PASSES)
            } else {
                f64::INFINITY
            },
        })
    }

    /// Seconds that `work` takes at this speed.
    pub fn seconds(&self, work: &Work, format: WeightFormat) -> f64 {
        let products = work.step.products as f64 * self.call_s * (1.0 + OTHER_WORK);
        let weights = work.weight_bytes(format) / self.weights_bytes_per_s.min(self.memory_bytes_per_s);
        let cache = work.cache_bytes / self.memory_bytes_per_s.min(20e9);
        let codec = work.codec_parameters as f64 * CODEC_S / musaic_core::nn::threads() as f64;
        work.steps * (products + weights + cache) + work.seconds * codec
    }
}

impl Work {
    fn weight_bytes(&self, format: WeightFormat) -> f64 {
        self.step.parameters as f64 * format.bits() / 8.0
    }
}

/// A matrix of values that are neither all the same nor random.
fn matrix(rows: usize, cols: usize, format: WeightFormat) -> Result<Matrix> {
    let values: Vec<f32> = (0..rows * cols).map(|i| (i * 7919 % 1021) as f32 / 1021.0 - 0.5).collect();
    let mut builder = MatrixBuilder::new(rows, cols, format, &Device::Cpu)?;
    builder.push(&values)?;
    Ok(builder.finish()?)
}

/// Median time of a product with so many rows.
fn product_s(matrix: &Matrix, rows: usize) -> Result<f64> {
    let xs = Tensor::ones((rows, 1, matrix.cols()), candle_core::DType::F32, &Device::Cpu)?;
    black_box(matrix.forward(&xs)?);
    let mut times = [0.0; RUNS];
    for time in &mut times {
        let started = Instant::now();
        black_box(matrix.forward(&xs)?);
        *time = started.elapsed().as_secs_f64();
    }
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

/// A duration as precisely as it is known.
pub fn about(seconds: f64) -> String {
    if seconds < 1.0 {
        "under 1 s".into()
    } else if seconds < 99.5 {
        format!("about {seconds:.0} s")
    } else {
        format!("about {:.0} min", (seconds / 60.0).max(2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(width: usize) -> Work {
        Work {
            step: Step { parameters: 24 * 14 * width * width, products: 196 },
            rows: 2,
            steps: 500.0,
            cache_bytes: 1e6,
            codec_parameters: 59_000_000,
            seconds: 10.0,
        }
    }

    #[test]
    fn measuring_takes_no_time() {
        // Once for the threads to start.
        Speed::measure(&work(64), WeightFormat::F32).unwrap();
        let mut fastest = f64::INFINITY;
        for format in WeightFormat::ALL {
            for width in [64, 2048] {
                let started = Instant::now();
                let speed = Speed::measure(&work(width), format).unwrap();
                fastest = fastest.min(started.elapsed().as_secs_f64());
                assert!(speed.seconds(&work(width), format).is_finite());
                assert!(speed.weights_bytes_per_s > 1e6, "{format}: {speed:?}");
            }
        }
        assert!(fastest < 0.05, "{fastest} s");
    }

    #[test]
    fn more_work_takes_longer() {
        let speed = Speed { call_s: 2e-6, weights_bytes_per_s: 20e9, memory_bytes_per_s: 30e9 };
        let seconds = |width| speed.seconds(&work(width), WeightFormat::F32);
        assert!(seconds(2048) > 3.5 * seconds(1024));
        // 500 steps of 1.4 GB.
        assert!((35.0..45.0).contains(&seconds(1024)), "{}", seconds(1024));
    }

    #[test]
    fn durations_are_no_more_precise_than_they_are_known() {
        assert_eq!(
            [0.3, 1.2, 59.6, 99.6, 610.0].map(about).join(", "),
            "under 1 s, about 1 s, about 60 s, about 2 min, about 10 min"
        );
    }
}
