//! `tokenizer.json`: byte-level BPE (SmolLM2, GPT), and LLaMA's own in newer folders.

use std::path::Path;

use musaic_core::{Error, Result, files::read_capped};
use tokenizers::{PostProcessor as _, Tokenizer, TruncationDirection};

/// Largest file that is read.
const MAX_BYTES: u64 = 256 << 20;

/// A tokenizer by its own description.
#[derive(Debug, Clone)]
pub struct JsonTokenizer {
    inner: Tokenizer,
}

impl JsonTokenizer {
    /// Reads a `tokenizer.json`. The padding and truncation stored in it are somebody's saved state and are left out.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path, &read_capped(path, MAX_BYTES)?)
    }

    /// From a description; `path` is where messages say that it is.
    pub(super) fn of(path: &Path, description: &[u8]) -> Result<Self> {
        let broken = |e: tokenizers::Error| Error::format(path, "a tokenizer description", format!("{e}"));
        let mut inner = Tokenizer::from_bytes(description).map_err(broken)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(broken)?;
        Ok(Self { inner })
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of a token by its text.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of a text; `special` adds what the description puts around a text.
    ///
    /// # Errors
    /// The description is inconsistent.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, special).map_err(|e| Error::argument("text", e.to_string(), "text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`JsonTokenizer::encode`] with what the description puts around a text, cut to `most` ids with that in place.
    ///
    /// # Errors
    /// The description is inconsistent.
    pub fn encode_truncated(&self, text: &str, most: usize) -> Result<Vec<u32>> {
        let broken = |e: tokenizers::Error| Error::argument("text", e.to_string(), "text");
        let mut encoding = self.inner.encode_fast(text, false).map_err(broken)?;
        let around = self.inner.get_post_processor().map_or(0, |post| post.added_tokens(false));
        encoding.truncate(most.saturating_sub(around), 0, TruncationDirection::Right);
        Ok(self.inner.post_process(encoding, None, true).map_err(broken)?.get_ids().to_vec())
    }

    /// Text of ids.
    ///
    /// # Errors
    /// The description is inconsistent.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| Error::argument("ids", e.to_string(), "token ids"))
    }
}
