use candle_core::{D, Var};

use super::*;
use crate::nn::{
    integer::Activations,
    pool::with_threads,
    testing::{assert_close, noise},
};

fn build(values: &Tensor, format: WeightFormat) -> Matrix {
    let (rows, cols) = values.dims2().unwrap();
    let mut builder = MatrixBuilder::new(rows, cols, format, &Device::Cpu).unwrap();
    // Pieces that end anywhere but where rows and blocks do.
    for piece in values.flatten_all().unwrap().to_vec1::<f32>().unwrap().chunks(1009) {
        builder.push(piece).unwrap();
    }
    builder.finish().unwrap()
}

fn bits(xs: &Tensor) -> Vec<u32> {
    xs.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn products_agree_with_candle_in_every_format() {
    for format in WeightFormat::ALL {
        for (rows, cols) in [(1, 16), (7, 20), (5, 1), (13, 33), (64, 256), (37, 512), (6, 288)] {
            let w = build(&noise(&[rows, cols], rows as u64), format);
            let bias = noise(&[rows], 5);
            for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 33] {
                let xs = noise(&[m, cols], m as u64);
                let plain = rounded(&xs, w.format())
                    .matmul(&w.dense().unwrap().t().unwrap())
                    .unwrap()
                    .broadcast_add(&bias)
                    .unwrap();
                let ours = w.forward_bias(&xs, Some(&bias)).unwrap();
                assert_close(&ours, &plain, 2e-6 * cols as f32);
            }
        }
    }
}

/// As products with weights of `format` see it.
fn rounded(xs: &Tensor, format: WeightFormat) -> Tensor {
    if !matches!(format, WeightFormat::Q8_0 | WeightFormat::Q4K) {
        return xs.clone();
    }
    let (rows, cols) = xs.dims2().unwrap();
    let values = xs.flatten_all().unwrap().to_vec1().unwrap();
    let activations = Activations::new(&values, cols, cols / 32);
    let values = (0..rows * cols / 32).flat_map(|at| activations.widened(at / (cols / 32), at % (cols / 32))).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
}

#[test]
fn rows_do_not_depend_on_batch_or_threads() {
    for format in WeightFormat::ALL {
        let w = build(&noise(&[331, 512], 1), format);
        let xs = noise(&[70, 512], 2);
        let single: Vec<u32> = (0..70).flat_map(|i| bits(&w.forward(&xs.narrow(0, i, 1).unwrap()).unwrap())).collect();
        for m in [2, 3, 7, 8, 9, 12, 70] {
            for threads in 1..4 {
                let ys = with_threads(threads, || w.forward(&xs.narrow(0, 0, m).unwrap()).unwrap());
                assert!(bits(&ys) == single[..m * 331], "{format}, {m} rows, {threads} threads");
            }
        }
    }
}

#[test]
fn a_tensor_multiplies_as_the_packed_f32_matrix_does() {
    let (values, xs) = (noise(&[50, 64], 1), noise(&[2, 3, 64], 2));
    let (packed, dense) = (build(&values, WeightFormat::F32), Matrix::from_tensor(values));
    assert_eq!(bits(&packed.forward(&xs).unwrap()), bits(&dense.forward(&xs).unwrap()));
    // Not a multiple of sixteen columns, and a placeholder without numbers.
    let odd = Matrix::from_tensor(noise(&[5, 7], 1));
    assert_eq!(odd.forward(&noise(&[4, 7], 1)).unwrap().dims(), [4, 5]);
    let placeholder =
        Matrix::from_tensor(Tensor::zeros((), DType::F32, &Device::Cpu).unwrap().broadcast_as((6, 32)).unwrap());
    assert_eq!(bits(&placeholder.forward(&noise(&[1, 32], 1)).unwrap()), [0; 6]);
}

