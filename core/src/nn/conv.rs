//! One-dimensional convolutions without padding of their own, and reflection padding.

use std::fmt;

use candle_core::{Device, Result, Tensor};

use super::{
    filter::{Filter, Geometry},
    slices,
};

/// Geometry of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv1dConfig {
    /// Step between windows, in samples.
    pub stride: usize,
    /// Step between taps, in samples.
    pub dilation: usize,
}

impl Default for Conv1dConfig {
    fn default() -> Self {
        Self { stride: 1, dilation: 1 }
    }
}

/// The weight as the kernel or as candle takes it; held once.
#[derive(Clone)]
enum Store {
    Filter(Filter),
    Plain(Tensor),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Filter(_)) { "filter" } else { "plain" })
    }
}

/// Valid convolution (no padding): weight `[out, in, kernel]`.
#[derive(Debug, Clone)]
pub struct Conv1d {
    weight: Store,
    dims: (usize, usize, usize),
    bias: Option<Tensor>,
    config: Conv1dConfig,
}

impl Conv1d {
    /// From a plain weight `[out, in, kernel]` and bias `[out]`.
    ///
    /// # Errors
    /// The weight is not three-dimensional or empty, or a step is zero.
    pub fn new(weight: &Tensor, bias: Option<Tensor>, config: Conv1dConfig) -> Result<Self> {
        let dims @ (outputs, inputs, kernel) = weight.dims3()?;
        if weight.elem_count() == 0 || config.stride == 0 || config.dilation == 0 {
            candle_core::bail!("convolution {dims:?} with {config:?}");
        }
        let store = if slices::is_plain(weight) && bias.as_ref().is_none_or(slices::is_plain) {
            Store::Filter(slices::with(weight, |w| {
                Filter::new(outputs, inputs, kernel, |o, i, k| w[(o * inputs + i) * kernel + k])
            })?)
        } else {
            Store::Plain(weight.contiguous()?)
        };
        Ok(Self { weight: store, dims, bias, config })
    }

    /// Taps of the kernel.
    pub fn kernel_size(&self) -> usize {
        self.dims.2
    }

    /// `xs [batch, in, time]` to `[batch, out, (time - dilation * (kernel - 1) - 1) / stride + 1]`.
    ///
    /// # Errors
    /// A shape does not fit, or the input is shorter than the kernel.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (outputs, inputs, kernel) = self.dims;
        let Conv1dConfig { stride, dilation } = self.config;
        let (batch, channels, time) = xs.dims3()?;
        let span = dilation * (kernel - 1) + 1;
        if channels != inputs || time < span {
            candle_core::bail!("convolution of {:?} with {:?}, taps {dilation} apart", xs.dims(), self.dims);
        }
        match &self.weight {
            Store::Filter(filter) if slices::is_plain(xs) => {
                let length = (time - span) / stride + 1;
                let geometry = Geometry { stride, dilation, before: 0, length, interleave: 1, total: length };
                run(filter, xs, time, geometry, self.bias.as_ref(), (batch, outputs, length))
            }
            store => {
                let weight = store.to_tensor(self.dims)?;
                add_bias(xs.conv1d(&weight, 0, stride, dilation, 1)?, self.bias.as_ref())
            }
        }
    }
}

impl Store {
    /// The weight as it was given.
    fn to_tensor(&self, dims: (usize, usize, usize)) -> Result<Tensor> {
        match self {
            Self::Plain(weight) => Ok(weight.clone()),
            Self::Filter(filter) => Tensor::from_vec(filter.weights(), dims, &Device::Cpu),
        }
    }
}

fn run(
    filter: &Filter,
    xs: &Tensor,
    time: usize,
    geometry: Geometry,
    bias: Option<&Tensor>,
    shape: (usize, usize, usize),
) -> Result<Tensor> {
    let mut out = slices::zeros(shape.0 * shape.1 * shape.2)?;
    slices::with2(xs, bias, |xs, bias| filter.run(xs, time, geometry, bias, &mut out))?;
    Tensor::from_vec(out, shape, &Device::Cpu)
}

