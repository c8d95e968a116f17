//! Sources that are no files: tensors in memory, and names without numbers.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};

use super::Source;
use crate::Result;

/// Numbers handed over at once.
const PIECE: usize = 1 << 18;

/// Tensors in memory as a source.
pub struct InMemory {
    tensors: HashMap<String, Tensor>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl InMemory {
    /// Takes tensors of any type and device.
    pub fn new(tensors: HashMap<String, Tensor>) -> Self {
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
            let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            values.chunks(PIECE).try_for_each(sink)?;
        }
        Ok(())
    }
}

/// Names and shapes alone.
pub(super) struct NamesOnly(pub(super) BTreeMap<String, Vec<usize>>);

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
