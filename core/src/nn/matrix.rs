//! Weight matrices in the format they are stored in.

use candle_core::{DType, Device, Result, Tensor};

use crate::WeightFormat;

/// A weight matrix `[rows, cols]` (`[out, in]`), held once.
#[derive(Debug, Clone)]
pub struct Matrix {
    dense: Tensor,
}

impl Matrix {
    /// A matrix that is an ordinary tensor `[rows, cols]`.
    pub fn from_tensor(dense: Tensor) -> Self {
        Self { dense }
    }

    /// Number of rows, the width of the output.
    pub fn rows(&self) -> usize {
        self.dense.dims()[0]
    }

    /// Number of columns, the width of the input.
    pub fn cols(&self) -> usize {
        self.dense.dims()[1]
    }

    /// `xs [.., cols]` times the transposed matrix: `[.., rows]`.
    ///
    /// # Errors
    /// The last dimension of `xs` is not `cols`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut shape = xs.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.rows();
        }
        xs.reshape(((), self.cols()))?.matmul(&self.dense.t()?)?.reshape(shape)
    }

    /// Rows by their numbers: `ids [..]` u32 to `[.., cols]`.
    ///
    /// # Errors
    /// An id is not below `rows`.
    pub fn lookup(&self, ids: &Tensor) -> Result<Tensor> {
        let mut shape = ids.dims().to_vec();
        shape.push(self.cols());
        self.dense.index_select(&ids.flatten_all()?, 0)?.reshape(shape)
    }

    /// Bytes this matrix takes.
    pub fn bytes(&self) -> usize {
        self.dense.elem_count() * self.dense.dtype().size_in_bytes()
    }
}

/// Takes a matrix piece by piece and converts it to its format on the way.
pub struct MatrixBuilder {
    rows: usize,
    cols: usize,
    dtype: DType,
    device: Device,
    values: Vec<f32>,
}

impl MatrixBuilder {
    /// Starts a matrix `[rows, cols]`.
    ///
    /// # Errors
    /// The format does not fit the shape.
    pub fn new(rows: usize, cols: usize, format: WeightFormat, device: &Device) -> Result<Self> {
        Ok(Self { rows, cols, dtype: format.compute_dtype(device), device: device.clone(), values: Vec::new() })
    }

    /// The next values in row-major order.
    ///
    /// # Errors
    /// More values than the shape holds.
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        self.values.extend_from_slice(values);
        Ok(())
    }

    /// The finished matrix.
    ///
    /// # Errors
    /// Fewer or more values were pushed than the shape holds.
    pub fn finish(self) -> Result<Matrix> {
        let dense = Tensor::from_vec(self.values, (self.rows, self.cols), &Device::Cpu)?;
        Ok(Matrix::from_tensor(dense.to_dtype(self.dtype)?.to_device(&self.device)?))
    }
}
