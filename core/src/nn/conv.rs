//! One-dimensional convolutions without padding of their own, and reflection padding.

use candle_core::{Result, Tensor};

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

/// Valid convolution (no padding): weight `[out, in, kernel]`.
#[derive(Debug, Clone)]
pub struct Conv1d {
    weight: Tensor,
    bias: Option<Tensor>,
    config: Conv1dConfig,
}

impl Conv1d {
    /// From a plain weight `[out, in, kernel]` and bias `[out]`.
    ///
    /// # Errors
    /// The weight is not three-dimensional.
    pub fn new(weight: &Tensor, bias: Option<Tensor>, config: Conv1dConfig) -> Result<Self> {
        Ok(Self { weight: weight.contiguous()?, bias, config })
    }

    /// Taps of the kernel.
    pub fn kernel_size(&self) -> usize {
        self.weight.dims()[2]
    }

    /// `xs [batch, in, time]` to `[batch, out, (time - dilation * (kernel - 1) - 1) / stride + 1]`.
    ///
    /// # Errors
    /// A shape does not fit, or the input is shorter than the kernel.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = xs.conv1d(&self.weight, 0, self.config.stride, self.config.dilation, 1)?;
        add_bias(ys, self.bias.as_ref())
    }
}

/// Transposed convolution without padding or output padding: weight `[in, out, kernel]`.
#[derive(Debug, Clone)]
pub struct ConvTranspose1d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
}

impl ConvTranspose1d {
    /// From a plain weight `[in, out, kernel]` and bias `[out]`.
    ///
    /// # Errors
    /// The weight is not three-dimensional.
    pub fn new(weight: &Tensor, bias: Option<Tensor>, stride: usize) -> Result<Self> {
        Ok(Self { weight: weight.contiguous()?, bias, stride })
    }

    /// Taps of the kernel.
    pub fn kernel_size(&self) -> usize {
        self.weight.dims()[2]
    }

    /// `xs [batch, in, time]` to `[batch, out, (time - 1) * stride + kernel]`.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        // candle 0.11 mixes the samples of a batch up here, so each is convolved alone.
        let ys = (0..xs.dim(0)?)
            .map(|i| xs.narrow(0, i, 1)?.conv_transpose1d(&self.weight, 0, 0, self.stride, 1, 1))
            .collect::<Result<Vec<_>>>()?;
        add_bias(Tensor::cat(&ys, 0)?, self.bias.as_ref())
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
    let time = xs.dims3()?.2;
    if left.max(right) >= time {
        candle_core::bail!("reflection of {left} and {right} samples needs more than {time}");
    }
    let order: Vec<u32> = (0..left + time + right)
        .map(|i| {
            let at = (i as i64 - left as i64).abs();
            let last = time as i64 - 1;
            (last - (last - at).abs()) as u32
        })
        .collect();
    let len = order.len();
    xs.contiguous()?.index_select(&Tensor::from_vec(order, len, xs.device())?, 2)
}
