//! `musaic train`: repeats the torch recipe's training step on prepared batches.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use musaic_core::{Error, files::write_atomic};

use crate::{
    failure::BadInput,
    train::{STATE_FILE, StepReport, Trainer, batches::Batches, config::TrainConfig},
};

/// Arguments of `musaic train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Train the language model and the text encoder on prepared batches
    Lm(LmArgs),
}

#[derive(Debug, clap::Args)]
struct LmArgs {
    /// A MusicGen folder, or a file of weights with its config.json beside it
    #[arg(long, value_name = "PATH")]
    init: PathBuf,
    /// safetensors with `codes`, `ids`, `mask` and `keep`, one batch a step
    #[arg(long, value_name = "FILE")]
    batches: PathBuf,
    /// Folder for the state, the loss curve (losses.jsonl) and the trained model.safetensors
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// A TOML file of training settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Steps of the whole run
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// cpu, cuda or cuda:INDEX
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Go on where the run in the output folder stopped
    #[arg(long)]
    resume: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Part::Lm(args) = &args.part;
    lm(args)
}

fn lm(args: &LmArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.config.as_deref().map_or_else(|| Ok(TrainConfig::default()), TrainConfig::open)?;
    config.steps = args.steps.unwrap_or(config.steps);
    config.device = args.device.clone().unwrap_or(config.device);
    let (state, curve) = (args.output.join(STATE_FILE), args.output.join("losses.jsonl"));
    if !args.resume && state.exists() {
        let message = format!("output {}: holds a run already", args.output.display());
        return Err(BadInput::new(message).hint("--resume goes on with it").into());
    }
    for (name, path) in [("init", &args.init), ("batches", &args.batches)] {
        if !path.exists() {
            return Err(BadInput::new(format!("{name} {}: no such file or folder", path.display()))
                .hint("check the spelling of the path")
                .into());
        }
    }
    let mut trainer = Trainer::new(&args.init, &config)?;
    let batches = Batches::open(&args.batches, trainer.model_config())?;
    if args.resume {
        trainer.restore(&state, &batches)?;
    }
    fs::create_dir_all(&args.output).map_err(|e| Error::io(&args.output, e))?;
    keep_lines(&curve, trainer.step())?;
    let mut lines = OpenOptions::new().create(true).append(true).open(&curve).map_err(|e| Error::io(&curve, e))?;
    let (cancel, every) = (super::stop::on_interrupt(), (config.steps / 20).max(1));
    super::say(&format!(
        "{} of {} steps done, {:.2} M parameters learn, {} batches",
        trainer.step(),
        config.steps,
        trainer.parameters().trained_count() as f64 / 1e6,
        batches.len()
    ));
    while !trainer.is_done() && !cancel.is_cancelled() {
        let report = trainer.train_step(&batches)?;
        writeln!(lines, "{}", serde_json::to_string(&report)?).map_err(|e| Error::io(&curve, e))?;
        if report.step % every == 0 || !report.updated {
            tell(&report);
        }
        if report.step % config.checkpoint_every == 0 {
            trainer.save(&state, &batches)?;
        }
    }
    trainer.save(&state, &batches)?;
    if cancel.is_cancelled() {
        return Err(Error::Cancelled.into());
    }
    finish(args, &trainer)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(report: &StepReport) {
    let StepReport { step, loss, norm, positions_per_s, .. } = report;
    let note = if report.updated { "" } else { ", no update: not a finite number" };
    super::say(&format!("step {step}: loss {loss:.4}, norm {norm:.3}, {positions_per_s:.0} positions/s{note}"));
}

/// Leaves the model in the folder, with the small files that belong to it.
fn finish(args: &LmArgs, trainer: &Trainer) -> anyhow::Result<()> {
    let target = args.output.join("model.safetensors");
    trainer.export(&target)?;
    let folder = if args.init.is_dir() { &args.init } else { args.init.parent().unwrap_or(Path::new("")) };
    super::convert::copy_companions(folder, &args.output)?;
    super::say(&format!("{}", target.display()));
    Ok(())
}

/// Takes lines off the curve that were written after the state that a run goes on from.
fn keep_lines(curve: &Path, step: u64) -> anyhow::Result<()> {
    let Ok(text) = fs::read_to_string(curve) else { return Ok(()) };
    let kept: String = text
        .lines()
        .filter(|line| serde_json::from_str::<StepReport>(line).is_ok_and(|report| report.step <= step))
        .flat_map(|line| [line, "\n"])
        .collect();
    Ok(write_atomic(curve, kept.as_bytes())?)
}
