//! GGUF headers, and the numbers of every type they point at. Seeds: `tests/fixtures/gguf`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use musaic_core::weights::{Checkpoint, Source};

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    bytes.splice(..bytes.len().min(4), *b"GGUF");
    let Ok(checkpoint) = Checkpoint::from_bytes("fuzz.gguf", bytes) else { return };
    for (name, shape) in checkpoint.tensors() {
        let mut count = 0;
        let read = checkpoint.read(name, &mut |piece| {
            count += piece.len();
            Ok(())
        });
        assert!(read.is_err() || count == shape.iter().product::<usize>());
        let mut bytes = 0;
        let read = checkpoint.read_packed(name, &mut |piece| {
            bytes += piece.len();
            Ok(())
        });
        assert!(read.is_err() || bytes <= data.len() + 4);
    }
});
