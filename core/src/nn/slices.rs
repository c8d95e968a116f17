//! Tensors as slices of f32.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};

/// Whether a kernel without a gradient may take `xs`: f32 on the main processor, and nobody wants its gradient.
pub(super) fn is_plain(xs: &Tensor) -> bool {
    matches!(xs.device(), Device::Cpu) && xs.dtype() == DType::F32 && !xs.track_op()
}

/// Runs `f` on the values of an f32 tensor of the main processor, in row-major order.
pub(super) fn with<R>(xs: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((begin, end))) => Ok(f(&values[begin..end])),
        _ => bail!("a kernel of the main processor got {:?} on {:?}", xs.dtype(), xs.device()),
    }
}

/// As [`with`], for a tensor and another that may be left out.
pub(super) fn with2<R>(xs: &Tensor, ys: Option<&Tensor>, f: impl FnOnce(&[f32], Option<&[f32]>) -> R) -> Result<R> {
    with(xs, |xs| match ys {
        Some(ys) => with(ys, |ys| f(xs, Some(ys))),
        None => Ok(f(xs, None)),
    })?
}

/// `count` zeros, or an error where there is no memory for them.
pub(super) fn zeros(count: usize) -> Result<Vec<f32>> {
    if count > isize::MAX as usize / 8 {
        bail!("no memory for {count} values");
    }
    Ok(vec![0.0; count])
}
