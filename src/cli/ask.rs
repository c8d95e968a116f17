//! `musaic ask`: media and a question to an answer in words. `musaic caption`: each file by itself, with the question that
//! asks for a description.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{Error, Result, role::Cancel};
use serde::Serialize;
use serde_json::json;

use super::{
    JsonList, failure,
    options::{self, ModelOptions, SystemOptions, whole},
    progress::FileProgress,
    stop,
};
use crate::{
    config::RunConfig,
    failure::BadInput,
    pipeline::{
        batch::{Batch, Done, Row},
        compose::{Composer, Listener},
        preflight::{gigabytes, peak_memory},
        request::MediaInput,
        system::{self, Encoders, Heard, Input, Mind, Moved, Question, System},
    },
};

/// What a row of a batch may say.
const COLUMNS: [&str; 8] = ["file", "files", "audio", "image", "video", "question", "prompt", "seed"];

/// What ask and caption share.
#[derive(Debug, clap::Args)]
struct Common {
    /// Seed of all random draws [default: drawn, and told; 0 in a batch]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Measure how much each input moved the answer, by leaving it out
    #[arg(long)]
    explain: bool,
    /// Many requests: a .jsonl or .csv file with a row each (file, files, audio, image, video; question, seed); results go to
    /// --output, and a run that was stopped goes on there
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with = "json")]
    batch: Option<PathBuf>,
    /// Where the results of --batch go, one JSON object a line
    #[arg(short, long, value_name = "JSONL")]
    output: Option<PathBuf>,
    /// Go on with the others where one fails; the exit code tells, and in a batch a line with its `error`, which the next run
    /// tries again
    #[arg(long)]
    keep_going: bool,
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
    #[arg(value_name = "FILE... QUESTION", required_unless_present = "batch", conflicts_with = "batch")]
    words: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `musaic caption`.
#[derive(Debug, clap::Args)]
pub struct CaptionArgs {
    /// Tracks, pictures, videos; each is described by itself
    #[arg(value_name = "FILE", required_unless_present = "batch", conflicts_with = "batch")]
    files: Vec<PathBuf>,
    /// What to ask for in place of the usual words
    #[arg(long, value_name = "WORDS")]
    instruction: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// One request.
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
        return args.common.batch(&config, batch, None, |_| None);
    }
    let Some((question, files)) = args.words.split_last() else {
        return Err(BadInput::new("ask: nothing given, expected files and a question").into());
    };
    if Path::new(question).is_file() {
        let message = format!("ask: the last argument `{question}` is a file, expected the question behind the files");
        return Err(BadInput::new(message).hint("musaic ask track.mp3 \"What instruments are playing?\"").into());
    }
    let files: Vec<_> = files.iter().map(PathBuf::from).collect();
    let inputs = system::look_at(&files)?;
    let wanted = Wanted { inputs, question: question.clone(), seed: args.common.seed() };
    args.common.answer(&config, vec![Ok(wanted)])
}

