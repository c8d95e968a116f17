//! Rotary positions ([RoFormer](https://arxiv.org/abs/2104.09864)): pairs of a head's dimensions turn with the position.

use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::{pool, slices};

/// Which two dimensions of a head turn together. Guessing wrong costs days: the two differ by a permutation of the rows of
/// the query and key projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `i` and `i + head_dim / 2`: Hugging Face layouts (`rotate_half`).
    Halves,
    /// `2 i` and `2 i + 1`: Meta's own layout (complex numbers).
    Adjacent,
}

/// Cosines and sines of some positions, made once for all layers.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// `[rows, time, pairs]`, one row for all of the batch or one for each element.
    cos: Vec<f32>,
    sin: Vec<f32>,
    rows: usize,
    time: usize,
    pairs: usize,
    pairing: Pairing,
}

impl Rotation {
    /// Angles `position * inv_freq` for the positions of each row, `[rows][time]`, all rows of one length; `inv_freq` has one
    /// number a pair. Cosines and sines are multiplied by `scale` (1 but for some long-context models).
    ///
    /// # Errors
    /// Rows of different lengths, or none.
    pub fn new(inv_freq: &[f32], positions: &[Vec<usize>], scale: f32, pairing: Pairing) -> Result<Self> {
        let time = positions.first().map_or(0, Vec::len);
        if time == 0 || positions.iter().any(|row| row.len() != time) {
            bail!("rotary positions in rows of different lengths, or none");
        }
        // Angles in f32, as the references compute them.
        let angles = || positions.iter().flatten().flat_map(|&p| inv_freq.iter().map(move |f| p as f32 * f));
        Ok(Self {
            cos: angles().map(|angle| angle.cos() * scale).collect(),
            sin: angles().map(|angle| angle.sin() * scale).collect(),
            rows: positions.len(),
            time,
            pairs: inv_freq.len(),
            pairing,
        })
    }

    /// Cuts `qkv [batch, time, (heads + 2 * kv_heads) * head_dim]` into queries `[batch, time, heads * head_dim]`, keys and
    /// values `[batch, time, kv_heads * head_dim]`, and turns queries and keys.
    ///
    /// # Errors
    /// A shape differs.
    pub fn split(&self, qkv: &Tensor, heads: usize, kv_heads: usize) -> Result<(Tensor, Tensor, Tensor)> {
        let (batch, time, width) = qkv.dims3()?;
        let head_dim = 2 * self.pairs;
        if time != self.time || (self.rows != 1 && self.rows != batch) || width != (heads + 2 * kv_heads) * head_dim {
            bail!(
                "rotary positions [{}, {}] for {heads} + 2 * {kv_heads} heads of {head_dim} got {:?}",
                self.rows,
                self.time,
                qkv.dims()
            );
        }
        let parts = [(0, heads, true), (heads, kv_heads, true), (heads + kv_heads, kv_heads, false)];
        let [q, k, v] = if slices::is_plain(qkv) {
            slices::with(qkv, |values| parts.map(|part| self.plain_part(values, (batch, width), part)))?
        } else {
            parts.map(|part| self.part(qkv, part))
        };
        Ok((q?, k?, v?))
    }

