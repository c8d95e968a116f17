//! One request: plan (nothing loaded yet), load, then take after take.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use candle_core::{Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    files::sha256_file,
    media::{Audio, AudioWriter, Limits, Tags, WriteOptions, read_audio, resample},
    role::{Cancel, Conditioning, DecodeOptions, Decoder, DecoderSpec},
};
use serde::Serialize;

use super::{
    compose::{Composer, Composition, Listener, Wish},
    models,
    openings::{self, OPENING_S},
    output::Output,
    preflight::{self, Need},
    request::{Input, Keep, MadeWith, Request, Span, Stopped},
    sink::{TakeSink, Tape, Watch},
    speed::{Speed, Work},
    store::Store,
    system::{self, DECODER_PART, System},
};
use crate::{config::RunConfig, listen::Ranker};

/// Shortest piece worth keeping when the user stops early, in seconds.
const WORTH_KEEPING_S: f64 = 0.5;

/// Seconds of an edited track that the decoder goes on from.
pub const KEPT_START_S: f64 = 3.0;

/// A checked request.
#[derive(Debug, Clone)]
pub struct Job {
    /// Model, device, formats, length and sampling.
    pub config: RunConfig,
    /// The words.
    pub prompt: String,
    /// Seed of all draws.
    pub seed: u64,
    /// Where the takes go.
    pub output: Output,
    /// Loudness to bring each take to.
    pub normalize_lufs: Option<f64>,
    /// Track to go on from.
    pub continue_from: Option<PathBuf>,
    /// Track whose tune to follow.
    pub melody: Option<PathBuf>,
    /// Media to compose from, with a language model.
    pub compose: Option<Vec<system::Input>>,
    /// What is kept of the track that is edited; its first seconds are what is gone on from.
    pub keep: Option<Keep>,
    /// Only this span of the track to go on from is made anew.
    pub span: Option<Span>,
    /// Measure how much each input moved the answer.
    pub explain: bool,
    /// Steps after which to stop, as the user did when the piece was made first.
    pub stop_after_steps: Option<usize>,
    /// A take that is stopped leaves no file: of a batch, whose rows are done where their file is there.
    pub whole: bool,
}

impl Job {
    /// Words alone to a take.
    pub fn new(config: RunConfig, prompt: impl Into<String>, seed: u64, output: Output) -> Self {
        Self {
            config,
            prompt: prompt.into(),
            seed,
            output,
            normalize_lufs: None,
            continue_from: None,
            melody: None,
            compose: None,
            keep: None,
            span: None,
            explain: false,
            stop_after_steps: None,
            whole: false,
        }
    }

    /// The same, brought to a loudness.
    #[must_use]
    pub fn with_loudness(self, normalize_lufs: Option<f64>) -> Self {
        Self { normalize_lufs, ..self }
    }

    /// The same, going on from one track and following the tune of another.
    #[must_use]
    pub fn with_tracks(self, continue_from: Option<PathBuf>, melody: Option<PathBuf>) -> Self {
        Self { continue_from, melody, ..self }
    }

    /// The same, composed by a language model from media (none: from the words).
    #[must_use]
    pub fn with_compose(self, compose: Option<Vec<system::Input>>) -> Self {
        Self { compose, ..self }
    }

    /// The same, as an edit of the track it goes on from.
    #[must_use]
    pub fn with_edit(self, keep: Option<Keep>, span: Option<Span>) -> Self {
        Self { keep, span, ..self }
    }

    /// The same, and what each input moved is measured.
    #[must_use]
    pub fn with_explain(self, explain: bool) -> Self {
        Self { explain, ..self }
    }

    /// The same, stopped after so many steps.
    #[must_use]
    pub fn with_stop_after(self, stop_after_steps: Option<usize>) -> Self {
        Self { stop_after_steps, ..self }
    }

    /// The same; a take that is stopped leaves no file.
    #[must_use]
    pub fn with_whole(self, whole: bool) -> Self {
        Self { whole, ..self }
    }

    /// Openings that a model which can choose makes of each take, if the words ask for anything; 1 is no choice.
    fn openings(&self) -> u32 {
        let words_alone =
            self.continue_from.is_none() && self.melody.is_none() && self.compose.is_none() && !self.config.reference;
        if words_alone && !self.prompt.trim().is_empty() { self.config.generate.openings } else { 1 }
    }
}

