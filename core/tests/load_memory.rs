//! Peak memory of loading, in a process of its own: at most 1.1 x the weights as they are held, and 300 MB.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)] // helpers of tests, too

#[allow(dead_code)]
#[path = "weights/torch_file.rs"]
mod torch_file;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use candle_core::Device;
use musaic_core::{
    Result, WeightFormat,
    weights::{Checkpoint, Source, StoredAs, Weights, write_safetensors},
};
use torch_file::{View, archive, state_dict};

const ROWS: usize = 2048;
const COLS: usize = 2048;
const LAYERS: usize = 24;

/// Matrices that are made while they are read, so that the test itself holds nothing.
struct Made(BTreeMap<String, Vec<usize>>);

impl Source for Made {
    fn label(&self) -> String {
        "made".into()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.0
    }

    fn read(&self, _: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let row: Vec<_> = (0..COLS).map(|i| i as f32 / 1024.0 - 1.0).collect();
        (0..ROWS).try_for_each(|_| sink(&row))
    }
}

fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Loads everything and gives the bytes held and the time it took.
fn load(path: &Path, format: WeightFormat) -> (u64, Duration) {
    let start = Instant::now();
    let weights = Weights::open(path, &Device::Cpu, format).unwrap();
    let matrices: Vec<_> =
        (0..LAYERS).map(|i| weights.matrix(ROWS, COLS, &format!("layer.{i}.weight")).unwrap()).collect();
    let took = start.elapsed();
    weights.finish().unwrap();
    (matrices.iter().map(|m| m.bytes() as u64).sum(), took)
}

#[test]
fn peak_memory_stays_near_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..LAYERS).map(|i| format!("layer.{i}.weight")).collect();
    let source = Made(names.iter().map(|name| (name.clone(), vec![ROWS, COLS])).collect());
    let plain = folder.path().join("model.safetensors");
    let packed = folder.path().join("packed.safetensors");
    write_safetensors(&plain, &source, &BTreeMap::new(), &|_, _| Some(StoredAs::Bf16)).unwrap();
    write_safetensors(&packed, &source, &BTreeMap::new(), &|_, _| Some(StoredAs::Q8_0)).unwrap();
    let torch = folder.path().join("model.pth");
    {
        // All layers are views of one storage, so the file stays small while as much is read as from the other.
        let view = View::whole("BFloat16Storage", "0", &[ROWS, COLS]);
        let views: Vec<_> = names.iter().map(|name| (name.as_str(), view.clone())).collect();
        fs::write(&torch, archive(&state_dict(&views), &[("0", &vec![0x3f; ROWS * COLS * 2])], false)).unwrap();
    }
    let before = peak();
    assert!(before < 150 << 20, "the test itself took {before}");
    for path in [&torch, &packed, &plain] {
        let (held, took) = load(path, WeightFormat::Bf16);
        let (peak, allowed) = (peak(), held + held / 10 + (300 << 20));
        println!("{}: held {held}, peak {peak} of {allowed}, {took:?}", path.display());
        assert!(peak <= allowed, "{}: peak {peak}, allowed {allowed}", path.display());
    }
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&plain).unwrap();
    let mut count = 0;
    for name in &names {
        checkpoint
            .read(name, &mut |piece| {
                count += piece.len();
                Ok(())
            })
            .unwrap();
    }
    println!("read alone: {:.2} GB/s of file", count as f64 * 2.0 / start.elapsed().as_secs_f64() / 1e9);
    assert_eq!(count, LAYERS * ROWS * COLS);
}
