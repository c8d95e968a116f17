//! Everything loaded and kept, for conversations and for many requests: encoders, language model and decoder side by side.

use musaic_core::role::{Cancel, DecoderSpec};

use super::{
    compose::{Composer, Composition, Listener},
    generate::{self, Job, Session, TakeReport},
    sink::Watch,
    system::{Encoders, Input, Mind, Question, Reply},
};
use crate::{config::RunConfig, failure::BadInput};

/// What is loaded so far; each part comes when it is first needed.
pub struct Studio {
    config: RunConfig,
    composer: Option<Composer>,
    encoders: Option<Encoders>,
    mind: Option<Mind>,
    session: Option<Session>,
}

impl Studio {
    /// Finds the files of the system, if one is configured. Of `inputs` the kinds count: their encoders must be there.
    ///
    /// # Errors
    /// Files are missing, or memory is short.
    pub fn open(config: &RunConfig, inputs: &[Input]) -> anyhow::Result<Self> {
        let composer = if config.system.checkpoint.is_empty() && inputs.is_empty() {
            None
        } else {
            Some(Composer::open(config, inputs.to_vec(), &config.device()?.open()?)?)
        };
        let encoders = composer.as_ref().map(|composer| composer.encoders(true));
        Ok(Self { config: config.clone(), composer, encoders, mind: None, session: None })
    }

    /// What hears and answers, if a system is configured.
    pub fn composer(&self) -> Option<&Composer> {
        self.composer.as_ref()
    }

    /// Hears media and answers.
    ///
    /// # Errors
    /// There is no system, a file is broken, the question is too long, or somebody asked to stop.
    pub fn answer(
        &mut self,
        inputs: &[Input],
        (instruction, seed): (&str, u64),
        wants_music: bool,
        cancel: &Cancel,
        listener: &mut dyn Listener,
    ) -> anyhow::Result<Reply> {
        let (Some(composer), Some(encoders)) = (&self.composer, &mut self.encoders) else {
            return Err(BadInput::new("system.checkpoint: nothing given, expected M2UGen's checkpoint.pth").into());
        };
        let heard = composer.hear(inputs, encoders, seed, cancel, listener)?;
        let mind = match &mut self.mind {
            Some(mind) => mind,
            empty => empty.insert(composer.load()?),
        };
        let question = Question { heard: &heard, instruction, wants_music, seed, take: 0 };
        Ok(mind.answer(&question, cancel, &mut |text| listener.words(text))?)
    }

    /// What a reply means to the decoder.
    ///
    /// # Errors
    /// The reply has no music, or there is no system.
    pub fn composition(&self, reply: Reply, inputs: &[Input]) -> anyhow::Result<Composition> {
        match &self.composer {
            Some(composer) => composer.composition(&self.config, reply, Vec::new(), inputs),
            None => Err(BadInput::new("system.checkpoint: nothing given").into()),
        }
    }

    /// Makes a take of `job`; `watch` is made for a decoder of that kind. `None` when the user stopped before anything worth
    /// keeping was there.
    ///
    /// # Errors
    /// As [`Session::take`], or the decoder does not load.
    pub fn play<W: Watch>(
        &mut self,
        job: &Job,
        composition: Option<Composition>,
        cancel: &Cancel,
        watch: impl FnOnce(&DecoderSpec) -> W,
    ) -> anyhow::Result<Option<TakeReport>> {
        let session = match &mut self.session {
            Some(session) => session,
            // The system is there already; what a plan of its own opens for the decoder is its listing.
            empty => empty.insert(generate::plan(job)?.load()?),
        };
        session.set_composition(composition);
        let mut watch = watch(session.spec());
        session.take(job, 0, cancel, &mut watch)
    }
}
