//! Layers: what candle lacks, or does in another way or too slowly on the CPU.
//!
//! Conventions: activations are `[batch, time, dim]` for transformer layers and `[batch, channels, time]` for convolutions;
//! weight matrices are `[out, in]` as published; every layer loads itself by its published names.

mod attention;
mod conv;
mod linear;
mod lstm;
mod matrix;
mod norm;

pub use self::{
    attention::{KvCache, Mask, attention},
    conv::{Conv1d, Conv1dConfig, ConvTranspose1d, pad_reflect},
    linear::{Embedding, Linear},
    lstm::{Lstm, LstmState},
    matrix::{Matrix, MatrixBuilder},
    norm::{LayerNorm, RmsNorm},
};
