//! `musaic encode`: media files to the features that adapters take.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use musaic_core::{DeviceChoice, WeightFormat, role::AudioSpan};

use super::{progress::FileProgress, stop};
use crate::pipeline::{
    features::{self, Job},
    media::MediaOptions,
};

/// Arguments of `musaic encode`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Audio files, pictures, or videos (files, or folders of all their pictures in the order of their names), as the encoder
    /// takes them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// File to write: one tensor [positions, dim] for each FILE, under its name
    #[arg(short, long, value_name = "SAFETENSORS")]
    output: PathBuf,
    /// Published folder of a MERT, ViT or ViViT
    #[arg(long, value_name = "FOLDER")]
    encoder: PathBuf,
    /// What is heard of long sounds: whole, or first60 as the reference does [default: whole]
    #[arg(long, value_name = "SPAN")]
    audio: Option<AudioSpan>,
    /// How many windows of a video are looked at, spread over it; fewer take less time and memory
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    video_windows: u8,
    /// Seed of the one window that --reference takes of a video, anywhere in it
    #[arg(long, default_value_t, value_name = "SEED")]
    seed: u64,
    /// cpu, cuda or cuda:INDEX
    #[arg(long, default_value_t, value_name = "DEVICE")]
    device: DeviceChoice,
    /// How weights are held: f32, bf16 or f16
    #[arg(long, default_value_t, value_name = "TYPE")]
    dtype: WeightFormat,
    /// Quantise weights on load: q8_0 or q4_k
    #[arg(long, value_name = "FORMAT", conflicts_with = "dtype")]
    quantize: Option<WeightFormat>,
    /// Behave like the published reference code: the first minute, pictures neither turned nor laid over white, one window of a
    /// video at a random place
    #[arg(long)]
    reference: bool,
    /// Overwrite an output that exists
    #[arg(long)]
    force: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    /// No progress, no talk
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let usual = if args.reference { AudioSpan::First60 } else { AudioSpan::Whole };
    let job = Job {
        files: args.files,
        output: args.output,
        encoder: args.encoder,
        device: args.device.open()?,
        format: args.quantize.unwrap_or(args.dtype),
        span: args.audio.unwrap_or(usual),
        media: MediaOptions { reference: args.reference, windows: usize::from(args.video_windows), seed: args.seed },
        force: args.force,
    };
    let started = Instant::now();
    let progress = FileProgress::new(job.files.len(), args.quiet);
    let done = features::run(&job, &stop::on_interrupt(), &mut |file, name, part, parts| {
        progress.at(file, name, part, parts);
    });
    progress.finish();
    let report = done?;
    if args.json {
        super::print_json(&report)?;
    } else if !args.quiet {
        let reused = report.files.iter().filter(|file| file.reused).count();
        let before = if reused > 0 { format!(", {reused} of them by a run before") } else { String::new() };
        let shape = report.files.first().map(|file| format!("{:?}", file.shape)).unwrap_or_default();
        super::say(&format!(
            "{}: {} tensors {shape} by {}{before}, {:.1} s",
            report.output,
            report.files.len(),
            report.encoder,
            started.elapsed().as_secs_f64()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