/// What a job will need, known before any weight is read.
pub struct Plan {
    /// Parameters of the model.
    pub parameters: u64,
    /// How its weights will be held.
    pub format: WeightFormat,
    /// Memory in bytes.
    pub need_bytes: f64,
    /// About the wall time of one take in seconds; known on the CPU only.
    pub about_s: Option<f64>,
    model: Model,
    inputs: Inputs,
    composer: Option<Composer>,
}

/// A decoder whose files are there, and where it will compute.
pub struct Model {
    store: Store,
    device: Device,
    device_name: String,
}

/// Tracks that go in, read and checked.
#[derive(Default)]
pub struct Inputs {
    continue_from: Option<(Input, Audio)>,
    melody: Option<(Input, Audio)>,
}

/// One finished take.
#[derive(Debug, Clone, Serialize)]
pub struct TakeReport {
    /// The file; nothing where it went to standard output.
    pub path: Option<String>,
    /// SHA-256 of the file.
    pub sha256: Option<String>,
    /// Its length in seconds.
    pub seconds: f64,
    /// Samples a second.
    pub sample_rate_hz: u32,
    /// Channels.
    pub channels: usize,
    /// Wall time it took, in seconds.
    pub wall_s: f64,
    /// Wall time until the first samples were there, in seconds.
    pub first_sound_s: Option<f64>,
    /// Steps of the language model.
    pub steps: usize,
    /// Largest gain reduction of the limiter, in dB.
    pub limited_db: f64,
    /// The user stopped it before its end.
    pub stopped: bool,
    /// What it was made from.
    pub request: Request,
}

/// Reads the inputs, finds the model, and chooses the format; refuses what cannot work.
///
/// # Errors
/// A file, the model or the device is not there or not right, or memory is short.
pub fn plan(job: &Job) -> anyhow::Result<Plan> {
    let model = Model::find(&job.config)?;
    let inputs = Inputs::read(job)?;
    let composer = match &job.compose {
        Some(inputs) => Some(Composer::open(&job.config, inputs.clone(), &model.device)?),
        None => None,
    };
    let model = match &composer {
        Some(composer) => model.behind(composer.system(), &job.config)?,
        None => model,
    };
    let Model { store, device, .. } = &model;
    let seconds = job.config.generate.seconds;
    let openings = if store.has_ranker() { job.openings() } else { 1 };
    let need: Need = store.need(seconds, openings);
    let available = if device.is_cpu() { preflight::available_memory() } else { None };
    let format = preflight::choose(&need, job.config.format()?, store.preferred_format(device), available)?;
    let time = |work: Work| -> Result<f64> { Ok(Speed::measure(&work, format)?.seconds(&work, format)) };
    let about_s = if device.is_cpu() {
        let choice = if openings > 1 { time(store.work(openings, OPENING_S))? } else { 0.0 };
        Some(choice + time(store.work(1, seconds))?)
    } else {
        None
    };
    Ok(Plan {
        parameters: store.parameters(),
        format,
        need_bytes: need.bytes(format),
        about_s,
        inputs,
        composer,
        model,
    })
}

impl Inputs {
    /// Reads the tracks of a job.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(job: &Job) -> Result<Self> {
        let start = |path: &Path| read_start(path, job.keep, job.config.generate.seconds);
        Ok(Self {
            continue_from: job.continue_from.as_deref().map(start).transpose()?,
            melody: job.melody.as_deref().map(read_input).transpose()?,
        })
    }
}

/// The track to go on from: all of it, or the first seconds of one that is edited to a piece of `seconds`.
fn read_start(path: &Path, keep: Option<Keep>, seconds: f64) -> Result<(Input, Audio)> {
    let (input, mut audio) = read_input(path)?;
    if keep == Some(Keep::Start) {
        // Never more than half of it, nor of what is to come.
        let samples = |seconds: f64| (seconds * f64::from(audio.sample_rate_hz)) as usize;
        let kept = samples(KEPT_START_S).min(audio.len() / 2).min(samples(seconds / 2.0));
        audio.channels.iter_mut().for_each(|channel| channel.truncate(kept));
    }
    Ok((input, audio))
}

fn read_input(path: &Path) -> Result<(Input, Audio)> {
    let audio = read_audio(path, &Limits::default())?;
    let sha256 = sha256_file(path)?;
    Ok((Input { path: path.display().to_string(), sha256 }, audio))
}

