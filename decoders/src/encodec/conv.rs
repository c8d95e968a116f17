//! Convolutions with the paddings, cuts and norms of the SEANet stacks, whole or in blocks.
//!
//! Every layer works in two ways that give the same numbers: `forward` on a whole signal, and `push` on consecutive blocks
//! of it. A `push` gives all outputs whose inputs are known, so it lags by the right context of the layer; the block marked
//! `last` brings the rest.

use candle_core::{D, DType, Result, Tensor};
use musaic_core::{
    nn::{Conv1d, Conv1dConfig, ConvTranspose1d},
    weights::Weights,
};

use super::config::{EncodecConfig, NormType, PadMode};

/// Group norm with one group: over channels and time.
#[derive(Debug, Clone)]
struct TimeGroupNorm {
    weight: Tensor,
    bias: Tensor,
}

impl TimeGroupNorm {
    const EPS: f64 = 1e-5;

    fn load(config: &EncodecConfig, dim: usize, weights: &Weights) -> musaic_core::Result<Option<Self>> {
        if config.norm_type != NormType::TimeGroupNorm {
            return Ok(None);
        }
        let weights = weights.pp("norm");
        Ok(Some(Self { weight: weights.tensor(dim, "weight")?, bias: weights.tensor(dim, "bias")? }))
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let flat = xs.to_dtype(DType::F32)?.flatten_from(1)?;
        let flat = flat.broadcast_sub(&flat.mean_keepdim(D::Minus1)?)?;
        let deviation = (flat.sqr()?.mean_keepdim(D::Minus1)? + Self::EPS)?.sqrt()?;
        let ys = flat.broadcast_div(&deviation)?.to_dtype(xs.dtype())?.reshape(xs.shape())?;
        ys.broadcast_mul(&self.weight.reshape((1, (), 1))?)?.broadcast_add(&self.bias.reshape((1, (), 1))?)
    }
}

/// The weight of one convolution: plain, or `g * v / |v|` with the norm over all dimensions but the first, under the old
/// names (`weight_g`, `weight_v`) or the new ones (`parametrizations.weight.original0`, `original1`).
fn load_weight(config: &EncodecConfig, shape: (usize, usize, usize), weights: &Weights) -> musaic_core::Result<Tensor> {
    const NEW: [&str; 2] = ["parametrizations.weight.original0", "parametrizations.weight.original1"];
    const OLD: [&str; 2] = ["weight_g", "weight_v"];
    let folded = weights.has("weight") && !weights.has(OLD[1]);
    let weight = if config.norm_type == NormType::TimeGroupNorm || folded {
        weights.tensor(shape, "weight")?
    } else {
        let [length, direction] = if weights.has(NEW[1]) { NEW } else { OLD };
        let length = weights.tensor_as((shape.0, 1, 1), length, DType::F32)?;
        let direction = weights.tensor_as(shape, direction, DType::F32)?;
        if weights.has_values() {
            let norm = direction.sqr()?.sum_keepdim((1, 2))?.sqrt()?;
            direction.broadcast_mul(&(length / norm)?)?.to_dtype(weights.dtype())?
        } else {
            direction
        }
    };
    // Without values one tap stands for all, so that nothing of the layer's size is allocated.
    if weights.has_values() { Ok(weight) } else { Ok(weight.narrow(0, 0, 1)?.narrow(1, 0, 1)?) }
}

/// Convolution that keeps `ceil(time / stride)` frames.
#[derive(Debug, Clone)]
pub(super) struct PaddedConv {
    conv: Conv1d,
    norm: Option<TimeGroupNorm>,
    mode: PadMode,
    /// Samples one window spans.
    window: usize,
    stride: usize,
    left: usize,
    right: usize,
}

/// Form of a [`PaddedConv`].
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvShape {
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
}

/// What a [`PaddedConv`] remembers between blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct ConvState {
    /// End of the signal so far, with the left padding once that is known.
    buffer: Option<Tensor>,
    /// Where the next window begins in the buffer; none before the left padding is known.
    next: Option<usize>,
    /// Samples of the signal so far.
    seen: usize,
}

