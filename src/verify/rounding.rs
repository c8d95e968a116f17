//! What rounding the weights alone does: the yardstick for formats below 32 bits.
//!
//! The weights are rounded here by candle's own conversions, not by the kernels that are being checked, and run through the
//! f32 arithmetic of the CPU.

use std::collections::BTreeMap;

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use musaic_core::{
    Result, WeightFormat,
    testing::{Data, Values},
    weights::Source,
};

/// Times the rounding error that a format may be off: the arithmetic may round again, in activations and in sums.
pub const MARGIN: f64 = 4.0;

/// A source whose numbers are rounded to a format and widened again.
pub struct Rounded<S> {
    inner: S,
    format: WeightFormat,
}

impl<S: Source> Rounded<S> {
    /// Rounds what `inner` gives.
    pub fn new(inner: S, format: WeightFormat) -> Self {
        Self { inner, format }
    }
}

impl<S: Source> Source for Rounded<S> {
    fn label(&self) -> String {
        format!("{} rounded to {}", self.inner.label(), self.format)
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        self.inner.tensors()
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let mut values = Vec::new();
        self.inner.read(name, &mut |piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        let shape = self.tensors().get(name).cloned().unwrap_or_default();
        sink(&round(values, &shape, self.format)?)
    }
}

fn round(values: Vec<f32>, shape: &[usize], format: WeightFormat) -> Result<Vec<f32>> {
    let through = |dtype| -> Result<Vec<f32>> {
        let tensor = Tensor::from_slice(&values, values.len(), &Device::Cpu)?;
        Ok(tensor.to_dtype(dtype)?.to_dtype(DType::F32)?.to_vec1()?)
    };
    let blocks = |dtype: GgmlDType| -> Result<Vec<f32>> {
        // Quantised formats hold matrices whose rows are whole blocks; everything else stays as it is.
        let whole = shape.len() == 2 && shape[1].is_multiple_of(dtype.block_size());
        if !whole {
            return Ok(values.clone());
        }
        let tensor = Tensor::from_slice(&values, shape, &Device::Cpu)?;
        Ok(QTensor::quantize(&tensor, dtype)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    };
    match format {
        WeightFormat::F32 => Ok(values),
        WeightFormat::Bf16 => through(DType::BF16),
        WeightFormat::F16 => through(DType::F16),
        WeightFormat::Q8_0 => blocks(GgmlDType::Q8_0),
        WeightFormat::Q4K => blocks(GgmlDType::Q4K),
    }
}

/// By tensor name, how far a format may be off: [`MARGIN`] times the largest difference that rounding the weights makes.
pub fn bounds(original: &[(String, Values)], rounded: &[(String, Values)]) -> BTreeMap<String, f64> {
    let rounded: BTreeMap<_, _> = rounded.iter().map(|(name, values)| (name, values)).collect();
    original
        .iter()
        .filter_map(|(name, original)| {
            let (Data::Floats(a), Data::Floats(b)) = (&original.data, &rounded.get(name)?.data) else { return None };
            let largest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            Some((name.clone(), MARGIN * largest))
        })
        .collect()
}
