//! Elementwise functions: sixteen lanes at a time where no gradient is wanted, candle's own operations where it is.
// Fitted coefficients, written with the digits of the fit.
#![allow(clippy::excessive_precision, clippy::approx_constant)]

use candle_core::{D, Device, Result, Tensor};

use super::{
    pool,
    simd::{Kernel, Simd, dispatch},
    slices,
};

/// Horner's scheme, highest coefficient first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for c in &coefficients[1..] {
        sum = s.fma(sum, x, s.splat(*c));
    }
    sum
}

/// `2^n / 2` and `e^r - 1` with `x = n ln 2 + r`. Halved so that the largest results do not pass through infinity.
#[inline(always)]
fn split_exp<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    // Ends where the result is 0 and infinity; a NaN passes through both.
    let x = s.min(s.splat(88.9), s.max(s.splat(-87.6), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first with zeros at its end so that the product is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let bend = polynomial(s, r, [1.990_770_6e-4, 1.393_373_3e-3, 8.333_286e-3, 4.166_646_4e-2, 1.666_666_7e-1, 0.5]);
    (s.pow2(s.sub(n, s.splat(1.0))), s.fma(s.mul(r, r), bend, r))
}

/// `e^x`, within 2 units in the last place; 0 below -87.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let (half, rest) = split_exp(s, x);
    let half = s.fma(half, rest, half);
    s.add(half, half)
}

#[inline(always)]
fn exp_m1<S: Simd>(s: S, x: S::V) -> S::V {
    let (half, rest) = split_exp(s, x);
    let half = s.fma(half, rest, s.sub(half, s.splat(0.5)));
    s.add(half, half)
}

#[inline(always)]
pub(super) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

#[inline(always)]
pub(super) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let far = s.sub(one, s.div(s.splat(2.0), s.add(one, exp(s, s.add(x, x)))));
    let square = s.mul(x, x);
    let bend = [-5.672_545e-3, 2.060_325_2e-2, -5.372_526_2e-2, 1.333_118_6e-1, -3.333_326_3e-1, 1.0];
    let near = s.mul(x, polynomial(s, square, bend));
    s.if_greater(s.splat(0.39), square, near, far)
}

/// `x / 2 * (1 + erf(x / sqrt 2))`, without cancellation for negative `x`.
#[inline(always)]
fn gelu_lanes<S: Simd>(s: S, x: S::V) -> S::V {
    let z = s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let square = s.mul(z, z);
    let half = s.mul(x, s.splat(0.5));
    // Near zero: erf as an odd polynomial.
    let near =
        [7.889_122_7e-5, -8.020_842e-4, 5.189_535_4e-3, -2.685_444_5e-2, 1.128_36e-1, -3.761_262_7e-1, 1.128_379_2];
    let near = s.fma(half, s.mul(z, polynomial(s, square, near)), half);
    // Elsewhere: the logarithm of erfc is smooth; beyond 5.5 erfc is less than a rounding.
    let t = s.min(s.splat(5.5), s.max(z, s.sub(s.splat(0.0), z)));
    let far = [
        1.137_441_5e-6,
        -3.724_504_4e-5,
        5.321_198e-4,
        -4.499_963_2e-3,
        2.579_502e-2,
        -1.091_477_6e-1,
        -6.326_657_4e-1,
        -1.129_814_1,
        2.310_294_7e-4,
    ];
    let tail = s.mul(half, exp(s, polynomial(s, t, far)));
    let far = s.if_greater(x, s.splat(0.0), s.sub(x, tail), tail);
    s.if_greater(square, s.splat(0.95), far, near)
}

/// `x / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (x + 0.044715 x³)`, which is `x * sigmoid(2 u)`.
#[inline(always)]
fn gelu_tanh_lanes<S: Simd>(s: S, x: S::V) -> S::V {
    let square = s.mul(x, x);
    let bend = s.fma(square, s.splat(2.0 * 0.797_884_56 * 0.044_715), s.splat(2.0 * 0.797_884_56));
    s.mul(x, sigmoid(s, s.mul(x, bend)))
}

/// A function of one number.
trait Function: Copy + Sync {
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V;
}

macro_rules! functions {
    ($($name:ident: |$s:ident, $x:ident| $body:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Function for $name {
            #[inline(always)]
            fn apply<S: Simd>(self, $s: S, $x: S::V) -> S::V {
                $body
            }
        }
    )*};
}

