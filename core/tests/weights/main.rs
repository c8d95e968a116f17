//! Checkpoints of every kind, good and hostile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)] // helpers of tests, too

mod formats;
mod gguf;
mod hostile;
mod torch_file;
mod walk;

use std::collections::BTreeMap;

use musaic_core::weights::{Checkpoint, Source};

/// All values of a tensor.
pub fn values(source: &dyn Source, name: &str) -> Vec<f32> {
    let mut out = Vec::new();
    let mut push = |piece: &[f32]| {
        out.extend_from_slice(piece);
        Ok(())
    };
    source.read(name, &mut push).unwrap_or_else(|e| panic!("{name}: {e}"));
    out
}

/// Everything in a checkpoint, bit for bit.
pub fn everything(checkpoint: &Checkpoint) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let read = |name: &str| values(checkpoint, name).iter().map(|v| v.to_bits()).collect();
    checkpoint.tensors().iter().map(|(name, shape)| (name.clone(), (shape.clone(), read(name)))).collect()
}
