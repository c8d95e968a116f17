//! EnCodec: waveform to codes and back ([High Fidelity Neural Audio Compression](https://arxiv.org/abs/2210.13438)).
//!
//! The SEANet encoder turns the waveform into latents, a residual vector quantiser codes each latent with a few codebook
//! rows, the SEANet decoder turns the sum of these rows into a waveform again. Layout and names are those of
//! `EncodecModel` in transformers, so published checkpoints load as they are; in a MusicGen folder they sit below
//! `audio_encoder`.
//!
//! | tensor | shape |
//! |---|---|
//! | waveform | `[batch, channels, samples]`, -1 to 1 |
//! | latents, quantised latents | `[batch, hidden_size, frames]`, a frame every `hop_length` samples |
//! | codes of one chunk | `[batch, codebooks, frames]`, u32 |
//!
//! Conventions: reflection padding, LSTM gates `i, f, g, o`, the nearest row is the first of equals. Long signals are run in
//! blocks that carry the state of every layer, so memory stays bounded and the numbers are those of the whole;
//! [`StreamDecoder`] does the same with codes that are still being made.

mod config;
mod conv;
mod elu;
mod model;
mod processor;
mod quantizer;
mod seanet;
mod stream;

pub use self::{
    config::{EncodecConfig, NormType, PadMode},
    model::{Encodec, Encoded},
    processor::{EncodecExtractor, PaddingSide},
    stream::StreamDecoder,
};
