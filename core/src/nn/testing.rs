//! What the tests of the layers share.

use candle_core::{Device, Tensor};

/// Reproducible values around zero, of spread about one.
pub(super) fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|_| 1.7 * (uniform() + uniform() + uniform() + uniform())).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Same shape, and no element further than `bound`.
#[track_caller]
pub(super) fn assert_close(ours: &Tensor, plain: &Tensor, bound: f32) {
    assert_eq!(ours.dims(), plain.dims());
    let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (i, (a, b)) in values(ours).into_iter().zip(values(plain)).enumerate() {
        assert!((a - b).abs() <= bound, "element {i}: {a}, plain {b}, bound {bound}");
    }
}
