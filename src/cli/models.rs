//! `musaic models`: what is here, its licence and sizes, and the presets that know more.

use std::process::ExitCode;

use serde::Serialize;

use crate::{
    pipeline::{
        models::{self, Found, Place},
        preflight::gigabytes,
        store::Store,
    },
    registry,
};

/// Arguments of `musaic models`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    place: String,
    licence: String,
    parameters: Option<u64>,
    bytes: Option<u64>,
    /// Why it cannot be used, if so.
    problem: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let nano = Found { name: "nano".into(), place: Place::BuiltIn };
    let cached = models::cached().into_iter().map(|(name, path)| Found { name, place: Place::Folder(path) });
    let entries: Vec<_> = std::iter::once(nano).chain(cached).map(|found| describe(&found)).collect();
    if args.json {
        super::print_json(&entries)?;
    } else {
        super::print(&text(&entries))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(found: &Found) -> Entry {
    let place = match &found.place {
        Place::BuiltIn => "built in".into(),
        Place::Folder(path) => path.display().to_string(),
    };
    let licence = licence(&found.name).into();
    match Store::open(found) {
        Ok(store) => Entry {
            name: found.name.clone(),
            place,
            licence,
            parameters: Some(store.parameters()),
            bytes: Some(store.bytes()),
            problem: None,
        },
        Err(error) => Entry {
            name: found.name.clone(),
            place,
            licence,
            parameters: None,
            bytes: None,
            problem: Some(error.to_string()),
        },
    }
}

/// Licence of the weights, where we know it.
fn licence(name: &str) -> &'static str {
    match name {
        "nano" => "MIT OR Apache-2.0",
        name if name.starts_with("facebook/musicgen") => "CC-BY-NC-4.0",
        _ => "see its model card",
    }
}

fn text(entries: &[Entry]) -> String {
    let mut text = String::from("here:\n");
    for entry in entries {
        let size = match (entry.parameters, entry.bytes) {
            (Some(n), Some(bytes)) => format!("{:.1} M parameters, {}", n as f64 / 1e6, gigabytes(bytes as f64)),
            _ => entry.problem.clone().unwrap_or_default(),
        };
        text.push_str(&format!("  {:32} {size}, {} ({})\n", entry.name, entry.licence, entry.place));
    }
    text.push_str("\nparts:\n");
    for row in registry::PARTS {
        text.push_str(&format!("  {:32} {}\n", row.name, row.about));
    }
    text.push_str("\npresets (--preset NAME):\n");
    for preset in registry::PARTS.iter().flat_map(|row| row.presets) {
        let about = preset.text.lines().next().unwrap_or_default().trim_start_matches("# ");
        text.push_str(&format!("  {:32} {about}\n", preset.name));
    }
    text
}
