//! Writing a LLaMA as a GGUF file.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    sentencepiece::{ModelType, PieceKind, SentencePieceModel},
    weights::{GgufSettings, GgufValue, InMemory, Layered, Renamed, Source, write_gguf},
};

use super::{
    config::LlamaConfig,
    gguf::gguf_name,
    open::OpenLlama,
    rope::{RopeConfig, Scaling},
};

/// Version of the block layouts, as readers of the format ask for it.
const QUANTISATION: i128 = 2;

/// What is written beside the weights.
#[derive(Default)]
pub struct Notes {
    /// Name of the model.
    pub name: String,
    /// Tokenizer, and tokens added behind its pieces.
    pub tokenizer: Option<(SentencePieceModel, Vec<String>)>,
    /// Settings of another GGUF file that go along.
    pub settings: Vec<(String, GgufValue)>,
    /// Texts by their keys.
    pub texts: Vec<(String, String)>,
}

/// Writes `llama` with its matrices in `format`; where that is `q4_k`, the table of embeddings in `q8_0`, as a model holds it. Gives
/// the tensors as they were read, under the names in the file.
///
/// # Errors
/// Tensors are missing or left over, the configuration has no place in the format, or the file cannot be written.
pub fn to_gguf(path: &Path, llama: OpenLlama, format: WeightFormat, notes: &Notes) -> Result<Box<dyn Source>> {
    let OpenLlama { config, source, path: from, files } = llama.in_meta_layout()?;
    // What the reader computes itself.
    let computed = |name: &str| name == "rope.freqs" || (config.tie_word_embeddings && name == "output.weight");
    let source = Renamed::new(source, |name| (!computed(name)).then(|| name.to_owned()))?;
    let plain = OpenLlama { config: config.clone(), source: Box::new(source), path: from, files };
    plain.check()?;
    let renamed = Renamed::new(plain.source, gguf_name)?;
    let mut settings = settings(path, &config, format, notes)?;
    let mut layers: Vec<Box<dyn Source>> = vec![Box::new(renamed)];
    if let Some(by) = divisors(&config) {
        let tensor = Tensor::from_vec(by, config.head_dim / 2, &Device::Cpu)?;
        layers.push(Box::new(InMemory::new(HashMap::from([("rope_freqs.weight".to_owned(), tensor)]))));
    }
    let whole = Layered::new(layers);
    settings.extend(notes.settings.iter().cloned());
    settings.extend(notes.texts.iter().map(|(key, text)| (key.clone(), GgufValue::Text(text.clone()))));
    let settings: GgufSettings = settings.into_iter().collect();
    write_gguf(path, &whole, &settings, &|name, _| match name {
        "token_embd.weight" => format.no_coarser_than(WeightFormat::Q8_0),
        _ => format,
    })?;
    Ok(Box::new(whole))
}

/// What each frequency is divided by, where that is how it is carried.
fn divisors(config: &LlamaConfig) -> Option<Vec<f32>> {
    match &config.rope.scaling {
        Scaling::Divided { by } => Some(by.to_vec()),
        Scaling::Llama3 { .. } => {
            let stretched = config.rope.inv_freq(config.head_dim, 0);
            let plain = RopeConfig::plain(config.rope.theta).inv_freq(config.head_dim, 0);
            Some(plain.iter().zip(&stretched).map(|(plain, stretched)| plain / stretched).collect())
        }
        _ => None,
    }
}

