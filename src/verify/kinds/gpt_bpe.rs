//! `tokenizers/gpt-bpe`: ids, decoding, truncation and conversations, from `tokenizer.json` and from `vocab.json` with
//! `merges.txt` alike.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use musaic_core::testing::Case;
use serde_json::{Value, json};

use crate::{
    llm::{
        JsonTokenizer,
        tokenizer::{ChatTemplate, Message},
    },
    verify::{case::Context, recorder::Recorder},
};

/// Length that one of the stored lists is cut to.
const CUT: usize = 16;

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let folder = case.model()?;
    let plain = tokenizers(&folder)?;
    let bart = match case.field("model_bart").and_then(Value::as_str) {
        Some(folder) => tokenizers(&case.path(folder)?)?,
        None => Vec::new(),
    };
    // The slow tokenizer differs on these texts; only the fast one is reproduced.
    let differences = case.field("differences").and_then(Value::as_array).cloned().unwrap_or_default();
    let strings = case.json("strings.json")?;
    for (i, row) in strings.as_array().context("strings.json is a list")?.iter().enumerate() {
        let name = format!("strings.json[{i}]");
        let text = row.get("text").and_then(Value::as_str).context("a row of strings.json has a `text`")?;
        for (file, tokenizer) in &plain {
            let ids = tokenizer.encode(text, false)?;
            let decoded = tokenizer.decode(&ids, false)?;
            compare(recorder, &name, file, row, &[("smollm2", json!(ids)), ("smollm2_decoded", json!(decoded))]);
        }
        for (file, tokenizer) in &bart {
            let ids = tokenizer.encode(text, true)?;
            let mut got = vec![
                ("bart", json!(ids)),
                ("bart_decoded_skip_special", json!(tokenizer.decode(&ids, true)?)),
                ("bart_truncated_16", json!(tokenizer.encode_truncated(text, CUT)?)),
            ];
            if !differences.contains(&json!(text)) {
                got.push(("bart_slow", json!(ids)));
            }
            compare(recorder, &name, file, row, &got);
        }
    }
    if !case.dir().join("chat.json").is_file() {
        return Ok(());
    }
    let template = ChatTemplate::open(&folder.join("tokenizer_config.json"))?;
    let chats = case.json("chat.json")?;
    for (i, row) in chats.as_array().context("chat.json is a list")?.iter().enumerate() {
        let text = template.render(&messages(row)?, row.get("add_generation_prompt") == Some(&json!(true)));
        for (file, tokenizer) in &plain {
            let got = [("text", json!(text)), ("ids", json!(tokenizer.encode(&text, false)?))];
            compare(recorder, &format!("chat.json[{i}]"), file, row, &got);
        }
    }
    Ok(())
}

/// From each description that the folder has.
fn tokenizers(folder: &Path) -> Result<Vec<(&'static str, JsonTokenizer)>> {
    let mut found = Vec::new();
    if folder.join("tokenizer.json").is_file() {
        found.push(("tokenizer.json", JsonTokenizer::open(&folder.join("tokenizer.json"))?));
    }
    if folder.join("vocab.json").is_file() {
        found.push(("vocab.json", JsonTokenizer::open_merges(folder)?));
    }
    ensure!(!found.is_empty(), "neither tokenizer.json nor vocab.json in {}", folder.display());
    Ok(found)
}

fn messages(row: &Value) -> Result<Vec<Message>> {
    let messages = row.get("messages").and_then(Value::as_array).context("a row of chat.json has `messages`")?;
    let message = |message: &Value| {
        let field = |name: &str| Some(message.get(name)?.as_str()?.to_owned());
        Some(Message { role: field("role")?, content: field("content")? })
    };
    messages.iter().map(message).collect::<Option<_>>().context("a message has `role` and `content`")
}

/// Compares the fields that the row has.
fn compare(recorder: &mut Recorder<'_>, name: &str, file: &str, row: &Value, got: &[(&str, Value)]) {
    let fields: Vec<_> = got.iter().filter_map(|(field, got)| Some((*field, got.clone(), row.get(*field)?))).collect();
    recorder.entry(name, file, &fields);
}
