//! `musaic ask`: media and a question to an answer in words. `musaic caption`: each file by itself, with the question that
//! asks for a description.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Instant};

use musaic_adapters::bridge::BridgeKind;
use musaic_core::{Error, Result, role::Cancel};
use serde::Serialize;

use super::{
    options::{ModelOptions, SystemOptions, draw_seed, whole},
    progress::FileProgress,
    stop,
};
use crate::{
    config::RunConfig,
    failure::BadInput,
    pipeline::{
        batch::{Batch, Done},
        compose::{Composer, Listener},
        preflight::{gigabytes, peak_memory},
        request::MediaInput,
        system::{self, Encoders, Heard, Input, Mind, Moved, Question, name_of},
    },
};

/// What ask and caption share.
#[derive(Debug, clap::Args)]
struct Common {
    /// Seed of all random draws [default: drawn, and told]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Measure how much each input moved the answer, by leaving it out
    #[arg(long)]
    explain: bool,
    /// Many requests: a .jsonl or .csv file with a row each; results go to --output, and a run that was stopped goes on there
    #[arg(long, value_name = "FILE", requires = "output")]
    batch: Option<PathBuf>,
    /// Where the results of --batch go, one JSON object a line
    #[arg(short, long, value_name = "JSONL")]
    output: Option<PathBuf>,
    /// Print the answer, and what it was made from, as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    system: SystemOptions,
}

/// Arguments of `musaic ask`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tracks, pictures, videos (one of each at most), and last the question
    #[arg(value_name = "FILE... QUESTION", required_unless_present = "batch")]
    words: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `musaic caption`.
#[derive(Debug, clap::Args)]
pub struct CaptionArgs {
    /// Tracks, pictures, videos; each is described by itself
    #[arg(value_name = "FILE", required_unless_present = "batch")]
    files: Vec<PathBuf>,
    /// What to ask for in place of the usual words
    #[arg(long, value_name = "WORDS")]
    instruction: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// One request of a row.
#[derive(Debug, Clone)]
struct Wanted {
    inputs: Vec<Input>,
    question: String,
    seed: u64,
}

/// What `--json` prints, and a line of a batch.
#[derive(Debug, Serialize)]
struct Report {
    schema_version: u32,
    question: String,
    answer: String,
    inputs: Vec<MediaInput>,
    seed: u64,
    /// Whether the model began music of its own.
    music: bool,
    stopped: String,
    tokens: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explain: Vec<Moved>,
    checkpoint: String,
    fingerprint: String,
    format: String,
    wall_s: f64,
    peak_memory_bytes: Option<u64>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.common.config()?;
    if let Some(batch) = &args.common.batch {
        return args.common.batch(&config, batch, |_| None);
    }
    let Some((question, files)) = args.words.split_last() else {
        return Err(BadInput::new("ask: nothing given, expected files and a question").into());
    };
    if std::path::Path::new(question).is_file() {
        let message = format!("ask: the last argument `{question}` is a file, expected the question behind the files");
        return Err(BadInput::new(message).hint("musaic ask track.mp3 \"What instruments are playing?\"").into());
    }
    let files: Vec<_> = files.iter().map(PathBuf::from).collect();
    let wanted = Wanted { inputs: system::look_at(&files)?, question: question.clone(), seed: args.common.seed() };
    args.common.answer(&config, &[wanted])
}

pub fn caption(args: &CaptionArgs) -> anyhow::Result<ExitCode> {
    let config = args.common.config()?;
    let words = |input: &Input| args.instruction.clone().unwrap_or_else(|| describe(input.kind).to_owned());
    if let Some(batch) = &args.common.batch {
        return args.common.batch(&config, batch, |inputs| inputs.first().map(words));
    }
    let seed = args.common.seed();
    let one = |path: &PathBuf| {
        let input = system::look(path, None)?;
        Ok(Wanted { question: words(&input), inputs: vec![input], seed })
    };
    let wanted = args.files.iter().map(one).collect::<anyhow::Result<Vec<_>>>()?;
    args.common.answer(&config, &wanted)
}

/// The words that ask for a description: those the training data of music was made with, and their like.
pub(super) fn describe(kind: BridgeKind) -> &'static str {
    match kind {
        BridgeKind::Music => {
            "Describe the music in detail including details such as instruments used, tempo and mood of the song"
        }
        BridgeKind::Image => "Describe the image in detail",
        BridgeKind::Video => "Describe the video in detail",
    }
}

