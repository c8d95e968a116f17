//! `musaic generate`: a prompt to one or more audio files.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use serde::Serialize;

use super::{
    failure::BadInput,
    options::{ModelOptions, number, whole},
    progress::Progress,
    stop,
};
use crate::{
    config::RunConfig,
    pipeline::{
        generate::{self, Job, TakeReport},
        models,
        output::Output,
        preflight::gigabytes,
        speed,
        store::Store,
    },
};

/// Longest prompt in bytes: far beyond what any text encoder hears.
const MAX_PROMPT_BYTES: usize = 16 * 1024;

/// Arguments of `musaic generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the music should be like; none at all lets the model play freely
    prompt: Option<String>,
    /// File to write: .wav, .flac, .mp3 or .opus by its ending; `-` streams WAV to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// Length in seconds [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number)]
    seconds: Option<f64>,
    /// Seed of all random draws [default: drawn, and told]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Pieces to make [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    takes: Option<u32>,
    /// Openings to choose from by the words, 1 for no choice; models with a ranker, such as nano [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    openings: Option<u32>,
    /// Go on from this track; the file gets the old part and the new
    #[arg(long, value_name = "FILE")]
    continue_from: Option<PathBuf>,
    /// Follow the tune of this track (melody models)
    #[arg(long, value_name = "FILE")]
    melody: Option<PathBuf>,
    /// How closely to follow the prompt; 1 is no guidance at all [default: 3]
    #[arg(long, value_name = "G", allow_negative_numbers = true, value_parser = number)]
    guidance: Option<f64>,
    /// Below 1 safer, above 1 wilder, 0 always the likeliest [default: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number)]
    temperature: Option<f64>,
    /// Choose among this many likeliest tokens, 0 for all [default: 250]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole::<u32>)]
    top_k: Option<u32>,
    /// Choose among the likeliest tokens that together have this probability [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number)]
    top_p: Option<f64>,
    /// Bring the piece to this loudness, such as -14LUFS
    #[arg(long, value_name = "LUFS", allow_hyphen_values = true)]
    normalize: Option<String>,
    /// Print a description of what was made as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
    /// Print the configuration these flags make, with the origin of each value, and stop
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    model: ModelOptions,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    model: &'a str,
    device: String,
    format: String,
    parameters: u64,
    load_s: f64,
    peak_memory_bytes: Option<u64>,
    stopped: bool,
    takes: &'a [TakeReport],
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut layers = args.model.layers()?;
    layers.flag("generate.seconds", args.seconds);
    layers.flag("generate.guidance", args.guidance);
    layers.flag("generate.temperature", args.temperature);
    layers.flag("generate.top_k", args.top_k.map(i64::from));
    layers.flag("generate.top_p", args.top_p);
    layers.flag("generate.takes", args.takes.map(i64::from));
    layers.flag("generate.openings", args.openings.map(i64::from));
    let mut config = layers.finish()?;
    if config.reference {
        // The reference generates as the model's own file says, unless told otherwise.
        let own = Store::open(&models::find(&config.model)?)?.generation_config().clone();
        layers.model("generate.guidance", own.guidance_scale);
        layers.model("generate.temperature", if own.do_sample { own.temperature } else { 0.0 });
        layers.model("generate.top_k", i64::try_from(own.top_k)?);
        layers.model("generate.top_p", own.top_p);
        config = layers.finish()?;
    }
    if args.print_config {
        use std::io::Write;
        std::io::stdout().write_all(layers.print().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let job = job(&args, &config)?;
    let cancel = stop::on_interrupt();
    let talk = |text: String| {
        if !args.quiet {
            super::say(&text);
        }
    };

    let plan = generate::plan(&job)?;
    talk(format!(
        "{}: {:.1} M parameters as {}, about {} of memory{} on {}",
        job.config.model,
        plan.parameters as f64 / 1e6,
        plan.format,
        gigabytes(plan.need_bytes),
        plan.about_s.map_or(String::new(), |s| format!(" and {} a take", speed::about(s))),
        job.config.device,
    ));
    let started = Instant::now();
    let mut session = plan.load()?;
    let load_s = started.elapsed().as_secs_f64();

    let mut takes = Vec::new();
    let mut stopped = false;
    for take in 0..config.generate.takes {
        let label = if config.generate.takes > 1 { format!("take {}", take + 1) } else { "playing".into() };
        let mut watch = Progress::new(&label, session.spec().frame_rate_hz, args.quiet);
        let report = session.take(&job, take, &cancel, &mut watch)?;
        watch.finish();
        stopped = report.as_ref().is_none_or(|r| r.stopped);
        if let Some(report) = report {
            talk(describe(&report));
            takes.push(report);
        }
        if stopped {
            break;
        }
    }
    if stopped {
        talk(match takes.len() {
            0 => "stopped before anything was finished; nothing was written".into(),
            n => format!("stopped; {n} of {} files were written", config.generate.takes),
        });
    }
    if args.json {
        let report = Report {
            schema_version: 1,
            model: &config.model,
            device: config.device.clone(),
            format: session.format().to_string(),
            parameters: session.parameters(),
            load_s,
            peak_memory_bytes: crate::pipeline::preflight::peak_memory(),
            stopped,
            takes: &takes,
        };
        super::print_json(&report)?;
    }
    Ok(if stopped { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Checks what the flags say and makes the job of it.
fn job(args: &Args, config: &RunConfig) -> anyhow::Result<Job> {
    let prompt = args.prompt.clone().unwrap_or_default();
    if prompt.len() > MAX_PROMPT_BYTES {
        return Err(BadInput::new(format!("prompt: {} bytes, expected at most {MAX_PROMPT_BYTES}", prompt.len()))
            .hint("a sentence or two is what the model hears")
            .into());
    }
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    let normalize_lufs = args.normalize.as_deref().map(loudness).transpose()?;
    if to_stdout && normalize_lufs.is_some() {
        return Err(BadInput::new(
            "normalize: not possible while streaming to standard output, it needs the whole piece",
        )
        .hint("write to a file")
        .into());
    }
    if to_stdout && args.json {
        return Err(BadInput::new("json: standard output carries the audio already").hint("write to a file").into());
    }
    let seed = args.seed.unwrap_or_else(draw_seed);
    let output = Output::plan(args.output.as_deref(), &prompt, seed, config.generate.takes, args.force)?;
    Ok(Job {
        config: config.clone(),
        prompt,
        seed,
        output,
        normalize_lufs,
        continue_from: args.continue_from.clone(),
        melody: args.melody.clone(),
        stop_after_steps: None,
    })
}

/// `-14LUFS`, `-14 LUFS` or `-14`.
fn loudness(text: &str) -> Result<f64, BadInput> {
    let number = text.trim().to_lowercase();
    let number = number.strip_suffix("lufs").unwrap_or(&number).trim();
    number.parse().ok().filter(|lufs| (-70.0..=-1.0).contains(lufs)).ok_or_else(|| {
        BadInput::new(format!("normalize: `{text}`, expected a loudness from -70 to -1, such as -14LUFS"))
    })
}

/// Four bytes of the system's randomness: short enough to type again.
fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32
}

fn describe(report: &TakeReport) -> String {
    let mut text = format!(
        "{}: {:.2} s, seed {}, {:.1} s to make ({:.1}x real time, first sound after {:.2} s)",
        report.path.as_deref().unwrap_or("standard output"),
        report.seconds,
        report.request.seed,
        report.wall_s,
        report.seconds / report.wall_s.max(1e-9),
        report.first_sound_s.unwrap_or(report.wall_s),
    );
    if report.limited_db > 0.05 {
        text.push_str(&format!(
            "\nwarning: peaks were turned down by up to {:.1} dB to keep them from clipping",
            report.limited_db
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loudness_is_read_as_people_write_it() {
        for text in ["-14LUFS", "-14 lufs", "-14"] {
            assert_eq!(loudness(text).unwrap(), -14.0);
        }
        for text in ["loud", "5", "NaN", "-100"] {
            assert!(loudness(text).is_err(), "{text}");
        }
    }
}
