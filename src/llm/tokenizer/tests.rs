use super::*;

/// A tokenizer of letters, merges and bytes, written as its file would be.
fn tokenizer(added: &[&str]) -> LlamaTokenizer {
    let mut bytes = Vec::new();
    let mut piece = |text: &str, score: f32, kind: u8| {
        let mut fields = vec![0x0a, text.len() as u8];
        fields.extend(text.bytes());
        fields.push(0x15);
        fields.extend(score.to_le_bytes());
        fields.extend([0x18, kind]);
        bytes.extend([0x0a, fields.len() as u8]);
        bytes.extend(fields);
    };
    piece("<unk>", 0.0, 2);
    piece("<s>", 0.0, 3);
    piece("</s>", 0.0, 3);
    for byte in 0..=255 {
        piece(&format!("<0x{byte:02X}>"), 0.0, 6);
    }
    // 259: ab, 260: abc, 261: bc, 262: ▁a, then letters.
    for (rank, text) in ["ab", "abc", "bc", "▁a", "▁", "a", "b", "c"].iter().enumerate() {
        piece(text, -(rank as f32), 1);
    }
    // BPE with byte fallback; blanks as they come.
    bytes.extend([0x12, 5, 0x18, 2, 0x98, 2, 1, 0x1a, 2, 0x20, 0]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    std::fs::write(&path, bytes).unwrap();
    LlamaTokenizer::open(&path, added).unwrap()
}

#[test]
fn the_best_merge_comes_first_and_unknown_characters_are_bytes() {
    let tokenizer = tokenizer(&[]);
    // `ab` (score 0) before `▁a` (score -3), then `abc`.
    assert_eq!(tokenizer.encode_plain("abc"), [263, 260]);
    assert_eq!(tokenizer.encode_plain("bcb"), [263, 261, 265]);
    assert_eq!(tokenizer.encode_plain("a"), [262]);
    assert_eq!(tokenizer.encode_plain("é"), [263, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(tokenizer.encode_plain(""), [0u32; 0]);
    assert_eq!(tokenizer.encode("abab", true).unwrap(), [1, 263, 259, 259]);
}

#[test]
fn text_behind_an_added_token_gets_a_blank_in_legacy_only() {
    let tokenizer = tokenizer(&["[X]", "[XY]"]);
    assert_eq!(tokenizer.vocab_size(), 269);
    assert_eq!(tokenizer.encode("b[X]b", false).unwrap(), [263, 265, 267, 263, 265]);
    assert_eq!(tokenizer.encode("[XY][X]", false).unwrap(), [268, 267]);
    let repaired = tokenizer.clone().legacy(false);
    assert_eq!(repaired.encode("b[X]b", false).unwrap(), [263, 265, 267, 265]);
    assert_eq!(repaired.encode("<s>b", false).unwrap(), [1, 265]);
    assert_eq!(repaired.encode("[X]b", false).unwrap(), [263, 267, 265]);
}

#[test]
fn decoding_has_blanks_around_added_tokens() {
    let tokenizer = tokenizer(&["[X]"]);
    assert_eq!(tokenizer.decode(&[1, 262, 265, 267, 267], false), "<s>ab [X] [X]");
    assert_eq!(tokenizer.decode(&[1, 262, 265], true), "ab");
    assert_eq!(tokenizer.decode(&[3 + 0xf0, 3 + 0x9f], false), "\u{fffd}\u{fffd}");
    assert_eq!(tokenizer.decode(&[265, 9999], false), "b");
    let text = "ab c  ba é";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap(), false), text);
}

#[test]
fn another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    // One piece, unigram.
    std::fs::write(&path, [0x0a, 3, 0x0a, 1, b'a']).unwrap();
    let text = LlamaTokenizer::open(&path, &[""; 0]).unwrap_err().to_string();
    assert!(text.contains("Unigram"), "{text}");
    assert!(LlamaTokenizer::open(&folder.path().join("absent"), &[""; 0]).is_err());
}
