//! `musaic bench`: times each component at the published shapes.

mod load;

use std::process::{Command, ExitCode};

use anyhow::Context;
use serde::Serialize;

use crate::{
    bench::{Machine, Row, components},
    pipeline::{machine, preflight::gigabytes},
};

/// Arguments of `musaic bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Task>,
    /// Components to time, such as lm:small:q8_0, encodec:decode, t5:f32, mert:330m:f32, vit:f32, vivit:f32, load:small:bf16, llama:7b:q4_k:decode, nano:first-sound
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// cpu, cuda or cuda:INDEX
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Measure one component in this process and print its row (what the command runs for each)
    #[arg(long, value_name = "NAME", hide = true)]
    component: Option<String>,
}

/// What is timed otherwise.
#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Write a checkpoint of M2UGen's published layout and size once, and measure what loading it takes
    Load(load::Args),
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    device: String,
    machine: Machine,
    rows: Vec<Row>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(Task::Load(args)) = &args.command {
        return load::run(args);
    }
    let choice: musaic_core::DeviceChoice = args.device.parse()?;
    if let Some(name) = &args.component {
        super::print_json(&components::measure(name, &choice.open()?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    args.only.iter().try_for_each(|name| components::check(name))?;
    let threads = musaic_core::nn::threads();
    let machine = Machine {
        cpu_class: musaic_core::nn::cpu_class().into(),
        threads,
        read_bandwidth: machine::read_bandwidth(threads, machine::BUFFER_BYTES, machine::PASSES),
    };
    if !args.json {
        super::print(&format!(
            "{} on {} threads, {:.1} GB/s read from memory\n\n",
            machine.cpu_class,
            machine.threads,
            machine.read_bandwidth / 1e9
        ))?;
    }
    let names: Vec<String> =
        if args.only.is_empty() { components::DEFAULT.map(str::to_owned).into() } else { args.only.clone() };
    let mut rows = Vec::new();
    for name in &names {
        let row = in_own_process(name, &args.device)?.against(machine.read_bandwidth);
        if !args.json {
            super::print(&line(&row))?;
        }
        rows.push(row);
    }
    if args.json {
        super::print_json(&Report { schema_version: 1, device: args.device.clone(), machine, rows })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn in_own_process(name: &str, device: &str) -> anyhow::Result<Row> {
    measured(name, Command::new(std::env::current_exe()?).args(["bench", "--component", name, "--device", device]))
}

/// The row that this program prints when it is started once more.
fn measured(name: &str, command: &mut Command) -> anyhow::Result<Row> {
    let output = command.output().context("starting this program again")?;
    if !output.status.success() {
        anyhow::bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim_start_matches("error: ").trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn line(row: &Row) -> String {
    let share = row.share_of_limit.map_or(String::new(), |share| format!("  {:.0}% of the limit", share * 100.0));
    let memory = row.peak_memory_bytes.map_or(String::new(), |bytes| format!("  peak {}", gigabytes(bytes as f64)));
    format!("{:18} {:9.2} {:12}{share}{memory}  ({})\n", row.component, row.value, row.unit, row.about)
}
