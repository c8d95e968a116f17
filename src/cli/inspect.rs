//! `musaic inspect`: what a checkpoint of M2UGen holds, its gates, and what follows from them in words.

use std::{path::PathBuf, process::ExitCode};

use crate::pipeline::system::{Inspection, inspect};

/// Arguments of `musaic inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// checkpoint.pth, its folder, or `debug`
    checkpoint: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let found = inspect(&args.checkpoint)?;
    if args.json {
        super::print_json(&found)?;
    } else {
        super::print(&describe(&found))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Inspection) -> String {
    let mut text = format!("{}: {:.2} GB\n\n", found.checkpoint, found.bytes as f64 / 1e9);
    let dtypes: Vec<_> = found.dtypes.iter().map(|(name, count)| format!("{name} {:.1} M", millions(*count))).collect();
    text += &format!("stored as  {}\n\n", dtypes.join(", "));
    for part in &found.parts {
        text += &format!("{:<20} {:>10.2} M in {} tensors\n", part.name, millions(part.parameters), part.tensors);
    }
    text += "\ngates (tanh, a number a head)\n";
    for gates in &found.gates {
        let medium = gates.medium.unwrap_or("-");
        let closed = gates.open.iter().all(|gate| *gate == 0.0);
        let numbers: Vec<_> = gates.open.iter().map(|gate| format!("{gate:.3}")).collect();
        let shown = if closed { "closed".to_owned() } else { numbers.join(" ") };
        text += &format!("  layer {:>2}  {medium:<8} {shown}\n", gates.layer);
    }
    text += "\n";
    for words in &found.words {
        text += &format!("{words}\n");
    }
    text
}

fn millions(count: u64) -> f64 {
    count as f64 / 1e6
}
