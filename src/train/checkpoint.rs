//! The state of a run in one file that appears only when it is whole: weights, moments, and a manifest in its notes.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    weights::{Checkpoint, InMemory, Source, StoredAs, Weights, write_safetensors},
};
use serde::{Deserialize, Serialize};

use super::config::TrainConfig;

/// Key of the manifest among the notes of the file.
const KEY: &str = "musaic_train";
const FORMAT: u32 = 1;

/// What a saved state belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// Steps done.
    pub step: u64,
    /// Settings of the run.
    pub config: TrainConfig,
    /// sha256 of the weights it began with.
    pub init_sha256: String,
    /// sha256 of its batches.
    pub batches_sha256: String,
}

impl Manifest {
    pub(super) fn new(step: u64, config: &TrainConfig, init_sha256: &str, batches_sha256: &str) -> Self {
        let (init_sha256, batches_sha256) = (init_sha256.to_owned(), batches_sha256.to_owned());
        Self { format: FORMAT, step, config: config.clone(), init_sha256, batches_sha256 }
    }

    /// Whether a run with the manifest `now` may go on from here.
    fn check(&self, path: &Path, now: &Self) -> Result<()> {
        for (what, same) in [
            ("format", self.format == now.format),
            ("settings", self.config.identity() == now.config.identity()),
            ("starting weights", self.init_sha256 == now.init_sha256),
            ("batches", self.batches_sha256 == now.batches_sha256),
        ] {
            if !same {
                let expected = format!("the same {what} as the run that is taken up");
                return Err(Error::format(path, expected, format!("a run with other {what}")));
            }
        }
        Ok(())
    }
}

/// Writes weights as `model.*` and moments as `optimizer.*`.
pub(super) fn save(
    path: &Path,
    manifest: &Manifest,
    weights: HashMap<String, Tensor>,
    moments: HashMap<String, Tensor>,
) -> Result<()> {
    let named = |prefix: &'static str, tensors: HashMap<String, Tensor>| {
        tensors.into_iter().map(move |(name, tensor)| (format!("{prefix}.{name}"), tensor))
    };
    let source = InMemory::new(named("model", weights).chain(named("optimizer", moments)).collect());
    let text = serde_json::to_string(manifest).map_err(|e| Error::io(path, e.into()))?;
    write_safetensors(path, &source, &BTreeMap::from([(KEY.to_owned(), text)]), &|_, _| Some(StoredAs::F32))?;
    Ok(())
}

/// A saved state, checked against the run that takes it up.
pub(super) struct Saved {
    weights: Weights,
    /// Steps done.
    pub step: u64,
}

impl Saved {
    pub fn open(path: &Path, now: &Manifest, device: &Device) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let text = file
            .metadata()
            .get(KEY)
            .ok_or_else(|| Error::format(path, "the state of a training run", "a file without the manifest of one"))?;
        let manifest: Manifest = serde_json::from_str(text)
            .map_err(|e| Error::format(path, "the manifest of a training run", e.to_string()))?;
        manifest.check(path, now)?;
        Ok(Self { weights: Weights::new(file, device, WeightFormat::F32), step: manifest.step })
    }

    pub fn model(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.weights.pp("model").tensor_as(shape, name, DType::F32)
    }

    pub fn moment(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.weights.pp("optimizer").tensor_as(shape, name, DType::F32)
    }

    /// Everything must have been taken.
    pub fn finish(&self) -> Result<()> {
        self.weights.finish().map(|_| ())
    }
}

/// Trained tensors over the rest of the checkpoint they came from.
struct Joined {
    trained: InMemory,
    rest: Checkpoint,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Source for Joined {
    fn label(&self) -> String {
        "trained weights".into()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        if self.trained.has(name) { self.trained.read(name, sink) } else { self.rest.read(name, sink) }
    }
}

/// Writes a published checkpoint: trained tensors, and the others (the codec) as they are in `rest`.
pub(super) fn export(path: &Path, trained: HashMap<String, Tensor>, rest: Checkpoint) -> Result<()> {
    let trained = InMemory::new(trained);
    let mut shapes = rest.tensors().clone();
    shapes.extend(trained.tensors().clone());
    let notes = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(path, &Joined { trained, rest, shapes }, &notes, &|_, _| Some(StoredAs::F32))?;
    Ok(())
}
