//! The command line: one file a subcommand. Data goes to stdout, talk to stderr.

mod ask;
mod bench;
mod chat;
mod completions;
mod convert;
mod doctor;
mod edit;
mod encode;
mod eval;
pub mod failure;
mod generate;
mod index;
mod inspect;
mod models;
mod options;
mod progress;
mod pull;
mod replay;
mod spectrogram;
mod stop;
mod tag;
mod train;

use std::{io::IsTerminal, process::ExitCode};

use clap::{ArgAction, Parser, Subcommand};

use crate::failure::BadInput;

/// Any medium in, music and understanding out, without a network.
#[derive(Debug, Parser)]
#[command(after_help = "To begin with: musaic generate \"calm piano melody\"")]
#[command(
    name = "musaic",
    bin_name = "musaic",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Tell more of what happens (-v, -vv)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,

    /// Write a trace of the stages and their times, one JSON object a line
    #[arg(long, value_name = "FILE", global = true)]
    profile: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make music from a prompt
    Generate(generate::Args),
    /// Ask a question about a track, a picture or a video
    Ask(ask::Args),
    /// Describe tracks, pictures and videos in words
    Caption(ask::CaptionArgs),
    /// Change a track by instruction, whole or a span of it
    Edit(edit::Args),
    /// Talk: ask, play and change, with files in between
    Chat(chat::Args),
    /// Name tempo, key, instruments, mood of tracks
    Tag(tag::Args),
    /// Make a generated file again and say whether the bytes agree
    Replay(replay::Args),
    /// Draw the spectrogram of an audio file
    Spectrogram(spectrogram::Args),
    /// Turn media files into the features that adapters take
    Encode(encode::Args),
    /// Say what a checkpoint holds, and which of its media can have an effect
    Inspect(inspect::Args),
    /// Run parity cases on this machine
    Verify(crate::verify::Args),
    /// Time each component at the published shapes
    Bench(bench::Args),
    /// Search a collection of music by likeness
    Index(index::Args),
    /// List the models that are here
    Models(models::Args),
    /// Download a model from a hub
    Pull(pull::Args),
    /// Rewrite a checkpoint in another format
    Convert(convert::Args),
    /// Train a model on prepared batches
    Train(train::Args),
    /// Judge whether a model follows its prompts, with detectors checked on real pieces
    Eval(eval::Args),
    /// Say what this program and this machine can do
    Doctor(doctor::Args),
    /// Print shell completions
    Completions(completions::Args),
    /// Print the manual page
    Man,
}

impl Cli {
    /// Starts the tracing subscriber: stderr by verbosity or `RUST_LOG`, or the file of `--profile`.
    ///
    /// # Errors
    /// The profile file cannot be written.
    pub fn start_tracing(&self) -> anyhow::Result<()> {
        use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};
        let level = match self.verbose {
            0 => "warn",
            1 => "info",
            _ => "debug",
        };
        // What the audio reader finds wrong with a file is in our own message.
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},symphonia_core=off")));
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        match &self.profile {
            None => {
                let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
                subscriber.with_ansi(colours).without_time().init();
            }
            Some(path) => {
                let file = std::fs::File::create_new(path).map_err(|e| match e.kind() {
                    std::io::ErrorKind::AlreadyExists => {
                        let message = format!("profile {}: exists already", path.display());
                        anyhow::Error::from(BadInput::new(message).hint("name a file that is not there yet"))
                    }
                    _ => musaic_core::Error::io(path, e).into(),
                })?;
                tracing_subscriber::fmt()
                    .json()
                    .with_env_filter(EnvFilter::new("debug"))
                    .with_span_events(FmtSpan::CLOSE)
                    .with_writer(std::sync::Mutex::new(file))
                    .init();
            }
        }
        Ok(())
    }

    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever stopped it; [`failure::report`] prints it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Generate(args) => generate::run(args),
            Command::Ask(args) => ask::run(&args),
            Command::Caption(args) => ask::caption(&args),
            Command::Edit(args) => edit::run(&args),
            Command::Chat(args) => chat::run(&args),
            Command::Tag(args) => tag::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Replay(args) => replay::run(&args),
            Command::Spectrogram(args) => spectrogram::run(&args),
            Command::Encode(args) => encode::run(args),
            Command::Verify(args) => crate::verify::command(args),
            Command::Bench(args) => bench::run(&args),
            Command::Index(args) => index::run(&args),
            Command::Models(args) => models::run(&args),
            Command::Pull(args) => pull::run(&args),
            Command::Convert(args) => convert::run(&args),
            Command::Train(args) => train::run(&args),
            Command::Eval(args) => eval::run(args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Completions(args) => completions::run(&args),
            Command::Man => completions::man(),
        }
    }
}

/// Talk, on stderr. That nobody can hear it is no reason to stop.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Data, on stdout.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Data for machines, on stdout.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A list for machines, on stdout, each element as it comes.
#[derive(Default)]
struct JsonList {
    begun: bool,
}

impl JsonList {
    fn push(&mut self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        print(if self.begun { ",\n" } else { "[\n" })?;
        self.begun = true;
        print(&serde_json::to_string_pretty(value)?)
    }

    fn finish(self) -> anyhow::Result<()> {
        print(if self.begun { "\n]\n" } else { "[]\n" })
    }
}
