//! Budgets for foreign media: they hold while a file is decoded, not after.

use serde::{Deserialize, Serialize};

/// How much a file may hold, and how much its decoder may use, before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Seconds of sound or of moving pictures.
    pub duration_s: f64,
    /// Decoded samples over all channels; each takes 4 bytes.
    pub samples: usize,
    /// Channels.
    pub channels: usize,
    /// Pixels of one picture.
    pub pixels: u64,
    /// Pixels of all pictures that are handed out; each takes 3 bytes.
    pub total_pixels: u64,
    /// Frames of a video.
    pub frames: usize,
    /// Bytes a decoder may allocate for itself (where it runs in a process of its own).
    pub memory_bytes: u64,
    /// Processor seconds a decoder may take (where it runs in a process of its own).
    pub cpu_s: u64,
    /// Seconds to wait for a decoder, all in all (where it runs in a process of its own).
    pub wait_s: u64,
}

impl Default for Limits {
    /// 2 GiB of file, one hour, 2^28 samples (1 GiB in memory), 32 channels, pictures of 2^26 pixels (8192 x 8192) and 2^29 in
    /// all (1.5 GiB in memory), 2^20 frames; decoders get 1 GiB, five minutes of a processor and ten by the clock.
    fn default() -> Self {
        Self {
            file_bytes: 2 << 30,
            duration_s: 3600.0,
            samples: 1 << 28,
            channels: 32,
            pixels: 1 << 26,
            total_pixels: 1 << 29,
            frames: 1 << 20,
            memory_bytes: 1 << 30,
            cpu_s: 300,
            wait_s: 600,
        }
    }
}
