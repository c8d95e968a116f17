//! Low-rank updates ([LoRA](https://arxiv.org/abs/2106.09685)) beside a projection, never merged into it: the projection may
//! be quantised, and the update is worth more bits than that.
//!
//! M2UGen adds `l2(l1(x))` as it is: there is no factor `alpha / rank`.

use candle_core::{D, Result, Tensor};
use musaic_core::{nn::Matrix, weights::Weights};

use crate::unquantised;

/// Name and size of one update of a stack.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Name of `l1` `[rank, input]`.
    pub down: &'a str,
    /// Name of `l2` `[rows, rank]`.
    pub up: &'a str,
    /// Rows of the projection it belongs to.
    pub rows: usize,
}

/// Updates of projections that are stacked into one matrix and share their input.
#[derive(Debug, Clone)]
pub struct Lora {
    /// All `l1` on top of each other, `[parts * rank, input]`.
    down: Matrix,
    /// `l2` of each part.
    ups: Vec<Matrix>,
    rank: usize,
}

impl Lora {
    /// Loads the updates of `parts`, all of one `rank`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(input: usize, rank: usize, parts: &[Part<'_>], weights: &Weights) -> musaic_core::Result<Self> {
        let weights = unquantised(weights);
        let downs: Vec<_> = parts.iter().map(|part| part.down).collect();
        Ok(Self {
            down: weights.matrix_stacked(&vec![rank; parts.len()], input, &downs)?,
            ups: parts
                .iter()
                .map(|part| weights.matrix(part.rows, rank, part.up))
                .collect::<musaic_core::Result<_>>()?,
            rank,
        })
    }

    /// `xs [.., input]` to what the stacked projections gain, `[.., sum of rows]`.
    ///
    /// # Errors
    /// The last dimension of `xs` is not `input`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let low = self.down.forward(xs)?;
        let parts = self
            .ups
            .iter()
            .enumerate()
            .map(|(i, up)| up.forward(&low.narrow(D::Minus1, i * self.rank, self.rank)?))
            .collect::<Result<Vec<_>>>()?;
        match parts.as_slice() {
            [only] => Ok(only.clone()),
            parts => Tensor::cat(parts, D::Minus1),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.down.bytes() + self.ups.iter().map(Matrix::bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::Device;
    use musaic_core::WeightFormat;

    use super::*;

    #[test]
    fn a_stack_is_its_parts_and_nothing_is_scaled() {
        let noise = |seed: f32, shape: (usize, usize)| {
            let count = shape.0 * shape.1;
            let values: Vec<f32> = (0..count).map(|i| (i as f32 * seed).sin()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let tensors = HashMap::from([
            ("a.1".to_owned(), noise(1.3, (2, 6))),
            ("a.2".to_owned(), noise(0.7, (5, 2))),
            ("b.1".to_owned(), noise(2.1, (2, 6))),
            ("b.2".to_owned(), noise(0.4, (3, 2))),
        ]);
        let part = |down, up, rows| Part { down, up, rows };
        let parts = [part("a.1", "a.2", 5), part("b.1", "b.2", 3)];
        let xs = noise(0.9, (4, 6));
        let product =
            |a: &str, b: &str| xs.matmul(&tensors[a].t().unwrap()).unwrap().matmul(&tensors[b].t().unwrap()).unwrap();
        let want = Tensor::cat(&[product("a.1", "a.2"), product("b.1", "b.2")], 1).unwrap();
        for (format, bound) in [(WeightFormat::F32, 1e-5), (WeightFormat::Q4K, 0.05)] {
            let weights = Weights::from_tensors(tensors.clone(), &Device::Cpu, format);
            let lora = Lora::load(6, 2, &parts, &weights).unwrap();
            weights.finish().unwrap();
            let off = (lora.forward(&xs).unwrap() - &want).unwrap().abs().unwrap().max_all().unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < bound, "{format}");
        }
    }
}
