//! What the language model listens to, projected to its width, with the half that guidance pushes away from.

use candle_core::{Result, Tensor};
use musaic_core::probe::Probe;

use super::model::{Lm, LmState};

/// Conditioning of a batch of pieces.
#[derive(Debug, Clone)]
pub enum Conditioned {
    /// Seen by cross attention.
    Cross {
        /// `[batch, length, hidden]`, zeros where the mask is 0.
        states: Tensor,
        /// `[batch, length]` f32; without one everything is seen.
        mask: Option<Tensor>,
    },
    /// In front of the codes (melody variant).
    Prefix {
        /// `[batch, length, hidden]`.
        states: Tensor,
        /// The same for the unguided half.
        null: Tensor,
    },
}

/// A started sequence: the model's memory, and whether it holds a second, unguided half.
pub(super) struct Started {
    pub state: LmState,
    /// States to be fed before the codes.
    pub prefix: Option<Tensor>,
    /// 1, or 2 with guidance: conditional rows first.
    pub copies: usize,
}

impl Conditioned {
    /// Number of pieces.
    pub fn batch(&self) -> usize {
        self.states().dims()[0]
    }

    /// Projected states `[batch, length, hidden]`.
    pub fn states(&self) -> &Tensor {
        match self {
            Self::Cross { states, .. } | Self::Prefix { states, .. } => states,
        }
    }

    /// Positions it takes in the sequence.
    pub fn prefix_length(&self) -> usize {
        match self {
            Self::Cross { .. } => 0,
            Self::Prefix { states, .. } => states.dims()[1],
        }
    }

    /// Allocates a sequence of `columns` columns of codes.
    pub(super) fn start(
        &self,
        lm: &Lm,
        guided: bool,
        columns: usize,
        cache_dtype: candle_core::DType,
    ) -> Result<Started> {
        let copies = if guided { 2 } else { 1 };
        let (batch, capacity) = (copies * self.batch(), columns + self.prefix_length());
        match self {
            Self::Cross { states, mask } => {
                let (states, mask) = if guided {
                    // Zero states give zero keys and values (no biases), so nothing is heard however it is masked.
                    let zeros = states.zeros_like()?;
                    let mask = match mask {
                        Some(mask) => Some(Tensor::cat(&[mask, &mask.zeros_like()?], 0)?),
                        None => None,
                    };
                    (Tensor::cat(&[states, &zeros], 0)?, mask)
                } else {
                    (states.clone(), mask.clone())
                };
                let state = lm.start(batch, Some(&states), mask.as_ref(), capacity, cache_dtype)?;
                Ok(Started { state, prefix: None, copies })
            }
            Self::Prefix { states, null } => {
                let prefix = if guided { Tensor::cat(&[states, null], 0)? } else { states.clone() };
                let state = lm.start(batch, None, None, capacity, cache_dtype)?;
                Ok(Started { state, prefix: Some(prefix), copies })
            }
        }
    }
}

impl Started {
    /// Feeds the prefix, if there is one and it was not fed yet; gives the last layer's output at its positions.
    pub fn feed_prefix(&mut self, lm: &Lm, probe: &mut dyn Probe) -> Result<Option<Tensor>> {
        match &self.prefix {
            Some(prefix) if self.state.is_empty() => Ok(Some(lm.feed(prefix, &mut self.state, probe)?)),
            _ => Ok(None),
        }
    }
}
