//! Byte-level BPE from `vocab.json` and `merges.txt`, for folders without a `tokenizer.json`: as GPT-2, SmolLM2 and BART have it.

use std::path::Path;

use musaic_core::{
    Error, Result,
    files::{MAX_CONFIG, read_json, read_text},
};
use serde_json::{Map, Value, json};

use super::JsonTokenizer;

/// Largest file that is read; published ones take under 3 MB.
const MAX_BYTES: u64 = 64 << 20;
/// Tokens that are never cut, where the folder does not list them.
const SPECIAL: [&str; 6] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"];

impl JsonTokenizer {
    /// Reads `vocab.json`, `merges.txt` and `tokenizer_config.json` of a folder.
    ///
    /// What these files leave open: digits are split one by one where no merge joins one to anything, which is how SmolLM2 was
    /// trained; a BART or RoBERTa has `<s>` and `</s>` around a text.
    ///
    /// # Errors
    /// A file cannot be read or is damaged.
    pub fn open_merges(folder: &Path) -> Result<Self> {
        let path = folder.join("vocab.json");
        let vocab: Map<String, Value> = read_json(&path, MAX_BYTES, "a vocabulary")?;
        let path = folder.join("merges.txt");
        let merges = merges(&path, &read_text(&path, MAX_BYTES)?)?;
        let path = folder.join("tokenizer_config.json");
        let config: Value =
            if path.is_file() { read_json(&path, MAX_CONFIG, "a JSON configuration")? } else { json!({}) };
        let added = added(&config, &vocab);
        let bytes = json!({
            "type": "ByteLevel",
            "add_prefix_space": config.get("add_prefix_space") == Some(&json!(true)),
            "trim_offsets": true,
            "use_regex": true,
        });
        let single_digits = !merges.iter().flatten().any(|piece| piece.contains(|c: char| c.is_ascii_digit()));
        let cut = match single_digits {
            true => {
                json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes]})
            }
            false => bytes.clone(),
        };
        let description = json!({
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": cut,
            "post_processor": around(&config, &vocab),
            "decoder": bytes,
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        });
        Self::of(folder, &serde_json::to_vec(&description).map_err(|e| Error::config(folder, e.to_string()))?)
    }
}

/// The pairs of a `merges.txt`, first things first.
fn merges(path: &Path, text: &str) -> Result<Vec<[String; 2]>> {
    let says_nothing = |(i, line): &(usize, &str)| line.is_empty() || *i == 0 && line.starts_with("#version");
    let lines = text.lines().enumerate().filter(|line| !says_nothing(line));
    lines
        .map(|(i, line)| match line.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                Ok([left.to_owned(), right.to_owned()])
            }
            _ => Err(Error::format(path, "two pieces a line", format!("line {}: `{line}`", i + 1))),
        })
        .collect()
}

/// Tokens that are cut out of a text first, with their ids.
fn added(config: &Value, vocab: &Map<String, Value>) -> Vec<Value> {
    let Some(listed) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
        let known = SPECIAL.iter().filter_map(|token| Some((token, vocab.get(*token)?)));
        // The mask takes the space before it along.
        let token = |(token, id): (&&str, &Value)| {
            json!({
                "id": id, "content": token, "lstrip": *token == "<mask>",
                "rstrip": false, "single_word": false, "normalized": false, "special": true,
            })
        };
        return known.map(token).collect();
    };
    let mut added: Vec<(u32, Value)> = listed
        .iter()
        .filter_map(|(id, token)| {
            let id = id.parse().ok()?;
            let mut token = token.as_object()?.clone();
            token.insert("id".into(), json!(id));
            Some((id, Value::Object(token)))
        })
        .collect();
    added.sort_by_key(|(id, _)| *id);
    added.into_iter().map(|(_, token)| token).collect()
}

/// What goes around a text.
fn around(config: &Value, vocab: &Map<String, Value>) -> Value {
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    let begins_and_ends = class.is_none_or(|class| class.starts_with("Bart") || class.starts_with("Roberta"));
    let token = |field: &str, usual: &'static str| {
        let named = config.get(field).map(|token| token.get("content").unwrap_or(token));
        let name = named.and_then(Value::as_str).unwrap_or(usual);
        Some(json!([name, vocab.get(name)?]))
    };
    match (token("cls_token", "<s>"), token("sep_token", "</s>")) {
        (Some(cls), Some(sep)) if begins_and_ends => json!({
            "type": "RobertaProcessing", "cls": cls, "sep": sep, "trim_offsets": true, "add_prefix_space": false,
        }),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tokenizer(vocab: &[&str], merges: &str, config: &str) -> Result<JsonTokenizer> {
        let folder = tempfile::tempdir().unwrap();
        let vocab: Map<_, _> = vocab.iter().enumerate().map(|(id, piece)| ((*piece).to_owned(), json!(id))).collect();
        fs::write(folder.path().join("vocab.json"), Value::Object(vocab).to_string()).unwrap();
        fs::write(folder.path().join("merges.txt"), merges).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        JsonTokenizer::open_merges(folder.path())
    }

    const VOCAB: [&str; 9] = ["<s>", "</s>", "<mask>", "a", "b", "ab", "1", "Ġ", "Ġa"];

    #[test]
    fn a_folder_says_what_goes_around_a_text() {
        let merges = "#version: 0.2\na b\nĠ a\n";
        let bart = tokenizer(&VOCAB, merges, "{}").unwrap();
        assert_eq!(bart.encode("ab a1", true).unwrap(), [0, 5, 8, 6, 1]);
        assert_eq!(bart.encode("a <mask>b", false).unwrap(), [3, 2, 4]);
        assert_eq!(bart.encode_truncated("ab a1", 3).unwrap(), [0, 5, 1]);
        assert_eq!(bart.encode_truncated("ab", 1).unwrap(), [0, 1]);
        let gpt =
            tokenizer(&VOCAB, merges, r#"{"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {}}"#).unwrap();
        assert_eq!(gpt.encode("ab", true).unwrap(), [5]);
        assert_eq!(gpt.encode_truncated("ab a", 1).unwrap(), [5]);
    }

    #[test]
    fn what_is_no_merge_is_refused() {
        for merges in ["a\n", "a b c\n", "#version: 0.2\n#version: 0.2 x\n", "a q\n"] {
            assert!(tokenizer(&VOCAB, merges, "{}").is_err(), "{merges}");
        }
    }
}
