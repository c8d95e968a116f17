//! Decoding while the codes are still being made.

use candle_core::Tensor;
use musaic_core::Result;

use super::{model::Encodec, seanet::StackState};

/// Decodes codes that come in blocks of any size; the blocks it gives, one after the other, are the samples of
/// [`Encodec::decode_codes`] on all codes.
///
/// Each layer keeps the few samples it needs again, and the LSTM its state, so memory does not grow with the length and no
/// sample is computed twice. What comes out lags by the right context of the convolutions: about four frames.
#[derive(Debug, Clone)]
pub struct StreamDecoder<'a> {
    model: &'a Encodec,
    state: StackState,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(model: &'a Encodec) -> Self {
        Self { model, state: model.start_decoder() }
    }

    /// The next codes `[batch, codebooks, frames]` to the samples that are now certain, `[batch, channels, samples]`; none
    /// where more codes are needed first.
    ///
    /// # Errors
    /// A code is not below `codebook_size`, or a shape is not that of the blocks before.
    pub fn push(&mut self, codes: &Tensor) -> Result<Option<Tensor>> {
        if codes.dims3()?.2 == 0 {
            return Ok(None);
        }
        self.model.decode_block(&mut self.state, Some(codes), false)
    }

    /// The samples that were held back, now that no codes follow.
    ///
    /// # Errors
    /// The device reports a failure.
    pub fn finish(mut self) -> Result<Option<Tensor>> {
        self.model.decode_block(&mut self.state, None, true)
    }
}