#[test]
fn formats_round_within_their_bounds_and_fall_back() {
    let values = noise(&[40, 512], 3);
    let error = |format| {
        let difference = (build(&values, format).dense().unwrap() - &values).unwrap();
        let square = |xs: &Tensor| xs.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        (square(&difference) / square(&values)).sqrt()
    };
    assert_eq!(error(WeightFormat::F32), 0.0);
    // Half a unit in the last of 8 and 11 bits, at most 2^-9 and 2^-12; then steps of 1/127 and 1/15 of the range.
    assert!(error(WeightFormat::Bf16) < 1.0 / 512.0);
    assert!(error(WeightFormat::F16) < 1.0 / 4096.0);
    assert!(error(WeightFormat::Q8_0) < 0.008);
    assert!(error(WeightFormat::Q4K) < 0.085);
    for (cols, q4, q8) in [
        (512, WeightFormat::Q4K, WeightFormat::Q8_0),
        (96, WeightFormat::Q8_0, WeightFormat::Q8_0),
        (40, WeightFormat::Bf16, WeightFormat::Bf16),
    ] {
        assert_eq!(build(&noise(&[2, cols], 1), WeightFormat::Q4K).format(), q4);
        assert_eq!(build(&noise(&[2, cols], 1), WeightFormat::Q8_0).format(), q8);
    }
    assert_eq!(build(&values, WeightFormat::Q8_0).bytes(), 40 * 512 / 32 * 34);
    assert_eq!(build(&values, WeightFormat::Q4K).bytes(), 40 * 512 / 256 * 144);
}

#[test]
fn lookup_gives_the_stored_rows() {
    for format in WeightFormat::ALL {
        let w = build(&noise(&[9, 288], 3), format);
        let ids = Tensor::new(&[[8u32, 0, 3], [3, 3, 1]], &Device::Cpu).unwrap();
        let rows = w.lookup(&ids).unwrap();
        assert_eq!(rows.dims(), [2, 3, 288]);
        let plain = w.dense().unwrap().index_select(&ids.flatten_all().unwrap(), 0).unwrap();
        assert_eq!(bits(&rows), bits(&plain));
        assert!(w.lookup(&Tensor::new(&[9u32], &Device::Cpu).unwrap()).is_err());
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let w = build(&noise(&[4, 32], 1), WeightFormat::F32);
    assert!(w.forward(&noise(&[2, 31], 1)).is_err());
    let mut builder = MatrixBuilder::new(2, 3, WeightFormat::F32, &Device::Cpu).unwrap();
    builder.push(&[0.0; 5]).unwrap();
    assert!(builder.push(&[0.0; 2]).is_err());
    assert!(builder.finish().is_err());
    assert!(MatrixBuilder::new(usize::MAX, 1 << 40, WeightFormat::F32, &Device::Cpu).is_err());
}

#[test]
fn gradients_reach_inputs_and_dense_weights() {
    let values = noise(&[6, 32], 1);
    let bias = noise(&[6], 2);
    for w in [build(&values, WeightFormat::F32), Matrix::from_tensor(values.clone())] {
        let xs = Var::from_tensor(&noise(&[3, 32], 3)).unwrap();
        let loss = |xs: &Tensor| w.forward_bias(xs, Some(&bias)).unwrap().sqr().unwrap().sum_all().unwrap();
        let gradient = loss(&xs).backward().unwrap().get(&xs).unwrap().clone();
        // d/dx |x Wt + b|^2 = 2 (x Wt + b) W
        let plain =
            (w.forward_bias(&xs.as_detached_tensor(), Some(&bias)).unwrap().matmul(&values).unwrap() * 2.0).unwrap();
        assert_close(&gradient, &plain, 1e-3);
    }
    let weight = Var::from_tensor(&values).unwrap();
    let ys = Matrix::from_tensor(weight.as_tensor().clone()).forward(&noise(&[3, 32], 3)).unwrap();
    let gradient = ys.sum_all().unwrap().backward().unwrap().get(&weight).unwrap().clone();
    let plain = noise(&[3, 32], 3).sum(0).unwrap();
    assert_close(&gradient.get(4).unwrap(), &plain, 1e-5);
    assert_eq!(gradient.dim(D::Minus1).unwrap(), 32);
}
