//! LLaMA ([LLaMA](https://arxiv.org/abs/2302.13971), [LLaMA 2](https://arxiv.org/abs/2307.09288)): token ids to hidden states
//! to logits.
//!
//! Checkpoints: Hugging Face folders (`config.json` with safetensors or `.bin`, one file or shards: LLaMA, Vicuna, SmolLM2),
//! Meta's own (`params.json`, `consolidated.*.pth`), and GGUF files. References: `LlamaForCausalLM` of transformers 4.57 and Meta's code.
//!
//! | stage | shape |
//! |---|---|
//! | token ids | `[batch, time]` |
//! | embeddings ([`Llama::embed`]) | `[batch, time, hidden]` |
//! | last layer's output ([`Llama::feed`]) | `[batch, time, hidden]` |
//! | logits ([`Llama::logits`]) | `[batch, time, vocab]` |
//!
//! Conventions: pre-norm layers with RMS norm; scores scaled by `head_dim^-0.5`; query heads `n i .. n (i + 1)` share key and
//! value head `i`; rotary pairs are halves of a head in Hugging Face layouts and neighbours in Meta's and in GGUF, positions count from
//! 0. Query, key and value projections are one matrix, and so are gate and up.

mod config;
pub mod export;
pub mod gguf;
mod layer;
pub mod m2ugen;
pub mod meta;
mod model;
mod names;
mod open;
pub mod rope;
mod rows;
pub mod sampling;
mod session;
pub mod tokenizer;

pub use self::{
    config::{Hooks, Layout, LlamaConfig, MetaParams},
    model::{Llama, LlamaState},
    open::OpenLlama,
    rows::HeadRows,
    session::{CHUNK, Session, load_folder},
    tokenizer::{JsonTokenizer, LlamaTokenizer},
};
