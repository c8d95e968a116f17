//! Text to token ids and back.
//!
//! [`LlamaTokenizer`] reads a `tokenizer.model` and does what the slow tokenizer of the reference does with it, faults
//! included: trained weights have seen these ids. [`JsonTokenizer`] reads the `tokenizer.json` of newer folders, or `vocab.json`
//! and `merges.txt`; [`ChatTemplate`] writes conversations down for models that were trained on them.

mod bpe;
mod chat;
mod gpt;
mod json;

use std::{cmp::Reverse, path::Path};

use musaic_core::{
    Error, Result,
    sentencepiece::{PieceKind, SentencePieceModel},
};

use self::bpe::{BLANK, Bpe};
pub use self::{
    chat::{ChatTemplate, Message},
    json::JsonTokenizer,
};

/// Longest text that is cut into tokens, in bytes.
const MAX_TEXT: usize = 16 << 20;
/// Most tokens that can be added.
const MAX_ADDED: usize = 1 << 16;

/// SentencePiece with added tokens.
#[derive(Debug, Clone)]
pub struct LlamaTokenizer {
    bpe: Bpe,
    added: Vec<String>,
    /// `<unk>`, `<s>`, `</s>`.
    special: Vec<(String, u32)>,
    /// Everything that is cut out of a text before SentencePiece sees it, longest first.
    cuts: Vec<(String, u32)>,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    legacy: bool,
}

/// A stretch of text, or a token that stands in it.
enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

impl LlamaTokenizer {
    /// Reads a `tokenizer.model` and adds tokens behind its pieces, in order. A token that is a piece already keeps its id.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is no BPE.
    pub fn open<S: AsRef<str>>(path: &Path, added: &[S]) -> Result<Self> {
        Self::new(path, SentencePieceModel::open(path)?, added)
    }

    /// As [`LlamaTokenizer::open`], from a model in memory; `path` is its name in messages.
    ///
    /// # Errors
    /// It is no BPE.
    pub fn new<S: AsRef<str>>(path: &Path, model: SentencePieceModel, added: &[S]) -> Result<Self> {
        if added.len() > MAX_ADDED {
            return Err(Error::argument("added tokens", added.len().to_string(), format!("at most {MAX_ADDED}")));
        }
        let id = |id: Option<usize>| id.and_then(|id| u32::try_from(id).ok());
        let (bos_id, eos_id) = (id(model.bos_id), id(model.eos_id));
        let bpe = Bpe::new(model).map_err(|found| Error::format(path, "a SentencePiece BPE model", found))?;
        let marks = bpe.of_kinds(&[PieceKind::Unknown, PieceKind::Control]);
        let special: Vec<_> =
            marks.into_iter().filter(|(text, _)| ["<unk>", "<s>", "</s>"].contains(&text.as_str())).collect();
        let mut cuts = special.clone();
        let mut new: Vec<String> = Vec::new();
        for token in added.iter().map(AsRef::as_ref) {
            if token.is_empty() || cuts.iter().any(|(text, _)| text == token) {
                continue;
            }
            cuts.push((token.to_owned(), (bpe.len() + new.len()) as u32));
            new.push(token.to_owned());
        }
        cuts.sort_by_key(|(text, _)| Reverse(text.len()));
        Ok(Self { bpe, added: new, special, cuts, bos_id, eos_id, legacy: true })
    }

    /// `false` for the repaired behaviour of newer folders: no blank in front of text behind an added token.
    pub fn legacy(mut self, legacy: bool) -> Self {
        self.legacy = legacy;
        self
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.bpe.len() + self.added.len()
    }

