//! Opening checkpoints and walking them by name.
//!
//! A [`Source`] is one place tensors come from (a published folder, a map in memory, random numbers, a bare table of names
//! and shapes). [`Weights`] walks it the way the model is built (`weights.pp("decoder").tensor(..)`), converts each tensor
//! to the chosen format while it streams in, and keeps account: nothing stops at the first problem, [`Weights::finish`]
//! reports all of them at once.

mod bytes;
mod checkpoint;
mod combine;
mod encoding;
mod entry;
mod ggml;
mod gguf;
mod norm;
mod packed;
mod pickle;
mod random;
mod report;
mod safetensors;
mod sources;
mod stream;
mod torch;
mod write;
mod write_gguf;
mod zip;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Display,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Shape, Tensor};
use half::{bf16, f16};

use self::sources::NamesOnly;
pub use self::{
    checkpoint::{Checkpoint, CheckpointSummary},
    combine::{Layered, Renamed, RowsAdded, Sharded, Split, Summed},
    gguf::{GgufSettings, GgufValue},
    packed::KEY as PACKED_KEY,
    random::RandomWeights,
    report::{LoadReport, Misshaped, Missing, Unused},
    sources::InMemory,
    write::{DATA_SHA256, StoredAs, write_safetensors, write_shards},
    write_gguf::write_gguf,
};
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
    /// Whether there is a tensor of this name.
    fn has(&self, name: &str) -> bool {
        self.tensors().contains_key(name)
    }
    /// Shape of the tensor of this name, if there is one; a source without a table gives what is `wanted`.
    fn find(&self, name: &str, wanted: &[usize]) -> Option<Vec<usize>> {
        let _ = wanted;
        self.tensors().get(name).cloned()
    }
    /// As [`Source::read`], for a tensor that was found in this shape.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn read_shaped(&self, name: &str, shape: &[usize], sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let _ = shape;
        self.read(name, sink)
    }
    /// Format whose blocks a tensor is stored in, where a [`Matrix`] of this format can take the bytes over: packing its
    /// numbers anew would round them twice.
    fn packed_as(&self, name: &str) -> Option<WeightFormat> {
        let _ = name;
        None
    }
    /// The bytes of a tensor for which [`Source::packed_as`] gives a format, in whole blocks.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn read_packed(&self, name: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let _ = (name, sink);
        Ok(())
    }
    /// `false` where there are names and shapes but no numbers; tensors are then zero-stride placeholders.
    fn has_values(&self) -> bool {
        true
    }
}

/// What points to a source is one.
macro_rules! source_behind {
    ($($pointer:ident),*) => {
        $(
            impl<S: Source + ?Sized> Source for $pointer<S> {
                fn label(&self) -> String {
                    (**self).label()
                }

                fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
                    (**self).tensors()
                }

                fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
                    (**self).read(name, sink)
                }

                fn has(&self, name: &str) -> bool {
                    (**self).has(name)
                }

                fn find(&self, name: &str, wanted: &[usize]) -> Option<Vec<usize>> {
                    (**self).find(name, wanted)
                }

                fn read_shaped(
                    &self,
                    name: &str,
                    shape: &[usize],
                    sink: &mut dyn FnMut(&[f32]) -> Result<()>,
                ) -> Result<()> {
                    (**self).read_shaped(name, shape, sink)
                }

                fn packed_as(&self, name: &str) -> Option<WeightFormat> {
                    (**self).packed_as(name)
                }

                fn read_packed(&self, name: &str, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
                    (**self).read_packed(name, sink)
                }

                fn has_values(&self) -> bool {
                    (**self).has_values()
                }
            }
        )*
    };
}

source_behind!(Box, Arc);

struct Shared {
    source: Box<dyn Source>,
    device: Device,
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
    format: WeightFormat,
}

impl Weights {
    /// Walks `source`, placing tensors on `device` and large matrices in `format`.
    pub fn new(source: impl Source + 'static, device: &Device, format: WeightFormat) -> Self {
        let shared =
            Shared { source: Box::new(source), device: device.clone(), account: Mutex::new(Account::default()) };
        Self { shared: Arc::new(shared), prefix: String::new(), format }
    }

