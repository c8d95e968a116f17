//! Collecting the hidden states that predict the music tokens.

use candle_core::Tensor;
use musaic_core::Result;

/// How tokens out of order are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collecting {
    /// A complete set stays; other tokens in between do no harm.
    #[default]
    Keep,
    /// As `Keep`, but the eight must follow each other.
    Contiguous,
    /// As published: the first token of a new set clears the one before, even a complete one.
    Reference,
}

/// States of the music tokens seen so far, in order.
#[derive(Debug, Clone)]
pub struct MusicTokens {
    first_id: u32,
    count: usize,
    rule: Collecting,
    /// Number of the token that is waited for.
    expected: usize,
    states: Vec<Tensor>,
}

impl MusicTokens {
    /// Waits for `count` tokens from `first_id` on.
    pub fn new(first_id: u32, count: usize, rule: Collecting) -> Self {
        Self { first_id, count, rule, expected: 0, states: Vec::new() }
    }

    /// As it was before it saw anything.
    pub fn fresh(&self) -> Self {
        Self::new(self.first_id, self.count, self.rule)
    }

    /// Number of tokens.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Ids of the tokens, in order.
    pub fn ids(&self) -> std::ops::Range<u32> {
        self.first_id..self.first_id + self.count as u32
    }

    /// Whether `id` is one of the tokens.
    pub fn contains(&self, id: u32) -> bool {
        id.checked_sub(self.first_id).is_some_and(|number| (number as usize) < self.count)
    }

    /// Takes a token and the state `[1, 1, dim]` of the position that predicted it.
    pub fn see(&mut self, id: u32, state: &Tensor) {
        if self.rule != Collecting::Reference && self.is_complete() {
            return;
        }
        if self.contains(id) && (id - self.first_id) as usize == self.expected {
            if self.expected == 0 {
                self.states.clear();
            }
            self.states.push(state.clone());
            self.expected = (self.expected + 1) % self.count.max(1);
        } else if self.rule == Collecting::Contiguous {
            self.states.clear();
            self.expected = 0;
            // The token that broke the run may begin the next.
            if id == self.first_id {
                self.see(id, state);
            }
        }
    }

    /// Whether any state is held.
    pub fn has_begun(&self) -> bool {
        !self.states.is_empty()
    }

    /// Whether exactly one set is held.
    pub fn is_complete(&self) -> bool {
        self.states.len() == self.count
    }

    /// The set `[1, count, dim]`, if it is complete.
    ///
    /// # Errors
    /// The states have different shapes.
    pub fn states(&self) -> Result<Option<Tensor>> {
        if self.is_complete() { Ok(Some(Tensor::cat(&self.states, 1)?)) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Feeds ids, each with its place as state, and gives the places held where a set is complete.
    fn collect(rule: Collecting, ids: &[u32]) -> Option<Vec<f32>> {
        let mut tokens = MusicTokens::new(100, 3, rule);
        for (place, &id) in ids.iter().enumerate() {
            tokens.see(id, &Tensor::full(place as f32, (1, 1, 1), &Device::Cpu).unwrap());
        }
        tokens.states().unwrap().map(|states| states.flatten_all().unwrap().to_vec1().unwrap())
    }

    #[test]
    fn rules_differ_where_tokens_come_out_of_order() {
        use Collecting::{Contiguous, Keep, Reference};
        let all = [Keep, Contiguous, Reference];
        for rule in all {
            assert_eq!(collect(rule, &[5, 100, 101, 102, 5]), Some(vec![1.0, 2.0, 3.0]), "{rule:?}");
            assert_eq!(collect(rule, &[100, 101]), None);
            assert_eq!(collect(rule, &[101, 102, 103]), None);
        }
        let interrupted = [100, 7, 101, 100, 102];
        assert_eq!(all.map(|rule| collect(rule, &interrupted).is_some()), [true, false, true]);
        let restarted = [100, 101, 102, 100];
        assert_eq!(all.map(|rule| collect(rule, &restarted).is_some()), [true, true, false]);
        assert_eq!(collect(Contiguous, &[100, 100, 101, 102]), Some(vec![1.0, 2.0, 3.0]));
    }
}
