//! One answer: token after token, until it is complete.

use std::collections::VecDeque;

use candle_core::{Device, Tensor};
use musaic_core::{
    Error, Result,
    role::{Cancel, LanguageModel, Sampling},
};
use musaic_decoders::musicgen::philox::{Piece, uniform};

use super::collector::{Collecting, MusicTokens};
use crate::llm::{
    sampling::{pick, validate},
    session::CHUNK,
    tokenizer::LlamaTokenizer,
};

/// Draws of text have a number of their own among those of a seed.
const STREAM: u32 = 0x7465_7874;
/// Begins the next instruction: the answer is over.
const NEXT_TURN: &str = "\n###";
/// Ids that it is looked for in, as the reference does: the marks of a turn are no longer in LLaMA's vocabulary.
const NEXT_TURN_IDS: usize = 3;
/// Piece that cuts a published answer.
const NEWLINE: &str = "<0x0A>";

/// How an answer is made.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Root of every draw.
    pub seed: u64,
    /// Number of the take: another take of one seed is another answer.
    pub take: u32,
    /// An answer is also over at its first newline, unless music tokens have begun and are not complete: for checkpoints
    /// that were trained without an end.
    pub stop_at_newline: bool,
    /// The eight tokens must follow each other.
    pub contiguous: bool,
    /// The answer ends early enough for [`Answering::add_music`].
    pub leave_room: bool,
    /// As published: only the next instruction or the length ends an answer, and its text is cut at its first newline with
    /// the music tokens in it.
    pub reference: bool,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 512,
            sampling: Sampling::Draw { temperature: 0.6, top_k: 0, top_p: 0.8 },
            seed: 0,
            take: 0,
            stop_at_newline: true,
            contiguous: false,
            leave_room: false,
            reference: false,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The end token.
    End,
    /// The next instruction began.
    NextTurn,
    /// A newline behind a complete answer.
    Newline,
    /// As many tokens as were allowed.
    Length,
    /// Somebody asked.
    Cancelled,
}

/// A finished answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// New ids, those that ended it included.
    pub ids: Vec<u32>,
    /// What it says; music tokens only under `reference`.
    pub text: String,
    /// States of the eight music tokens `[1, 8, dim]`, where it has them.
    pub music: Option<Tensor>,
    /// Why it ended.
    pub stopped: Stopped,
}

/// An answer in the making.
pub struct Answering<'a> {
    model: &'a mut dyn LanguageModel,
    tokenizer: &'a LlamaTokenizer,
    options: AnswerOptions,
    music: MusicTokens,
    newline: Option<u32>,
    /// Prompt and new ids.
    ids: Vec<u32>,
    prompt: usize,
    most: usize,
    /// Positions that can be fed.
    room: usize,
    /// States of the last positions fed, `[1, 1, dim]` each, the newest last: as many as the mark of a turn may take back.
    hidden: VecDeque<Tensor>,
    logits: Vec<f32>,
    stopped: Option<Stopped>,
}

impl<'a> Answering<'a> {
    /// Feeds the prompt (ids with the beginning token), in parts between which `cancel` is heard. `first_music_id` begins
    /// `music_tokens` ids.
    ///
    /// # Errors
    /// The prompt is empty or leaves no room for an answer, an option makes no sense, or the arithmetic fails.
    pub fn new(
        model: &'a mut dyn LanguageModel,
        tokenizer: &'a LlamaTokenizer,
        prompt: &[u32],
        (first_music_id, music_tokens): (u32, usize),
        max_positions: usize,
        options: AnswerOptions,
        cancel: &Cancel,
    ) -> Result<Self> {
        validate(&options.sampling)?;
        let limit = if options.leave_room { max_positions.saturating_sub(music_tokens) } else { max_positions };
        let most = limit.min(prompt.len().saturating_add(options.max_new_tokens));
        if prompt.is_empty() || most <= prompt.len() {
            let expected = format!("1 to {} tokens, so that there is room for an answer", limit.saturating_sub(1));
            return Err(Error::argument("prompt", format!("{} tokens", prompt.len()), expected));
        }
        let rule = match (options.reference, options.contiguous) {
            (true, _) => Collecting::Reference,
            (false, true) => Collecting::Contiguous,
            (false, false) => Collecting::Keep,
        };
        let mut answering = Self {
            music: MusicTokens::new(first_music_id, music_tokens, rule),
            newline: tokenizer.id_of(NEWLINE),
            ids: prompt.to_vec(),
            prompt: prompt.len(),
            most,
            room: most,
            hidden: VecDeque::new(),
            logits: Vec::new(),
            stopped: None,
            model,
            tokenizer,
            options,
        };
        answering.model.start(1, max_positions.min(most + music_tokens))?;
        answering.room = max_positions.min(most + music_tokens);
        for part in prompt.chunks(CHUNK) {
            if cancel.is_cancelled() {
                answering.stopped = Some(Stopped::Cancelled);
                return Ok(answering);
            }
            answering.feed(part)?;
        }
        Ok(answering)
    }