impl PaddedConv {
    pub(super) fn load(config: &EncodecConfig, shape: ConvShape, weights: &Weights) -> musaic_core::Result<Self> {
        let ConvShape { input, output, kernel, stride, dilation } = shape;
        let norm = TimeGroupNorm::load(config, output, weights)?;
        let weights = weights.pp("conv");
        let weight = load_weight(config, (output, input, kernel), &weights)?;
        let bias = weights.tensor(output, "bias")?;
        let conv = Conv1d::new(&weight, Some(bias), Conv1dConfig { stride, dilation })?;
        let window = (kernel - 1) * dilation + 1;
        let total = window - stride;
        let right = if config.use_causal_conv { 0 } else { total / 2 };
        Ok(Self { conv, norm, mode: config.pad_mode, window, stride, left: total - right, right })
    }

    /// Zeros or mirrored samples that make the last window full, after a signal of `time` samples.
    fn extra(&self, time: usize) -> usize {
        time.next_multiple_of(self.stride) - time
    }

    /// `[batch, in, time]` to `[batch, out, ceil(time / stride)]`.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let right = self.right + self.extra(xs.dim(2)?);
        self.convolve(&pad(xs, self.left, right, self.mode)?)
    }

    fn convolve(&self, padded: &Tensor) -> Result<Tensor> {
        let ys = self.conv.forward(&padded.contiguous()?)?;
        match &self.norm {
            Some(norm) => norm.forward(&ys),
            None => Ok(ys),
        }
    }

    /// The next block of the signal; see the head of the module.
    pub(super) fn push(&self, state: &mut ConvState, xs: Option<Tensor>, last: bool) -> Result<Option<Tensor>> {
        state.seen += time_of(xs.as_ref())?;
        let Some(mut buffer) = join(state.buffer.take(), xs)? else { return Ok(None) };
        let mut next = match state.next {
            Some(next) => next,
            None => {
                // Mirroring needs more samples than it makes; a signal that ends before is short and padded as a whole.
                let needed = self.left.max(self.right + self.stride - 1) + 1;
                if state.seen < needed {
                    if last {
                        return self.forward(&buffer).map(Some);
                    }
                    state.buffer = Some(buffer);
                    return Ok(None);
                }
                buffer = pad(&buffer, self.left, 0, self.mode)?;
                0
            }
        };
        if last {
            buffer = pad(&buffer, 0, self.right + self.extra(state.seen), self.mode)?;
        }
        let length = buffer.dim(2)?;
        let windows = if next + self.window <= length { (length - next - self.window) / self.stride + 1 } else { 0 };
        let ys = if windows == 0 {
            None
        } else {
            let span = (windows - 1) * self.stride + self.window;
            Some(self.convolve(&buffer.narrow(2, next, span)?)?)
        };
        next += windows * self.stride;
        if !last {
            // Beside the windows to come, the right padding mirrors this many samples.
            let mirrored = match self.right + self.stride - 1 {
                0 => 0,
                padding => padding + 1,
            };
            let drop = next.min(length.saturating_sub(mirrored));
            state.next = Some(next - drop);
            state.buffer = if drop == length { None } else { Some(tail(&buffer, drop)?) };
        }
        Ok(ys)
    }
}

/// Transposed convolution that gives `time * stride` samples.
#[derive(Debug, Clone)]
pub(super) struct PaddedConvTranspose {
    conv: ConvTranspose1d,
    norm: Option<TimeGroupNorm>,
    stride: usize,
    /// Samples cut from both ends of the plain result.
    left: usize,
    right: usize,
}

/// What a [`PaddedConvTranspose`] remembers between blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct TransposeState {
    /// The last input, which reaches into the next block's samples.
    context: Option<Tensor>,
}

