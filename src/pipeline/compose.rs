//! From media and words to what the decoder listens to: encoders, then the language model, and neither in memory when the
//! decoder is loaded.

use candle_core::Device;
use musaic_core::{
    Result, WeightFormat,
    role::{Cancel, Conditioning, DecoderSpec},
};

use super::{
    preflight::{self, Need, Part},
    request::Composed,
    system::{Encoders, Heard, Input, Mind, Moved, Question, Reply, System},
};
use crate::{
    config::{RunConfig, SystemConfig},
    failure::BadInput,
    llm::m2ugen::MAX_POSITIONS,
};

/// Up to this many parameters the language model is held in f32 where memory allows.
const SMALL: u64 = 500_000_000;

/// A system and how it will be held.
pub struct Composer {
    system: System,
    inputs: Vec<Input>,
    device: Device,
    format: WeightFormat,
    need_bytes: f64,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The words.
    pub instruction: &'a str,
    /// Root of every draw.
    pub seed: u64,
    /// Measure how much each input moved the answer.
    pub explain: bool,
}

/// What the decoder is given, and what is told of it.
#[derive(Debug, Clone)]
pub struct Composition {
    /// What the decoder listens to.
    pub conditioning: Conditioning,
    /// What the language model said.
    pub reply: Reply,
    /// How much each input moved it, where that was asked.
    pub moved: Vec<Moved>,
    /// As it is written into the file.
    pub record: Composed,
}

/// What the user sees while media are encoded and words are found.
pub trait Listener {
    /// `done` of `of` parts of a file are encoded.
    fn hearing(&mut self, input: &Input, done: usize, of: usize);
    /// More of the answer.
    ///
    /// # Errors
    /// It cannot be shown.
    fn words(&mut self, text: &str) -> Result<()>;
}

/// Nobody looks.
impl Listener for () {
    fn hearing(&mut self, _: &Input, _: usize, _: usize) {}

