//! `musaic verify`: runs parity cases on this machine and says whether the numbers are right.
//!
//! A case is a folder with a `case.json` ([`musaic_core::testing`]). Its `kind` picks a row of `kinds::KINDS`; that runner
//! computes tensors under the names of the case, in computed order, and the framework compares every one that the case
//! stores. What a runner leaves out fails the case, unless a note of the case excuses it by name. Runners use the reference's
//! behaviour (option `reference`), whatever the defaults for users are. `docs/PARITY.md` says what is proved and how the
//! bounds of the other formats are made.

mod case;
mod kinds;
mod own;
mod own_encoders;
mod recorder;
mod report;
mod rounding;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use candle_core::Device;
use musaic_core::{
    DeviceChoice, WeightFormat,
    testing::{find_cases, golden_roots},
};

pub use self::report::{CaseReport, Outcome, Status, TensorReport};

/// What to run, and how to tell.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folders that hold cases, at any depth.
    pub roots: Vec<PathBuf>,
    /// Where to compute.
    pub device: DeviceChoice,
    /// How weights are held; anything but f32 is compared within derived bounds.
    pub format: WeightFormat,
    /// One line a tensor.
    pub verbose: bool,
    /// One JSON document instead of lines.
    pub json: bool,
    /// A kind or feature that is missing does not fail the run.
    pub allow_missing: bool,
}

/// Arguments of `musaic verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folders with parity cases [default: those of the project and of MUSAIC_GOLDENS]
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,

    /// Where to compute: cpu, cuda or cuda:INDEX
    #[arg(long, default_value_t, value_name = "DEVICE")]
    device: DeviceChoice,

    /// How weights are held: f32, bf16 or f16
    #[arg(long, default_value_t, value_name = "FORMAT")]
    dtype: WeightFormat,

    /// Quantise weights: q8_0 or q4_k; runs the project's own wide cases against its own f32
    #[arg(long, value_name = "FORMAT", conflicts_with = "dtype")]
    quantize: Option<WeightFormat>,

    /// One line a tensor
    // The same id as the global flag, which clap then leaves to this command.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// One JSON document (schema in docs/PARITY.md)
    #[arg(long)]
    json: bool,

    /// A kind or a feature that is missing does not fail the run
    #[arg(long)]
    allow_missing: bool,
}

/// Runs `musaic verify` with its output on stdout: 0 only if nothing failed.
///
/// # Errors
/// There are no folders to look in, a folder cannot be read, or the device is not there.
pub fn command(args: Args) -> Result<ExitCode> {
    let roots = if args.dirs.is_empty() { golden_roots() } else { args.dirs };
    if roots.is_empty() {
        let expected = "a folder with parity cases, such as tests/goldens";
        return Err(musaic_core::Error::argument("DIR", "none", expected).into());
    }
    let options = Options {
        roots,
        device: args.device,
        format: args.quantize.unwrap_or(args.dtype),
        verbose: args.verbose > 0,
        json: args.json,
        allow_missing: args.allow_missing,
    };
    let outcome = run(&options, &mut std::io::stdout().lock())?;
    Ok(if outcome.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all cases below `options.roots` and writes one line each, then a total.
///
/// # Errors
/// A root cannot be read, the device is not there, or `out` cannot be written. What fails within a case is its outcome.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Outcome> {
    let device = options.device.open()?;
    let dirs = find_cases(&options.roots)?;
    let mut outcome = Outcome::new(options);
    let mut tell = |report: CaseReport| -> Result<()> {
        if !options.json {
            report.write(out, options.verbose).context("writing the report")?;
        }
        outcome.cases.push(report);
        Ok(())
    };
    for dir in dirs {
        tell(case::run(&dir, &device, options.format))?;
    }
    if needs_own_cases(options.format) {
        for own in own::CASES {
            tell(own::run(own, &device, options.format))?;
        }
    }
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &outcome.json())?;
        writeln!(out)?;
    } else {
        outcome.write_total(out)?;
    }
    Ok(outcome)
}

/// The goldens are narrower than a block of the quantised formats.
fn needs_own_cases(format: WeightFormat) -> bool {
    format != WeightFormat::F32
}

/// Whether the cases' own tolerances hold: 32-bit weights and arithmetic.
fn is_exact(format: WeightFormat) -> bool {
    format == WeightFormat::F32
}

/// Whether free-running greedy generation is replaced by given tokens.
fn is_forced(device: &Device, format: WeightFormat) -> bool {
    !(is_exact(format) && device.is_cpu())
}
