//! What LP-MusicCaps ([LP-MusicCaps](https://arxiv.org/abs/2307.16372)) hears: log-mel pictures of sound at 16 kHz.
//!
//! Its code squares the real part of each bin alone, not the magnitude: trained weights have seen these numbers.

use candle_core::{Device, Tensor};
use musaic_core::{
    Result,
    media::mel::{Energy, LogMel, MelOptions, MelScale},
};

/// Sizes as published.
const OPTIONS: MelOptions = MelOptions {
    sample_rate_hz: 16_000,
    fft: 1024,
    hop: 160,
    energy: Energy::RealPart,
    mels: 128,
    low_hz: 0.0,
    high_hz: 8000.0,
    scale: MelScale::Htk,
    same_area: false,
};

/// Mono samples at 16 kHz to a picture `[128, 1 + samples / 160]` in dB.
///
/// # Errors
/// There are 512 samples or fewer.
pub fn log_mel(samples: &[f32]) -> Result<Tensor> {
    let mel = LogMel::new(OPTIONS)?;
    let shape = (mel.frames(samples.len()), OPTIONS.mels);
    Ok(Tensor::from_vec(mel.of(samples)?, shape, &Device::Cpu)?.t()?.contiguous()?)
}
