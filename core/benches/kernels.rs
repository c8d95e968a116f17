//! Speed of the kernels of `nn` on this machine: best of many short runs, on stdout. Run with `cargo bench -p musaic-core`;
//! words after `--` choose groups by their beginning. `MUSAIC_THREADS` sets the number of threads.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor};
use musaic_core::{
    WeightFormat,
    nn::{Matrix, MatrixBuilder},
};

/// Seconds of the best run.
fn best(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begun, mut best, mut runs) = (Instant::now(), f64::MAX, 0);
    while runs < 5 || (begun.elapsed() < Duration::from_millis(400) && runs < 2000) {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(best)
}

fn noise(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

fn matrix(rows: usize, cols: usize, format: WeightFormat) -> Result<Matrix> {
    let values: Vec<f32> = (0..cols as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8).collect();
    let mut builder = MatrixBuilder::new(rows, cols, format, &Device::Cpu)?;
    for _ in 0..rows {
        builder.push(&values)?;
    }
    builder.finish()
}

/// What all threads together read from memory, GB/s: the ceiling of the decoding products.
fn bandwidth() -> Result<()> {
    let threads = musaic_core::nn::threads();
    let data = vec![1u64; 32 << 20];
    let time = best(|| {
        std::thread::scope(|scope| {
            for part in data.chunks(data.len() / threads) {
                scope.spawn(|| std::hint::black_box(part.iter().fold(0u64, |a, b| a.wrapping_add(*b))));
            }
        });
        Ok(())
    })?;
    println!("memory read on {threads} threads: {:.1} GB/s", data.len() as f64 * 8e-9 / time);
    Ok(())
}

/// Products of one or two rows, rotating over enough copies that none stays in a cache.
fn thin() -> Result<()> {
    for format in WeightFormat::ALL {
        for (rows, cols) in [(1024, 1024), (3072, 1024), (4096, 1024), (1024, 4096), (8192, 1024)] {
            let size = matrix(rows, cols, format)?.bytes();
            let copies: Vec<_> = (0..(160 << 20) / size).map(|_| matrix(rows, cols, format)).collect::<Result<_>>()?;
            print!("thin {format:5} {rows:5} x {cols:4}:");
            for m in [1, 2, 8] {
                let xs = noise(&[m, cols])?;
                let time = best(|| copies.iter().try_for_each(|w| w.forward(&xs).map(drop)))?;
                print!("  m={m} {:5.1} GB/s", (size * copies.len()) as f64 * 1e-9 / time);
            }
            println!();
        }
    }
    Ok(())
}

fn wide() -> Result<()> {
    for format in WeightFormat::ALL {
        for (rows, cols) in [(768, 768), (3072, 768), (768, 3072), (4096, 1024), (4096, 4096)] {
            let w = matrix(rows, cols, format)?;
            print!("wide {format:5} {rows:5} x {cols:4}:");
            for m in [16, 32, 128, 512] {
                let xs = noise(&[m, cols])?;
                let flops = (2 * m * rows * cols) as f64;
                let time = best(|| w.forward(&xs).map(drop))?;
                print!("  m={m} {:5.0}", flops * 1e-9 / time);
                if format == WeightFormat::F32 {
                    let t = w.dense()?.t()?;
                    let plain = best(|| xs.matmul(&t).map(drop))?;
                    print!(" (gemm {:5.0})", flops * 1e-9 / plain);
                }
            }
            println!(" GFLOP/s");
        }
    }
    Ok(())
}

/// A group of measurements.
type Group = (&'static str, fn() -> Result<()>);

const GROUPS: [Group; 3] = [("bandwidth", bandwidth), ("thin", thin), ("wide", wide)];

fn main() -> Result<()> {
    let chosen: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, group) in GROUPS {
        if chosen.is_empty() || chosen.iter().any(|word| name.starts_with(word.as_str())) {
            group()?;
        }
    }
    Ok(())
}