fn settings(
    path: &Path,
    config: &LlamaConfig,
    format: WeightFormat,
    notes: &Notes,
) -> Result<Vec<(String, GgufValue)>> {
    let text = |text: &str| GgufValue::Text(text.to_owned());
    let size = |size: usize| GgufValue::Int(size as i128);
    let file_type = match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q8_0 => 7,
        WeightFormat::Q4K => 14,
        WeightFormat::Bf16 => 32,
    };
    let mut all = vec![
        ("general.architecture", text("llama")),
        ("general.name", text(&notes.name)),
        ("general.file_type", GgufValue::Int(file_type)),
        ("general.quantization_version", GgufValue::Int(QUANTISATION)),
        ("llama.vocab_size", size(config.vocab_size)),
        ("llama.context_length", size(config.max_position_embeddings)),
        ("llama.embedding_length", size(config.hidden_size)),
        ("llama.block_count", size(config.num_hidden_layers)),
        ("llama.feed_forward_length", size(config.intermediate_size)),
        ("llama.attention.head_count", size(config.num_attention_heads)),
        ("llama.attention.head_count_kv", size(config.num_key_value_heads)),
        ("llama.attention.key_length", size(config.head_dim)),
        ("llama.attention.value_length", size(config.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", GgufValue::Float(config.rms_norm_eps)),
        ("llama.rope.dimension_count", size(config.head_dim)),
        ("llama.rope.freq_base", GgufValue::Float(config.rope.theta)),
    ];
    match config.rope.scaling {
        Scaling::None | Scaling::Divided { .. } | Scaling::Llama3 { .. } => {}
        Scaling::Linear { factor } => all.extend([
            ("llama.rope.scaling.type", text("linear")),
            ("llama.rope.scaling.factor", GgufValue::Float(factor)),
        ]),
        Scaling::Yarn { factor, fast, slow, original, attention_factor, truncate: true } => {
            let implied = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            all.extend([
                ("llama.rope.scaling.type", text("yarn")),
                ("llama.rope.scaling.factor", GgufValue::Float(factor)),
                ("llama.rope.scaling.original_context_length", size(original)),
                ("llama.rope.scaling.attn_factor", GgufValue::Float(attention_factor / implied)),
                ("llama.rope.scaling.yarn_beta_fast", GgufValue::Float(fast)),
                ("llama.rope.scaling.yarn_beta_slow", GgufValue::Float(slow)),
            ]);
        }
        Scaling::Yarn { .. } | Scaling::Dynamic { .. } => {
            let expected = "positions that GGUF can describe (plain, linear, llama3, yarn with whole dimensions)";
            return Err(Error::format(path, expected, format!("{:?}", config.rope.scaling)));
        }
    }
    let mut all: Vec<_> = all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    if let Some((model, added)) = &notes.tokenizer {
        all.extend(tokenizer(path, model, added, config.vocab_size)?);
    }
    Ok(all)
}

/// A SentencePiece BPE as settings; rows of the table without a token are called unused.
fn tokenizer(
    path: &Path,
    model: &SentencePieceModel,
    added: &[String],
    vocab: usize,
) -> Result<Vec<(String, GgufValue)>> {
    let tokens = model.pieces.len() + added.len();
    if model.model_type != ModelType::Bpe || !model.charsmap.is_empty() || tokens > vocab {
        let found = format!("{tokens} tokens of {:?} for {vocab} embeddings", model.model_type);
        return Err(Error::format(path, "a SentencePiece BPE tokenizer without a map of characters", found));
    }
    let kind = |kind: PieceKind| match kind {
        PieceKind::Normal => 1,
        PieceKind::Unknown => 2,
        PieceKind::Control => 3,
        PieceKind::UserDefined => 4,
        PieceKind::Unused => 5,
        PieceKind::Byte => 6,
    };
    let mut texts: Vec<_> = model.pieces.iter().map(|piece| piece.text.clone()).collect();
    let mut scores: Vec<_> = model.pieces.iter().map(|piece| piece.score).collect();
    let mut kinds: Vec<_> = model.pieces.iter().map(|piece| kind(piece.kind)).collect();
    texts.extend(added.iter().cloned());
    kinds.resize(tokens, 4);
    texts.extend((tokens..vocab).map(|id| format!("[PAD{id}]")));
    kinds.resize(vocab, 5);
    scores.resize(vocab, -1000.0);
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let mut all = vec![
        (key("model"), GgufValue::Text("llama".into())),
        (key("tokens"), GgufValue::Texts(texts)),
        (key("scores"), GgufValue::Floats(scores)),
        (key("token_type"), GgufValue::Ints(kinds)),
        (key("unknown_token_id"), GgufValue::Int(model.unk_id as i128)),
        (key("add_space_prefix"), GgufValue::Bool(model.add_dummy_prefix)),
        (key("remove_extra_whitespaces"), GgufValue::Bool(model.remove_extra_whitespaces)),
    ];
    for (name, id) in [("bos_token_id", model.bos_id), ("eos_token_id", model.eos_id)] {
        all.extend(id.map(|id| (key(name), GgufValue::Int(id as i128))));
    }
    Ok(all)
}
