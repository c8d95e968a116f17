//! Torch archives, their zip directories and pickled tables. Seeds: any small `.pth` or `.bin`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use musaic_core::weights::{Checkpoint, Source};

fuzz_target!(|data: &[u8]| {
    // With the first bytes right, every input reaches the reader that is meant.
    let mut bytes = data.to_vec();
    if !bytes.starts_with(b"\x80\x02\x8a") {
        bytes.splice(..bytes.len().min(4), *b"PK\x03\x04");
    }
    let Ok(checkpoint) = Checkpoint::from_bytes("fuzz.pth", bytes) else { return };
    for name in checkpoint.tensors().keys() {
        let _ = checkpoint.read(name, &mut |_| Ok(()));
    }
});
