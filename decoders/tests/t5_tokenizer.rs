//! The T5 tokenizer against the parity case, from `tokenizer.json` and from `spiece.model`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod musicgen_common;

use musaic_decoders::t5::{Padding, T5Tokenizer};
use serde_json::Value;

fn ids(row: &Value, field: &str) -> Vec<u32> {
    row[field].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn check(tokenizer: &T5Tokenizer) {
    let folder = musicgen_common::golden("tokenizers/t5-unigram");
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("strings.json")).unwrap()).unwrap();
    assert!(rows.len() >= 100);
    for row in &rows {
        let text = row["text"].as_str().unwrap();
        let fast = ids(row, "fast");
        assert_eq!(tokenizer.encode(text).unwrap(), fast, "{text:?}");
        assert_eq!(tokenizer.encode_truncated(text, 128).unwrap(), ids(row, "fast_truncated"), "{text:?}");
        assert_eq!(tokenizer.decode(&fast, false).unwrap(), row["fast_decoded"].as_str().unwrap());
        assert_eq!(tokenizer.decode(&fast, true).unwrap(), row["fast_decoded_skip_special"].as_str().unwrap());
    }
    let texts: Vec<_> = rows.iter().map(|row| row["text"].as_str().unwrap()).collect();
    let (batch, mask) = tokenizer.encode_batch(&texts, Padding::Length(128), &candle_core::Device::Cpu).unwrap();
    let (batch, mask) = (batch.to_vec2::<u32>().unwrap(), mask.to_vec2::<f32>().unwrap());
    for ((row, got), mask) in rows.iter().zip(&batch).zip(&mask) {
        let want = ids(row, "fast_truncated");
        assert_eq!(row["padded_length"].as_u64().unwrap() as usize, want.len());
        assert_eq!(got[..want.len()], want);
        assert!(got[want.len()..].iter().all(|&id| id == 0));
        let seen = mask.iter().take_while(|&&m| m == 1.0).count();
        assert!(seen == want.len() && mask[seen..].iter().all(|&m| m == 0.0));
    }
}

#[test]
fn tokenizer_json_gives_the_published_ids() {
    check(&T5Tokenizer::load(&musicgen_common::golden("tokenizers/t5-unigram/model")).unwrap());
}

#[test]
fn spiece_model_gives_the_same() {
    check(
        &T5Tokenizer::from_sentencepiece(&musicgen_common::golden("tokenizers/t5-unigram/model").join("spiece.model"))
            .unwrap(),
    );
}

#[test]
fn a_folder_without_a_tokenizer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = T5Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(text.contains("spiece.model"), "{text}");
}
