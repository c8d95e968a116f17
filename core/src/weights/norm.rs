//! Weight norm taken back to plain weights.

use candle_core::{Device, Shape, Tensor};

use super::Weights;
use crate::Result;

/// Names of length and direction: the way published checkpoints have them, and the way newer torch saves them.
const SPELLINGS: [(&str, &str); 2] =
    [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")];

impl Weights {
    /// The weight of a convolution with weight norm over its first dimension, in either spelling, or as a plain `weight`
    /// where the norm was taken back before saving. What is missing is reported as `weight_g` and `weight_v`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn weight_norm(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.weight_norm_over(shape, 0)
    }

    /// As [`Weights::weight_norm`], with one length for each index of dimension `dim` (torch's `weight_norm(dim=..)`).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn weight_norm_over(&self, shape: impl Into<Shape>, dim: usize) -> Result<Tensor> {
        let shape = shape.into();
        let spelling = SPELLINGS.into_iter().find(|(g, v)| self.has(g) || self.has(v));
        let (g, v) = match spelling {
            None if self.has("weight") => return self.tensor(shape, "weight"),
            found => found.unwrap_or(SPELLINGS[0]),
        };
        let mut lengths = vec![1; shape.rank()];
        lengths[dim] = shape.dims()[dim];
        let (Some(g), Some(mut v)) = (self.values(&lengths, g)?, self.values(shape.dims(), v)?) else {
            return self.placeholder(&shape, self.dtype());
        };
        let inner: usize = shape.dims()[dim + 1..].iter().product();
        let mut squares = vec![0f64; g.len()];
        for (run, index) in v.chunks(inner.max(1)).zip((0..g.len()).cycle()) {
            squares[index] += run.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        }
        let scales: Vec<f32> = g
            .iter()
            .zip(&squares)
            // No direction gives no weight; torch divides zero by zero there.
            .map(|(&g, &square)| if square > 0.0 { (f64::from(g) / square.sqrt()) as f32 } else { 0.0 })
            .collect();
        for (run, scale) in v.chunks_mut(inner.max(1)).zip(scales.iter().cycle()) {
            run.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(Tensor::from_vec(v, shape, &Device::Cpu)?.to_dtype(self.dtype())?.to_device(self.device())?)
    }

    /// Values of a tensor as f32, or nothing where it cannot be read.
    fn values(&self, shape: &[usize], name: &str) -> Result<Option<Vec<f32>>> {
        let Some(full) = self.claim(name, shape) else { return Ok(None) };
        let mut values = Vec::with_capacity(shape.iter().product());
        self.shared.source.read_shaped(&full, shape, &mut |piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(Some(values))
    }
}
