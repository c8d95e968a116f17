//! SentencePiece's BPE: neighbours merge, the best score first, the leftmost of equals; what has no piece becomes bytes.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
};

use musaic_core::sentencepiece::{ModelType, PieceKind, SentencePieceModel};

/// The mark of a blank.
pub(super) const BLANK: char = '▁';

/// A vocabulary with its merges.
#[derive(Debug, Clone)]
pub(super) struct Bpe {
    pieces: Vec<String>,
    kinds: Vec<PieceKind>,
    scores: Vec<f32>,
    /// Pieces that text can become.
    ids: HashMap<String, u32>,
    /// Kept whole wherever they stand, longest first.
    user_defined: Vec<String>,
    /// Piece of every byte, where there is one.
    bytes: Vec<Option<u32>>,
    unk_id: u32,
    pub add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

/// A piece in the making: a stretch of the text, and its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0 once it has merged into its left neighbour.
    len: usize,
    left: Option<usize>,
    right: Option<usize>,
    /// Never merges.
    fixed: bool,
}

/// Two neighbours that could merge.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Length of both when this was noted; another one says that it is out of date.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl Bpe {
    /// Takes a model over.
    ///
    /// # Errors
    /// It is no BPE, or normalises text in a way that is not implemented; the text says what was found.
    pub(super) fn new(model: SentencePieceModel) -> Result<Self, String> {
        if model.model_type != ModelType::Bpe {
            return Err(format!("model type {:?}", model.model_type));
        }
        if !model.charsmap.is_empty() {
            return Err("a normaliser with a map of characters".into());
        }
        let (mut ids, mut bytes, mut user_defined) = (HashMap::new(), vec![None; 256], Vec::new());
        for (id, piece) in (0u32..).zip(&model.pieces) {
            match piece.kind {
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
                    ids.entry(piece.text.clone()).or_insert(id);
                }
                PieceKind::Byte => {
                    let byte = piece.text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
                    let byte = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok());
                    let byte = byte.ok_or_else(|| format!("a byte piece `{}`", piece.text))?;
                    bytes[usize::from(byte)] = Some(id);
                }
                PieceKind::Unknown | PieceKind::Control => {}
            }
            if piece.kind == PieceKind::UserDefined && !piece.text.is_empty() {
                user_defined.push(piece.text.clone());
            }
        }
        user_defined.sort_by_key(|text| Reverse(text.len()));
        if !model.byte_fallback {
            bytes.fill(None);
        }
        Ok(Self {
            scores: model.pieces.iter().map(|piece| piece.score).collect(),
            kinds: model.pieces.iter().map(|piece| piece.kind).collect(),
            pieces: model.pieces.into_iter().map(|piece| piece.text).collect(),
            ids,
            user_defined,
            bytes,
            unk_id: model.unk_id as u32,
            add_dummy_prefix: model.add_dummy_prefix,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
        })
    }

    /// Number of pieces.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Text and kind of a piece.
    pub(super) fn piece(&self, id: u32) -> Option<(&str, PieceKind)> {
        Some((self.pieces.get(id as usize)?, *self.kinds.get(id as usize)?))
    }

    /// Pieces of these kinds with their ids.
    pub(super) fn of_kinds(&self, kinds: &[PieceKind]) -> Vec<(String, u32)> {
        let all = self.pieces.iter().zip(&self.kinds).zip(0u32..);
        all.filter(|((_, kind), _)| kinds.contains(kind)).map(|((text, _), id)| (text.clone(), id)).collect()
    }

    /// Ids of a text; `prefix` puts a blank in front where the model asks for it.
    pub(super) fn encode(&self, text: &str, prefix: bool) -> Vec<u32> {
        let text = self.normalise(text, prefix && self.add_dummy_prefix);
        let mut symbols = self.symbols(&text);
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() {
            self.note(&text, &symbols, left, &mut queue);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (symbols[pair.left], symbols[pair.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            symbols[pair.left].len = pair.len;
            symbols[pair.left].right = right.right;
            symbols[pair.right].len = 0;
            if let Some(next) = right.right {
                symbols[next].left = Some(pair.left);
            }
            if let Some(before) = left.left {
                self.note(&text, &symbols, before, &mut queue);
            }
            self.note(&text, &symbols, pair.left, &mut queue);
        }
        let mut out = Vec::new();
        let mut after_unknown = false;
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            let known = self.ids.get(piece).copied();
            let bytes = || piece.bytes().map(|byte| self.bytes[usize::from(byte)]).collect::<Option<Vec<_>>>();
            match (known, if known.is_none() { bytes() } else { None }) {
                (Some(id), _) => out.push(id),
                (None, Some(bytes)) => out.extend(bytes),
                // Neighbours without a piece are one unknown.
                (None, None) if after_unknown => {}
                (None, None) => out.push(self.unk_id),
            }
            after_unknown = out.last() == Some(&self.unk_id);
        }
        out
    }

    fn normalise(&self, text: &str, prefix: bool) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        if self.remove_extra_whitespaces {
            for word in text.split(' ').filter(|word| !word.is_empty()) {
                if !out.is_empty() {
                    out.push(BLANK);
                }
                out.push_str(word);
            }
        } else {
            out.extend(text.chars().map(|c| if c == ' ' { BLANK } else { c }));
        }
        if prefix && !out.is_empty() {
            out.insert(0, BLANK);
        }
        out
    }

    /// Single characters, and pieces that are kept whole.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(text.len());
        let mut start = 0;
        while let Some(first) = text[start..].chars().next() {
            let whole = self.user_defined.iter().find(|piece| text[start..].starts_with(piece.as_str()));
            let len = whole.map_or(first.len_utf8(), String::len);
            let at = symbols.len();
            let left = at.checked_sub(1);
            symbols.push(Symbol { start, len, left, right: None, fixed: whole.is_some() });
            if let Some(left) = left {
                symbols[left].right = Some(at);
            }
            start += len;
        }
        symbols
    }

    /// Puts `left` and its right neighbour into the queue if together they are a piece.
    fn note(&self, text: &str, symbols: &[Symbol], left: usize, queue: &mut BinaryHeap<Pair>) {
        let Some(right) = symbols[left].right else { return };
        let (a, b) = (symbols[left], symbols[right]);
        if a.fixed || b.fixed {
            return;
        }
        let len = a.len + b.len;
        if let Some(&id) = self.ids.get(&text[a.start..a.start + len]) {
            queue.push(Pair { score: self.scores[id as usize], left, right, len });
        }
    }

    /// Text of pieces, without the blank that the model puts in front.
    pub(super) fn decode<'a>(&self, pieces: impl Iterator<Item = (&'a str, PieceKind)>) -> String {
        let mut out = String::new();
        let mut bytes = Vec::new();
        let mut prefix_gone = false;
        for (piece, kind) in pieces {
            if kind == PieceKind::Byte
                && let Some(byte) = piece.get(3..5).and_then(|hex| u8::from_str_radix(hex, 16).ok())
            {
                bytes.push(byte);
                continue;
            }
            push_bytes(&mut bytes, &mut out);
            match kind {
                PieceKind::Control => continue,
                PieceKind::Unknown => {
                    out.push_str(" \u{2047} ");
                    continue;
                }
                _ => {}
            }
            let mut piece = piece;
            if out.is_empty() && !prefix_gone && (self.add_dummy_prefix || self.remove_extra_whitespaces) {
                while let Some(rest) = piece.strip_prefix(BLANK) {
                    piece = rest;
                    prefix_gone = !self.remove_extra_whitespaces;
                    if prefix_gone {
                        break;
                    }
                }
            }
            out.extend(piece.chars().map(|c| if c == BLANK { ' ' } else { c }));
        }
        push_bytes(&mut bytes, &mut out);
        out
    }
}

/// Bytes as text; each that belongs to no character becomes a replacement character of its own.
fn push_bytes(bytes: &mut Vec<u8>, out: &mut String) {
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                break;
            }
            Err(error) => {
                let (good, bad) = rest.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(good).unwrap_or_default());
                out.push(char::REPLACEMENT_CHARACTER);
                rest = &bad[1..];
            }
        }
    }
    bytes.clear();
}
