//! Speed of the kernels of `nn` on this machine: best of many short runs, on stdout. Run with `cargo bench -p musaic-core`;
//! words after `--` choose groups by their beginning. `MUSAIC_THREADS` sets the number of threads.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use musaic_core::{
    WeightFormat,
    nn::{Conv1d, Conv1dConfig, ConvTranspose1d, KvCache, Mask, Matrix, MatrixBuilder, elu, gelu},
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

/// Convolutions of the shapes of a 32 kHz codec, for ten seconds.
fn conv() -> Result<()> {
    for (inputs, outputs, kernel, stride, time) in [
        (1, 64, 7, 1, 320_000),
        (64, 32, 3, 1, 320_000),
        (32, 64, 1, 1, 320_000),
        (64, 1, 7, 1, 320_000),
        (64, 128, 8, 4, 320_000),
        (256, 512, 10, 5, 20_000),
        (512, 1024, 16, 8, 4_000),
        (128, 1024, 7, 1, 500),
    ] {
        let conv = Conv1d::new(&noise(&[outputs, inputs, kernel])?, None, Conv1dConfig { stride, dilation: 1 })?;
        let xs = noise(&[1, inputs, time])?;
        let time_taken = best(|| conv.forward(&xs).map(drop))?;
        let flops = (2 * inputs * outputs * kernel * time / stride) as f64;
        println!(
            "conv {inputs} -> {outputs} k{kernel} s{stride}: {:.2} ms, {:.0} GFLOP/s",
            time_taken * 1e3,
            flops * 1e-9 / time_taken
        );
    }
    for (inputs, outputs, kernel, stride, time) in
        [(1024, 512, 16, 8, 500), (512, 256, 10, 5, 4_000), (256, 128, 8, 4, 20_000), (128, 64, 8, 4, 80_000)]
    {
        let conv = ConvTranspose1d::new(&noise(&[inputs, outputs, kernel])?, None, stride)?;
        let xs = noise(&[1, inputs, time])?;
        let time_taken = best(|| conv.forward(&xs).map(drop))?;
        let flops = (2 * inputs * outputs * kernel * time) as f64;
        println!(
            "transposed conv {inputs} -> {outputs} k{kernel} s{stride}: {:.2} ms, {:.0} GFLOP/s",
            time_taken * 1e3,
            flops * 1e-9 / time_taken
        );
    }
    Ok(())
}

/// Attention of sixteen heads of 64 for two sequences, and elementwise functions.
fn other() -> Result<()> {
    for dtype in [DType::F32, DType::F16] {
        for (keys, time) in [(500, 1), (1500, 1), (500, 500)] {
            let mut cache = KvCache::new(2, 16, 64, keys, dtype, &Device::Cpu)?;
            cache.append(&noise(&[2, keys, 1024])?, &noise(&[2, keys, 1024])?)?;
            let q = noise(&[2, time, 1024])?;
            let taken = best(|| cache.attend(&q, 0.125, Mask::Causal).map(drop))?;
            println!("attend {dtype:?} {time} over {keys} keys: {:.1} us", taken * 1e6);
        }
    }
    let xs = noise(&[2, 4096])?;
    println!("gelu of 2 x 4096: {:.1} us", best(|| gelu(&xs).map(drop))? * 1e6);
    let xs = noise(&[64, 320_000])?;
    println!("elu of 64 x 320000: {:.1} ms", best(|| elu(&xs).map(drop))? * 1e3);
    Ok(())
}

/// A group of measurements.
type Group = (&'static str, fn() -> Result<()>);

const GROUPS: [Group; 5] = [("bandwidth", bandwidth), ("thin", thin), ("wide", wide), ("conv", conv), ("other", other)];

fn main() -> Result<()> {
    let chosen: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, group) in GROUPS {
        if chosen.is_empty() || chosen.iter().any(|word| name.starts_with(word.as_str())) {
            group()?;
        }
    }
    Ok(())
}
