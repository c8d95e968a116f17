//! Weight matrices in the format they are stored in.

use std::{fmt, sync::Arc};

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::{
    packed::{Packed, Packer},
    product::product,
    slices,
};
use crate::WeightFormat;

/// A weight matrix `[rows, cols]` (`[out, in]`), held once.
///
/// On the CPU it is packed in its [`WeightFormat`] and read in place by the kernels; arithmetic is f32, but with quantised weights
/// activations are rounded to eight bits in groups of 32 and their products are exact. An element of a product depends only on its
/// row and column, not on the batch or the number of threads. Elsewhere, and where it was
/// made from a tensor, it is that tensor. Cheap to clone.
#[derive(Clone)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    store: Store,
}

#[derive(Clone)]
enum Store {
    Dense(Tensor),
    Packed(Arc<Packed>),
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix[{}, {}; {}]", self.rows, self.cols, self.format())
    }
}

impl Matrix {
    /// A matrix that is an ordinary tensor `[rows, cols]`, with its gradients. A tensor of another rank is taken as a
    /// matrix of its last dimension.
    pub fn from_tensor(dense: Tensor) -> Self {
        let cols = dense.dims().last().copied().unwrap_or(1);
        Self { rows: dense.elem_count() / cols.max(1), cols, store: Store::Dense(dense) }
    }

    /// Number of rows, the width of the output.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, the width of the input.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format it is really held in; see [`MatrixBuilder::new`] for when this is not the one asked for.
    pub fn format(&self) -> WeightFormat {
        match &self.store {
            Store::Packed(packed) => packed.format(),
            Store::Dense(dense) => match dense.dtype() {
                DType::BF16 => WeightFormat::Bf16,
                DType::F16 => WeightFormat::F16,
                _ => WeightFormat::F32,
            },
        }
    }

    /// `xs [.., cols]` times the transposed matrix: `[.., rows]`.
    ///
    /// # Errors
    /// The last dimension of `xs` is not `cols`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_bias(xs, None)
    }

    /// As [`Matrix::forward`], plus `bias [rows]`.
    ///
    /// # Errors
    /// The last dimension of `xs` is not `cols`.
    pub fn forward_bias(&self, xs: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut shape = xs.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.cols => *last = self.rows,
            _ => bail!("product of {:?} with a matrix [{}, {}]", xs.shape(), self.rows, self.cols),
        }
        let plain_bias = bias.is_none_or(slices::is_plain);
        match &self.store {
            Store::Packed(packed) if slices::is_plain(xs) && plain_bias => {
                let mut out = slices::zeros(shape.iter().product())?;
                slices::with2(xs, bias, |xs, bias| packed.product(xs, self.cols, bias, &mut out))?;
                return Tensor::from_vec(out, shape, &Device::Cpu);
            }
            Store::Dense(dense) if slices::is_plain(xs) && plain_bias && self.is_readable(dense) => {
                let mut out = slices::zeros(shape.iter().product())?;
                slices::with2(xs, bias, |xs, bias| {
                    slices::with(dense, |w| {
                        product(xs, self.cols, w.as_chunks::<16>().0, self.cols / 16, bias, &mut out);
                    })
                })??;
                return Tensor::from_vec(out, shape, &Device::Cpu);
            }
            _ => {}
        }
        let ys = match &self.store {
            Store::Dense(dense) => xs.reshape(((), self.cols))?.matmul(&dense.t()?)?.reshape(shape)?,
            Store::Packed(packed) => {
                let op = FrozenProduct { packed: packed.clone(), rows: self.rows, cols: self.cols };
                xs.to_dtype(DType::F32)?.contiguous()?.apply_op1(op)?
            }
        };
        bias.map_or(Ok(ys.clone()), |bias| ys.broadcast_add(bias))
    }

    pub(super) fn is_packed(&self) -> bool {
        matches!(self.store, Store::Packed(_))
    }

    /// `x [m, cols]` times the transposed matrix into `out [m, rows]`; only for a packed matrix. `x` is not rounded: this is for
    /// what goes round from step to step.
    pub(super) fn product_into(&self, x: &[f32], out: &mut [f32]) {
        if let Store::Packed(packed) = &self.store {
            packed.product_f32(x, self.cols, None, out);
        }
    }

    /// Whether the kernels can read `dense` where it lies.
    fn is_readable(&self, dense: &Tensor) -> bool {
        slices::is_plain(dense) && dense.is_contiguous() && dense.rank() == 2 && self.cols.is_multiple_of(16)
    }

    /// Rows by their numbers: `ids [..]` u32 to `[.., cols]`.
    ///
    /// # Errors
    /// An id is not below `rows`.
    pub fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        let mut shape = ids.dims().to_vec();
        shape.push(self.cols);
        match &self.store {
            Store::Dense(dense) => dense.index_select(&ids.flatten_all()?, 0)?.reshape(shape),
            Store::Packed(packed) => {
                let ids = ids.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?;
                let mut out = slices::zeros(ids.len() * self.cols)?;
                for (id, out) in ids.iter().zip(out.chunks_exact_mut(self.cols.max(1))) {
                    if *id as usize >= self.rows {
                        bail!("row {id} of a table of {}", self.rows);
                    }
                    packed.row(*id as usize, out);
                }
                Tensor::from_vec(out, shape, &Device::Cpu)
            }
        }
    }

    /// The values the products are computed with, as a tensor `[rows, cols]` (f32 where the matrix is packed).
    ///
    /// # Errors
    /// Memory runs out.
    pub fn dense(&self) -> Result<Tensor> {
        match &self.store {
            Store::Dense(dense) => Ok(dense.clone()),
            Store::Packed(packed) => packed.to_f32(self.rows, self.cols),
        }
    }

    /// Bytes this matrix takes.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::Dense(dense) => dense.elem_count() * dense.dtype().size_in_bytes(),
            Store::Packed(packed) => packed.bytes(),
        }
    }
}

