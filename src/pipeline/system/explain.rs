//! How much each input moved an answer: the same answer is read once more without it.

use candle_core::{D, DType, Device, Tensor};
use musaic_core::{
    Result,
    role::{Cancel, LanguageModel as _},
};
use serde::Serialize;

use super::{Heard, Input, Mind, Question, Reply, media::name_of};
use crate::llm::m2ugen::MUSIC_TOKENS;

/// What leaving out one input does.
#[derive(Debug, Clone, Serialize)]
pub struct Moved {
    /// The file, or `the words`.
    pub input: String,
    /// `track`, `picture`, `video` or `words`.
    pub kind: &'static str,
    /// Mean over the answer's tokens of the divergence (Kullback-Leibler, in nats) of what the model expects without the input
    /// from what it expects with it: 0 says that the input did nothing.
    pub nats_per_token: f64,
    /// Change of the decoder's conditioning, as a share of its length; nothing where there is none.
    pub conditioning: Option<f64>,
    /// Whether its gates are open at all; always for words.
    pub can_notice: bool,
}

/// What the model expects at each token of an answer, and what the decoder would listen to.
struct Reading {
    /// Log probabilities `[tokens, vocab]`.
    expected: Tensor,
    /// `[1, tokens, width]`
    conditioning: Option<Tensor>,
}

impl Mind {
    /// Leaves out each input in turn.
    ///
    /// # Errors
    /// The arithmetic fails, or somebody asked to stop.
    pub fn moved(
        &self,
        question: &Question<'_>,
        inputs: &[Input],
        reply: &Reply,
        cancel: &Cancel,
    ) -> Result<Vec<Moved>> {
        let whole = self.read(question.heard, question.instruction, reply)?;
        let mut all = Vec::new();
        let mut compare = |input: String, kind, can_notice, without: Reading| -> Result<()> {
            let nats_per_token = divergence(&whole.expected, &without.expected)?;
            let conditioning = match (&whole.conditioning, &without.conditioning) {
                (Some(with), Some(without)) => Some(change(with, without)?),
                _ => None,
            };
            all.push(Moved { input, kind, nats_per_token, conditioning, can_notice });
            Ok(())
        };
        for input in inputs {
            cancel.check()?;
            let rest: Vec<_> = question.heard.iter().filter(|heard| heard.kind != input.kind).cloned().collect();
            let without = self.read(&rest, question.instruction, reply)?;
            compare(input.path.display().to_string(), name_of(input.kind), self.can_notice(input.kind), without)?;
        }
        if !question.instruction.is_empty() {
            cancel.check()?;
            compare("the words".into(), "words", true, self.read(question.heard, "", reply)?)?;
        }
        Ok(all)
    }

    /// How sure the model is of the words of a reply: geometric mean of the probabilities of its tokens, 0 to 1.
    ///
    /// # Errors
    /// The arithmetic fails.
    pub fn confidence(&self, question: &Question<'_>, reply: &Reply) -> Result<f64> {
        if reply.ids.is_empty() {
            return Ok(0.0);
        }
        let expected = self.read(question.heard, question.instruction, reply)?.expected;
        let ids = Tensor::from_slice(&reply.ids, (reply.ids.len(), 1), expected.device())?;
        let mean = expected.gather(&ids, 1)?.mean_all()?.to_scalar::<f32>()?;
        Ok(f64::from(mean).exp())
    }

    fn read(&self, heard: &[Heard], instruction: &str, reply: &Reply) -> Result<Reading> {
        let mut ids = self.prompt_ids(instruction)?;
        let first = ids.len() - 1;
        ids.extend(&reply.ids);
        let mut session = self.model().session(&self.vectors(heard)?)?;
        session.start(1, ids.len())?;
        let states = session.feed(&Tensor::from_slice(&ids, (1, ids.len()), &Device::Cpu)?)?;
        // The state before a token is what predicts it.
        let states = states.narrow(1, first, reply.ids.len())?.contiguous()?;
        let logits = session.logits(&states)?.squeeze(0)?.to_dtype(DType::F32)?;
        let conditioning = match reply.music {
            Some(_) => self.music_of(&states, &reply.ids)?,
            None => None,
        };
        Ok(Reading { expected: log_softmax(&logits)?, conditioning })
    }

    /// Conditioning from the states `[1, tokens, dim]` before each of `ids`: those before the last run of music tokens.
    fn music_of(&self, states: &Tensor, ids: &[u32]) -> Result<Option<Tensor>> {
        let (first, count) = (self.model().first_music_id(), MUSIC_TOKENS.len());
        let places: Option<Vec<_>> =
            (0..count as u32).map(|k| ids.iter().rposition(|&id| id == first + k).map(|at| at as u32)).collect();
        let Some(places) = places else { return Ok(None) };
        let places = Tensor::from_vec(places, count, states.device())?;
        self.conditioning(&states.index_select(&places, 1)?)
    }
}

fn log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let total = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&total)
}

/// Mean over rows of the divergence of `q` from `p`, both log probabilities `[rows, vocab]`.
fn divergence(p: &Tensor, q: &Tensor) -> candle_core::Result<f64> {
    let rows = (p.exp()? * (p - q)?)?.sum(D::Minus1)?;
    Ok(f64::from(rows.mean_all()?.to_scalar::<f32>()?).max(0.0))
}

/// Length of the difference over the length of `a`.
fn change(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    let length = |x: &Tensor| -> candle_core::Result<f64> {
        Ok(f64::from(x.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
    };
    Ok(length(&(a - b)?)? / length(a)?.max(1e-12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_what_it_is_called() {
        let log = |rows: [[f32; 2]; 2]| Tensor::new(&rows, &Device::Cpu).unwrap().log().unwrap();
        let p = log([[0.5, 0.5], [0.9, 0.1]]);
        assert!(divergence(&p, &p).unwrap() < 1e-7);
        let q = log([[0.25, 0.75], [0.9, 0.1]]);
        let by_hand = (0.5f64 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln()) / 2.0;
        assert!((divergence(&p, &q).unwrap() - by_hand).abs() < 1e-6);
        let a = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        assert!((change(&a, &a.zeros_like().unwrap()).unwrap() - 1.0).abs() < 1e-6);
    }
}