    /// Id that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Id that ends one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Id of a piece or an added token by its text.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        let added = self.cuts.iter().find(|(text, _)| text == token).map(|&(_, id)| id);
        added.or_else(|| {
            (0..self.bpe.len() as u32).find(|&id| self.bpe.piece(id).is_some_and(|(text, _)| text == token))
        })
    }

    /// Text of a piece as it stands in the vocabulary (`▁melody`, `<0x0A>`, `[AUD0]`).
    pub fn piece(&self, id: u32) -> Option<&str> {
        let added = (id as usize).checked_sub(self.bpe.len());
        added.map_or_else(|| self.bpe.piece(id).map(|(text, _)| text), |i| self.added.get(i).map(String::as_str))
    }

    /// Ids of a text; `bos` puts the beginning in front.
    ///
    /// # Errors
    /// The text is longer than 16 MiB.
    pub fn encode(&self, text: &str, bos: bool) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT {
            return Err(Error::argument("text", format!("{} bytes", text.len()), format!("at most {MAX_TEXT}")));
        }
        let mut ids: Vec<_> = self.bos_id.filter(|_| bos).into_iter().collect();
        if self.legacy {
            // Each part between tokens is a text of its own, with a blank in front.
            for part in self.parts(text) {
                match part {
                    Part::Token(id) => ids.push(id),
                    Part::Text(text) => ids.extend(self.bpe.encode(text, true)),
                }
            }
        } else {
            ids.extend(self.encode_repaired(text));
        }
        Ok(ids)
    }

    /// Ids as SentencePiece itself gives them: no tokens are cut out.
    pub fn encode_plain(&self, text: &str) -> Vec<u32> {
        self.bpe.encode(text, true)
    }

    /// One blank before the whole text and none elsewhere, except that a lone one goes before `<s>` and its like.
    fn encode_repaired(&self, text: &str) -> Vec<u32> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut whole = text.replace(BLANK, " ");
        whole.insert(0, BLANK);
        let mut ids = Vec::new();
        for part in self.parts(&whole) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => ids.extend(self.bpe.encode(text, false)),
            }
        }
        let lone = ids.first().and_then(|&id| self.piece(id)) == Some("▁");
        if lone && ids.get(1).is_some_and(|id| self.special.iter().any(|(_, special)| special == id)) {
            ids.remove(0);
        }
        ids
    }

    /// Cuts a text at tokens, the leftmost first and of these the longest.
    fn parts<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while let Some(c) = text[at..].chars().next() {
            let Some((token, id)) = self.cuts.iter().find(|(token, _)| text[at..].starts_with(token.as_str())) else {
                at += c.len_utf8();
                continue;
            };
            if begin < at {
                parts.push(Part::Text(&text[begin..at]));
            }
            parts.push(Part::Token(*id));
            at += token.len();
            begin = at;
        }
        if begin < text.len() {
            parts.push(Part::Text(&text[begin..]));
        }
        parts
    }

    /// Text of ids, as the slow tokenizer gives it: added tokens stand between blanks. Unknown ids are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let is_special = |id: u32| self.special.iter().any(|&(_, special)| special == id);
        let kept = ids.iter().copied().filter(|&id| !(skip_special && is_special(id)));
        let (mut texts, mut current) = (Vec::new(), Vec::new());
        for id in kept {
            match (id as usize).checked_sub(self.bpe.len()) {
                None => current.push(id),
                Some(added) => {
                    let text = self.decode_part(&current);
                    current.clear();
                    if !text.is_empty() {
                        texts.push(text);
                    }
                    texts.extend(self.added.get(added).cloned());
                }
            }
        }
        if !current.is_empty() {
            texts.push(self.decode_part(&current));
        }
        texts.join(" ")
    }

    /// Pieces between added tokens. Blanks come and go around `<s>` and its like as they do in the reference.
    fn decode_part(&self, ids: &[u32]) -> String {
        let mut out = String::new();
        let mut group: Vec<(&str, PieceKind)> = Vec::new();
        let mut after_special = false;
        for (i, &id) in ids.iter().enumerate() {
            let Some((mut piece, kind)) = self.bpe.piece(id) else { continue };
            if self.special.iter().any(|&(_, special)| special == id) {
                if !after_special && i > 0 {
                    out.push(' ');
                }
                out += &self.bpe.decode(group.drain(..));
                out += piece;
                after_special = true;
                continue;
            }
            if i == 0 {
                piece = piece.strip_prefix(BLANK).unwrap_or(piece);
            } else if i == 1 && after_special && !piece.starts_with(BLANK) {
                out.push(' ');
            }
            group.push((piece, kind));
            after_special = false;
        }
        out += &self.bpe.decode(group.into_iter());
        out
    }
}

#[cfg(test)]
mod tests;