impl Model {
    /// Finds the decoder and opens the device.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn find(config: &RunConfig) -> anyhow::Result<Self> {
        let found = models::find(&config.model)?;
        let choice = config.device()?;
        let store = Store::open(&found)?;
        Ok(Self { store, device: choice.open()?, device_name: choice.to_string() })
    }

    /// The same as a system wants it: what its checkpoint was trained with comes before what the decoder's folder holds.
    ///
    /// # Errors
    /// The decoder does not listen to what the system gives.
    pub fn behind(self, system: &System, config: &RunConfig) -> anyhow::Result<Self> {
        system.check_decoder(config, &self.store.spec())?;
        Ok(match system.part(DECODER_PART)? {
            Some(trained) => Self { store: self.store.with_trained(trained), ..self },
            None => self,
        })
    }

    /// Where it will compute.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The files.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Loads it. The hashes that go into the files are computed meanwhile.
    ///
    /// # Errors
    /// The weights do not fit the model, or cannot be read.
    pub fn load(&self, format: WeightFormat) -> Result<Session> {
        let Self { store, device, device_name } = self;
        let (decoder, model_sha256, program_sha256) = thread::scope(|scope| {
            let model = scope.spawn(|| store.sha256());
            let program = scope.spawn(program_sha256);
            let decoder = store.load(device, format);
            (decoder, join(model), join(program))
        });
        Ok(Session {
            decoder: decoder?,
            ranker: store.ranker()?,
            device: device.clone(),
            format,
            parameters: store.parameters(),
            inputs: Inputs::default(),
            composition: None,
            model_sha256: model_sha256?,
            made_with: MadeWith {
                version: env!("CARGO_PKG_VERSION").into(),
                program_sha256: program_sha256?,
                device: device_name.clone(),
                format: format.name().into(),
                cpu: musaic_core::nn::cpu_class().into(),
            },
        })
    }
}

impl Plan {
    /// What will hear, see and answer, if anything will.
    pub fn composer(&self) -> Option<&Composer> {
        self.composer.as_ref()
    }

    /// What the decoder is.
    pub fn spec(&self) -> DecoderSpec {
        self.model.store.spec()
    }

    /// Has the language model make of media and words what the decoder listens to; nothing where words alone do.
    ///
    /// # Errors
    /// A part does not load, the answer holds no music, or somebody asked to stop.
    pub fn compose(
        &self,
        job: &Job,
        cancel: &Cancel,
        listener: &mut dyn Listener,
    ) -> anyhow::Result<Option<Composition>> {
        let Some(composer) = &self.composer else { return Ok(None) };
        let spec = self.spec();
        let wish = Wish { instruction: &job.prompt, seed: job.seed, explain: job.explain };
        composer.compose(&job.config, &wish, &spec, cancel, listener).map(Some)
    }

    /// Loads the model.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load(self) -> Result<Session> {
        let mut session = self.model.load(self.format)?;
        session.set_inputs(self.inputs);
        Ok(session)
    }
}

/// A thread's result; that it panicked is passed on as an error.
fn join<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|_| Err(Error::argument("hashing thread", "a panic", "a hash")))
}

/// A loaded model, ready to play.
pub struct Session {
    decoder: Box<dyn Decoder>,
    ranker: Option<Ranker>,
    device: Device,
    format: WeightFormat,
    parameters: u64,
    inputs: Inputs,
    composition: Option<Composition>,
    model_sha256: String,
    made_with: MadeWith,
}

impl Session {
    /// Rates and widths of the decoder.
    pub fn spec(&self) -> &DecoderSpec {
        self.decoder.spec()
    }

    /// How the weights are held.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// What files of this session are made with.
    pub fn made_with(&self) -> &MadeWith {
        &self.made_with
    }

    /// SHA-256 of the model's weights.
    pub fn model_sha256(&self) -> &str {
        &self.model_sha256
    }

    /// What the decoder listens to from now on, in place of the words themselves.
    pub fn set_composition(&mut self, composition: Option<Composition>) {
        self.composition = composition;
    }

    /// Tracks that go into the takes from now on.
    pub fn set_inputs(&mut self, inputs: Inputs) {
        self.inputs = inputs;
    }

    /// What the decoder listens to.
    fn conditioning(&self, job: &Job) -> Conditioning {
        match &self.composition {
            Some(composition) => composition.conditioning.clone(),
            None => Conditioning::Text(job.prompt.clone()),
        }
    }

