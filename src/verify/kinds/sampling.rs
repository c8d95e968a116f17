//! `musicgen/sampling`: guidance, and the probabilities after temperature, top-k and top-p.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use candle_core::{Device, Tensor};
use musaic_core::{role::Sampling, testing::Case};
use musaic_decoders::musicgen::sampling::{Sampler, guide};
use serde::Deserialize;
use serde_json::Value;

use crate::verify::{case::Context, recorder::Recorder};

#[derive(Deserialize)]
struct Item {
    guidance: f64,
    temperature: f64,
    top_k: usize,
    top_p: f64,
}

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let plan = case.field("plan").context("a case of this kind has a `plan`")?;
    let items = Vec::<Item>::deserialize(plan).context("reading `plan`")?;
    // Keys of tensors hold the numbers as the plan spells them.
    let spelled = |i: usize, key: &str| plan[i].get(key).map(Value::to_string).unwrap_or_default();
    let cond = case.tensor("in.logits_cond", &Device::Cpu)?;
    let uncond = case.tensor("in.logits_uncond", &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    let (rows, vocab) = cond.dims2()?;
    ensure!(uncond.len() == rows * vocab, "in.logits_uncond has another shape than in.logits_cond");
    let cond = cond.flatten_all()?.to_vec1::<f32>()?;
    let mut guided_before = BTreeSet::new();
    let mut sampler = Sampler::default();
    for (i, item) in items.iter().enumerate() {
        let mut logits = cond.clone();
        // A guidance of exactly 1 runs no second half at all.
        if item.guidance != 1.0 {
            guide(&mut logits, &uncond, item.guidance);
        }
        let guidance = spelled(i, "guidance");
        if guided_before.insert(guidance.clone()) {
            recorder
                .tensor(format!("out.cfg_{guidance}"), &Tensor::from_slice(&logits, (rows, vocab), &Device::Cpu)?)?;
        }
        let sampling = Sampling::Draw { temperature: item.temperature, top_k: item.top_k, top_p: item.top_p };
        let probabilities: Vec<f32> =
            logits.chunks(vocab).flat_map(|row| sampler.probabilities(row, &sampling)).collect();
        let name = format!(
            "out.probs_g{guidance}_t{}_k{}_p{}",
            spelled(i, "temperature"),
            spelled(i, "top_k"),
            spelled(i, "top_p")
        );
        recorder.tensor(name, &Tensor::from_vec(probabilities, (rows, vocab), &Device::Cpu)?)?;
    }
    Ok(())
}
