//! `tokenizers/llama-spm`: ids and decoding of the slow tokenizer from `tokenizer.model`, and of `tokenizer.json`.

use anyhow::{Context as _, Result, ensure};
use musaic_core::testing::Case;
use serde_json::{Value, json};

use crate::{
    llm::{JsonTokenizer, LlamaTokenizer},
    verify::{case::Context, recorder::Recorder},
};

/// Music tokens of the reference.
pub const MUSIC_TOKENS: [&str; 8] = ["[AUD0]", "[AUD1]", "[AUD2]", "[AUD3]", "[AUD4]", "[AUD5]", "[AUD6]", "[AUD7]"];

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let slow = LlamaTokenizer::open(&case.model()?.join("tokenizer.model"), &MUSIC_TOKENS)?;
    let repaired = slow.clone().legacy(false);
    let fast = match case.field("model_hf").and_then(Value::as_str) {
        Some(folder) => Some(JsonTokenizer::open(&case.path(folder)?.join("tokenizer.json"))?),
        None => None,
    };
    // `fast_plain` is what a wrong conversion gives; nothing here makes it.
    let strings = case.json("strings.json")?;
    for (i, row) in strings.as_array().context("strings.json is a list")?.iter().enumerate() {
        let text = row.get("text").and_then(Value::as_str).context("a row of strings.json has a `text`")?;
        let ids = slow.encode(text, true)?;
        let mut got = vec![
            ("slow", json!(ids)),
            ("slow_no_bos", json!(slow.encode(text, false)?)),
            ("slow_decoded", json!(slow.decode(&ids, false))),
            ("slow_decoded_skip_special", json!(slow.decode(&ids, true))),
            ("sentencepiece", json!(slow.encode_plain(text))),
            ("slow_nonlegacy", json!(repaired.encode(text, true)?)),
        ];
        if let Some(fast) = &fast {
            let ids = fast.encode(text, true)?;
            got.push(("fast_hf_decoded", json!(fast.decode(&ids, false)?)));
            got.push(("fast_hf", json!(ids)));
        }
        compare(recorder, &format!("strings.json[{i}]"), row, &got)?;
    }
    let lists = case.json("decode.json")?;
    for (i, row) in lists.as_array().context("decode.json is a list")?.iter().enumerate() {
        let ids = row.get("ids").and_then(Value::as_array).context("a row of decode.json has `ids`")?;
        let ids: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect();
        let pieces: Vec<_> = ids.iter().map(|&id| slow.piece(id)).collect();
        let mut got = vec![
            ("pieces", json!(pieces)),
            ("slow_decoded", json!(slow.decode(&ids, false))),
            ("slow_decoded_skip_special", json!(slow.decode(&ids, true))),
        ];
        if let Some(fast) = &fast {
            got.push(("fast_hf_decoded", json!(fast.decode(&ids, false)?)));
        }
        compare(recorder, &format!("decode.json[{i}]"), row, &got)?;
    }
    Ok(())
}

/// Compares the fields that the row has.
pub fn compare(recorder: &mut Recorder<'_>, name: &str, row: &Value, got: &[(&str, Value)]) -> Result<()> {
    let fields: Vec<_> = got.iter().filter_map(|(field, got)| Some((*field, got.clone(), row.get(*field)?))).collect();
    ensure!(!fields.is_empty(), "{name} has none of the known fields");
    recorder.entry(name, "tokenizer.model", &fields);
    Ok(())
}
