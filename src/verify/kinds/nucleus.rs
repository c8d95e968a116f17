//! `m2ugen/sampling`: probabilities, what the nucleus keeps, and what is drawn from.

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use musaic_core::testing::Case;

use crate::{
    llm::sampling::Nucleus,
    verify::{case::Context, recorder::Recorder},
};

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let logits = case.tensor("in.logits", &Device::Cpu)?.to_vec2::<f32>()?;
    // `out.T0.6_p0.8.probs` names temperature and share.
    let settings: Vec<_> = case
        .expected()
        .filter_map(|name| name.strip_prefix("out.")?.strip_suffix(".probs"))
        .map(str::to_owned)
        .collect();
    for name in settings {
        let numbers = name.strip_prefix('T').and_then(|rest| rest.split_once("_p"));
        let numbers = numbers.and_then(|(t, p)| Some((t.parse::<f64>().ok()?, p.parse::<f64>().ok()?)));
        let (temperature, top_p) = numbers.with_context(|| format!("`{name}` names no temperature and share"))?;
        let rows: Vec<_> = logits.iter().map(|row| Nucleus::new(row, temperature, 0, top_p)).collect();
        let table = |of: &dyn Fn(&Nucleus) -> Vec<f32>| -> Result<Tensor> {
            let rows: Vec<_> = rows.iter().map(of).collect();
            Ok(Tensor::new(rows, &Device::Cpu)?)
        };
        recorder.tensor(format!("out.{name}.probs"), &table(&|row| row.probabilities.clone())?)?;
        recorder.tensor(format!("out.{name}.renorm"), &table(&Nucleus::renormalised)?)?;
        let kept = table(&|row| {
            (0..row.probabilities.len() as u32).map(|token| f32::from(u8::from(row.kept.contains(&token)))).collect()
        })?;
        recorder.tensor(format!("out.{name}.kept"), &kept.to_dtype(candle_core::DType::U8)?)?;
        let counts: Vec<_> = rows.iter().map(|row| row.kept.len() as i64).collect();
        recorder.tensor(format!("out.{name}.n_kept"), &Tensor::new(counts, &Device::Cpu)?)?;
    }
    Ok(())
}
