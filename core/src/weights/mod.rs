//! Opening checkpoints and walking them by name.
//!
//! A [`Source`] is one place tensors come from (a published folder, a map in memory, random numbers, a bare table of names
//! and shapes). [`Weights`] walks it the way the model is built (`weights.pp("decoder").tensor(..)`), converts each tensor
//! to the chosen format while it streams in, and keeps account: nothing stops at the first problem, [`Weights::finish`]
//! reports all of them at once.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Shape, Tensor};

pub use self::report::{LoadReport, Misshaped, Missing, Unused};
use crate::{
    Result, WeightFormat,
    nn::{Matrix, MatrixBuilder},
};

/// A place tensors come from.
pub trait Source: Send + Sync {
    /// What the user calls it, for messages: a path or a short name.
    fn label(&self) -> String;
    /// Name and shape of every tensor.
    fn tensors(&self) -> &BTreeMap<String, Vec<usize>>;
    /// Streams one tensor in row-major order as f32, in pieces of bounded size.
    ///
    /// # Errors
    /// The file ends early, cannot be read, or holds a type that is not a number.
    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>;
    /// `false` where there are names and shapes but no numbers; tensors are then zero-stride placeholders.
    fn has_values(&self) -> bool {
        true
    }
}

struct Shared {
    source: Box<dyn Source>,
    device: Device,
    format: WeightFormat,
    account: Mutex<Account>,
}

#[derive(Default)]
struct Account {
    used: BTreeSet<String>,
    ignored: BTreeMap<String, String>,
    missing: BTreeMap<String, Vec<usize>>,
    misshaped: BTreeMap<String, (Vec<usize>, Vec<usize>)>,
}

/// A position in a checkpoint: the checkpoint itself plus a name prefix. Cheap to clone.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    prefix: String,
}

impl Weights {
    /// Walks `source`, placing tensors on `device` and large matrices in `format`.
    pub fn new(source: impl Source + 'static, device: &Device, format: WeightFormat) -> Self {
        let shared =
            Shared { source: Box::new(source), device: device.clone(), format, account: Mutex::new(Account::default()) };
        Self { shared: Arc::new(shared), prefix: String::new() }
    }

    /// Walks tensors held in memory.
    pub fn from_tensors(tensors: HashMap<String, Tensor>, device: &Device, format: WeightFormat) -> Self {
        Self::new(InMemory::new(tensors), device, format)
    }

    /// Walks a table of names and shapes without any numbers: a model built on it allocates next to nothing, and
    /// [`Weights::finish`] tells whether the names fit.
    pub fn from_names(names: BTreeMap<String, Vec<usize>>) -> Self {
        Self::new(NamesOnly(names), &Device::Cpu, WeightFormat::F32)
    }

    /// One level down.
    pub fn pp(&self, name: impl Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { shared: self.shared.clone(), prefix }
    }

    /// Where tensors are placed.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// How large matrices are held.
    pub fn format(&self) -> WeightFormat {
        self.shared.format
    }

    /// `false` where there are names but no numbers: layers then need not compute anything from what they load.
    pub fn has_values(&self) -> bool {
        self.shared.source.has_values()
    }

    /// Type of the arithmetic, and of everything that is not a large matrix.
    pub fn dtype(&self) -> DType {
        self.shared.format.compute_dtype(&self.shared.device)
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.shared.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the checkpoint has a tensor of this name here.
    pub fn has(&self, name: &str) -> bool {
        self.shared.source.tensors().contains_key(&self.full_name(name))
    }

    /// Shape of the tensor of this name here, if there is one.
    pub fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.shared.source.tensors().get(&self.full_name(name)).cloned()
    }

    /// Declares a tensor as known and not needed, with the reason; the report lists it so instead of as unused.
    pub fn ignore(&self, name: &str, reason: &str) {
        let name = self.full_name(name);
        if self.shared.source.tensors().contains_key(&name) {
            self.account().ignored.insert(name, reason.to_owned());
        }
    }

