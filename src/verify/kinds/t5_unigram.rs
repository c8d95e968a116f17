//! `tokenizers/t5-unigram`: ids and decoding, from `tokenizer.json` and from `spiece.model` alike.

use anyhow::{Context as _, Result};
use musaic_core::testing::Case;
use musaic_decoders::t5::T5Tokenizer;
use serde_json::{Value, json};

use crate::verify::{case::Context, recorder::Recorder};

/// Length that generation cuts and pads to.
const MAX_LENGTH: usize = 128;

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let folder = case.model()?;
    let mut tokenizers = Vec::new();
    for (file, open) in [
        ("tokenizer.json", T5Tokenizer::from_json as fn(&std::path::Path) -> musaic_core::Result<T5Tokenizer>),
        ("spiece.model", T5Tokenizer::from_sentencepiece),
    ] {
        if folder.join(file).is_file() {
            tokenizers.push((file, open(&folder.join(file))?));
        }
    }
    anyhow::ensure!(!tokenizers.is_empty(), "neither tokenizer.json nor spiece.model in {}", folder.display());
    let strings = case.json("strings.json")?;
    // The slow tokenizer differs on these texts; only the fast one is reproduced.
    let differences = case.field("differences").and_then(Value::as_array).cloned().unwrap_or_default();
    for (i, row) in strings.as_array().context("strings.json is a list")?.iter().enumerate() {
        let text = row.get("text").and_then(Value::as_str).context("a row of strings.json has a `text`")?;
        let null = Value::Null;
        let want = |field: &str| row.get(field).unwrap_or(&null);
        for (file, tokenizer) in &tokenizers {
            let ids = tokenizer.encode(text)?;
            let cut = tokenizer.encode_truncated(text, MAX_LENGTH)?;
            let mut fields = vec![
                ("fast", json!(ids), want("fast")),
                ("fast_decoded", json!(tokenizer.decode(&ids, false)?), want("fast_decoded")),
                ("fast_decoded_skip_special", json!(tokenizer.decode(&ids, true)?), want("fast_decoded_skip_special")),
                ("padded_length", json!(cut.len()), want("padded_length")),
                ("fast_truncated", json!(cut), want("fast_truncated")),
            ];
            if !differences.contains(&json!(text)) {
                fields.push(("slow", json!(ids), want("slow")));
            }
            recorder.entry(&format!("strings.json[{i}]"), file, &fields);
        }
    }
    Ok(())
}
