//! GGUF files of another writer (`tests/fixtures/gguf/make.py`) give the logits of the folders they were made from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, too

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use musaic::llm::{
    Llama, LlamaTokenizer,
    gguf::{GgufFile, load_gguf},
    load_folder,
    rope::Scaling,
};
use musaic_core::WeightFormat;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/gguf").join(name)
}

/// Logits of 60 positions, fed in three parts.
fn logits(model: &Llama) -> Vec<f32> {
    let vocab = model.config().vocab_size as u32;
    let ids: Vec<_> = (0..60).map(|i| (i * i * 7 + 1) % vocab).collect();
    let mut state = model.start(1, 60, DType::F32).unwrap();
    let mut all = Vec::new();
    for part in [&ids[..40], &ids[40..41], &ids[41..]] {
        let ids = Tensor::from_slice(part, (1, part.len()), &Device::Cpu).unwrap();
        let hidden = model.feed(&model.embed(&ids).unwrap(), &mut state, &mut ()).unwrap();
        all.extend(model.logits(&hidden, &mut ()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    all
}

/// Largest and mean difference, and the largest value.
fn apart(a: &[f32], b: &[f32]) -> (f32, f32, f32) {
    assert_eq!(a.len(), b.len());
    let off: Vec<_> = a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect();
    let most = |values: &[f32]| values.iter().fold(0f32, |m, v| m.max(v.abs()));
    (most(&off), off.iter().sum::<f32>() / off.len() as f32, most(b))
}

/// The order of the rows of queries and keys differs, and with it the order of sums; nothing else does.
const ORDER: f32 = 2e-6;

#[test]
fn a_file_without_rounding_gives_the_logits_of_the_folder() {
    let folder = root().join("tests/goldens/llm/llama-hf-gqa-tied/model");
    let folder = load_folder(&folder, &Device::Cpu, WeightFormat::F32).unwrap();
    let file = load_gguf(&fixture("gqa-tied.gguf"), &Device::Cpu, WeightFormat::F32).unwrap();
    let (a, b) = (folder.config(), file.config());
    assert_eq!((a.num_key_value_heads, a.head_dim, &a.rope), (b.num_key_value_heads, b.head_dim, &b.rope));
    assert!(b.tie_word_embeddings);
    let (off, _, largest) = apart(&logits(&file), &logits(&folder));
    assert!(off <= ORDER * largest, "off by {off} of {largest}");
}

#[test]
fn eight_bits_are_those_of_our_own_packing() {
    let load = |format| {
        let folder = load_folder(&fixture("wide"), &Device::Cpu, format).unwrap();
        let file = load_gguf(&fixture("wide-q8_0.gguf"), &Device::Cpu, format).unwrap();
        assert_eq!(folder.bytes(), file.bytes());
        (logits(&folder), logits(&file))
    };
    let (exact, read) = load(WeightFormat::F32);
    let (packed, taken) = load(WeightFormat::Q8_0);
    // Taken over and packed by us: the same numbers.
    let (off, _, largest) = apart(&taken, &packed);
    assert!(off <= 2.0 * ORDER * largest, "off by {off} of {largest}");
    // Widened to f32 they are off by the rounding of the weights; as they are, by that of the activations as well.
    for (what, other) in [("weights", &read), ("weights and activations", &taken)] {
        let (off, mean, largest) = apart(other, &exact);
        let good = mean > 0.0 && off <= 0.08 * largest && mean <= 0.01 * largest;
        assert!(good, "{what}: off by {off}, mean {mean}, of {largest}");
    }
}

#[test]
fn llama_3_positions_come_as_divisors() {
    let file = GgufFile::open(&fixture("wide-q8_0.gguf")).unwrap();
    let folder = load_folder(&fixture("wide"), &Device::Cpu, WeightFormat::F32).unwrap();
    assert!(matches!(folder.config().rope.scaling, Scaling::Llama3 { .. }));
    assert!(matches!(file.config.rope.scaling, Scaling::Divided { .. }));
    assert!(file.config.attention_bias && !file.config.tie_word_embeddings);
    let (a, b) = (folder.inv_freq(256), file.config.rope.inv_freq(16, 256));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 2e-7 * a), "{a:?} {b:?}");
    assert!(file.tokenizer().unwrap().is_none());
}

#[test]
fn the_tokenizer_in_a_file_is_that_of_its_model() {
    let golden = root().join("tests/goldens/tokenizers/llama-spm");
    let names: Vec<_> = (0..8).map(|i| format!("[AUD{i}]")).collect();
    let model = LlamaTokenizer::open(&golden.join("model/tokenizer.model"), &names).unwrap();
    let file = musaic_core::weights::Checkpoint::open(fixture("tokenizer.gguf")).unwrap();
    let taken = LlamaTokenizer::from_gguf(Path::new("x"), file.settings().unwrap()).unwrap().unwrap();
    assert_eq!(taken.vocab_size(), model.vocab_size());
    assert_eq!((taken.bos_id(), taken.eos_id()), (model.bos_id(), model.eos_id()));
    let rows: serde_json::Value = serde_json::from_slice(&std::fs::read(golden.join("strings.json")).unwrap()).unwrap();
    let rows = rows.as_array().cloned().or_else(|| rows["rows"].as_array().cloned()).unwrap();
    assert!(rows.len() > 50);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let ids = taken.encode(text, true).unwrap();
        assert_eq!(ids, model.encode(text, true).unwrap(), "{text}");
        assert_eq!(taken.decode(&ids, false), model.decode(&ids, false), "{text}");
    }
}

#[test]
fn what_is_no_llama_is_refused_in_words() {
    let text = GgufFile::open(&fixture("types.gguf")).err().unwrap().to_string();
    assert!(text.contains("general.architecture = test"), "{text}");
    let text = GgufFile::open(&fixture("tokenizer.gguf")).err().unwrap().to_string();
    assert!(text.contains("no setting `llama.attention.head_count`"), "{text}");
    let text = GgufFile::open(&fixture("wide")).err().unwrap().to_string();
    assert!(text.contains("expected a GGUF file"), "{text}");
}