functions! {
    Gelu: |s, x| gelu_lanes(s, x);
    GeluTanh: |s, x| gelu_tanh_lanes(s, x);
    Relu: |s, x| s.max(s.splat(0.0), x);
    Elu: |s, x| s.if_greater(s.splat(0.0), x, exp_m1(s, x), x);
    Silu: |s, x| s.mul(x, sigmoid(s, x));
    Sigmoid: |s, x| sigmoid(s, x);
    Tanh: |s, x| tanh(s, x);
}

struct Map<'a, F> {
    function: F,
    xs: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Function> Kernel for Map<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (xs, last) = self.xs.as_chunks::<16>();
        let (out, last_out) = self.out.as_chunks_mut::<16>();
        for (x, out) in xs.iter().zip(out) {
            s.store(self.function.apply(s, s.load(x)), out);
        }
        let mut sixteen = [0f32; 16];
        sixteen[..last.len()].copy_from_slice(last);
        let ys = self.function.apply(s, s.load(&sixteen));
        s.store(ys, &mut sixteen);
        last_out.copy_from_slice(&sixteen[..last_out.len()]);
    }
}

fn map(xs: &Tensor, function: impl Function, plain: fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if !slices::is_plain(xs) {
        return plain(xs);
    }
    let mut out = slices::zeros(xs.elem_count())?;
    slices::with(xs, |xs| {
        pool::rows_mut(&mut out, 1, 8, |first, out| {
            dispatch(Map { function, xs: &xs[first..first + out.len()], out });
        });
    })?;
    Tensor::from_vec(out, xs.dims(), &Device::Cpu)
}

