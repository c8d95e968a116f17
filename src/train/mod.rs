//! Training of the language model and its text encoder on prepared batches.
//!
//! | part | does |
//! |---|---|
//! | [`config`] | settings, a TOML file |
//! | [`batches`] | codes and token ids of every step |
//! | [`parameters`] | the tensors by their published names |
//! | [`model`] | whole sequences with the right codes given: loss of each codebook |
//! | [`optimizer`] | AdamW, norm of the gradients |
//! | [`checkpoint`] | the state in one file; a run taken up again gives the same numbers |
//!
//! The torch recipe in `recipes/nano` is the reference: `tests/train_parity.rs` repeats a run of it from the same weights
//! and batches.

pub mod batches;
pub mod checkpoint;
pub mod config;
pub mod model;
pub mod optimizer;
pub mod parameters;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{Device, Tensor, backprop::GradStore};
use musaic_core::{Error, Result, weights::Checkpoint};
use serde::{Deserialize, Serialize};

use self::{
    batches::{Batch, Batches},
    checkpoint::{Manifest, Saved},
    config::TrainConfig,
    model::Model,
    optimizer::{AdamW, clip_factor, global_norm},
    parameters::{ModelConfig, Parameters},
};

/// Name of the file that holds the state of a run.
pub const STATE_FILE: &str = "state.safetensors";

/// What one step did; a line of the loss curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Loss before the update: mean over codebooks with their weights.
    pub loss: f64,
    /// Loss of each codebook.
    pub books: Vec<f64>,
    /// Norm of all gradients before clipping.
    pub norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Sequence positions (columns of codes, all pieces) trained in a second.
    pub positions_per_s: f64,
    /// Whether there was an update: none where the loss or a gradient is not a finite number.
    pub updated: bool,
}

/// A run: model, optimiser and where it stands.
pub struct Trainer {
    config: TrainConfig,
    model: Model,
    parameters: Parameters,
    optimizer: AdamW,
    shares: Vec<f64>,
    init: PathBuf,
    init_sha256: String,
    device: Device,
    step: u64,
}

impl Trainer {
    /// Starts from a folder of MusicGen, or from a file of weights with its `config.json` beside it.
    ///
    /// # Errors
    /// A file is missing or damaged, a configuration is out of range, or the weights do not fit it.
    pub fn new(init: &Path, config: &TrainConfig) -> Result<Self> {
        config.validate(Path::new("configuration"))?;
        let device = config.device.parse::<musaic_core::DeviceChoice>()?.open()?;
        let folder = if init.is_dir() { init } else { init.parent().unwrap_or(Path::new("")) };
        let model_config = ModelConfig::open(&folder.join("config.json"))?;
        let checkpoint = Checkpoint::open(init)?;
        let init_sha256 = checkpoint.sha256()?.to_owned();
        let parameters = Parameters::load(&model_config, checkpoint, &device, &|name| config.trains(name))?;
        if parameters.trained().is_empty() {
            return Err(Error::argument("frozen", "every tensor", "something left to train"));
        }
        Ok(Self {
            shares: config.shares(model_config.decoder.num_codebooks)?,
            optimizer: AdamW::new(parameters.trained())?,
            model: Model::new(model_config, &device)?,
            config: config.clone(),
            init: init.to_owned(),
            init_sha256,
            parameters,
            device,
            step: 0,
        })
    }

    /// Sizes of the model, to open [`Batches`] with.
    pub fn model_config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The tensors.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether all steps of the configuration are done.
    pub fn is_done(&self) -> bool {
        self.step >= self.config.steps
    }

    /// Loss of a batch, a scalar with its graph, and of each codebook.
    ///
    /// # Errors
    /// A shape differs or the device is out of memory.
    pub fn loss(&self, batch: &Batch) -> Result<(Tensor, Vec<f64>)> {
        let books = self.model.losses(&self.parameters, batch)?;
        let mut weighted = Vec::with_capacity(books.len());
        for (book, share) in books.iter().zip(&self.shares) {
            weighted.push((book * *share)?);
        }
        let values = books.iter().map(|book| Ok(f64::from(book.to_scalar::<f32>()?))).collect::<Result<_>>()?;
        Ok((Tensor::stack(&weighted, 0)?.sum_all()?, values))
    }

    /// Loss of a batch and the gradient of every tensor that learns.
    ///
    /// # Errors
    /// As [`Trainer::loss`].
    pub fn gradients(&self, batch: &Batch) -> Result<GradStore> {
        Ok(self.loss(batch)?.0.backward()?)
    }

    /// One step on the batch that is next.
    ///
    /// # Errors
    /// As [`Trainer::loss`], or no gradient reaches a tensor that is to learn.
    pub fn train_step(&mut self, batches: &Batches) -> Result<StepReport> {
        let began = Instant::now();
        let batch = batches.get(self.step);
        let (loss, books) = self.loss(&batch)?;
        let gradients = loss.backward()?;
        let loss = f64::from(loss.to_scalar::<f32>()?);
        let trained = self.parameters.trained();
        let norm = global_norm(trained, &gradients)?;
        let updated = loss.is_finite() && norm.is_finite();
        if updated {
            let clip = clip_factor(norm, self.config.clip_norm);
            self.optimizer.update(&self.config, self.step, trained, &gradients, clip)?;
        }
        self.device.synchronize()?;
        let learning_rate = self.config.rate(self.step);
        self.step += 1;
        let positions = (batch.rows * self.model.columns(batch.frames)) as f64;
        let positions_per_s = positions / began.elapsed().as_secs_f64().max(1e-9);
        Ok(StepReport { step: self.step, loss, books, norm, learning_rate, positions_per_s, updated })
    }

    fn manifest(&self, batches: &Batches) -> Manifest {
        Manifest::new(self.step, &self.config, &self.init_sha256, batches.sha256())
    }

    /// Saves the state; the file is replaced only when the new one is whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, batches: &Batches) -> Result<()> {
        checkpoint::save(path, &self.manifest(batches), self.parameters.values(), self.optimizer.values())
    }

    /// Goes on from a saved state of the same run.
    ///
    /// # Errors
    /// The file is damaged or belongs to a run with other settings, weights or batches.
    pub fn restore(&mut self, path: &Path, batches: &Batches) -> Result<()> {
        let saved = Saved::open(path, &self.manifest(batches), &self.device)?;
        // All of it is read and checked before anything changes.
        let mut values = Vec::new();
        for (name, tensor) in self.parameters.values() {
            values.push((saved.model(&name, tensor.dims())?, name));
        }
        let mut optimizer = AdamW::new(self.parameters.trained())?;
        optimizer.restore(&|name, shape| saved.moment(name, shape))?;
        saved.finish()?;
        for (value, name) in values {
            if let Some(var) = self.parameters.trained().get(&name) {
                var.set(&value)?;
            }
        }
        (self.optimizer, self.step) = (optimizer, saved.step);
        Ok(())
    }

    /// Writes the model as it is now under its published names, with the tensors that are not trained here (the codec) as
    /// they were.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn export(&self, path: &Path) -> Result<()> {
        checkpoint::export(path, self.parameters.values(), Checkpoint::open(&self.init)?)
    }
}
