//! Features -> LLM space and back: what is trained between frozen parts of M2UGen
//! ([paper](https://arxiv.org/abs/2311.11255)).
//!
//! | part | from | to |
//! |---|---|---|
//! | [`bridge`] | features of an encoder `[batch, positions, input_dim]` | one vector of the language model `[batch, 1, dim]` |
//! | [`knn`] | features, from a FAISS index | features pulled towards their nearest neighbours |
//! | [`prefix`] | such a vector, projected to keys and values | what a layer's attention gains, `[batch, time, dim]` |
//! | [`lora`] | input of a projection `[.., input]` | what its output gains, `[.., output]` |
//! | [`projector`] | hidden states of eight music tokens `[batch, 8, dim]` | conditioning of a decoder `[batch, tokens, width]` |
//!
//! These weights are small beside the models they join, and errors in them are heard everywhere: where a model is quantised,
//! they stay at 16 bits.

pub mod bridge;
pub mod knn;
pub mod lora;
pub mod prefix;
pub mod projector;

use musaic_core::{WeightFormat, weights::Weights};

/// The same place, with matrices held in 16 bits where the model is quantised.
fn unquantised(weights: &Weights) -> Weights {
    match weights.format() {
        WeightFormat::Q8_0 | WeightFormat::Q4K => weights.in_format(WeightFormat::Bf16),
        _ => weights.clone(),
    }
}