    fn plain_part(
        &self,
        qkv: &[f32],
        (batch, width): (usize, usize),
        (first, count, turn): (usize, usize, bool),
    ) -> Result<Tensor> {
        let head_dim = 2 * self.pairs;
        let mut out = slices::zeros(batch * self.time * count * head_dim)?;
        pool::rows_mut(&mut out, count * head_dim, count * head_dim * 4, |begin, out| {
            for (row, out) in (begin..).zip(out.chunks_exact_mut(count * head_dim)) {
                let xs = &qkv[row * width + first * head_dim..][..count * head_dim];
                if !turn {
                    out.copy_from_slice(xs);
                    continue;
                }
                let row = if self.rows == 1 { row % self.time } else { row };
                let (cos, sin) =
                    (&self.cos[row * self.pairs..][..self.pairs], &self.sin[row * self.pairs..][..self.pairs]);
                for (xs, out) in xs.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
                    self.turn(xs, cos, sin, out);
                }
            }
        });
        Tensor::from_vec(out, (batch, self.time, count * head_dim), &Device::Cpu)
    }

    /// One head at one position.
    #[inline]
    fn turn(&self, xs: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        match self.pairing {
            Pairing::Halves => {
                let ((a, b), (out_a, out_b)) = (xs.split_at(self.pairs), out.split_at_mut(self.pairs));
                for i in 0..self.pairs {
                    out_a[i] = a[i] * cos[i] - b[i] * sin[i];
                    out_b[i] = b[i] * cos[i] + a[i] * sin[i];
                }
            }
            Pairing::Adjacent => {
                for (i, (x, out)) in xs.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0).enumerate() {
                    out[0] = x[0] * cos[i] - x[1] * sin[i];
                    out[1] = x[1] * cos[i] + x[0] * sin[i];
                }
            }
        }
    }

    /// The same by candle's operations: other devices, and gradients.
    fn part(&self, qkv: &Tensor, (first, count, turn): (usize, usize, bool)) -> Result<Tensor> {
        let (batch, time, _) = qkv.dims3()?;
        let head_dim = 2 * self.pairs;
        let xs = qkv.narrow(D::Minus1, first * head_dim, count * head_dim)?.contiguous()?;
        if !turn {
            return Ok(xs);
        }
        let table = |values: &[f32]| {
            let table = Tensor::from_slice(values, (self.rows, time, 1, self.pairs), &Device::Cpu)?;
            table.to_device(qkv.device())?.to_dtype(DType::F32)
        };
        let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
        let pair = match self.pairing {
            Pairing::Halves => xs.reshape((batch, time, count, 2, self.pairs))?.transpose(3, 4)?,
            Pairing::Adjacent => xs.reshape((batch, time, count, self.pairs, 2))?,
        };
        let pair = pair.to_dtype(DType::F32)?;
        let (a, b) = (pair.narrow(4, 0, 1)?.squeeze(4)?, pair.narrow(4, 1, 1)?.squeeze(4)?);
        let turned =
            [(a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?, (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?];
        let turned = match self.pairing {
            Pairing::Halves => Tensor::cat(&turned, 3)?,
            Pairing::Adjacent => Tensor::stack(&turned, 4)?,
        };
        turned.to_dtype(qkv.dtype())?.reshape((batch, time, count * head_dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::testing::{assert_close, noise};

    const INV_FREQ: [f32; 4] = [1.0, 0.3, 0.1, 0.02];

    fn rotation(positions: &[Vec<usize>], pairing: Pairing) -> Rotation {
        Rotation::new(&INV_FREQ, positions, 1.0, pairing).unwrap()
    }

    #[test]
    fn kernels_agree_with_candle() {
        let qkv = noise(&[2, 3, 5 * 8], 1);
        let tracked = candle_core::Var::from_tensor(&qkv).unwrap();
        for pairing in [Pairing::Halves, Pairing::Adjacent] {
            for positions in [vec![vec![4, 5, 6]], vec![vec![0, 0, 1], vec![7, 8, 9]]] {
                let rotation = rotation(&positions, pairing);
                let (a, b) = (rotation.split(&qkv, 3, 1).unwrap(), rotation.split(&tracked, 3, 1).unwrap());
                for (a, b) in [(a.0, b.0), (a.1, b.1), (a.2, b.2)] {
                    assert_close(&a, &b, 1e-6);
                }
            }
        }
    }

    /// The definition: a pair as a complex number times `e^(i angle)`, and scores that depend on the distance alone.
    #[test]
    fn pairs_turn_and_scores_depend_on_distance() {
        for pairing in [Pairing::Halves, Pairing::Adjacent] {
            let (x, y) = (noise(&[1, 1, 8], 1), noise(&[1, 1, 8], 2));
            let qkv = Tensor::cat(&[&x, &y, &y], 2).unwrap();
            let score = |at: usize, other: usize| {
                let q = rotation(&[vec![at]], pairing).split(&qkv, 1, 1).unwrap().0;
                let k = rotation(&[vec![other]], pairing).split(&qkv, 1, 1).unwrap().1;
                (q * k).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
            };
            assert!((score(9, 4) - score(25, 20)).abs() < 1e-5 && (score(9, 4) - score(9, 5)).abs() > 1e-3);
            let turned = rotation(&[vec![2]], pairing).split(&qkv, 1, 1).unwrap().0.flatten_all().unwrap();
            let (x, turned) = (x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), turned.to_vec1::<f32>().unwrap());
            let (i, j) = if pairing == Pairing::Halves { (1, 5) } else { (2, 3) };
            let (sin, cos) = (2.0 * INV_FREQ[1]).sin_cos();
            assert!((turned[i] - (x[i] * cos - x[j] * sin)).abs() < 1e-6);
            assert!((turned[j] - (x[i] * sin + x[j] * cos)).abs() < 1e-6);
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        let rotation = rotation(&[vec![0, 1]], Pairing::Halves);
        assert!(rotation.split(&noise(&[1, 3, 24], 1), 1, 1).is_err());
        assert!(rotation.split(&noise(&[1, 2, 32], 1), 1, 1).is_err());
        assert!(Rotation::new(&INV_FREQ, &[vec![1], vec![1, 2]], 1.0, Pairing::Halves).is_err());
    }
}
