//! LLaMA: how fast a prompt is read, and how fast it is answered.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use musaic_core::{WeightFormat, weights::Weights};

use super::Row;
use crate::{
    failure::BadInput,
    llm::{Hooks, Layout, Llama, LlamaConfig, LlamaState, rope::RopeConfig},
};

/// Tokens of the prompt.
const PROMPT: usize = 64;
/// Tokens of the answer that are timed.
const ANSWER: usize = 32;
/// The best of this many runs counts.
const RUNS: usize = 3;
/// Sizes by their names: LLaMA 2, and one that is soon made (SmolLM2).
pub(super) const SIZES: [&str; 2] = ["7b", "135m"];

/// The configuration of a published size.
///
/// # Errors
/// There is none of this name.
pub(super) fn config(size: &str) -> anyhow::Result<LlamaConfig> {
    let (vocab_size, hidden_size, intermediate_size, num_hidden_layers, heads, kv_heads, tied) = match size {
        "7b" => (32_000, 4096, 11_008, 32, 32, 32, false),
        "135m" => (49_152, 576, 1536, 30, 9, 3, true),
        _ => return Err(BadInput::new(format!("size: `{size}`, expected one of {}", SIZES.join(", "))).into()),
    };
    Ok(LlamaConfig {
        layout: Layout::HuggingFace,
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim: hidden_size / heads,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 4096,
        rope: RopeConfig::plain(10_000.0),
        tie_word_embeddings: tied,
        attention_bias: false,
        mlp_bias: false,
        hooks: Hooks::default(),
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    })
}

struct Timed {
    model: Llama,
    state: LlamaState,
    ids: Vec<u32>,
}

impl Timed {
    /// The whole model with random weights, no layer twice.
    fn new(size: &str, format: WeightFormat, device: &Device) -> anyhow::Result<Self> {
        let config = config(size)?;
        let model = Llama::load(&config, &Weights::random(1, device, format))?;
        let state = model.start(1, PROMPT + ANSWER, DType::F16)?;
        let vocab = config.vocab_size as u32;
        let ids = (0..(PROMPT + ANSWER) as u32).map(|i| i * 31 % vocab).collect();
        Ok(Self { model, state, ids })
    }

    /// Feeds `count` tokens and gives the last one's logits, as a step of an answer needs them.
    fn feed(&mut self, count: usize) -> anyhow::Result<Tensor> {
        let first = self.state.len();
        let ids = Tensor::from_slice(&self.ids[first..first + count], (1, count), self.model.device())?;
        let hidden = self.model.feed(&self.model.embed(&ids)?, &mut self.state, &mut ())?;
        Ok(self.model.logits(&hidden.narrow(1, count - 1, 1)?, &mut ())?)
    }

    fn weight_bytes(&self) -> f64 {
        self.model.bytes() as f64
    }
}

/// Tokens a second of a prompt fed at once.
pub(super) fn prefill(size: &str, format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let mut timed = Timed::new(size, format, device)?;
    let mut best = f64::INFINITY;
    for _ in 0..=RUNS {
        timed.state.truncate(0);
        let started = Instant::now();
        timed.feed(PROMPT)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    let about =
        format!("LLaMA {size}, prompt of {PROMPT} tokens in {format} to the first logits, whole model, f16 cache");
    let row = super::components::row(about, PROMPT as f64 / best, "tokens/s");
    Ok(Row { weight_bytes: Some(timed.weight_bytes()), ..row })
}

/// Tokens a second, one at a time behind the prompt.
pub(super) fn decode(size: &str, format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let mut timed = Timed::new(size, format, device)?;
    timed.feed(PROMPT)?;
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        timed.state.truncate(PROMPT);
        let started = Instant::now();
        for _ in 0..ANSWER {
            timed.feed(1)?;
        }
        best = best.min(started.elapsed().as_secs_f64());
    }
    let config = timed.model.config();
    // Keys and values of the positions an average step sees, in f16.
    let positions = PROMPT as f64 + ANSWER as f64 / 2.0;
    let kv_width = config.num_key_value_heads * config.head_dim;
    let cache = 2.0 * 2.0 * (config.num_hidden_layers * kv_width) as f64 * positions;
    let about =
        format!("LLaMA {size}, one token at a time in {format}, {ANSWER} behind {PROMPT}, whole model, f16 cache");
    let mut row = super::components::row(about, ANSWER as f64 / best, "tokens/s");
    row.bytes_per_unit = Some(timed.model.bytes_per_token() as f64 + cache);
    row.weight_bytes = Some(timed.weight_bytes());
    Ok(row)
}