/// `x / 2 * (1 + erf(x / sqrt 2))`, the exact form.
///
/// # Errors
/// Memory of the device runs out.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    map(xs, Gelu, Tensor::gelu_erf)
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³)))`: the form that published files call `gelu_fast` or `gelu_new`.
///
/// # Errors
/// Memory of the device runs out.
pub fn gelu_tanh(xs: &Tensor) -> Result<Tensor> {
    map(xs, GeluTanh, Tensor::gelu)
}

/// `max(x, 0)`.
///
/// # Errors
/// Memory of the device runs out.
pub fn relu(xs: &Tensor) -> Result<Tensor> {
    map(xs, Relu, Tensor::relu)
}

/// `x` where positive, else `e^x - 1`.
///
/// # Errors
/// Memory of the device runs out.
pub fn elu(xs: &Tensor) -> Result<Tensor> {
    map(xs, Elu, |xs| xs.elu(1.0))
}

/// `x * sigmoid(x)`.
///
/// # Errors
/// Memory of the device runs out.
pub fn silu(xs: &Tensor) -> Result<Tensor> {
    map(xs, Silu, Tensor::silu)
}

struct Gated<'a> {
    gate: &'a [f32],
    xs: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut gates, mut values) = ([0f32; 16], [0f32; 16]);
        for ((gate, x), out) in self.gate.chunks(16).zip(self.xs.chunks(16)).zip(self.out.chunks_mut(16)) {
            gates[..gate.len()].copy_from_slice(gate);
            values[..x.len()].copy_from_slice(x);
            let gate = s.load(&gates);
            let mut sixteen = [0f32; 16];
            s.store(s.mul(s.mul(gate, sigmoid(s, gate)), s.load(&values)), &mut sixteen);
            out.copy_from_slice(&sixteen[..out.len()]);
        }
    }
}

/// `silu(gate) * x` of `[.., 2 * dim]`, the gates being the first half of the last dimension: `[.., dim]`.
///
/// # Errors
/// The last dimension is odd.
pub fn silu_gated(xs: &Tensor) -> Result<Tensor> {
    let mut shape = xs.dims().to_vec();
    let dim = match shape.last_mut() {
        Some(last) if *last % 2 == 0 && *last > 0 => {
            *last /= 2;
            *last
        }
        _ => candle_core::bail!("gates and values of {:?}", xs.dims()),
    };
    if !slices::is_plain(xs) {
        return silu(&xs.narrow(D::Minus1, 0, dim)?)? * xs.narrow(D::Minus1, dim, dim)?;
    }
    let mut out = slices::zeros(xs.elem_count() / 2)?;
    slices::with(xs, |xs| {
        pool::rows_mut(&mut out, dim, 8 * dim, |first, out| {
            for (row, out) in (first..).zip(out.chunks_exact_mut(dim)) {
                let (gate, xs) = xs[row * 2 * dim..][..2 * dim].split_at(dim);
                dispatch(Gated { gate, xs, out });
            }
        });
    })?;
    Tensor::from_vec(out, shape, &Device::Cpu)
}

/// `1 / (1 + e^-x)`.
///
/// # Errors
/// Memory of the device runs out.
pub fn sigmoid_of(xs: &Tensor) -> Result<Tensor> {
    map(xs, Sigmoid, |xs| (xs.neg()?.exp()? + 1.0)?.recip())
}

/// Hyperbolic tangent.
///
/// # Errors
/// Memory of the device runs out.
pub fn tanh_of(xs: &Tensor) -> Result<Tensor> {
    map(xs, Tanh, Tensor::tanh)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::simd::on_each;

    #[derive(Clone)]
    struct Values<F>(F, Vec<f32>);

    impl<F: Function> Kernel for Values<F> {
        type Out = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.1.len()];
            Map { function: self.0, xs: &self.1, out: &mut out }.run(s);
            out
        }
    }

    fn compare(name: &str, function: impl Function, exact: fn(f64) -> f64) {
        let xs: Vec<f32> = (-90_000..=90_001).map(|i| i as f32 * 1e-3).collect();
        for ys in on_each(&Values(function, xs.clone())) {
            for (x, y) in xs.iter().zip(ys) {
                let want = exact(f64::from(*x));
                let bound = 3e-7 * want.abs() + 1e-12;
                assert!((f64::from(y) - want).abs() <= bound, "{name}({x}) = {y}, exactly {want}");
            }
        }
    }

    #[test]
    fn functions_are_exact_to_a_few_units_in_the_last_place() {
        compare("relu", Relu, |x| x.max(0.0));
        compare("elu", Elu, |x| if x > 0.0 { x } else { x.exp_m1() });
        compare("sigmoid", Sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        compare("silu", Silu, |x| x / (1.0 + (-x).exp()));
        compare("tanh", Tanh, f64::tanh);
    }

    #[test]
    fn gelu_agrees_with_candle() {
        let xs = Tensor::arange(-10f32, 10.0, &Device::Cpu).unwrap();
        let xs = (Tensor::cat(&[&xs, &(&xs * 0.1).unwrap(), &(&xs * 0.317).unwrap()], 0).unwrap() + 0.0123).unwrap();
        let wide = xs.to_dtype(candle_core::DType::F64).unwrap().gelu_erf().unwrap();
        let wide = wide.to_dtype(candle_core::DType::F32).unwrap();
        crate::nn::testing::assert_close(&gelu(&xs).unwrap(), &wide, 6e-7);
        let wide = xs.to_dtype(candle_core::DType::F64).unwrap().gelu().unwrap();
        let wide = wide.to_dtype(candle_core::DType::F32).unwrap();
        crate::nn::testing::assert_close(&gelu_tanh(&xs).unwrap(), &wide, 1e-6);
    }

    #[test]
    fn gates_are_the_first_half() {
        for dim in [1, 16, 37] {
            let xs = crate::nn::testing::noise(&[2, 3, 2 * dim], 1).affine(4.0, 0.0).unwrap();
            let want = silu_gated(&candle_core::Var::from_tensor(&xs).unwrap()).unwrap();
            crate::nn::testing::assert_close(&silu_gated(&xs).unwrap(), &want, 1e-5);
        }
        assert!(silu_gated(&crate::nn::testing::noise(&[3, 5], 1)).is_err());
    }

    #[test]
    fn special_numbers() {
        let xs = Tensor::new(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY], &Device::Cpu).unwrap();
        for (f, at_ends) in [
            (elu as fn(&Tensor) -> Result<Tensor>, [f32::INFINITY, -1.0]),
            (sigmoid_of, [1.0, 0.0]),
            (tanh_of, [1.0, -1.0]),
        ] {
            let ys = f(&xs).unwrap().to_vec1::<f32>().unwrap();
            assert!(ys[0].is_nan());
            assert_eq!(ys[1..], at_ends);
        }
    }
}
