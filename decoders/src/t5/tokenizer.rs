//! Text to token ids: `tokenizer.json`, or `spiece.model` where a folder has only that.

use std::path::Path;

use candle_core::{Device, Tensor};
use musaic_core::{
    Error, Result,
    files::{MAX_CONFIG, read_capped, read_json},
    sentencepiece::{ModelType, SentencePieceModel},
};
use serde::Deserialize;
use tokenizers::{
    AddedToken, NormalizerWrapper, Tokenizer,
    models::unigram::Unigram,
    normalizers::{Precompiled, Replace, Sequence, Strip, replace::ReplacePattern},
    pre_tokenizers::metaspace::{Metaspace, PrependScheme},
    processors::template::TemplateProcessing,
};

/// Largest description that is read.
const MAX_BYTES: u64 = 256 << 20;
const PAD: &str = "<pad>";
const END: &str = "</s>";
/// Sentinel tokens of T5 where `tokenizer_config.json` does not say.
const EXTRA_IDS: usize = 100;
const MAX_EXTRA_IDS: usize = 1 << 16;

/// How a batch of texts is brought to one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Padded to the longest text.
    Longest,
    /// Cut and padded to exactly this length.
    Length(usize),
}

/// SentencePiece unigram tokenizer of T5; `</s>` ends every text.
#[derive(Debug, Clone)]
pub struct T5Tokenizer {
    inner: Tokenizer,
    pad_id: u32,
    end_id: u32,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    extra_ids: Option<usize>,
}

impl T5Tokenizer {
    /// Loads `tokenizer.json` from a model folder, or else `spiece.model`.
    ///
    /// # Errors
    /// Neither is there, or the file is damaged.
    pub fn load(folder: &Path) -> Result<Self> {
        let json = folder.join("tokenizer.json");
        let model = folder.join("spiece.model");
        if json.is_file() {
            Self::from_json(&json)
        } else if model.is_file() {
            Self::from_sentencepiece(&model)
        } else {
            Err(Error::format(folder, "tokenizer.json or spiece.model in the folder", "neither"))
        }
    }

    /// Reads a `tokenizer.json`. The padding and truncation stored in it are somebody's saved state and are left out.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn from_json(path: &Path) -> Result<Self> {
        Self::from_json_bytes(path, &read_capped(path, MAX_BYTES)?)
    }

    /// As [`T5Tokenizer::from_json`], from memory; `path` is its name in messages.
    ///
    /// # Errors
    /// The description is damaged.
    pub fn from_json_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut inner =
            Tokenizer::from_bytes(bytes).map_err(|e| Error::format(path, "a tokenizer description", format!("{e}")))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::format(path, "a tokenizer description", format!("{e}")))?;
        Self::new(inner, path)
    }

    /// Reads a `spiece.model` and builds the same tokenizer from it; the number of sentinel tokens comes from a
    /// `tokenizer_config.json` beside it (100 where there is none).
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn from_sentencepiece(path: &Path) -> Result<Self> {
        let model = SentencePieceModel::open(path)?;
        if model.model_type != ModelType::Unigram {
            let found = format!("model type {:?}", model.model_type);
            return Err(Error::format(path, "a SentencePiece unigram model", found));
        }
        let beside = path.with_file_name("tokenizer_config.json");
        let config: Option<TokenizerConfig> = read_json(&beside, MAX_CONFIG, "the settings of a tokenizer").ok();
        let extra_ids = config.and_then(|config| config.extra_ids).unwrap_or(EXTRA_IDS).min(MAX_EXTRA_IDS);
        let inner =
            build(model, extra_ids).map_err(|e| Error::format(path, "a SentencePiece model of T5", format!("{e}")))?;
        Self::new(inner, path)
    }

    fn new(inner: Tokenizer, path: &Path) -> Result<Self> {
        let id = |token: &str| {
            let expected = format!("a vocabulary with `{token}`");
            inner.token_to_id(token).ok_or_else(|| Error::format(path, expected, "a vocabulary without"))
        };
        let (pad_id, end_id) = (id(PAD)?, id(END)?);
        Ok(Self { inner, pad_id, end_id })
    }

    /// Id that fills a short row.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Ids of one text, `</s>` included.
    ///
    /// # Errors
    /// The tokenizer's own description is inconsistent.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, true).map_err(|e| Error::argument("text", e.to_string(), "text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of one text, at most `max_length`; a text that is cut still ends in `</s>`.
    ///
    /// # Errors
    /// As [`T5Tokenizer::encode`].
    pub fn encode_truncated(&self, text: &str, max_length: usize) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        if ids.len() > max_length {
            ids.truncate(max_length);
            if let Some(last) = ids.last_mut() {
                *last = self.end_id;
            }
        }
        Ok(ids)
    }

    /// Ids and mask of several texts, both `[batch, length]`: u32, and f32 with 1 for words and 0 for padding.
    ///
    /// # Errors
    /// As [`T5Tokenizer::encode`].
    pub fn encode_batch(&self, texts: &[&str], padding: Padding, device: &Device) -> Result<(Tensor, Tensor)> {
        let limit = if let Padding::Length(length) = padding { length } else { usize::MAX };
        let rows = texts.iter().map(|text| self.encode_truncated(text, limit)).collect::<Result<Vec<_>>>()?;
        let length = match padding {
            Padding::Longest => rows.iter().map(Vec::len).max().unwrap_or(0),
            Padding::Length(length) => length,
        };
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in &rows {
            let pad = length - row.len();
            ids.extend(row.iter().copied().chain(std::iter::repeat_n(self.pad_id, pad)));
            mask.extend(std::iter::repeat_n(1f32, row.len()).chain(std::iter::repeat_n(0f32, pad)));
        }
        let shape = (rows.len(), length);
        Ok((Tensor::from_vec(ids, shape, device)?, Tensor::from_vec(mask, shape, device)?))
    }

    /// Text of ids.
    ///
    /// # Errors
    /// The tokenizer's own description is inconsistent.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| Error::argument("ids", e.to_string(), "token ids"))
    }
}

