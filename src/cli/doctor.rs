//! `musaic doctor`: what this program and this machine can do.

use std::process::ExitCode;

use serde::Serialize;

use crate::pipeline::{
    models,
    preflight::{self, gigabytes},
};

/// Arguments of `musaic doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    features: Vec<Feature>,
    target: String,
    cpu_class: &'static str,
    threads: usize,
    memory_available_bytes: Option<u64>,
    cuda: Result<String, String>,
    cache_folder: String,
    models: Vec<String>,
}

#[derive(Serialize)]
struct Feature {
    name: &'static str,
    built_in: bool,
    about: &'static str,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        features: vec![
            Feature { name: "mp3", built_in: cfg!(feature = "mp3"), about: "write .mp3" },
            Feature { name: "opus", built_in: cfg!(feature = "opus"), about: "read and write .opus" },
            Feature { name: "video", built_in: cfg!(feature = "video"), about: "read video, and audio such as .wma" },
            Feature { name: "hub", built_in: cfg!(feature = "hub"), about: "musaic pull" },
            Feature { name: "cuda", built_in: cfg!(feature = "cuda"), about: "run on NVIDIA GPUs" },
        ],
        target: format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
        cpu_class: musaic_core::nn::cpu_class(),
        threads: musaic_core::nn::threads(),
        memory_available_bytes: preflight::available_memory(),
        cuda: musaic_core::DeviceChoice::Cuda(0)
            .open()
            .map(|_| "device 0 answers".to_owned())
            .map_err(|error| error.to_string()),
        cache_folder: models::cache_folder().display().to_string(),
        models: std::iter::once("nano".to_owned()).chain(models::cached().into_iter().map(|(id, _)| id)).collect(),
    };
    if args.json {
        super::print_json(&report)?;
    } else {
        super::print(&text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    let mut lines = vec![
        format!("musaic     {}", report.version),
        format!("machine    {}, kernels for {}, {} threads", report.target, report.cpu_class, report.threads),
        format!(
            "memory     {}",
            report.memory_available_bytes.map_or("unknown".into(), |b| format!("{} available", gigabytes(b as f64)))
        ),
        format!("cuda       {}", report.cuda.as_deref().unwrap_or_else(|error| error)),
    ];
    for feature in &report.features {
        let state = if feature.built_in { "yes" } else { "no " };
        lines.push(format!("feature    {:5} {state}  {}", feature.name, feature.about));
    }
    lines.push(format!("cache      {}", report.cache_folder));
    lines.push(format!("models     {}", report.models.join(", ")));
    lines.join("\n") + "\n"
}
