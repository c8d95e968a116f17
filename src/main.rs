//! The `musaic` program: decode media if started for that, else parse, start tracing, dispatch, print the error and its hint, exit.

use std::process::ExitCode;

use clap::Parser;
use musaic::cli::{Cli, failure};

fn main() -> ExitCode {
    musaic_core::media::isolate::enter();
    let cli = Cli::parse();
    if let Err(error) = cli.start_tracing() {
        return failure::report(&error);
    }
    match cli.run() {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
