//! The activation between all convolutions: `x` above zero, `exp(x) - 1` below.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Values one task works on: enough to outweigh starting it.
const PIECE: usize = 1 << 15;

/// Exponential linear unit with alpha 1.
///
/// # Errors
/// The device reports a failure.
pub(super) fn elu(xs: &Tensor) -> Result<Tensor> {
    if xs.device().is_cpu() && xs.dtype() == DType::F32 { xs.contiguous()?.apply_op1_no_bwd(&Elu) } else { xs.elu(1.0) }
}

struct Elu;

impl CustomOp1 for Elu {
    fn name(&self) -> &'static str {
        "elu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = storage.as_slice::<f32>()?;
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("elu needs contiguous values") };
        let xs = &xs[start..end];
        let mut ys = vec![0_f32; xs.len()];
        ys.par_chunks_mut(PIECE).zip(xs.par_chunks(PIECE)).for_each(|(ys, xs)| {
            for (y, &x) in ys.iter_mut().zip(xs) {
                *y = if x > 0.0 { x } else { exp_of_negative(x) - 1.0 };
            }
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }
}

/// `exp(x)` for `x <= 0` without branches or calls, so that the loop around it becomes vector code.
///
/// Splits `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the polynomial is the Taylor series of degree 7, whose error there is
/// below half a unit in the last place. NaN stays NaN.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first one exact in products with |n| < 2^9.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Below this the sum with -1 is -1 anyway; a comparison that NaN fails keeps it.
    let x = if x < -80.0 { -80.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    // The low bits of `shifted` are n; moved to the exponent field they multiply by 2^n.
    let scale = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    p * scale
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn agrees_with_the_library_function() {
        let xs: Vec<f32> = (0..200_000).map(|i| 3.0 - i as f32 * 1e-3).chain([0.0, -0.0, f32::MIN]).collect();
        let ys = elu(&Tensor::new(xs.as_slice(), &Device::Cpu).unwrap()).unwrap().to_vec1::<f32>().unwrap();
        for (x, y) in xs.iter().zip(ys) {
            let want = if *x > 0.0 { *x } else { f64::from(*x).exp_m1() as f32 };
            assert!((y - want).abs() <= 1.2e-7, "elu({x}) = {y}, expected {want}");
        }
    }

    #[test]
    fn keeps_what_is_not_a_number() {
        let ys = elu(&Tensor::new(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY], &Device::Cpu).unwrap()).unwrap();
        let ys = ys.to_vec1::<f32>().unwrap();
        assert!(ys[0].is_nan() && ys[1] == f32::INFINITY && ys[2] == -1.0);
    }
}
