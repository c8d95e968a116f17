//! The language model with all that is trained around it, and what it answers.

use std::path::Path;

use candle_core::{Device, Tensor};
use musaic_adapters::{
    bridge::{Blend, BridgeKind},
    projector::{Scaling, musicgen_states},
};
use musaic_core::{Error, Result, WeightFormat, role::Cancel, weights::Weights};

use super::{Heard, System, debug};
use crate::llm::{
    LlamaTokenizer,
    m2ugen::{Answer, AnswerOptions, Answering, M2ugen, MAX_POSITIONS, MUSIC_TOKENS, Stopped, Vectors, prompt},
};

/// Tokens that an answer must have room for.
const LEAST_ANSWER: usize = 16;

/// A loaded language model.
pub struct Mind {
    model: M2ugen,
    tokenizer: LlamaTokenizer,
    cache: Option<std::sync::Mutex<musaic_adapters::knn::Index>>,
    options: AnswerOptions,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What was encoded.
    pub heard: &'a [Heard],
    /// The words.
    pub instruction: &'a str,
    /// Whether the answer is to become music: the music tokens are put behind an answer that lacks them.
    pub wants_music: bool,
    /// Root of every draw.
    pub seed: u64,
    /// Number of the take.
    pub take: u32,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What it says.
    pub text: String,
    /// Its tokens, music tokens included.
    pub ids: Vec<u32>,
    /// What the decoder may listen to, where there are music tokens.
    pub music: Option<Music>,
    /// Why it ended.
    pub stopped: Stopped,
}

/// Conditioning from the music tokens.
#[derive(Debug, Clone)]
pub struct Music {
    /// Text states of MusicGen, `[1, tokens, width]`; `None` where the checkpoint has no projector.
    pub states: Option<Tensor>,
    /// The model did not give the tokens itself; they were put behind its answer.
    pub added: bool,
}

impl Mind {
    /// Loads it, streaming into `format`.
    ///
    /// # Errors
    /// Weights are missing, misshaped or left over, or a file is damaged.
    pub fn load(system: &System, device: &Device, format: WeightFormat) -> Result<Self> {
        let (model, tokenizer) = match &system.tree {
            None => {
                let weights = Weights::new(debug::checkpoint(), device, format);
                let model = M2ugen::from_weights(None, &weights)?;
                weights.finish()?;
                (model, LlamaTokenizer::new(Path::new("debug system"), debug::tokenizer(), &MUSIC_TOKENS)?)
            }
            Some(tree) => (
                M2ugen::load(Some(&tree.checkpoint), Some(&tree.llama), device, format)?,
                LlamaTokenizer::open(&tree.tokenizer, &MUSIC_TOKENS)?,
            ),
        };
        let (pieces, vocabulary) = (tokenizer.vocab_size(), model.llama().config().vocab_size);
        if pieces != vocabulary {
            let expected = format!("{vocabulary} as in the checkpoint, music tokens included");
            return Err(Error::argument("tokenizer.model", format!("{pieces} tokens"), expected));
        }
        let config = &system.config;
        let options = AnswerOptions {
            max_new_tokens: config.max_tokens,
            sampling: config.sampling(),
            reference: system.reference,
            ..AnswerOptions::default()
        };
        Ok(Self { model, tokenizer, cache: system.neighbours()?.map(std::sync::Mutex::new), options })
    }

    /// The model itself.
    pub fn model(&self) -> &M2ugen {
        &self.model
    }

    /// Features to the vectors that the layers look at.
    pub(super) fn vectors(&self, heard: &[Heard]) -> Result<Vectors> {
        let features: Vec<_> = heard.iter().map(|heard| (heard.kind, &heard.features)).collect();
        let Some(cache) = &self.cache else { return self.model.vectors(&features, &mut ()) };
        let mut cache = cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let blend = Blend { reference: self.options.reference, ..Blend::default() };
        self.model.vectors_blended(&features, &blend, &mut *cache)
    }

    /// Ids of the whole prompt.
    pub(super) fn prompt_ids(&self, instruction: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(&prompt(instruction), true)?;
        let most = MAX_POSITIONS - LEAST_ANSWER - MUSIC_TOKENS.len();
        if ids.len() > most {
            let expected = format!("at most {most}, so that there is room for an answer");
            return Err(Error::argument(
                "question",
                format!("{} tokens with what stands around it", ids.len()),
                expected,
            ));
        }
        Ok(ids)
    }

    /// Answers; `shown` gets new text as soon as it is certain.
    ///
    /// # Errors
    /// The question is too long, a shape differs, the arithmetic fails, or `shown` does.
    pub fn answer(
        &self,
        question: &Question<'_>,
        cancel: &Cancel,
        shown: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Reply> {
        let ids = self.prompt_ids(question.instruction)?;
        let mut session = self.model.session(&self.vectors(question.heard)?)?;
        // The published system makes no music where the tokens did not come.
        let adds_music = question.wants_music && !self.options.reference;
        let options =
            AnswerOptions { seed: question.seed, take: question.take, leave_room: adds_music, ..self.options.clone() };
        let tokens = (self.model.first_music_id(), MUSIC_TOKENS.len());
        let mut answering =
            Answering::new(&mut session, &self.tokenizer, &ids, tokens, MAX_POSITIONS, options, cancel)?;
        answering.advance(cancel, shown)?;
        cancel.check()?;
        let own = answering.has_music();
        if adds_music {
            answering.add_music()?;
        }
        let Answer { ids, text, music, stopped } = answering.finish()?;
        let music = match music {
            Some(states) => Some(Music { states: self.conditioning(&states)?, added: !own }),
            None => None,
        };
        Ok(Reply { text, ids, music, stopped })
    }

    /// States of the music tokens `[1, 8, dim]` to what MusicGen listens to; nothing where there is no projector.
    pub(super) fn conditioning(&self, states: &Tensor) -> Result<Option<Tensor>> {
        if self.model.projector().is_none() {
            return Ok(None);
        }
        Ok(Some(musicgen_states(&self.model.project(states, &mut ())?, Scaling::Trained)?))
    }

    /// Whether a medium of this kind can have any effect.
    pub fn can_notice(&self, kind: BridgeKind) -> bool {
        self.model.can_notice(kind)
    }
}
