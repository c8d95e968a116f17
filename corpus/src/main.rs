//! Command line of the corpus generator.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use musaic_corpus::attributes::{Attributes, Split};
use musaic_corpus::caption::captions;
use musaic_corpus::dataset::{self, Request, TextRow};
use musaic_corpus::prompts::{Judged, prompts};
use musaic_corpus::render::{DEFAULT_SOUND_FONT, Renderer};
use musaic_corpus::rng::hash_name;

#[derive(Parser)]
#[command(version, about = "Generates the training corpus of musaic's small embedded model")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Test,
}

impl From<SplitArg> for Split {
    fn from(value: SplitArg) -> Self {
        match value {
            SplitArg::Train => Split::Train,
            SplitArg::Test => Split::Test,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Compose, render and caption pieces; finished ones are kept
    Render {
        /// Folder that receives `{split}/{id}.wav` and `{split}.jsonl`
        #[arg(long)]
        out: PathBuf,
        #[arg(long, value_enum)]
        split: SplitArg,
        /// Number of pieces
        #[arg(long)]
        count: u64,
        /// Index of the first piece
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Sample rate in Hz: 16000 or 32000
        #[arg(long, default_value_t = 16_000)]
        rate: u32,
        /// Uncompressed General MIDI sound font (.sf2)
        #[arg(long, default_value = DEFAULT_SOUND_FONT)]
        sound_font: PathBuf,
        /// Threads; 0 for one a core
        #[arg(long, default_value_t = 0)]
        jobs: usize,
    },
    /// Write the captions of rendered pieces anew
    Recaption {
        #[arg(long)]
        out: PathBuf,
        #[arg(long, value_enum)]
        split: SplitArg,
    },
    /// Print attributes and captions without audio, as JSON lines
    Captions {
        /// Number of attribute records
        #[arg(long)]
        count: u64,
        /// Seed of the wordings; other seeds give other captions of the same records
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Whose attribute records
        #[arg(long, value_enum, default_value = "train")]
        split: SplitArg,
        /// Index of the first record
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Captions for each record
        #[arg(long, default_value_t = dataset::CAPTIONS_PER_PIECE)]
        per_piece: usize,
    },
    /// Print evaluation prompts that state one attribute, as JSON lines
    Prompts {
        /// Whose seeds to draw the rest of a prompt from
        #[arg(long, value_enum, default_value = "test")]
        split: SplitArg,
        /// drums, tempo, mode, family, brightness or density
        #[arg(long, value_parser = judged)]
        attribute: Judged,
        /// Number of prompts, rounded up to whole pairs
        #[arg(long)]
        count: usize,
    },
}

fn judged(text: &str) -> Result<Judged, String> {
    let names: Vec<&str> = Judged::ALL.iter().map(|judged| judged.name()).collect();
    let found = Judged::ALL.iter().copied().find(|judged| judged.name() == text);
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// Writes JSON lines to standard output; a closed pipe is a quiet success.
fn print_lines<T: serde::Serialize>(rows: impl Iterator<Item = T>) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for row in rows {
        match writeln!(out, "{}", serde_json::to_string(&row)?) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Render { out, split, count, first, rate, sound_font, jobs } => {
            rayon::ThreadPoolBuilder::new().num_threads(jobs).build_global().context("starting threads")?;
            let renderer = Renderer::open(&sound_font, rate)?;
            let started = Instant::now();
            let request = Request { out, split: split.into(), first, count };
            let done = dataset::render(&request, &renderer, |done| {
                if done.rendered % 50 == 1 {
                    let speed = done.seconds / started.elapsed().as_secs_f64();
                    say(&format!("{} rendered, {} kept, {speed:.0} x real time", done.rendered, done.kept));
                }
            })?;
            let speed = done.seconds / started.elapsed().as_secs_f64();
            say(&format!(
                "{} rendered, {} kept, {:.0} s of audio, {speed:.0} x real time",
                done.rendered, done.kept, done.seconds
            ));
        }
        Command::Recaption { out, split } => {
            let count = dataset::recaption(&out, split.into())?;
            say(&format!("{count} rows"));
        }
        Command::Captions { count, seed, split, first, per_piece } => {
            let split = Split::from(split);
            print_lines((first..first + count).map(|id| {
                let attributes = Attributes::draw(split.seed(id));
                let captions = captions(&attributes, attributes.seed ^ hash_name(seed, "captions"), per_piece);
                TextRow::new(id, attributes, captions)
            }))?;
        }
        Command::Prompts { split, attribute, count } => {
            print_lines(prompts(split.into(), attribute, count)?.into_iter())?;
        }
    }
    Ok(())
}

/// Talk, on stderr. That nobody can hear it is no reason to stop.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
