//! `musaic spectrogram`: a picture of a sound.

use std::{path::PathBuf, process::ExitCode};

use musaic_core::media::{Limits, SpectrogramOptions, measure::report, read_audio, spectrogram_png};

use crate::failure::BadInput;

/// Arguments of `musaic spectrogram`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The audio file
    file: PathBuf,
    /// The picture, a .png
    #[arg(short, long, value_name = "PNG")]
    output: PathBuf,
    /// Overwrite a file that exists
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let output = args.output.display();
    if args.output.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        return Err(BadInput::new(format!("output {output}: expected a name that ends in .png")).into());
    }
    if args.output.exists() && !args.force {
        return Err(BadInput::new(format!("output {output}: exists already")).hint("--force overwrites it").into());
    }
    let audio = read_audio(&args.file, &Limits::default())?;
    spectrogram_png(&audio, &args.output, &SpectrogramOptions::default())?;
    super::say(&format!("{output}: {}", report(&audio)?));
    Ok(ExitCode::SUCCESS)
}
