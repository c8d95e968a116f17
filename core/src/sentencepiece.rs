//! Reading SentencePiece models (`spiece.model`, `tokenizer.model`): a protobuf of pieces with scores, and the settings that
//! tokenizers are made from.
//!
//! Fields: `ModelProto` 1 pieces {1 text, 2 score, 3 kind}, 2 trainer settings {3 model type, 35 byte fallback, 40 unknown
//! id, 41 begin, 42 end}, 3 normaliser {1 name, 2 precompiled character map, 3 dummy prefix, 4 remove extra whitespaces,
//! 5 escape whitespaces}. Defaults are those of `sentencepiece_model.proto`.

use std::path::Path;

use crate::{Error, Result, files::read_capped};

/// Largest file that is read; published ones take under 5 MB.
const MAX_BYTES: u64 = 64 << 20;

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Text.
    Normal,
    /// Stands for what has no piece.
    Unknown,
    /// Marks such as `<s>`, which no text contains.
    Control,
    /// Kept whole wherever it stands.
    UserDefined,
    /// One byte, `<0x0A>`.
    Byte,
    /// Not used.
    Unused,
}

/// One piece of the vocabulary; its id is its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, with `▁` for a blank.
    pub text: String,
    /// Log probability (unigram), or minus the rank of the merge (BPE).
    pub score: f32,
    /// What it is.
    pub kind: PieceKind,
}

/// How text is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelType {
    /// The most likely cut.
    Unigram,
    /// Merges of neighbours, best score first.
    Bpe,
    /// Anything else, by its number.
    Other(u64),
}

/// A model file.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePieceModel {
    /// The vocabulary.
    pub pieces: Vec<Piece>,
    /// How text is cut.
    pub model_type: ModelType,
    /// Whether characters without a piece become bytes.
    pub byte_fallback: bool,
    /// Id of the unknown piece.
    pub unk_id: usize,
    /// Id that begins a text, where there is one.
    pub bos_id: Option<usize>,
    /// Id that ends a text, where there is one.
    pub eos_id: Option<usize>,
    /// Precompiled character map of the normaliser; empty for none.
    pub charsmap: Vec<u8>,
    /// Whether a blank is put before the text.
    pub add_dummy_prefix: bool,
    /// Whether blanks at the ends go and runs of blanks become one.
    pub remove_extra_whitespaces: bool,
}

impl SentencePieceModel {
    /// Reads a model file.
    ///
    /// # Errors
    /// It cannot be read, is too large, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(&read_capped(path, MAX_BYTES)?).map_err(|found| Error::format(path, "a SentencePiece model", found))
    }

    /// Reads a model from memory.
    ///
    /// # Errors
    /// It is damaged; the text says where.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: ModelType::Unigram,
            byte_fallback: false,
            unk_id: 0,
            bos_id: None,
            eos_id: None,
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        let (mut bos, mut eos) = (1, 2);
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(parse_piece(piece)?),
                (2, Value::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        match field? {
                            (3, Value::Varint(1)) => model.model_type = ModelType::Unigram,
                            (3, Value::Varint(2)) => model.model_type = ModelType::Bpe,
                            (3, Value::Varint(other)) => model.model_type = ModelType::Other(other),
                            (35, Value::Varint(value)) => model.byte_fallback = value != 0,
                            (40, Value::Varint(value)) => model.unk_id = usize::try_from(value).unwrap_or(usize::MAX),
                            // Negative numbers, ten bytes long, say that there is none.
                            (41, Value::Varint(value)) => bos = value.cast_signed(),
                            (42, Value::Varint(value)) => eos = value.cast_signed(),
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        match field? {
                            (2, Value::Bytes(map)) => model.charsmap = map.to_vec(),
                            (3, Value::Varint(value)) => model.add_dummy_prefix = value != 0,
                            (4, Value::Varint(value)) => model.remove_extra_whitespaces = value != 0,
                            (5, Value::Varint(0)) => return Err("blanks that are not escaped".into()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.unk_id >= model.pieces.len() {
            return Err(format!("{} pieces and unknown id {}", model.pieces.len(), model.unk_id));
        }
        let valid = |id: i64| usize::try_from(id).ok().filter(|&id| id < model.pieces.len());
        (model.bos_id, model.eos_id) = (valid(bos), valid(eos));
        Ok(model)
    }
}

fn parse_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(utf8)) => {
                piece.text = std::str::from_utf8(utf8).map_err(|_| "a piece that is not UTF-8")?.to_owned();
            }
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Varint(kind)) => {
                piece.kind = match kind {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    other => return Err(format!("a piece of kind {other}")),
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of one protobuf message: number and value.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.0.split_at_checked(count).ok_or("a field that ends early")?;
        self.0 = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits".into())
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|e| e.to_string())?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            kind => return Err(format!("wire type {kind}")),
        };
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let good = [0x0a, 0x08, 0x0a, 0x01, b'a', 0x15, 0, 0, 0x80, 0x3f];
        let model = SentencePieceModel::parse(&good).unwrap();
        assert_eq!(model.pieces, [Piece { text: "a".into(), score: 1.0, kind: PieceKind::Normal }]);
        assert_eq!((model.bos_id, model.model_type), (None, ModelType::Unigram));
        for cut in 1..good.len() {
            assert!(SentencePieceModel::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(SentencePieceModel::parse(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
        assert!(SentencePieceModel::parse(b"").is_err());
    }

    #[test]
    fn settings_are_read() {
        let piece = |text: u8, kind: u8| [0x0a, 0x05, 0x0a, 0x01, text, 0x18, kind];
        let message = |tag: u8, fields: &[u8]| [&[tag, fields.len() as u8], fields].concat();
        // Model type BPE; byte fallback; begin -1.
        let trainer: &[u8] = &[0x18, 2, 0x98, 2, 1, 0xc8, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        let no_dummy_prefix: &[u8] = &[0x18, 0];
        let bytes = [
            [piece(b'?', 2), piece(b'b', 6), piece(b'c', 3)].concat(),
            message(0x12, trainer),
            message(0x1a, no_dummy_prefix),
        ]
        .concat();
        let model = SentencePieceModel::parse(&bytes).unwrap();
        assert_eq!((model.model_type, model.byte_fallback, model.bos_id), (ModelType::Bpe, true, None));
        assert_eq!((model.eos_id, model.add_dummy_prefix, model.remove_extra_whitespaces), (Some(2), false, true));
        assert_eq!(model.pieces[1].kind, PieceKind::Byte);
        assert!(SentencePieceModel::parse(&piece(b'x', 9)).is_err());
    }
}