    /// Makes one take as sound in memory, from the options of a job, where these are changed. Tracks are not among them.
    ///
    /// # Errors
    /// As [`Session::take`].
    pub fn sound(
        &mut self,
        job: &Job,
        take: u32,
        change: impl FnOnce(&mut DecodeOptions),
        cancel: &Cancel,
        watch: &mut dyn Watch,
    ) -> anyhow::Result<Audio> {
        let spec = self.decoder.spec().clone();
        let mut options = self.plain_options(job, take);
        change(&mut options);
        let conditioning = self.conditioning(job);
        let mut tape = Tape::new(&spec, watch);
        let summary = self.decoder.decode(&conditioning, &options, cancel, &mut tape)?;
        if summary.cancelled {
            return Err(Error::Cancelled.into());
        }
        Ok(tape.audio)
    }

    /// Where the decoder computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Makes one take and writes it. `None` when the user stopped before anything worth keeping was there.
    ///
    /// # Errors
    /// The request does not fit the model, the arithmetic fails, or the file cannot be written.
    pub fn take(
        &mut self,
        job: &Job,
        take: u32,
        cancel: &Cancel,
        watch: &mut dyn Watch,
    ) -> anyhow::Result<Option<TakeReport>> {
        let started = Instant::now();
        let spec = self.decoder.spec().clone();
        let mut request = self.request(job, take);
        let mut options = self.options(job, take, &spec)?;
        let conditioning = self.conditioning(job);

        let path = match &job.output {
            Output::Stdout => None,
            Output::Files(files) => files.get(take as usize).cloned(),
        };
        let writer = open_writer(path.as_deref(), &spec, tags(&request)?)?;
        let mut sink = TakeSink::new(&spec, writer, job.normalize_lufs, watch)?;
        if let Some(steps) = job.stop_after_steps {
            sink = sink.stop_after(steps, cancel.clone());
        }
        if let Some(ranker) = &self.ranker {
            let count = request.openings;
            options.opening = openings::choose(&mut *self.decoder, ranker, &conditioning, &options, count, cancel)?;
        }
        let summary = self.decoder.decode(&conditioning, &options, cancel, &mut sink)?;

        let seconds = summary.samples as f64 / f64::from(spec.sample_rate_hz);
        // The writer is dropped, and with it what has no name yet: a file that was there stays.
        if summary.cancelled && path.is_some() && (job.whole || seconds < WORTH_KEEPING_S) {
            return Ok(None);
        }
        if summary.cancelled {
            request.stopped = Some(Stopped { steps: summary.steps, seconds });
            if path.is_some() {
                sink.retag(&tags(&request)?)?;
            }
        }
        let finished = sink.finish()?;
        Ok(Some(TakeReport {
            sha256: path.as_deref().map(sha256_file).transpose()?,
            path: path.map(|p| p.display().to_string()),
            seconds,
            sample_rate_hz: spec.sample_rate_hz,
            channels: spec.channels,
            wall_s: started.elapsed().as_secs_f64(),
            first_sound_s: finished.first_sound.map(|d| d.as_secs_f64()),
            steps: summary.steps,
            limited_db: finished.limited_db,
            stopped: summary.cancelled,
            request,
        }))
    }

    /// Takes out the track to go on from; its name stays.
    pub(super) fn lend_track(&mut self) -> Option<Audio> {
        let (_, audio) = self.inputs.continue_from.as_mut()?;
        let rest = Audio { channels: Vec::new(), sample_rate_hz: audio.sample_rate_hz };
        Some(std::mem::replace(audio, rest))
    }

    /// What is written into the file.
    pub(super) fn request(&self, job: &Job, take: u32) -> Request {
        let g = &job.config.generate;
        Request {
            prompt: job.prompt.clone(),
            seed: job.seed,
            take,
            seconds: g.seconds,
            model: job.config.model.clone(),
            model_sha256: self.model_sha256.clone(),
            guidance: g.guidance,
            temperature: g.temperature,
            top_k: g.top_k,
            top_p: g.top_p,
            openings: if self.ranker.is_some() && self.composition.is_none() { g.openings } else { 1 },
            reference: job.config.reference,
            continue_from: self.inputs.continue_from.as_ref().map(|(input, _)| input.clone()),
            melody: self.inputs.melody.as_ref().map(|(input, _)| input.clone()),
            composed: self.composition.as_ref().map(|composition| composition.record.clone()),
            keep: job.keep,
            span: job.span,
            normalize_lufs: job.normalize_lufs,
            stopped: None,
            made_with: self.made_with.clone(),
        }
    }