/// Transposed convolution without padding or output padding: weight `[in, out, kernel]`.
#[derive(Debug, Clone)]
pub struct ConvTranspose1d {
    weight: Store,
    dims: (usize, usize, usize),
    bias: Option<Tensor>,
    stride: usize,
}

impl ConvTranspose1d {
    /// From a plain weight `[in, out, kernel]` and bias `[out]`.
    ///
    /// # Errors
    /// The weight is not three-dimensional or empty, or `stride` is zero.
    pub fn new(weight: &Tensor, bias: Option<Tensor>, stride: usize) -> Result<Self> {
        let dims @ (inputs, outputs, kernel) = weight.dims3()?;
        if weight.elem_count() == 0 || stride == 0 {
            candle_core::bail!("transposed convolution {dims:?} of stride {stride}");
        }
        let store = if slices::is_plain(weight) && bias.as_ref().is_none_or(slices::is_plain) {
            // Output `t * stride + phase` is a convolution with every `stride`-th tap from `phase`, last tap first.
            let taps = kernel.div_ceil(stride);
            Store::Filter(slices::with(weight, |w| {
                Filter::new(outputs * stride, inputs, taps, |o, i, k| {
                    let tap = (taps - 1 - k) * stride + o % stride;
                    if tap < kernel { w[(i * outputs + o / stride) * kernel + tap] } else { 0.0 }
                })
            })?)
        } else {
            Store::Plain(weight.contiguous()?)
        };
        Ok(Self { weight: store, dims, bias, stride })
    }

    /// Taps of the kernel.
    pub fn kernel_size(&self) -> usize {
        self.dims.2
    }

    /// `xs [batch, in, time]` to `[batch, out, (time - 1) * stride + kernel]`.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (inputs, outputs, kernel) = self.dims;
        let (batch, channels, time) = xs.dims3()?;
        if channels != inputs || time == 0 {
            candle_core::bail!("transposed convolution of {:?} with {:?}", xs.dims(), self.dims);
        }
        match &self.weight {
            Store::Filter(filter) if slices::is_plain(xs) => {
                let taps = kernel.div_ceil(self.stride);
                let geometry = Geometry {
                    stride: 1,
                    dilation: 1,
                    before: taps - 1,
                    length: time + taps - 1,
                    interleave: self.stride,
                    total: (time - 1) * self.stride + kernel,
                };
                run(filter, xs, time, geometry, self.bias.as_ref(), (batch, outputs, geometry.total))
            }
            Store::Filter(_) => candle_core::bail!("a transposed convolution loaded for the CPU has no gradients"),
            Store::Plain(weight) => add_bias(xs.conv_transpose1d(weight, 0, 0, self.stride, 1, 1)?, self.bias.as_ref()),
        }
    }
}

fn add_bias(ys: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => ys.broadcast_add(&bias.reshape((1, (), 1))?),
        None => Ok(ys),
    }
}