/// The tokenizer that the published conversion makes of a SentencePiece model: the sentinels follow the pieces in falling
/// order, spaces to the right are stripped, runs of spaces become one mark, and a mark is put in front.
fn build(model: SentencePieceModel, extra_ids: usize) -> tokenizers::Result<Tokenizer> {
    let SentencePieceModel { pieces, unk_id, charsmap, .. } = model;
    let mut vocabulary: Vec<_> = pieces.into_iter().map(|piece| (piece.text, f64::from(piece.score))).collect();
    let sentinels: Vec<_> = (0..extra_ids).rev().map(|i| format!("<extra_id_{i}>")).collect();
    let specials: Vec<_> = [PAD, END].into_iter().chain([vocabulary[unk_id].0.as_str()]).map(str::to_owned).collect();
    vocabulary.extend(sentinels.iter().map(|token| (token.clone(), 0.0)));
    let end_id = vocabulary.iter().position(|(piece, _)| piece == END).ok_or("no `</s>` among the pieces")?;

    let mut tokenizer = Tokenizer::new(Unigram::from(vocabulary, Some(unk_id), false)?);
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if !charsmap.is_empty() {
        steps.push(Precompiled::from(&charsmap)?.into());
    }
    steps.push(Strip::new(false, true).into());
    steps.push(Replace::new(ReplacePattern::Regex(" {2,}".into()), "▁")?.into());
    tokenizer.with_normalizer(Some(Sequence::new(steps)))?;
    let marks = Metaspace::new('▁', PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(marks.clone()));
    tokenizer.with_decoder(Some(marks));
    let template = TemplateProcessing::builder()
        .try_single(format!("$A {END}"))?
        .special_tokens(vec![(END.to_owned(), u32::try_from(end_id)?)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    let plain = specials.into_iter().map(|token| AddedToken::from(token, true).normalized(false));
    // Sentinels swallow the spaces on both sides.
    let swallowing =
        sentinels.into_iter().map(|token| AddedToken::from(token, true).normalized(false).lstrip(true).rstrip(true));
    let added: Vec<_> = plain.chain(swallowing).collect();
    tokenizer.add_special_tokens(added)?;
    Ok(tokenizer)
}
