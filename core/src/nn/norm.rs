//! Layer norm and RMS norm over the last dimension.

use candle_core::{D, Device, Result, Tensor};

use super::{
    pool,
    simd::{Kernel, Simd, dispatch},
    slices,
};
use crate::weights::Weights;

/// `(x - mean) / sqrt(var + eps) * weight + bias`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads `weight [dim]` and `bias [dim]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(dim: usize, eps: f64, weights: &Weights) -> crate::Result<Self> {
        Ok(Self { weight: weights.tensor(dim, "weight")?, bias: weights.tensor(dim, "bias")?, eps })
    }

    /// `xs [.., dim]` to the same shape.
    ///
    /// # Errors
    /// The last dimension is not `dim`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        if let Some(ys) = fast(xs, &self.weight, Some(&self.bias), self.eps)? {
            return Ok(ys);
        }
        let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
        let var = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred.broadcast_div(&(var + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// `x / sqrt(mean(x²) + eps) * weight`: no mean, no bias.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Loads `weight [dim]`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(dim: usize, eps: f64, weights: &Weights) -> crate::Result<Self> {
        Ok(Self { weight: weights.tensor(dim, "weight")?, eps })
    }

    /// `xs [.., dim]` to the same shape.
    ///
    /// # Errors
    /// The last dimension is not `dim`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        if let Some(ys) = fast(xs, &self.weight, None, self.eps)? {
            return Ok(ys);
        }
        let mean_square = xs.sqr()?.mean_keepdim(D::Minus1)?;
        xs.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight)
    }
}

/// The kernel, where it may be used: layer norm with a bias, RMS norm without.
fn fast(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Option<Tensor>> {
    let Some(&dim) = xs.dims().last() else { return Ok(None) };
    let fits = |v: &Tensor| slices::is_plain(v) && v.dims() == [dim];
    if !slices::is_plain(xs) || !fits(weight) || !bias.is_none_or(fits) || dim == 0 || dim % 16 != 0 {
        return Ok(None);
    }
    let mut out = slices::zeros(xs.elem_count())?;
    slices::with(xs, |xs| {
        slices::with2(weight, bias, |weight, bias| {
            pool::rows_mut(&mut out, dim, dim * 3, |first, out| {
                let xs = &xs[first * dim..first * dim + out.len()];
                let (weight, bias) = (weight.as_chunks().0, bias.map(|bias| bias.as_chunks().0));
                dispatch(Rows { xs, weight, bias, eps: eps as f32, out });
            });
        })
    })??;
    Tensor::from_vec(out, xs.dims(), &Device::Cpu).map(Some)
}

struct Rows<'a> {
    xs: &'a [f32],
    weight: &'a [[f32; 16]],
    bias: Option<&'a [[f32; 16]]>,
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.weight.len();
        let dim = (16 * steps) as f32;
        let xs = self.xs.as_chunks::<16>().0.chunks_exact(steps);
        let out = self.out.as_chunks_mut::<16>().0.chunks_exact_mut(steps);
        for (xs, out) in xs.zip(out) {
            let mut mean = 0.0;
            if self.bias.is_some() {
                let mut sum = s.splat(0.0);
                for x in xs {
                    sum = s.add(sum, s.load(x));
                }
                mean = s.sum(sum) / dim;
            }
            let mean = s.splat(mean);
            let mut squares = s.splat(0.0);
            for x in xs {
                let x = s.sub(s.load(x), mean);
                squares = s.fma(x, x, squares);
            }
            let scale = s.splat(1.0 / (s.sum(squares) / dim + self.eps).sqrt());
            for (i, (x, out)) in xs.iter().zip(out).enumerate() {
                let x = s.mul(s.mul(s.sub(s.load(x), mean), scale), s.load(&self.weight[i]));
                s.store(self.bias.map_or(x, |bias| s.add(x, s.load(&bias[i]))), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{assert_close, noise};

    #[test]
    fn kernels_agree_with_candle() {
        for (rows, dim) in [(1, 16), (3, 1024), (70, 768), (2, 20)] {
            let (weight, bias) = (noise(&[dim], 1), noise(&[dim], 2));
            let xs = noise(&[2, rows, dim], 3).affine(3.0, 2.0).unwrap();
            // A gradient that is wanted takes the plain path.
            let tracked = candle_core::Var::from_tensor(&xs).unwrap();
            let layer = LayerNorm { weight: weight.clone(), bias, eps: 1e-5 };
            assert_close(&layer.forward(&xs).unwrap(), &layer.forward(&tracked).unwrap(), 5e-6);
            let rms = RmsNorm { weight, eps: 1e-6 };
            assert_close(&rms.forward(&xs).unwrap(), &rms.forward(&tracked).unwrap(), 5e-6);
            assert!(rms.forward(&tracked).unwrap().sum_all().unwrap().backward().unwrap().get(&tracked).is_some());
        }
    }
}