/// The product with a matrix that does not learn, for inputs that do.
struct FrozenProduct {
    packed: Arc<Packed>,
    rows: usize,
    cols: usize,
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(xs), Some((begin, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("frozen-product takes contiguous f32");
        };
        let mut shape = layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.rows;
        }
        let mut out = slices::zeros(shape.iter().product())?;
        self.packed.product(&xs[begin..end], self.cols, None, &mut out);
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let dense = self.packed.to_f32(self.rows, self.cols)?;
        gradient.reshape(((), self.rows))?.matmul(&dense)?.reshape(xs.shape()).map(Some)
    }
}

/// Takes a matrix piece by piece and converts it to its format on the way; never holds more than the result and a block.
pub struct MatrixBuilder {
    rows: usize,
    cols: usize,
    device: Device,
    packer: Packer,
}

impl MatrixBuilder {
    /// Starts a matrix `[rows, cols]`.
    ///
    /// `q4_k` needs a multiple of 256 columns and gives way to `q8_0`, which needs a multiple of 32 and gives way to
    /// `bf16`. Quantised formats become `bf16` on a GPU. [`Matrix::format`] tells what it came to.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(rows: usize, cols: usize, format: WeightFormat, device: &Device) -> Result<Self> {
        let format = match (device, format) {
            (Device::Cpu, format) => Packed::format_for(format, cols),
            (_, WeightFormat::F32 | WeightFormat::F16) => format,
            _ => WeightFormat::Bf16,
        };
        Ok(Self { rows, cols, device: device.clone(), packer: Packer::new(format, rows, cols)? })
    }

    /// The format whose stored blocks [`MatrixBuilder::push_blocks`] takes over, if it is one.
    pub fn blocks(&self) -> Option<WeightFormat> {
        let format = self.packer.format();
        // On a GPU these formats were given up above.
        matches!(format, WeightFormat::Q8_0 | WeightFormat::Q4K).then_some(format)
    }

    /// The next whole blocks in row-major order, in the bytes that ggml stores; they are held as they are.
    ///
    /// # Errors
    /// The format has no blocks, or more came than the shape holds.
    pub fn push_blocks(&mut self, bytes: &[u8]) -> Result<()> {
        self.packer.push_blocks(bytes)
    }

    /// The next values in row-major order.
    ///
    /// # Errors
    /// More values than the shape holds.
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        self.packer.push(values)
    }

    /// The finished matrix.
    ///
    /// # Errors
    /// Fewer values were pushed than the shape holds.
    pub fn finish(self) -> Result<Matrix> {
        let (rows, cols) = (self.rows, self.cols);
        let packed = self.packer.finish()?;
        let store = match self.device {
            Device::Cpu => Store::Packed(Arc::new(packed)),
            device => Store::Dense(packed.into_tensor(rows, cols)?.to_device(&device)?),
        };
        Ok(Matrix { rows, cols, store })
    }
}

#[cfg(test)]
#[path = "matrix_tests.rs"]
mod tests;
