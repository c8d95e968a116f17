//! `musaic bench load`: loading time and peak memory of a checkpoint of the published layout and size.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use musaic_core::{Error, WeightFormat};

use super::measured;
use crate::{
    bench::{Row, checkpoint},
    failure::BadInput,
    pipeline::preflight::gigabytes,
};

/// Arguments of `musaic bench load`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the checkpoint, which stays there for the next time: 14.6 GB at full size
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Size of the model, as a share of the published 7.3 billion weights
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    scale: f64,
    /// Formats to load into: f32, bf16, f16, q8_0, q4_k
    #[arg(long, value_name = "FORMAT", num_args = 1.., default_values = ["q4_k", "q8_0"])]
    formats: Vec<String>,
    /// Write zeros that take no room on the disk: peak memory is the same, times say nothing about disk and packing
    #[arg(long)]
    sparse: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Measure one format in this process and print its row (what the command runs for each)
    #[arg(long, value_name = "FORMAT", hide = true)]
    measure: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !(args.scale >= 1e-4 && args.scale <= 1.0) {
        return Err(BadInput::new(format!("scale: {}, expected 0.0001 to 1", args.scale)).into());
    }
    let path = checkpoint::path(&args.folder, args.scale);
    if let Some(format) = &args.measure {
        crate::cli::print_json(&checkpoint::load(&path, format.parse()?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let formats: Vec<WeightFormat> = args.formats.iter().map(|name| name.parse()).collect::<Result<_, Error>>()?;
    if !path.exists() {
        std::fs::create_dir_all(&args.folder).map_err(|e| Error::io(&args.folder, e))?;
        let kind = if args.sparse { "sparse" } else { "random" };
        let size = gigabytes(checkpoint::size(args.scale)? as f64);
        crate::cli::say(&format!("writing {} ({size}, {kind}); delete it when it is no longer needed", path.display()));
        checkpoint::write(&path, args.scale, args.sparse)?;
    }
    let mut rows = Vec::new();
    let mut fits = true;
    for format in formats {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "load", "--measure", format.name(), "--scale", &args.scale.to_string()]);
        let row = measured(&format!("load into {format}"), command.arg(&args.folder))?;
        fits &= within(&row);
        if !args.json {
            crate::cli::print(&line(&row))?;
        }
        rows.push(row);
    }
    if args.json {
        crate::cli::print_json(&rows)?;
    }
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the peak is what the weights take, a tenth more and 300 MB.
fn within(row: &Row) -> bool {
    let allowed = row.weight_bytes.map(checkpoint::allowed);
    allowed.zip(row.peak_memory_bytes).is_none_or(|(allowed, peak)| peak as f64 <= allowed)
}

fn line(row: &Row) -> String {
    let held = row.weight_bytes.unwrap_or(0.0);
    let verdict = if within(row) { "within" } else { "ABOVE" };
    let peak = row.peak_memory_bytes.map_or("unknown".into(), |bytes| gigabytes(bytes as f64));
    format!(
        "{:18} {:9.2} {:12}  peak {peak}, {verdict} the {} allowed for {} of weights  ({})\n",
        row.component,
        row.value,
        row.unit,
        gigabytes(checkpoint::allowed(held)),
        gigabytes(held),
        row.about
    )
}
