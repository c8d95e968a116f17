//! T5 encoder (Raffel et al., arXiv 1910.10683): text to states. MusicGen uses `t5-base`; flan variants are gated.
//!
//! | stage | shape |
//! |---|---|
//! | text | string |
//! | token ids, mask | `[batch, length]` |
//! | states | `[batch, length, d_model]` |
//!
//! Names follow the published checkpoints below `text_encoder.`: `shared.weight`, `encoder.block.{i}.layer.{0,1}.*`,
//! `encoder.final_layer_norm.weight`.

mod config;
mod model;
mod tokenizer;

pub use self::{
    config::{Activation, FeedForward, T5Config},
    model::{T5Encoder, bucket},
    tokenizer::{Padding, T5Tokenizer},
};
