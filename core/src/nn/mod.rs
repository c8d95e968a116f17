//! Layers: what candle lacks, or does in another way or too slowly on the CPU.
//!
//! Conventions: activations are `[batch, time, dim]` for transformer layers and `[batch, channels, time]` for convolutions;
//! weight matrices are `[out, in]` as published; every layer loads itself by its published names.

mod activation;
mod attend;
mod attend_tile;
mod attention;
mod block;
mod bytes;
mod conv;
mod filter;
mod integer;
mod linear;
mod lstm;
mod matrix;
mod norm;
mod packed;
mod pool;
mod product;
mod rope;
mod simd;
mod slices;
#[cfg(test)]
mod testing;

pub(crate) use self::packed::{format_for, pack_rows};
pub use self::{
    activation::{elu, gelu, gelu_tanh, relu, sigmoid_of, silu, silu_gated, tanh_of},
    attention::{KvCache, Mask, attention},
    conv::{Conv1d, Conv1dConfig, ConvTranspose1d, pad_reflect},
    linear::{Embedding, Linear},
    lstm::{Lstm, LstmState},
    matrix::{Matrix, MatrixBuilder},
    norm::{LayerNorm, RmsNorm},
    pool::{threads, with_threads},
    rope::{Pairing, Rotation},
    simd::cpu_class,
};