    fn feed(&mut self, ids: &[u32]) -> Result<()> {
        let states = self.model.feed(&Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu)?)?;
        for at in ids.len().saturating_sub(NEXT_TURN_IDS)..ids.len() {
            self.hidden.push_back(states.narrow(1, at, 1)?.contiguous()?);
        }
        self.hidden.drain(..self.hidden.len().saturating_sub(NEXT_TURN_IDS));
        Ok(())
    }

    /// The next token; nothing once the answer is over.
    ///
    /// # Errors
    /// The arithmetic fails.
    pub fn step(&mut self) -> Result<Option<u32>> {
        self.step_with(None)
    }

    /// As [`Answering::step`], with the token given instead of picked.
    ///
    /// # Errors
    /// As [`Answering::step`].
    pub fn step_with(&mut self, given: Option<u32>) -> Result<Option<u32>> {
        let (None, Some(hidden)) = (self.stopped, self.hidden.back().cloned()) else { return Ok(None) };
        self.logits = self.model.logits(&hidden)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        let id = given.unwrap_or_else(|| {
            let piece = Piece { take: self.options.take, opening: 0 };
            let draw = uniform(self.options.seed, piece, (self.ids.len() - self.prompt) as u32, STREAM);
            pick(&self.logits, &self.options.sampling, draw)
        });
        self.music.see(id, &hidden);
        self.ids.push(id);
        self.stopped = self.is_over(id);
        if self.stopped.is_none() {
            self.feed(&[id])?;
        }
        Ok(Some(id))
    }

    fn is_over(&self, id: u32) -> Option<Stopped> {
        let last = &self.ids[self.ids.len().saturating_sub(NEXT_TURN_IDS)..];
        let tail = self.tokenizer.decode(last, false);
        let new = self.new_ids();
        if tail == NEXT_TURN {
            return Some(Stopped::NextTurn);
        }
        if !self.options.reference {
            if self.tokenizer.eos_id() == Some(id) {
                return Some(Stopped::End);
            }
            if tail.ends_with(NEXT_TURN) {
                return Some(Stopped::NextTurn);
            }
            let complete = self.music.is_complete() || !self.music.has_begun() && !self.shown(new).trim().is_empty();
            if self.options.stop_at_newline && self.newline == Some(id) && complete {
                return Some(Stopped::Newline);
            }
        }
        (self.ids.len() >= self.most).then_some(Stopped::Length)
    }

    /// Whether the answer has a complete set of music tokens.
    pub fn has_music(&self) -> bool {
        self.music.is_complete()
    }

    /// Puts the music tokens behind the answer, where it has no complete set of its own: the states that predict them are
    /// what training asked for, whether or not the model would have picked them. Gives whether there was room.
    ///
    /// # Errors
    /// The arithmetic fails.
    pub fn add_music(&mut self) -> Result<bool> {
        if self.music.is_complete() {
            return Ok(true);
        }
        let tokens = self.music.fresh();
        // The last token was not fed: a mark of the end is not what music follows, a word is.
        let word = self.ids.last().copied().filter(|_| self.stopped == Some(Stopped::Length));
        let kept = match self.stopped {
            Some(Stopped::NextTurn) => self.ids.len() - self.mark(),
            Some(Stopped::End | Stopped::Newline) => self.ids.len() - 1,
            _ => self.ids.len(),
        };
        if kept + tokens.count() > self.room || self.stopped == Some(Stopped::Cancelled) {
            return Ok(false);
        }
        match word {
            Some(word) => self.feed(&[word])?,
            None => {
                // Of the mark all but the last is in the state already.
                let fed = self.ids.len() - usize::from(self.stopped.is_some());
                self.ids.truncate(kept);
                self.model.truncate(kept);
                self.hidden.truncate(self.hidden.len().saturating_sub(fed.saturating_sub(kept)));
            }
        }
        let Some(mut hidden) = self.hidden.back().cloned() else { return Ok(false) };
        self.music = tokens;
        for id in self.music.ids() {
            self.music.see(id, &hidden);
            self.ids.push(id);
            self.feed(&[id])?;
            hidden = match self.hidden.back() {
                Some(hidden) => hidden.clone(),
                None => break,
            };
        }
        Ok(self.music.is_complete())
    }

    /// Ids at the end that are the mark of the next turn.
    fn mark(&self) -> usize {
        let new = self.new_ids();
        let most = NEXT_TURN_IDS.min(new.len());
        let is_mark = |count: &usize| self.tokenizer.decode(&new[new.len() - count..], false).ends_with(NEXT_TURN);
        (1..=most).find(is_mark).unwrap_or(most)
    }

    /// New ids so far.
    pub fn new_ids(&self) -> &[u32] {
        &self.ids[self.prompt..]
    }

    /// Logits that the last step picked from.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// State `[1, 1, dim]` of the last position fed, which predicts the next token.
    pub fn hidden(&self) -> Option<&Tensor> {
        self.hidden.back()
    }

    /// Text so far, as far as later tokens cannot change it: to be shown while the answer is made.
    pub fn stable_text(&self) -> String {
        let mut text = self.text();
        if self.stopped.is_none() {
            let held_back = |c: char| matches!(c, '\n' | '#' | ' ' | char::REPLACEMENT_CHARACTER);
            text.truncate(text.trim_end_matches(held_back).len());
        }
        text
    }

    fn text(&self) -> String {
        let new = self.new_ids();
        if self.options.reference {
            let end = new.iter().position(|&id| Some(id) == self.newline).unwrap_or(new.len());
            return self.tokenizer.decode(&new[..end], false);
        }
        let text = self.shown(new);
        let end = text.find(NEXT_TURN).unwrap_or(text.len());
        // Where the length ended it within the mark, a part of that is there.
        let begun = |text: &str| {
            NEXT_TURN.match_indices('#').map(|(at, _)| at).find(|&at| text.ends_with(&NEXT_TURN[..at + 1]))
        };
        let end = if self.stopped.is_some() { end - begun(&text[..end]).map_or(0, |at| at + 1) } else { end };
        text[..end].trim().to_owned()
    }

    /// Without music tokens and marks of an end.
    fn shown(&self, ids: &[u32]) -> String {
        let kept: Vec<_> = ids.iter().copied().filter(|&id| !self.music.contains(id)).collect();
        self.tokenizer.decode(&kept, true)
    }

    /// The answer so far.
    ///
    /// # Errors
    /// The device failed.
    pub fn finish(self) -> Result<Answer> {
        Ok(Answer {
            ids: self.new_ids().to_vec(),
            text: self.text(),
            music: self.music.states()?,
            stopped: self.stopped.unwrap_or(Stopped::Cancelled),
        })
    }

    /// Steps until the answer is over or `cancel` says so; `shown` gets new text as soon as it is certain.
    ///
    /// # Errors
    /// The arithmetic fails, or `shown` does.
    pub fn run(mut self, cancel: &Cancel, shown: &mut dyn FnMut(&str) -> Result<()>) -> Result<Answer> {
        self.advance(cancel, shown)?;
        self.finish()
    }

    /// As [`Answering::run`], and the answer can be looked at or added to.
    ///
    /// # Errors
    /// As [`Answering::run`].
    pub fn advance(&mut self, cancel: &Cancel, shown: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut told = 0;
        while !cancel.is_cancelled() {
            let more = self.step()?.is_some();
            let text = self.stable_text();
            if let Some(new) = text.get(told..).filter(|new| !new.is_empty()) {
                shown(new)?;
                told = text.len();
            }
            if !more {
                break;
            }
        }
        if self.stopped.is_none() {
            self.stopped = Some(Stopped::Cancelled);
        }
        Ok(())
    }
}
