//! `m2ugen/bridge`: features of each medium to vectors, two inputs at once, the blend with near neighbours.

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use musaic_adapters::bridge::{Blend, Bridge, BridgeConfig, Found, Rows};
use musaic_core::testing::Case;

use super::m2ugen::{MEDIA, Renamed, features};
use crate::{
    llm::m2ugen,
    verify::{case::Context, recorder::Recorder},
};

/// Weights of the two inputs, as the reference ran them.
const TWO_INPUTS: [f64; 2] = [1.0, 0.6];
/// The blends that were run.
const BLENDS: [(&str, Blend); 2] = [
    ("audio_knn", Blend { cache_size: 10, cache_t: 20.0, cache_weight: 0.5, reference: true }),
    ("audio_knn_b", Blend { cache_size: 4, cache_t: 5.0, cache_weight: 0.25, reference: true }),
];

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let checkpoint = context.model.join("ckpts/adapter.pth");
    let weights = context.walk(m2ugen::open(Some(&checkpoint), None)?.source);
    for (medium, kind) in MEDIA {
        let config = BridgeConfig::detect(kind, &weights).with_context(|| format!("no bridge for {medium}"))?;
        let bridge = Bridge::load(&config, &weights)?;
        // Of one clip, step by step.
        let one = features(case, context, medium, "")?;
        let mut probe = Renamed { recorder, prefix: format!("mid.{medium}.") };
        let vector = bridge.forward(&one, &mut probe)?;
        recorder.tensor(format!("out.{medium}"), &vector)?;
        let two = features(case, context, medium, "_b2")?;
        recorder.tensor(format!("out.{medium}_b2"), &bridge.forward(&two, &mut ())?)?;
        if medium == "audio" {
            two_inputs(recorder, &bridge, &two)?;
            blends(case, recorder, &bridge, &two)?;
        }
    }
    let report = weights.report();
    anyhow::ensure!(report.missing.is_empty() && report.misshaped.is_empty(), "{report}");
    Ok(())
}

fn two_inputs(recorder: &mut Recorder<'_>, bridge: &Bridge, rows: &Tensor) -> Result<()> {
    let inputs = [rows.narrow(0, 0, 1)?, rows.narrow(0, 1, 1)?];
    let inputs: Vec<_> = inputs.iter().zip(TWO_INPUTS).collect();
    let features = bridge.features(&inputs, &mut ())?;
    let mut probe = Renamed { recorder, prefix: "mid.audio_two_inputs.".into() };
    let vector = bridge.project(&features, &mut probe)?;
    recorder.tensor("out.audio_two_inputs", &vector)
}

fn blends(case: &Case, recorder: &mut Recorder<'_>, bridge: &Bridge, rows: &Tensor) -> Result<()> {
    let mut cache = Rows::new(&case.tensor("in.prototypes", &Device::Cpu)?)?;
    let features = bridge.features(&[(&rows.narrow(0, 0, 1)?, 1.0)], &mut ())?;
    for (name, blend) in BLENDS {
        let (blended, found) = blend.apply(&features, &mut cache)?;
        let found = found.first().context("one row")?;
        let row = |of: fn(&Found) -> f32| -> Result<Tensor> {
            Ok(Tensor::from_vec(found.iter().map(of).collect(), (1, found.len()), &Device::Cpu)?)
        };
        let indices = row(|found| found.index as f32)?.to_dtype(candle_core::DType::I64)?;
        recorder.tensor(format!("mid.{name}.indices"), &indices)?;
        recorder.tensor(format!("mid.{name}.sims"), &row(|found| found.similarity)?)?;
        let mut probe = Renamed { recorder, prefix: format!("mid.{name}.") };
        let vector = bridge.project(&blended, &mut probe)?;
        recorder.tensor(format!("out.{name}"), &vector)?;
    }
    Ok(())
}