    /// Notes the use of `name` and whether it can be read: present and of this shape.
    fn claim(&self, name: &str, shape: &[usize]) -> Option<String> {
        let name = self.full_name(name);
        let found = self.shared.source.tensors().get(&name).cloned();
        let mut account = self.account();
        match found {
            None => {
                account.missing.insert(name, shape.to_vec());
                None
            }
            Some(found) if found != shape => {
                account.used.insert(name.clone());
                account.misshaped.insert(name, (shape.to_vec(), found));
                None
            }
            Some(_) => {
                account.used.insert(name.clone());
                self.shared.source.has_values().then_some(name)
            }
        }
    }

    /// A tensor of this shape, in [`Weights::dtype`]. Where it is missing or misshaped a placeholder comes back and the
    /// problem waits for [`Weights::finish`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn tensor(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        let dtype = self.dtype();
        self.tensor_as(shape, name, dtype)
    }

    /// As [`Weights::tensor`], in a given type.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn tensor_as(&self, shape: impl Into<Shape>, name: &str, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let Some(full) = self.claim(name, shape.dims()) else { return self.placeholder(&shape, dtype) };
        let mut values = Vec::with_capacity(shape.elem_count());
        self.shared.source.read(&full, &mut |piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(&self.shared.device)?)
    }

    fn placeholder(&self, shape: &Shape, dtype: DType) -> Result<Tensor> {
        Ok(Tensor::zeros((), dtype, &self.shared.device)?.broadcast_as(shape)?)
    }

    /// A weight matrix `[rows, cols]` in the chosen format.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn matrix(&self, rows: usize, cols: usize, name: &str) -> Result<Matrix> {
        self.matrix_stacked(&[rows], cols, &[name])
    }

    /// Several matrices of one width stacked by rows into one (such as query, key and value), each held once.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn matrix_stacked(&self, rows: &[usize], cols: usize, names: &[&str]) -> Result<Matrix> {
        let claimed: Vec<_> =
            rows.iter().zip(names).map(|(&rows, name)| self.claim(name, &[rows, cols])).collect();
        let total = rows.iter().sum();
        if claimed.iter().any(Option::is_none) {
            return Ok(Matrix::from_tensor(self.placeholder(&Shape::from((total, cols)), self.dtype())?));
        }
        let mut builder = MatrixBuilder::new(total, cols, self.format(), self.device())?;
        for name in claimed.iter().flatten() {
            self.shared.source.read(name, &mut |piece| Ok(builder.push(piece)?))?;
        }
        Ok(builder.finish()?)
    }

    /// What was applied, missing, unused and misshaped so far.
    pub fn report(&self) -> LoadReport {
        let account = self.account();
        LoadReport::new(
            self.shared.source.label(),
            self.shared.source.tensors(),
            &account.used,
            &account.ignored,
            &account.missing,
            &account.misshaped,
        )
    }

    /// Closes the account of a model that is fully built.
    ///
    /// # Errors
    /// Anything is missing, misshaped, or unused without a reason; the error lists all of it.
    pub fn finish(&self) -> Result<LoadReport> {
        let report = self.report();
        if report.is_clean() { Ok(report) } else { Err(crate::Error::Weights(Box::new(report))) }
    }
}

/// Tensors in memory as a source.
struct InMemory {
    tensors: HashMap<String, Tensor>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl InMemory {
    fn new(tensors: HashMap<String, Tensor>) -> Self {
        let shapes = tensors.iter().map(|(name, t)| (name.clone(), t.dims().to_vec())).collect();
        Self { tensors, shapes }
    }
}

impl Source for InMemory {
    fn label(&self) -> String {
        "tensors in memory".into()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        if let Some(tensor) = self.tensors.get(name) {
            sink(&tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)?;
        }
        Ok(())
    }
}

/// Names and shapes alone.
struct NamesOnly(BTreeMap<String, Vec<usize>>);

impl Source for NamesOnly {
    fn label(&self) -> String {
        "table of names".into()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.0
    }

    fn read(&self, _: &str, _: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn has_values(&self) -> bool {
        false
    }
}