    /// Opens a file or folder as [`Checkpoint::open`] does and walks it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(path: impl AsRef<Path>, device: &Device, format: WeightFormat) -> Result<Self> {
        Ok(Self::new(Checkpoint::open(path)?, device, format))
    }

    /// Walks random numbers: every name is there in every shape. See [`RandomWeights`] to take names away.
    pub fn random(seed: u64, device: &Device, format: WeightFormat) -> Self {
        Self::new(RandomWeights::new(seed), device, format)
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
        Self { shared: self.shared.clone(), prefix, format: self.format }
    }

    /// The same place, with large matrices held in another format from here on.
    pub fn in_format(&self, format: WeightFormat) -> Self {
        Self { format, ..self.clone() }
    }

    /// Where tensors are placed.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// How large matrices are held.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// `false` where there are names but no numbers: layers then need not compute anything from what they load.
    pub fn has_values(&self) -> bool {
        self.shared.source.has_values()
    }

    /// Type of the arithmetic, and of everything that is not a large matrix.
    pub fn dtype(&self) -> DType {
        self.format.compute_dtype(&self.shared.device)
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.shared.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the checkpoint has a tensor of this name here.
    pub fn has(&self, name: &str) -> bool {
        self.shared.source.has(&self.full_name(name))
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

    /// As [`Weights::ignore`], for every tensor below `prefix` (`optimizer`), or below here where it is empty.
    pub fn ignore_under(&self, prefix: &str, reason: &str) {
        let at = if prefix.is_empty() { self.clone() } else { self.pp(prefix) };
        for name in at.names() {
            at.ignore(&name, reason);
        }
    }

    /// Names of all tensors below here, without the prefix.
    pub fn names(&self) -> Vec<String> {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        let below = self.shared.source.tensors().range(prefix.clone()..);
        below.map_while(|(name, _)| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// Notes the use of `name` and whether it can be read: present and of this shape.
    fn claim(&self, name: &str, shape: &[usize]) -> Option<String> {
        let name = self.full_name(name);
        let found = self.shared.source.find(&name, shape);
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
        let source = &*self.shared.source;
        let dense = match dtype {
            DType::BF16 => {
                collect(source, &full, &shape, bf16::from_f32).map(|v| Tensor::from_vec(v, shape, &Device::Cpu))
            }
            DType::F16 => {
                collect(source, &full, &shape, f16::from_f32).map(|v| Tensor::from_vec(v, shape, &Device::Cpu))
            }
            _ => collect(source, &full, &shape, |v| v).map(|v| Tensor::from_vec(v, shape, &Device::Cpu)),
        }??;
        Ok(dense.to_dtype(dtype)?.to_device(&self.shared.device)?)
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

    /// As [`Weights::matrix`], in a given format.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn matrix_as(&self, rows: usize, cols: usize, name: &str, format: WeightFormat) -> Result<Matrix> {
        self.stacked_as(&[rows], cols, &[name], format)
    }

    /// Several matrices of one width stacked by rows into one (such as query, key and value), each held once.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn matrix_stacked(&self, rows: &[usize], cols: usize, names: &[&str]) -> Result<Matrix> {
        self.stacked_as(rows, cols, names, self.format())
    }

    fn stacked_as(&self, rows: &[usize], cols: usize, names: &[&str], format: WeightFormat) -> Result<Matrix> {
        let claimed: Vec<_> = rows.iter().zip(names).map(|(&rows, name)| self.claim(name, &[rows, cols])).collect();
        let total = rows.iter().sum();
        if claimed.iter().any(Option::is_none) {
            return Ok(Matrix::from_tensor(self.placeholder(&Shape::from((total, cols)), self.dtype())?));
        }
        let mut builder = MatrixBuilder::new(total, cols, format, self.device())?;
        for (name, &rows) in claimed.iter().flatten().zip(rows) {
            let source = &self.shared.source;
            if builder.blocks().is_some() && builder.blocks() == source.packed_as(name) {
                source.read_packed(name, &mut |blocks| Ok(builder.push_blocks(blocks)?))?;
            } else {
                source.read_shaped(name, &[rows, cols], &mut |piece| Ok(builder.push(piece)?))?;
            }
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

/// All values of a tensor, converted while they are read: a 16-bit tensor is never held in 32 bits.
fn collect<T>(source: &dyn Source, name: &str, shape: &Shape, convert: impl Fn(f32) -> T) -> Result<Vec<T>> {
    let mut values = Vec::with_capacity(shape.elem_count());
    source.read_shaped(name, shape.dims(), &mut |piece| {
        values.extend(piece.iter().map(|&value| convert(value)));
        Ok(())
    })?;
    Ok(values)
}
