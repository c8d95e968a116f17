//! The table of kinds: what proves which part.

mod bridge;
mod delay;
mod encodec;
mod generate;
mod gpt_bpe;
mod greedy;
mod knn;
mod llama;
mod llama_spm;
mod llm_forward;
mod m2ugen;
mod media_arithmetic;
mod media_features;
mod media_files;
mod media_resample;
mod melody;
mod mert;
mod nucleus;
mod pipeline;
mod projector;
mod sampling;
mod t5_unigram;
mod vit;
mod vivit;

use anyhow::Result;
use musaic_core::testing::Case;

use super::{case::Context, recorder::Recorder};

/// A row of the table.
pub struct Kind {
    /// Name in `case.json`.
    pub name: &'static str,
    /// Whether the weights of a model are read: such cases have bounds of their own in each format.
    pub has_model: bool,
    /// Computes what the case stores.
    pub run: fn(&Case, &Context<'_>, &mut Recorder<'_>) -> Result<()>,
}

/// Every kind this version proves.
pub const KINDS: &[Kind] = &[
    Kind { name: "encoders/mert", has_model: true, run: mert::run },
    Kind { name: "encoders/vit", has_model: true, run: vit::run },
    Kind { name: "encoders/vivit", has_model: true, run: vivit::run },
    Kind { name: "llm/llama", has_model: true, run: llama::run },
    Kind { name: "m2ugen/bridge", has_model: true, run: bridge::run },
    Kind { name: "m2ugen/generate", has_model: true, run: generate::run },
    Kind { name: "m2ugen/llm-forward", has_model: true, run: llm_forward::run },
    Kind { name: "m2ugen/projector", has_model: true, run: projector::run },
    Kind { name: "m2ugen/sampling", has_model: false, run: nucleus::run },
    Kind { name: "media/arithmetic", has_model: false, run: media_arithmetic::run },
    Kind { name: "media/features", has_model: false, run: media_features::run },
    Kind { name: "media/files", has_model: false, run: media_files::run },
    Kind { name: "media/resample", has_model: false, run: media_resample::run },
    Kind { name: "musicgen/delay", has_model: false, run: delay::run },
    Kind { name: "musicgen/encodec", has_model: true, run: encodec::run },
    Kind { name: "musicgen/melody", has_model: true, run: melody::run },
    Kind { name: "musicgen/pipeline", has_model: true, run: pipeline::run },
    Kind { name: "musicgen/sampling", has_model: false, run: sampling::run },
    Kind { name: "retrieval/knn", has_model: false, run: knn::run },
    Kind { name: "tokenizers/gpt-bpe", has_model: false, run: gpt_bpe::run },
    Kind { name: "tokenizers/llama-spm", has_model: false, run: llama_spm::run },
    Kind { name: "tokenizers/t5-unigram", has_model: false, run: t5_unigram::run },
];
