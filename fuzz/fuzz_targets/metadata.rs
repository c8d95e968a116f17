//! The texts at the head of wav, flac, opus and mp3 files. The reader wants a file; it is one in memory where there is such.
#![no_main]

use std::{env, fs, path::PathBuf, process, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use musaic_core::media::read_metadata;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { env::temp_dir() };
    folder.join(format!("musaic-fuzz-{}", process::id()))
});

fuzz_target!(|data: &[u8]| {
    // The first byte picks the format, so that every input reaches a reader.
    let Some((kind, rest)) = data.split_first() else { return };
    let magic: &[u8] = match kind % 4 {
        0 => b"RIFF\0\0\0\0WAVE",
        1 => b"fLaC",
        2 => b"OggS",
        _ => b"ID3\x04",
    };
    if fs::write(&*FILE, [magic, rest].concat()).is_ok() {
        let _ = read_metadata(&*FILE);
    }
});