    fn options(&self, job: &Job, take: u32, spec: &DecoderSpec) -> Result<DecodeOptions> {
        let tensor = |input: &Option<(Input, Audio)>, channels: usize| {
            input.as_ref().map(|(_, audio)| as_tensor(audio, spec.sample_rate_hz, channels, &self.device)).transpose()
        };
        let mut continue_from = tensor(&self.inputs.continue_from, spec.channels)?;
        let mut duration_s = job.config.generate.seconds;
        if let (Some(Keep::Start), Some(start)) = (job.keep, &continue_from) {
            // Whole frames, so that the edited track is as long as it was, to the sample.
            let hop = (spec.sample_rate_hz / spec.frame_rate_hz) as usize;
            let kept = start.dim(2)? / hop * hop;
            duration_s -= kept as f64 / f64::from(spec.sample_rate_hz);
            continue_from = if kept > 0 { Some(start.narrow(2, 0, kept)?) } else { None };
        }
        let melody = tensor(&self.inputs.melody, 1)?;
        Ok(DecodeOptions { duration_s, continue_from, melody, ..self.plain_options(job, take) })
    }

    /// Without tracks.
    fn plain_options(&self, job: &Job, take: u32) -> DecodeOptions {
        DecodeOptions {
            duration_s: job.config.generate.seconds,
            guidance_scale: job.config.generate.guidance,
            sampling: job.config.generate.sampling(),
            seed: job.seed,
            take,
            emit_prompt: true,
            reference: job.config.reference,
            ..DecodeOptions::default()
        }
    }
}

/// Audio at the decoder's rate and number of channels, `[1, channels, samples]`: mixed down to one, or doubled to two.
pub(super) fn as_tensor(audio: &Audio, rate: u32, channels: usize, device: &Device) -> Result<Tensor> {
    let audio = resample(audio, rate)?;
    let planes = if audio.channels.len() == channels { audio.channels } else { vec![audio.mixdown(); channels] };
    let samples = planes.first().map_or(0, Vec::len);
    Ok(Tensor::from_vec(planes.concat(), (1, channels, samples), device)?)
}

/// The request as it is embedded, and what players show.
pub(super) fn tags(request: &Request) -> anyhow::Result<Tags> {
    let title = if request.prompt.is_empty() { "untitled".into() } else { request.prompt.clone() };
    Ok(Tags {
        recipe: Some(request.recipe()?),
        title: Some(title),
        comment: None,
        software: Some(format!("musaic {}", env!("CARGO_PKG_VERSION"))),
    })
}

/// Files were checked against `--force` when the request was planned, so that the writer may replace them.
fn open_writer(path: Option<&Path>, spec: &DecoderSpec, tags: Tags) -> Result<AudioWriter> {
    let options = WriteOptions::default().with_tags(tags).with_overwrite(true);
    match path {
        Some(path) => AudioWriter::create(path, spec.sample_rate_hz, spec.channels, &options),
        None => AudioWriter::stream(Box::new(std::io::stdout()), spec.sample_rate_hz, spec.channels, &options),
    }
}

fn program_sha256() -> Result<String> {
    let path = std::env::current_exe().map_err(|e| Error::io("the program itself", e))?;
    sha256_file(&path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    struct Unseen;

    impl Watch for Unseen {
        fn progress(&mut self, _: usize, _: usize) {}
    }

    #[test]
    fn a_stopped_row_of_a_batch_leaves_no_file_and_keeps_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("a.wav"), folder.path().join("old.wav"));
        std::fs::write(&old, "old").unwrap();
        let mut layers = Layers::defaults().unwrap();
        layers.flag("generate.openings", Some(1i64));
        layers.flag("generate.seconds", Some(4.0));
        let config = layers.finish().unwrap();
        let job = |path: &Path| {
            Job::new(config.clone(), "calm", 3, Output::Files(vec![path.to_owned()])).with_stop_after(Some(60))
        };
        let mut session = plan(&job(&path)).unwrap().load().unwrap();
        let mut take = |job: &Job| session.take(job, 0, &Cancel::default(), &mut Unseen).unwrap();
        assert!(take(&job(&path).with_whole(true)).is_none());
        assert!(take(&job(&old).with_whole(true)).is_none());
        assert!(!path.exists());
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        assert!(take(&job(&path)).unwrap().stopped);
        assert!(path.exists());
    }
}
