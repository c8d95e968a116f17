//! `musaic replay`: makes a file again from the request it carries and compares the bytes.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use musaic_core::{
    files::sha256_file,
    media::{Limits, read_audio, read_metadata},
    role::Cancel,
};

use super::{options::SystemPaths, progress::Progress, stop};
use crate::{
    config::{GenerateConfig, RunConfig},
    failure::BadInput,
    pipeline::{
        edit,
        generate::{self, Job},
        output::Output,
        request::{Composed, Input, MediaInput, Request},
        system,
    },
};

/// Arguments of `musaic replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file that `musaic generate` made
    file: PathBuf,
    /// Keep the new file here; otherwise it is compared and thrown away
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite a file that exists
    #[arg(long)]
    force: bool,
    /// Model to use instead of the one named in the file (its folder may have moved)
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    paths: SystemPaths,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let request = read_request(&args.file)?;
    for input in [&request.continue_from, &request.melody].into_iter().flatten() {
        unchanged(input)?;
    }
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let extension = args.file.extension().unwrap_or_default();
    let target = folder.path().join("replay").with_extension(extension);
    let job = job(args, &request, target.clone())?;

    let cancel = stop::on_interrupt();
    let plan = generate::plan(&job)?;
    let composition = plan.compose(&job, &cancel, &mut ())?;
    let mut differences = match (&request.composed, &composition) {
        (Some(then), Some(now)) => then.differences(&now.record),
        _ => Vec::new(),
    };
    let mut session = plan.load()?;
    session.set_composition(composition);
    for difference in &differences {
        super::say(&format!("warning: {difference}"));
    }
    if session.model_sha256() != request.model_sha256 {
        super::say(&format!(
            "warning: the model differs: the file was made with {}, here is {}",
            request.model_sha256,
            session.model_sha256()
        ));
    }
    let bytes_agree = play(&mut session, &job, request.take, &cancel, args.quiet)?
        && sha256_file(&target)? == sha256_file(&args.file)?;
    if let Some(output) = &args.output {
        keep(&target, output, args.force)?;
    }
    if bytes_agree {
        super::print("the same bytes\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let lengths = (length_s(&args.file)?, length_s(&target)?);
    differences.extend(request.made_with.differences(session.made_with()));
    super::print(&explain(&request, differences, session.model_sha256(), lengths))?;
    Ok(ExitCode::FAILURE)
}

fn read_request(file: &Path) -> anyhow::Result<Request> {
    if !file.is_file() {
        return Err(BadInput::new(format!("{}: no such file", file.display()))
            .hint("check the spelling of the path")
            .into());
    }
    let text = read_metadata(file).ok_or_else(|| {
        BadInput::new(format!("{}: carries no request, expected a file that `musaic generate` made", file.display()))
            .hint("other programs may have removed the metadata")
    })?;
    serde_json::from_str(&text).map_err(|error| {
        BadInput::new(format!("{}: its metadata is not a request of this program ({error})", file.display())).into()
    })
}

fn unchanged(input: &Input) -> anyhow::Result<()> {
    let found = sha256_file(Path::new(&input.path))?;
    if found != input.sha256 {
        return Err(changed(&input.path));
    }
    Ok(())
}

/// The job that made the file, writing to `target`.
fn job(args: &Args, request: &Request, target: PathBuf) -> anyhow::Result<Job> {
    let (dtype, quantize) = match request.made_with.format.as_str() {
        dtype @ ("f32" | "bf16" | "f16") => (dtype, "none"),
        quantize => ("auto", quantize),
    };
    let mut config = RunConfig {
        model: args.model.clone().unwrap_or_else(|| request.model.clone()),
        device: request.made_with.device.clone(),
        dtype: dtype.into(),
        quantize: quantize.into(),
        reference: request.reference,
        generate: GenerateConfig {
            seconds: request.seconds,
            guidance: request.guidance,
            temperature: request.temperature,
            top_k: request.top_k,
            top_p: request.top_p,
            takes: request.take.saturating_add(1),
            openings: request.openings,
        },
        system: request.composed.as_ref().map(|composed| composed.system.clone()).unwrap_or_default(),
    };
    args.paths.over(&mut config.system);
    // What a file says of itself may be anything.
    config.validate().with_context(|| format!("{}: its metadata", args.file.display()))?;
    // One file a take up to this one; only this one is made.
    let files = vec![target; request.take as usize + 1];
    let path = |input: &Option<Input>| input.as_ref().map(|input| PathBuf::from(&input.path));
    Ok(Job::new(config, &request.prompt, request.seed, Output::Files(files))
        .with_loudness(request.normalize_lufs)
        .with_tracks(path(&request.continue_from), path(&request.melody))
        .with_compose(request.composed.as_ref().map(media).transpose()?)
        .with_edit(request.keep, request.span)
        .with_stop_after(request.stopped.map(|stopped| stopped.steps)))
}

/// The media that a piece was composed from, none of them changed since.
fn media(composed: &Composed) -> anyhow::Result<Vec<system::Input>> {
    let same = |media: &MediaInput| {
        let kind = system::kind_of(&media.kind);
        let input = system::look(Path::new(&media.input.path), kind)?;
        if input.sha256 != media.input.sha256 {
            return Err(changed(&media.input.path));
        }
        Ok(input)
    };
    composed.inputs.iter().map(same).collect()
}

fn changed(path: &str) -> anyhow::Error {
    BadInput::new(format!("{path}: has changed since it was used")).into()
}

fn play(session: &mut generate::Session, job: &Job, take: u32, cancel: &Cancel, quiet: bool) -> anyhow::Result<bool> {
    let mut watch = Progress::new("replaying", session.spec().frame_rate_hz, quiet);
    let report = match job.span {
        Some(span) => Some(edit::span(session, job, span, cancel, &mut watch)?.take),
        None => session.take(job, take, cancel, &mut watch)?,
    };
    watch.finish();
    match report {
        // Where it was stopped the first time, and nowhere before.
        Some(report) if report.request.stopped.map(|s| s.steps) == job.stop_after_steps => Ok(true),
        _ => Err(musaic_core::Error::Cancelled.into()),
    }
}

fn keep(made: &Path, output: &Path, force: bool) -> anyhow::Result<()> {
    if output.exists() && !force {
        return Err(BadInput::new(format!("output {}: exists already", output.display()))
            .hint("--force overwrites it")
            .into());
    }
    std::fs::copy(made, output).map_err(|e| musaic_core::Error::io(output, e))?;
    Ok(())
}

fn length_s(file: &Path) -> musaic_core::Result<f64> {
    Ok(read_audio(file, &Limits::default())?.duration_s())
}

/// Which of the things that decide the bytes are other than they were.
fn explain(request: &Request, mut differences: Vec<String>, model_sha256: &str, (then_s, now_s): (f64, f64)) -> String {
    if then_s < now_s {
        differences.push(format!(
            "the file has {then_s:.2} s of {now_s:.2} s: it was cut, or stopped while it went to a pipe"
        ));
    }
    if request.model_sha256 != model_sha256 {
        differences.push("model weights differ".into());
    }
    if differences.is_empty() {
        return "other bytes, although nothing that they depend on differs: the file was changed after it was made\n"
            .into();
    }
    format!("other bytes; what differs:\n  {}\n", differences.join("\n  "))
}
