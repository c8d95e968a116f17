//! Reading `spiece.model`, the SentencePiece protobuf, as far as a unigram tokenizer needs it.
//!
//! Fields: `ModelProto` 1 pieces {1 text, 2 score}, 2 trainer settings {3 model type, 40 unknown id}, 3 normaliser
//! {2 precompiled character map}.

use std::path::Path;

use musaic_core::{Error, Result};

/// Largest file that is read; published T5 files take under 1 MB.
const MAX_BYTES: u64 = 64 << 20;
/// `TrainerSpec.ModelType.UNIGRAM`, also the default.
const UNIGRAM: u64 = 1;

/// A unigram vocabulary and its normaliser.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct SentencePieceModel {
    pub pieces: Vec<(String, f64)>,
    pub unk_id: usize,
    pub charsmap: Vec<u8>,
}

impl SentencePieceModel {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
        if size > MAX_BYTES {
            return Err(Error::format(path, "a SentencePiece model of at most 64 MiB", format!("{size} bytes")));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&bytes).map_err(|found| Error::format(path, "a SentencePiece unigram model", found))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self::default();
        let mut model_type = UNIGRAM;
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(parse_piece(piece)?),
                (2, Value::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        match field? {
                            (3, Value::Varint(value)) => model_type = value,
                            (40, Value::Varint(value)) => model.unk_id = value as usize,
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        if let (2, Value::Bytes(map)) = field? {
                            model.charsmap = map.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        if model_type != UNIGRAM {
            return Err(format!("model type {model_type}"));
        }
        if model.unk_id >= model.pieces.len() {
            return Err(format!("{} pieces and unknown id {}", model.pieces.len(), model.unk_id));
        }
        Ok(model)
    }
}

fn parse_piece(bytes: &[u8]) -> Result<(String, f64), String> {
    let (mut text, mut score) = (String::new(), 0.0);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(utf8)) => {
                text = std::str::from_utf8(utf8).map_err(|_| "a piece that is not UTF-8")?.to_owned();
            }
            (2, Value::Fixed32(bits)) => score = f64::from(f32::from_bits(bits)),
            _ => {}
        }
    }
    Ok((text, score))
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
        assert_eq!(model.pieces, [("a".to_owned(), 1.0)]);
        for cut in 1..good.len() {
            assert!(SentencePieceModel::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(SentencePieceModel::parse(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
        assert!(SentencePieceModel::parse(b"").is_err());
    }
}