impl PaddedConvTranspose {
    /// A kernel of twice the stride.
    pub(super) fn load(
        config: &EncodecConfig,
        input: usize,
        output: usize,
        stride: usize,
        weights: &Weights,
    ) -> musaic_core::Result<Self> {
        let norm = TimeGroupNorm::load(config, output, weights)?;
        let weights = weights.pp("conv");
        let weight = load_weight(config, (input, output, 2 * stride), &weights)?;
        let bias = weights.tensor(output, "bias")?;
        let conv = ConvTranspose1d::new(&weight, Some(bias), stride)?;
        let total = stride;
        let right =
            if config.use_causal_conv { (total as f64 * config.trim_right_ratio).ceil() as usize } else { total / 2 };
        Ok(Self { conv, norm, stride, left: total - right, right })
    }

    /// `[batch, in, time]` to `[batch, out, time * stride]`.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = self.conv.forward(&xs.contiguous()?)?;
        let ys = match &self.norm {
            Some(norm) => norm.forward(&ys)?,
            None => ys,
        };
        let time = ys.dim(2)?;
        ys.narrow(2, self.left, time - self.left - self.right)
    }

    /// The next block of the signal; see the head of the module.
    pub(super) fn push(&self, state: &mut TransposeState, xs: Option<Tensor>, last: bool) -> Result<Option<Tensor>> {
        let context = state.context.take();
        let first = context.is_none();
        let Some(inputs) = join(context, xs)? else { return Ok(None) };
        let time = inputs.dim(2)?;
        let plain = self.conv.forward(&inputs.contiguous()?)?;
        // Samples of the context were given before; those behind the last input wait for the next one.
        let start = if first { self.left } else { self.stride };
        let end = if last { plain.dim(2)? - self.right } else { time * self.stride };
        if !last {
            state.context = Some(tail(&inputs, time - 1)?);
        }
        if end > start { plain.narrow(2, start, end - start).map(Some) } else { Ok(None) }
    }
}

fn time_of(xs: Option<&Tensor>) -> Result<usize> {
    xs.map_or(Ok(0), |xs| xs.dim(2))
}

/// Both parts one after the other in time.
pub(super) fn join(head: Option<Tensor>, tail: Option<Tensor>) -> Result<Option<Tensor>> {
    match (head, tail) {
        (Some(head), Some(tail)) => Tensor::cat(&[head, tail], 2).map(Some),
        (part, None) | (None, part) => Ok(part),
    }
}

/// The samples from `start` on, without holding on to those before.
pub(super) fn tail(xs: &Tensor, start: usize) -> Result<Tensor> {
    if start == 0 {
        return Ok(xs.clone());
    }
    xs.narrow(2, start, xs.dim(2)? - start)?.contiguous()
}

/// `left` and `right` more samples at the ends of `xs [batch, channels, time]`.
///
/// A signal not longer than the larger padding is first made long enough with zeros on its right, and as many samples are
/// cut off the result.
fn pad(xs: &Tensor, left: usize, right: usize, mode: PadMode) -> Result<Tensor> {
    if left.max(right) == 0 {
        return Ok(xs.clone());
    }
    if mode == PadMode::Constant {
        return xs.pad_with_zeros(2, left, right);
    }
    let time = xs.dim(2)?;
    let short = (left.max(right) + 1).saturating_sub(time);
    if short > 0 {
        let long = mirror(&xs.pad_with_zeros(2, 0, short)?, left, right)?;
        return long.narrow(2, 0, left + time + right);
    }
    mirror(xs, left, right)
}

/// Reflection; only the few mirrored samples are gathered one by one.
fn mirror(xs: &Tensor, left: usize, right: usize) -> Result<Tensor> {
    let last = xs.dim(2)? - 1;
    let gather = |order: Vec<u32>| {
        let count = order.len();
        xs.index_select(&Tensor::from_vec(order, count, xs.device())?, 2)
    };
    let mut parts = Vec::with_capacity(3);
    if left > 0 {
        parts.push(gather((1..=left as u32).rev().collect())?);
    }
    parts.push(xs.clone());
    if right > 0 {
        parts.push(gather((last - right..last).rev().map(|at| at as u32).collect())?);
    }
    Tensor::cat(&parts, 2)
}