impl Common {
    fn config(&self) -> anyhow::Result<RunConfig> {
        let mut layers = self.model.layers()?;
        self.system.apply(&mut layers);
        Ok(layers.finish()?)
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(draw_seed)
    }

    /// Answers one request after the other; encoders first, so that they are gone when the language model comes.
    fn answer(&self, config: &RunConfig, wanted: &[Wanted]) -> anyhow::Result<ExitCode> {
        let cancel = stop::on_interrupt();
        let several = wanted.len() > 1;
        let mut asker = Asker::open(config, wanted, self.explain, self.quiet)?;
        let mut reports = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let heard = asker.hear(wanted, &cancel)?;
            if several && !self.json {
                super::print(&format!("{}: ", wanted.inputs[0].path.display()))?;
            }
            let mut show = |text: &str| if self.json { Ok(()) } else { show(text) };
            let report = asker.answer(wanted, &heard, &cancel, &mut show)?;
            if !self.json {
                super::print("\n")?;
                explain(&report.explain)?;
            }
            reports.push(report);
        }
        if self.json {
            match reports.as_slice() {
                [one] => super::print_json(one)?,
                all => super::print_json(&all)?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Answers the rows of a file that have no result yet. `usual` is what is asked where a row does not say.
    fn batch(
        &self,
        config: &RunConfig,
        path: &std::path::Path,
        usual: impl Fn(&[Input]) -> Option<String>,
    ) -> anyhow::Result<ExitCode> {
        let output = self.output.as_deref().ok_or_else(|| BadInput::new("output: nothing given for --batch"))?;
        let batch = Batch::open(path)?;
        let mut done = Done::open(output)?;
        let cancel = stop::on_interrupt();
        let mut rows = Vec::new();
        for row in batch.rows() {
            if done.has(row) {
                continue;
            }
            let inputs = system::look_at(&row.files()?)?;
            let question = row.text("question").or_else(|| row.text("prompt")).or_else(|| usual(&inputs));
            let question = question.ok_or_else(|| row.missing("question"))?;
            let seed = match row.number("seed")? {
                Some(seed) => seed,
                None => self.seed.unwrap_or(0),
            };
            rows.push((row, Wanted { inputs, question, seed }));
        }
        if !rows.is_empty() {
            let wanted: Vec<_> = rows.iter().map(|(_, wanted)| wanted.clone()).collect();
            let mut asker = Asker::open(config, &wanted, self.explain, self.quiet)?;
            for (row, wanted) in &rows {
                let heard = asker.hear(wanted, &cancel)?;
                let report = asker.answer(wanted, &heard, &cancel, &mut |_| Ok(()))?;
                done.push(row, &report)?;
            }
        }
        if !self.quiet {
            let (new, all) = (rows.len(), batch.rows().len());
            super::say(&format!("{}: {new} new of {all} answers", output.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A system that is asked.
struct Asker<'a> {
    config: &'a RunConfig,
    composer: Composer,
    encoders: Encoders,
    mind: Option<Mind>,
    progress: HearingProgress,
    explain: bool,
    single: bool,
}

impl<'a> Asker<'a> {
    fn open(config: &'a RunConfig, wanted: &[Wanted], explain: bool, quiet: bool) -> anyhow::Result<Self> {
        let device = config.device()?.open()?;
        // One of each kind is enough to find the encoders.
        let mut kinds: Vec<Input> = Vec::new();
        for input in wanted.iter().flat_map(|wanted| &wanted.inputs) {
            if !kinds.iter().any(|other| other.kind == input.kind) {
                kinds.push(input.clone());
            }
        }
        let composer = Composer::open(config, kinds, &device)?;
        if !quiet {
            super::say(&about(&composer));
        }
        let files = wanted.iter().map(|wanted| wanted.inputs.len()).sum();
        let single = wanted.len() == 1;
        let encoders = composer.encoders(!single);
        let progress = HearingProgress::new(files, quiet);
        Ok(Self { config, composer, encoders, mind: None, progress, explain, single })
    }

    /// With a single request the encoders are gone before the language model comes.
    fn hear(&mut self, wanted: &Wanted, cancel: &Cancel) -> anyhow::Result<Vec<Heard>> {
        let heard = self.composer.hear(&wanted.inputs, &mut self.encoders, wanted.seed, cancel, &mut self.progress)?;
        if self.single {
            self.encoders = self.composer.encoders(false);
        }
        Ok(heard)
    }

    fn answer(
        &mut self,
        wanted: &Wanted,
        heard: &[Heard],
        cancel: &Cancel,
        show: &mut dyn FnMut(&str) -> Result<()>,
    ) -> anyhow::Result<Report> {
        let started = Instant::now();
        let mind = match &mut self.mind {
            Some(mind) => mind,
            empty => empty.insert(self.composer.load()?),
        };
        let question =
            Question { heard, instruction: &wanted.question, wants_music: false, seed: wanted.seed, take: 0 };
        let reply = mind.answer(&question, cancel, show)?;
        let explain = if self.explain { mind.moved(&question, &wanted.inputs, &reply, cancel)? } else { Vec::new() };
        let media = |input: &Input| MediaInput { kind: name_of(input.kind).into(), input: input.record() };
        Ok(Report {
            schema_version: 1,
            question: wanted.question.clone(),
            answer: reply.text,
            inputs: wanted.inputs.iter().map(media).collect(),
            seed: wanted.seed,
            music: reply.music.is_some(),
            stopped: format!("{:?}", reply.stopped).to_lowercase(),
            tokens: reply.ids.len(),
            explain,
            checkpoint: self.config.system.checkpoint.clone(),
            fingerprint: self.composer.system().fingerprint().to_owned(),
            format: self.composer.format().to_string(),
            wall_s: started.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory(),
        })
    }
}

/// What will be loaded.
pub(super) fn about(composer: &Composer) -> String {
    let system = composer.system();
    if system.is_debug() {
        return "debug: a tiny system of random weights; it shows that all parts work together, and knows nothing"
            .into();
    }
    format!(
        "language model: {:.1} M parameters as {}, about {} of memory",
        system.parameters() as f64 / 1e6,
        composer.format(),
        gigabytes(composer.need_bytes())
    )
}

/// New words, as they come.
pub(super) fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

/// A table of what moved the answer.
pub(super) fn explain(moved: &[Moved]) -> anyhow::Result<()> {
    for moved in moved {
        let music =
            moved.conditioning.map_or(String::new(), |c| format!(", the music's conditioning by {:.1}%", 100.0 * c));
        let deaf = if moved.can_notice { "" } else { " (its gates are closed)" };
        super::say(&format!(
            "without {} ({}): the answer moves by {:.4} nats a token{music}{deaf}",
            moved.input, moved.kind, moved.nats_per_token
        ));
    }
    Ok(())
}

/// A progress line while media are encoded.
pub(super) struct HearingProgress {
    bar: FileProgress,
    number: usize,
    last: Option<PathBuf>,
}

impl HearingProgress {
    pub(super) fn new(files: usize, quiet: bool) -> Self {
        Self { bar: FileProgress::new(files, quiet), number: 0, last: None }
    }
}

impl Listener for HearingProgress {
    fn hearing(&mut self, input: &Input, done: usize, of: usize) {
        if self.last.as_ref() != Some(&input.path) {
            self.number += usize::from(self.last.is_some());
            self.last = Some(input.path.clone());
        }
        self.bar.at(self.number, &input.path.display().to_string(), done, of);
        if done == of {
            self.bar.finish();
        }
    }

    fn words(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}
