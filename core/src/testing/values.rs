//! The numbers of one stored tensor.

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, tensor::TensorView};

use crate::{Error, Result};

/// Numbers in row-major order with their shape: integers exact, everything else as f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Shape; empty for a single number.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Data,
}

/// Integers or floats.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Ids, codes, masks, orders: compared exactly.
    Integers(Vec<i64>),
    /// Compared within a tolerance.
    Floats(Vec<f64>),
}

impl Values {
    /// Reads a stored tensor.
    pub(super) fn from_view(view: &TensorView<'_>) -> Option<Self> {
        let bytes = view.data();
        fn each<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks::<N>().0.iter().map(|c| convert(*c)).collect()
        }
        let data = match view.dtype() {
            Dtype::BOOL | Dtype::U8 => Data::Integers(bytes.iter().map(|&b| i64::from(b)).collect()),
            Dtype::I8 => Data::Integers(each(bytes, |[b]: [u8; 1]| i64::from(b as i8))),
            Dtype::I16 => Data::Integers(each(bytes, |b| i64::from(i16::from_le_bytes(b)))),
            Dtype::U16 => Data::Integers(each(bytes, |b| i64::from(u16::from_le_bytes(b)))),
            Dtype::I32 => Data::Integers(each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
            Dtype::U32 => Data::Integers(each(bytes, |b| i64::from(u32::from_le_bytes(b)))),
            Dtype::I64 => Data::Integers(each(bytes, i64::from_le_bytes)),
            Dtype::F16 => Data::Floats(each(bytes, |b| half::f16::from_le_bytes(b).to_f64())),
            Dtype::BF16 => Data::Floats(each(bytes, |b| half::bf16::from_le_bytes(b).to_f64())),
            Dtype::F32 => Data::Floats(each(bytes, |b| f64::from(f32::from_le_bytes(b)))),
            Dtype::F64 => Data::Floats(each(bytes, f64::from_le_bytes)),
            _ => return None,
        };
        Some(Self { shape: view.shape().to_vec(), data })
    }

    /// Copies a computed tensor to the host.
    ///
    /// # Errors
    /// The device failed.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
        let data = if tensor.dtype().is_int() {
            Data::Integers(flat.to_dtype(DType::I64)?.to_vec1()?)
        } else {
            Data::Floats(flat.to_dtype(DType::F64)?.to_vec1()?)
        };
        Ok(Self { shape: tensor.dims().to_vec(), data })
    }

    /// As a tensor: integers in I64, floats in F32.
    ///
    /// # Errors
    /// The device failed.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        let tensor = match &self.data {
            Data::Integers(data) => Tensor::from_slice(data, self.shape.as_slice(), &Device::Cpu)?,
            Data::Floats(data) => {
                let data: Vec<_> = data.iter().map(|&v| v as f32).collect();
                Tensor::from_vec(data, self.shape.as_slice(), &Device::Cpu)?
            }
        };
        Ok(tensor.to_device(device)?)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Integers(data) => data.len(),
            Data::Floats(data) => data.len(),
        }
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether these are integers.
    pub fn is_integer(&self) -> bool {
        matches!(self.data, Data::Integers(_))
    }

    /// The integers.
    ///
    /// # Errors
    /// These are floats.
    pub fn integers(&self) -> Result<&[i64]> {
        match &self.data {
            Data::Integers(data) => Ok(data),
            Data::Floats(_) => Err(Error::argument("tensor", "floats", "integers")),
        }
    }

    /// Element `at` as f64 (integers above 2^53 lose digits; comparison does not go through here).
    pub(super) fn float(&self, at: usize) -> f64 {
        match &self.data {
            Data::Integers(data) => data[at] as f64,
            Data::Floats(data) => data[at],
        }
    }
}
