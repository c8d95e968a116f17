//! Safetensors headers, with and without packed tensors. Seeds: any small `.safetensors`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use musaic_core::weights::{Checkpoint, Source};

fuzz_target!(|data: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_bytes("fuzz.safetensors", data.to_vec()) else { return };
    for (name, shape) in checkpoint.tensors() {
        let mut count = 0;
        let read = checkpoint.read(name, &mut |piece| {
            count += piece.len();
            Ok(())
        });
        assert!(read.is_err() || count == shape.iter().product::<usize>());
    }
});
