//! The walker on real sources.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use musaic_core::{
    Error, WeightFormat,
    weights::{RandomWeights, Weights},
};

fn column(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn walk(tensors: &[(&str, Tensor)]) -> Weights {
    let tensors: HashMap<_, _> = tensors.iter().map(|(name, t)| ((*name).to_owned(), t.clone())).collect();
    Weights::from_tensors(tensors, &Device::Cpu, WeightFormat::F32)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn all_spellings_of_weight_norm_agree() {
    let v = column(&[3.0, 4.0, 0.0, 2.0], &[2, 2, 1]);
    let g = column(&[10.0, 3.0], &[2, 1, 1]);
    let plain = column(&[6.0, 8.0, 0.0, 3.0], &[2, 2, 1]);
    let (original0, original1) = ("conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1");
    for walk in [
        walk(&[("conv.weight_g", g.clone()), ("conv.weight_v", v.clone())]),
        walk(&[(original0, g), (original1, v.clone())]),
        walk(&[("conv.weight", plain)]),
    ] {
        assert_eq!(flat(&walk.pp("conv").weight_norm((2, 2, 1)).unwrap()), [6.0, 8.0, 0.0, 3.0]);
        walk.finish().unwrap();
    }
    let over_last =
        walk(&[("weight_g", column(&[2.0, 1.0], &[1, 2])), ("weight_v", column(&[3.0, 0.0, 4.0, 5.0], &[2, 2]))]);
    let expected = [1.2, 0.0, 1.6, 1.0];
    for (a, b) in flat(&over_last.weight_norm_over((2, 2), 1).unwrap()).iter().zip(expected) {
        assert!((a - b).abs() < 1e-6);
    }
}

#[test]
fn missing_weight_norm_is_reported_in_the_published_spelling() {
    let walk = walk(&[("conv.bias", column(&[0.0], &[1]))]);
    walk.pp("conv").weight_norm((2, 2, 1)).unwrap();
    let Err(Error::Weights(report)) = walk.finish() else { panic!("nothing was missing") };
    let missing: Vec<_> = report.missing.iter().map(|m| (m.name.as_str(), m.shape.as_slice())).collect();
    assert_eq!(missing, [("conv.weight_g", [2, 1, 1].as_slice()), ("conv.weight_v", &[2, 2, 1])]);
}

#[test]
fn names_alone_are_enough_to_check_a_model() {
    let names = BTreeMap::from([("c.weight_g".to_owned(), vec![4, 1, 1]), ("c.weight_v".to_owned(), vec![4, 3, 7])]);
    let walk = Weights::from_names(names);
    assert_eq!(walk.pp("c").weight_norm((4, 3, 7)).unwrap().dims(), [4, 3, 7]);
    walk.finish().unwrap();
}

#[test]
fn whole_branches_can_be_ignored() {
    let one = || column(&[1.0], &[1]);
    let walk =
        walk(&[("model.w", one()), ("optimizer.state.0.step", one()), ("optimizer.state.1.step", one()), ("x", one())]);
    assert_eq!(walk.pp("optimizer").names(), ["state.0.step", "state.1.step"]);
    walk.pp("model").tensor(1, "w").unwrap();
    walk.ignore_under("optimizer", "only training needs it");
    let report = walk.report();
    assert_eq!((report.ignored.len(), report.unused.len()), (2, 1));
}

#[test]
fn random_weights_fit_every_model() {
    let walk = Weights::random(7, &Device::Cpu, WeightFormat::F32);
    let w = walk.pp("conv").weight_norm((4, 3, 7)).unwrap();
    let again = Weights::random(7, &Device::Cpu, WeightFormat::F32).pp("conv").weight_norm((4, 3, 7)).unwrap();
    assert_eq!(flat(&w), flat(&again));
    assert_eq!(walk.matrix(8, 4, "fc.weight").unwrap().rows(), 8);
    assert!(walk.has("anything") && walk.finish().unwrap().applied.len() == 3);
    let without = Weights::new(RandomWeights::new(7).without(["lm_head.weight"]), &Device::Cpu, WeightFormat::F32);
    assert!(!without.has("lm_head.weight"));
    without.tensor((2, 2), "lm_head.weight").unwrap();
    assert!(without.finish().is_err());
}