    fn words(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

impl Composer {
    /// Finds all files of the system and chooses the format of the language model; loads nothing.
    ///
    /// # Errors
    /// Files are missing, or memory is short.
    pub fn open(config: &RunConfig, inputs: Vec<Input>, device: &Device) -> anyhow::Result<Self> {
        let system = Self::system_of(config, &inputs)?;
        let Part { need, asked, preferred } = Self::part(config, &system, device)?;
        let available = if device.is_cpu() { preflight::available_memory() } else { None };
        let format = preflight::choose(&need, asked, preferred, available)?;
        Ok(Self { need_bytes: need.bytes(format), system, inputs, device: device.clone(), format })
    }

    /// As [`Composer::open`], for a decoder that is kept beside language model and encoders: one need for all. Gives how the
    /// decoder is to be held.
    ///
    /// # Errors
    /// As [`Composer::open`], or they do not fit together.
    pub fn open_beside(
        config: &RunConfig,
        inputs: Vec<Input>,
        device: &Device,
        decoder: Part,
    ) -> anyhow::Result<(Self, WeightFormat)> {
        let system = Self::system_of(config, &inputs)?;
        let mut ours = Self::part(config, &system, device)?;
        // In f32 they take the most; see `encoders`.
        ours.need.plain_parameters += system.encoder_parameters()?;
        let available = if device.is_cpu() { preflight::available_memory() } else { None };
        let formats = preflight::choose_all(&[ours, decoder], available)?;
        let composer = Self {
            need_bytes: ours.need.bytes(formats[0]),
            system,
            inputs,
            device: device.clone(),
            format: formats[0],
        };
        Ok((composer, formats[1]))
    }

    fn system_of(config: &RunConfig, inputs: &[Input]) -> anyhow::Result<System> {
        let kinds: Vec<_> = inputs.iter().map(|input| input.kind).collect();
        System::open(config, &kinds)
    }

    /// The language model alone.
    fn part(config: &RunConfig, system: &System, device: &Device) -> Result<Part> {
        let parameters = system.parameters();
        let preferred = if parameters <= SMALL && device.is_cpu() { WeightFormat::F32 } else { WeightFormat::Bf16 };
        let need =
            Need { matrix_parameters: parameters, plain_parameters: 0, cache_bytes: system.cache_bytes(MAX_POSITIONS) };
        Ok(Part { need, asked: config.text_format()?, preferred })
    }

    /// Memory of the language model in bytes.
    pub fn need_bytes(&self) -> f64 {
        self.need_bytes
    }

    /// How the language model will be held.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// The system.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// Encoders of this system, none loaded yet; see [`Encoders::new`].
    pub fn encoders(&self, keep: bool) -> Encoders {
        // They are small beside the language model, and quantising them would cost more than it saves.
        let format = match self.format {
            WeightFormat::Q8_0 | WeightFormat::Q4K if self.device.is_cpu() => WeightFormat::F32,
            WeightFormat::Q8_0 | WeightFormat::Q4K => WeightFormat::Bf16,
            format => format,
        };
        Encoders::new(&self.device, format, keep)
    }

    /// Encodes media of the kinds it was opened with.
    ///
    /// # Errors
    /// A file is broken, an encoder does not load, or somebody asked to stop.
    pub fn hear(
        &self,
        inputs: &[Input],
        encoders: &mut Encoders,
        seed: u64,
        cancel: &Cancel,
        listener: &mut dyn Listener,
    ) -> anyhow::Result<Vec<Heard>> {
        self.system.hear(inputs, encoders, seed, cancel, &mut |input, done, of| listener.hearing(input, done, of))
    }

    /// Loads the language model.
    ///
    /// # Errors
    /// Weights are missing or do not fit.
    pub fn load(&self) -> Result<Mind> {
        Mind::load(&self.system, &self.device, self.format)
    }

    /// All of it: hears, answers, and makes the conditioning for a decoder of `spec`.
    ///
    /// # Errors
    /// As the steps, or the answer has no music and the decoder listens to nothing else.
    pub fn compose(
        &self,
        config: &RunConfig,
        wish: &Wish<'_>,
        spec: &DecoderSpec,
        cancel: &Cancel,
        listener: &mut dyn Listener,
    ) -> anyhow::Result<Composition> {
        self.system.check_decoder(config, spec)?;
        let &Wish { instruction, seed, explain } = wish;
        let heard = self.hear(&self.inputs, &mut self.encoders(false), seed, cancel, listener)?;
        let mind = self.load()?;
        let question = Question { heard: &heard, instruction, wants_music: true, seed, take: 0 };
        let reply = mind.answer(&question, cancel, &mut |text| listener.words(text))?;
        let moved = if explain { mind.moved(&question, &self.inputs, &reply, cancel)? } else { Vec::new() };
        self.composition(config, reply, moved, &self.inputs)
    }

    /// What a reply means to the decoder.
    ///
    /// # Errors
    /// The reply has no music.
    pub fn composition(
        &self,
        config: &RunConfig,
        reply: Reply,
        moved: Vec<Moved>,
        inputs: &[Input],
    ) -> anyhow::Result<Composition> {
        let projected = config.system.conditioning == "projected";
        let states = reply.music.as_ref().and_then(|music| music.states.clone());
        let conditioning = match (projected, states, &reply.music) {
            (true, Some(states), _) => Conditioning::States(states),
            (false, _, Some(_)) if !reply.text.trim().is_empty() => Conditioning::Text(reply.text.clone()),
            (true, None, Some(_)) => {
                let message = "conditioning: this checkpoint has no output projector, expected one for `projected`";
                return Err(BadInput::new(message)
                    .hint("`--conditioning caption` plays the words of the answer")
                    .into());
            }
            _ => {
                let message = format!("the answer holds no music: {:?}", reply.text);
                let hint = "ask for music in the words, or leave out --reference, which lets only music through that the \
                            model began itself";
                return Err(BadInput::new(message).hint(hint).into());
            }
        };
        let record = Composed {
            inputs: inputs.iter().map(Input::medium).collect(),
            answer: reply.text.clone(),
            music_tokens_added: reply.music.as_ref().is_some_and(|music| music.added),
            system: SystemConfig { format: self.format.name().into(), ..config.system.clone() },
            fingerprint: self.system.fingerprint().to_owned(),
            parts: self.system.parts(inputs)?,
        };
        Ok(Composition { conditioning, reply, moved, record })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Layers,
        pipeline::{
            generate::{self, Job},
            output::Output,
            sink::Watch,
        },
    };

    struct Unseen;

    impl Watch for Unseen {
        fn progress(&mut self, _: usize, _: usize) {}
    }

    #[test]
    fn the_projector_alone_changes_the_codes() {
        let mut layers = Layers::defaults().unwrap();
        layers.flag("system.checkpoint", Some("debug"));
        layers.flag("system.max_tokens", Some(8i64));
        layers.flag("generate.seconds", Some(0.5));
        let job = Job::new(layers.finish().unwrap(), "calm", 3, Output::Stdout).with_compose(Some(Vec::new()));
        let stop = Cancel::default();
        let plan = generate::plan(&job).unwrap();
        let composition = plan.compose(&job, &stop, &mut ()).unwrap().unwrap();
        let Conditioning::States(states) = composition.conditioning.clone() else { panic!("projected states") };
        let mut session = plan.load().unwrap();
        let mut play = |states| {
            let conditioning = Conditioning::States(states);
            session.set_composition(Some(Composition { conditioning, ..composition.clone() }));
            session.sound(&job, 0, |_| {}, &stop, &mut Unseen).unwrap()
        };
        let first = play(states.clone());
        assert_eq!(first, play(states.clone()));
        // Everything else stays as it is: the words, the seed, the decoder.
        assert_ne!(first, play((states * 1.5).unwrap()));
    }
}