pub fn caption(args: &CaptionArgs) -> anyhow::Result<ExitCode> {
    let config = args.common.config()?;
    let words = |input: &Input| args.instruction.clone().unwrap_or_else(|| describe(input.kind).to_owned());
    if let Some(batch) = &args.common.batch {
        return args.common.batch(&config, batch, args.instruction.as_deref(), |inputs| inputs.first().map(words));
    }
    let seed = args.common.seed();
    let one = |path: &PathBuf| {
        let input = system::look(path, None)?;
        Ok(Wanted { question: words(&input), inputs: vec![input], seed })
    };
    args.common.answer(&config, args.files.iter().map(one).collect())
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
        options::only_in_batch(self.output.as_deref(), self.batch.as_deref())?;
        let mut layers = self.model.layers()?;
        self.system.apply(&mut layers);
        Ok(layers.finish()?)
    }

    fn seed(&self) -> u64 {
        options::seed(self.seed, self.quiet)
    }

    /// The message of what failed, if the others are gone on with.
    fn failed(&self, error: anyhow::Error) -> anyhow::Result<String> {
        if self.keep_going { failure::of_one(error) } else { Err(error) }
    }

    /// Answers one request after the other, each shown as it comes.
    fn answer(&self, config: &RunConfig, wanted: Vec<anyhow::Result<Wanted>>) -> anyhow::Result<ExitCode> {
        let cancel = stop::on_interrupt();
        let all = wanted.len();
        let mut good = Vec::with_capacity(all);
        for wanted in wanted {
            match wanted {
                Ok(wanted) => good.push(wanted),
                Err(error) => super::say(&format!("error: {}", self.failed(error)?)),
            }
        }
        let mut answered = 0;
        let mut list = JsonList::default();
        if !good.is_empty() {
            let mut asker = Asker::open(config, good.iter().map(|wanted| &wanted.inputs[..]), self.quiet)?;
            for wanted in &good {
                let label = if all > 1 && !self.json { wanted.inputs.first() } else { None };
                let report = self.one(&mut asker, config, wanted, &cancel, &mut |text| match label {
                    _ if self.json => Ok(()),
                    Some(input) if text.is_empty() => show(&format!("{}: ", input.path.display())),
                    _ => show(text),
                });
                let report = match report {
                    Ok(report) => report,
                    Err(error) => {
                        super::say(&format!("error: {}", self.failed(error)?));
                        continue;
                    }
                };
                answered += 1;
                if !self.json {
                    super::print("\n")?;
                    explain(&report.explain)?;
                } else if all > 1 {
                    list.push(&report)?;
                } else {
                    super::print_json(&report)?;
                }
            }
        }
        if self.json && all > 1 {
            list.finish()?;
        }
        tell_failures(all - answered, all)
    }

    /// Answers the rows of a file that have no result yet. `usual` is what is asked where a row does not say.
    fn batch(
        &self,
        config: &RunConfig,
        path: &Path,
        instruction: Option<&str>,
        usual: impl Fn(&[Input]) -> Option<String>,
    ) -> anyhow::Result<ExitCode> {
        let output = self.output.as_deref().ok_or_else(|| BadInput::new("output: nothing given for --batch"))?;
        let batch = Batch::open(path, &COLUMNS)?;
        let mut settings = settings(config)?;
        settings["asked"] = json!([instruction, self.seed, self.explain]);
        let mut done = Done::open(output, &settings)?;
        let cancel = stop::on_interrupt();
        let mut rows = Vec::new();
        let mut failed = 0;
        for row in batch.rows().iter().filter(|row| !done.has(row)).collect::<Vec<_>>() {
            match self.wanted(row, &usual).with_context(|| row.at().to_owned()) {
                Ok(wanted) => rows.push((row, wanted)),
                Err(error) => {
                    done.push_error(row, &self.failed(error)?)?;
                    failed += 1;
                }
            }
        }
        let mut new = 0;
        if !rows.is_empty() {
            let mut asker = Asker::open(config, rows.iter().map(|(_, wanted)| &wanted.inputs[..]), self.quiet)?;
            for (row, wanted) in &rows {
                let report = self.one(&mut asker, config, wanted, &cancel, &mut |_| Ok(()));
                match report.with_context(|| row.at().to_owned()) {
                    Ok(report) => {
                        done.push(row, &report)?;
                        new += 1;
                    }
                    Err(error) => {
                        done.push_error(row, &self.failed(error)?)?;
                        failed += 1;
                    }
                }
            }
        }
        if !self.quiet {
            super::say(&format!("{}: {new} new of {} answers", output.display(), batch.rows().len()));
        }
        tell_failures(failed, batch.rows().len())
    }

    fn wanted(&self, row: &Row, usual: &impl Fn(&[Input]) -> Option<String>) -> anyhow::Result<Wanted> {
        let inputs = system::look_at(&row.files()?)?;
        let question = match row.text("question")? {
            Some(question) => Some(question),
            None => row.text("prompt")?.or_else(|| usual(&inputs)),
        };
        let question = question.ok_or_else(|| row.missing("question"))?;
        Ok(Wanted { inputs, question, seed: row.number("seed")?.or(self.seed).unwrap_or(0) })
    }

    /// One answer; `show` gets the empty text once before its first words.
    fn one(
        &self,
        asker: &mut Asker,
        config: &RunConfig,
        wanted: &Wanted,
        cancel: &Cancel,
        show: &mut dyn FnMut(&str) -> Result<()>,
    ) -> anyhow::Result<Report> {
        let heard = asker.hear(&wanted.inputs, wanted.seed, cancel)?;
        let started = Instant::now();
        let mind = asker.mind()?;
        let question =
            Question { heard: &heard, instruction: &wanted.question, wants_music: false, seed: wanted.seed, take: 0 };
        show("")?;
        let reply = mind.answer(&question, cancel, show)?;
        let explain = if self.explain { mind.moved(&question, &wanted.inputs, &reply, cancel)? } else { Vec::new() };
        Ok(Report {
            schema_version: 1,
            question: wanted.question.clone(),
            answer: reply.text,
            inputs: wanted.inputs.iter().map(Input::medium).collect(),
            seed: wanted.seed,
            music: reply.music.is_some(),
            stopped: format!("{:?}", reply.stopped).to_lowercase(),
            tokens: reply.ids.len(),
            explain,
            checkpoint: config.system.checkpoint.clone(),
            fingerprint: asker.composer.system().fingerprint().to_owned(),
            format: asker.composer.format().to_string(),
            wall_s: started.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory(),
        })
    }
}