/// Mirrors `left` and `right` samples around the ends of `xs [batch, channels, time]`, ends not repeated.
///
/// # Errors
/// The input is not longer than either padding.
pub fn pad_reflect(xs: &Tensor, left: usize, right: usize) -> Result<Tensor> {
    let (batch, channels, time) = xs.dims3()?;
    if left.max(right) >= time {
        candle_core::bail!("reflection of {left} and {right} samples needs more than {time}");
    }
    let total = left + time + right;
    if slices::is_plain(xs) {
        let mut out = slices::zeros(batch * channels * total)?;
        slices::with(xs, |xs| {
            for (xs, out) in xs.chunks_exact(time).zip(out.chunks_exact_mut(total)) {
                out[left..left + time].copy_from_slice(xs);
                (0..left).for_each(|i| out[i] = xs[left - i]);
                (0..right).for_each(|i| out[left + time + i] = xs[time - 2 - i]);
            }
        })?;
        return Tensor::from_vec(out, (batch, channels, total), &Device::Cpu);
    }
    let order: Vec<u32> = (0..total)
        .map(|i| {
            let at = (i as i64 - left as i64).abs();
            let last = time as i64 - 1;
            (last - (last - at).abs()) as u32
        })
        .collect();
    xs.contiguous()?.index_select(&Tensor::from_vec(order, total, xs.device())?, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{
        pool::with_threads,
        testing::{assert_close, noise},
    };

    #[test]
    fn convolutions_agree_with_candle() {
        for (batch, inputs, outputs, kernel, stride, dilation, time) in [
            (1, 1, 64, 7, 1, 1, 1000),
            (2, 32, 1, 7, 1, 1, 333),
            (1, 5, 9, 3, 1, 2, 50),
            (2, 16, 32, 8, 4, 1, 203),
            (1, 3, 17, 10, 5, 3, 400),
            (1, 64, 128, 16, 8, 1, 97),
            (1, 1, 1, 1, 3, 1, 1),
            (1, 300, 24, 4, 2, 1, 700),
        ] {
            let (weight, bias) = (noise(&[outputs, inputs, kernel], 1), noise(&[outputs], 2));
            let xs = noise(&[batch, inputs, time], 3);
            let config = Conv1dConfig { stride, dilation };
            let conv = Conv1d::new(&weight, Some(bias.clone()), config).unwrap();
            let plain = add_bias(xs.conv1d(&weight, 0, stride, dilation, 1).unwrap(), Some(&bias)).unwrap();
            for threads in 1..4 {
                let ys = with_threads(threads, || conv.forward(&xs).unwrap());
                assert_close(&ys, &plain, 3e-6 * (inputs * kernel) as f32 + 1e-5);
            }
            // Gradients take candle's own operation, with the same weight.
            let tracked = candle_core::Var::from_tensor(&xs).unwrap();
            assert_close(&conv.forward(&tracked).unwrap(), &plain, 1e-6);
        }
        let conv = Conv1d::new(&noise(&[1, 2, 7], 1), None, Conv1dConfig::default()).unwrap();
        assert!(conv.forward(&noise(&[1, 2, 6], 1)).is_err() && conv.forward(&noise(&[1, 3, 9], 1)).is_err());
    }

    #[test]
    fn transposed_convolutions_agree_with_candle() {
        for (batch, inputs, outputs, kernel, stride, time) in [
            (1, 8, 4, 8, 4, 100),
            (2, 64, 32, 10, 5, 61),
            (1, 3, 5, 7, 3, 20),
            (1, 2, 1, 3, 5, 9),
            (1, 100, 64, 16, 8, 1),
        ] {
            let (weight, bias) = (noise(&[inputs, outputs, kernel], 1), noise(&[outputs], 2));
            let xs = noise(&[batch, inputs, time], 3);
            let conv = ConvTranspose1d::new(&weight, Some(bias.clone()), stride).unwrap();
            // One element at a time: candle's own is wrong for more.
            let plain: Vec<_> = (0..batch)
                .map(|b| xs.narrow(0, b, 1)?.contiguous()?.conv_transpose1d(&weight, 0, 0, stride, 1, 1))
                .collect::<Result<_>>()
                .unwrap();
            let plain = add_bias(Tensor::cat(&plain, 0).unwrap(), Some(&bias)).unwrap();
            for threads in 1..4 {
                let ys = with_threads(threads, || conv.forward(&xs).unwrap());
                assert_close(&ys, &plain, 3e-6 * (inputs * kernel) as f32 + 1e-5);
            }
        }
    }

    #[test]
    fn reflection() {
        let xs = Tensor::new(&[[[0f32, 1.0, 2.0, 3.0]]], &Device::Cpu).unwrap();
        let want = [3f32, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 1.0];
        let tracked = candle_core::Var::from_tensor(&xs).unwrap();
        for xs in [&xs, tracked.as_tensor()] {
            assert_eq!(pad_reflect(xs, 3, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), want);
        }
        assert!(pad_reflect(&xs, 4, 0).is_err());
    }
}
