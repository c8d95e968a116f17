//! What the M2UGen kinds share: files of a case, features, names of what a model shows.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{probe::Probe, testing::Case, weights::Weights};

use crate::{
    llm::m2ugen::{M2ugen, Opened, open},
    verify::{case::Context, recorder::Recorder},
};

/// What a case calls the media.
pub const MEDIA: [(&str, BridgeKind); 3] =
    [("audio", BridgeKind::Music), ("image", BridgeKind::Image), ("video", BridgeKind::Video)];

/// Folders with `params.json` below `llama`, sorted.
pub fn llama_folders(model: &Path) -> Result<Vec<PathBuf>> {
    let folder = model.join("llama");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut found: Vec<_> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| path.join("params.json").is_file()).collect();
    found.sort();
    Ok(found)
}

/// Loads a model and closes the account: nothing may be missing or left over, but for the other parts of the system.
pub fn load(context: &Context<'_>, checkpoint: Option<&Path>, llama: Option<&Path>) -> Result<M2ugen> {
    let Opened { source, params } = open(checkpoint, llama)?;
    let weights = context.walk(source);
    let model = M2ugen::from_weights(params.as_ref(), &weights)?;
    ignore_others(&weights);
    weights.finish()?;
    Ok(model)
}

/// Placeholders of other parts in the files of a case.
pub fn ignore_others(weights: &Weights) {
    for part in ["mert_model", "vit_model", "vivit_model", "generation_model"] {
        weights.ignore_under(part, "another part of the system");
    }
}

/// Features `[batch, positions, dim]` from what a case stores of an encoder: `[(batch,) layers, time, dim]` of music,
/// `[(batch,) tokens, dim]` of pictures.
pub fn features(case: &Case, context: &Context<'_>, medium: &str, which: &str) -> Result<Tensor> {
    let name = match medium {
        "audio" => format!("in.{medium}{which}_hidden_states"),
        _ => format!("in.{medium}{which}_hidden_state"),
    };
    let stored = case.tensor(&name, context.device)?;
    let music = medium == "audio";
    let stored = if stored.rank() == if music { 3 } else { 2 } { stored.unsqueeze(0)? } else { stored };
    // What the encoder itself sums up while it runs.
    Ok(if music { stored.mean(2)? } else { stored })
}

/// A probe that records what the case stores, under the names of the reference.
pub struct Renamed<'r, 'a> {
    pub recorder: &'r mut Recorder<'a>,
    pub prefix: String,
}

impl Renamed<'_, '_> {
    fn full(&self, name: &str) -> String {
        let name = match name {
            "final_norm" => "norm",
            "embeddings" => "tok_embeddings",
            other => other,
        };
        format!("{}{name}", self.prefix)
    }
}

impl Probe for Renamed<'_, '_> {
    fn wants(&self, name: &str) -> bool {
        self.recorder.stores(&self.full(name))
    }

    fn see(&mut self, name: &str, value: &Tensor) -> candle_core::Result<()> {
        let full = self.full(name);
        if self.recorder.stores(&full) {
            self.recorder.tensor(full, value).map_err(candle_core::Error::msg)?;
        }
        Ok(())
    }
}