/// What the results of a batch depend on besides its rows.
pub(super) fn settings(config: &RunConfig) -> anyhow::Result<serde_json::Value> {
    let system = if config.system.checkpoint.is_empty() { None } else { Some(System::open(config, &[])?) };
    let fingerprint = system.as_ref().map(System::fingerprint);
    Ok(json!({
        "system": config.system,
        "fingerprint": fingerprint,
        "reference": config.reference,
        "formats": [config.dtype, config.quantize],
    }))
}

/// The exit code of a run of which some requests failed.
pub(super) fn tell_failures(failed: usize, of: usize) -> anyhow::Result<ExitCode> {
    match failed {
        0 => Ok(ExitCode::SUCCESS),
        failed => Err(BadInput::new(format!("{failed} of {of} failed")).into()),
    }
}

/// A system that is asked.
pub(super) struct Asker {
    composer: Composer,
    encoders: Encoders,
    mind: Option<Mind>,
    progress: HearingProgress,
    single: bool,
}

impl Asker {
    /// Opens it for requests with these media.
    pub fn open<'a>(
        config: &RunConfig,
        requests: impl ExactSizeIterator<Item = &'a [Input]> + Clone,
        quiet: bool,
    ) -> anyhow::Result<Self> {
        let single = requests.len() == 1;
        let files = requests.clone().map(<[Input]>::len).sum();
        let kinds = system::one_of_each(requests.flatten());
        let composer = Composer::open(config, kinds, &config.device()?.open()?)?;
        if !quiet {
            super::say(&about(&composer));
        }
        let encoders = composer.encoders(!single);
        Ok(Self { composer, encoders, mind: None, progress: HearingProgress::new(files, quiet), single })
    }

    /// With a single request the encoders are gone before the language model comes; with several they stay beside it.
    pub fn hear(&mut self, inputs: &[Input], seed: u64, cancel: &Cancel) -> anyhow::Result<Vec<Heard>> {
        let heard = self.composer.hear(inputs, &mut self.encoders, seed, cancel, &mut self.progress)?;
        if self.single {
            self.encoders = self.composer.encoders(false);
        }
        Ok(heard)
    }

    /// The language model.
    pub fn mind(&mut self) -> anyhow::Result<&Mind> {
        Ok(match &mut self.mind {
            Some(mind) => mind,
            empty => empty.insert(self.composer.load().context(failure::OfAll("the language model"))?),
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
