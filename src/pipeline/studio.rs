//! Everything loaded and kept, for conversations and for many requests: encoders, language model and decoder side by side.

use musaic_core::{
    WeightFormat,
    role::{Cancel, DecoderSpec},
};

use super::{
    compose::{Composer, Composition, Listener},
    generate::{Inputs, Job, Model, Session, TakeReport},
    preflight::{self, Part},
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
    model: Model,
    format: WeightFormat,
    session: Option<Session>,
}

impl Studio {
    /// Finds the decoder, and the files of the system if one is configured, and checks that all fit in memory side by side, with
    /// pieces of the configured length. Of `inputs` the kinds count: their encoders must be there.
    ///
    /// # Errors
    /// Files are missing or do not belong together, or memory is short.
    pub fn open(config: &RunConfig, inputs: &[Input]) -> anyhow::Result<Self> {
        let model = Model::find(config)?;
        let (store, device) = (model.store(), model.device());
        let openings = if store.has_ranker() { config.generate.openings } else { 1 };
        let need = store.need(config.generate.seconds, openings);
        let part = Part { need, asked: config.format()?, preferred: store.preferred_format(device) };
        if config.system.checkpoint.is_empty() && inputs.is_empty() {
            let available = if device.is_cpu() { preflight::available_memory() } else { None };
            let format = preflight::choose(&part.need, part.asked, part.preferred, available)?;
            return Ok(Self::of(config, None, model, format));
        }
        let (composer, format) = Composer::open_beside(config, inputs.to_vec(), device, part)?;
        let model = model.behind(composer.system(), config)?;
        Ok(Self::of(config, Some(composer), model, format))
    }

    fn of(config: &RunConfig, composer: Option<Composer>, model: Model, format: WeightFormat) -> Self {
        let encoders = composer.as_ref().map(|composer| composer.encoders(true));
        Self { config: config.clone(), composer, encoders, mind: None, model, format, session: None }
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

    /// What the decoder is to listen to for `job`; nothing where words alone do.
    ///
    /// # Errors
    /// As [`Studio::answer`] and [`Studio::composition`].
    pub fn compose(
        &mut self,
        job: &Job,
        cancel: &Cancel,
        listener: &mut dyn Listener,
    ) -> anyhow::Result<Option<Composition>> {
        let Some(inputs) = &job.compose else { return Ok(None) };
        let reply = self.answer(inputs, (&job.prompt, job.seed), true, cancel, listener)?;
        self.composition(reply, inputs).map(Some)
    }

    /// The decoder, loaded and given what a job goes on from and listens to.
    ///
    /// # Errors
    /// A track cannot be read, or the decoder does not load.
    pub fn session(&mut self, job: &Job, composition: Option<Composition>) -> anyhow::Result<&mut Session> {
        let inputs = Inputs::read(job)?;
        let session = match &mut self.session {
            Some(session) => session,
            empty => empty.insert(self.model.load(self.format)?),
        };
        session.set_inputs(inputs);
        session.set_composition(composition);
        Ok(session)
    }

    /// Makes a take of `job`; `watch` is made for a decoder of that kind. `None` when the user stopped before anything worth
    /// keeping was there.
    ///
    /// # Errors
    /// As [`Studio::session`] and [`Session::take`].
    pub fn play<W: Watch>(
        &mut self,
        job: &Job,
        composition: Option<Composition>,
        cancel: &Cancel,
        watch: impl FnOnce(&DecoderSpec) -> W,
    ) -> anyhow::Result<Option<TakeReport>> {
        let session = self.session(job, composition)?;
        let mut watch = watch(session.spec());
        session.take(job, 0, cancel, &mut watch)
    }
}
