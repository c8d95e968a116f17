//! The T5 encoder: a gated one against the reference, and padding that changes nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

mod musicgen_common;

use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor};
use musaic_core::{
    WeightFormat,
    testing::{Values, compare, golden_roots},
    weights::Weights,
};
use musaic_decoders::t5::{T5Config, T5Encoder};
use musicgen_common::{Checked, golden};

fn load(folder: &Path) -> T5Encoder {
    let config: T5Config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let weights = Weights::open(folder, &Device::Cpu, WeightFormat::F32).unwrap();
    let encoder = T5Encoder::load(&config, &weights).unwrap();
    assert!(weights.finish().unwrap().is_clean());
    encoder
}

/// The text encoder of AudioLDM 2 (flan: gated gelu), where its case is at hand.
#[test]
fn a_gated_encoder_equals_the_reference() {
    if !golden_roots().iter().any(|root| root.join("audioldm2/tiny").is_dir()) {
        return;
    }
    let checked = Checked::open("audioldm2/tiny");
    let encoder = load(&golden("audioldm2/tiny").join("model/text_encoder_2"));
    assert!(encoder.config().feed_forward_proj.starts_with("gated"));
    for length in ["longest", "max"] {
        let ids = checked.input(&format!("in.t5_ids_{length}")).to_dtype(DType::U32).unwrap();
        let mask = checked.input(&format!("in.t5_mask_{length}")).to_dtype(DType::F32).unwrap();
        let states = encoder.forward(&ids, &mask, &mut ()).unwrap();
        let name = format!("out.t5_{length}");
        let (want, tolerance) = (checked.case.values(&name).unwrap(), checked.case.tolerance(&name).unwrap());
        let result = compare(&name, &Values::from_tensor(&states).unwrap(), want, tolerance);
        assert!(result.passed(), "{result:?}");
    }
}

#[test]
fn padding_and_neighbours_change_nothing() {
    let folder = golden("musicgen/tiny").join("model");
    let config = musaic_decoders::musicgen::MusicgenConfig::open(&folder.join("config.json")).unwrap();
    let weights = Weights::open(&folder, &Device::Cpu, WeightFormat::F32).unwrap();
    let encoder = T5Encoder::load(&config.text_encoder, &weights.pp("text_encoder")).unwrap();
    let rows = [vec![5u32, 17, 99, 4, 1], vec![7u32, 1]];
    let padded: Vec<u32> = rows.iter().flat_map(|row| row.iter().copied().chain([0; 9]).take(9)).collect();
    let mask: Vec<f32> = rows.iter().flat_map(|row| (0..9).map(|i| f32::from(u8::from(i < row.len())))).collect();
    let ids = Tensor::from_vec(padded, (2, 9), &Device::Cpu).unwrap();
    let mask = Tensor::from_vec(mask, (2, 9), &Device::Cpu).unwrap();
    let batch = encoder.forward(&ids, &mask, &mut ()).unwrap();
    for (at, row) in rows.iter().enumerate() {
        let ids = Tensor::from_slice(row, (1, row.len()), &Device::Cpu).unwrap();
        let alone = encoder.forward(&ids, &ids.ones_like().unwrap().to_dtype(DType::F32).unwrap(), &mut ()).unwrap();
        let same = batch.narrow(0, at, 1).unwrap().narrow(1, 0, row.len()).unwrap();
        let error = (alone - same).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(error < 1e-5, "row {at}: {error}");
    }
}
