//! `encoders/mert`: clips `in.NAME.waveform` to the states of every layer; convolutions where the case stores them.

use anyhow::{Context as _, Result, ensure};
use candle_core::{Device, Tensor};
use musaic_core::{probe::Probe, testing::Case};
use musaic_encoders::mert::{FeatureExtractor, Mert, MertConfig};

use crate::verify::{case::Context, recorder::Recorder};

/// Cases keep only every eighth frame of the two longest convolutions.
const THINNED: [&str; 2] = ["conv_0", "conv_1"];

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let config = MertConfig::open(&context.model.join("config.json"))?;
    let extractor = FeatureExtractor::open(&context.model.join("preprocessor_config.json"))?;
    let weights = context.weights(&context.model)?;
    let model = Mert::new(&config, extractor, &weights)?;
    weights.finish()?;
    let clips: Vec<_> = case
        .names()
        .filter_map(|name| name.strip_prefix("in.")?.strip_suffix(".waveform"))
        .map(str::to_owned)
        .collect();
    ensure!(!clips.is_empty(), "no in.NAME.waveform");
    for clip in clips {
        let samples = case.tensor(&format!("in.{clip}.waveform"), &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let samples = extractor.process(&samples)?;
        let count = samples.len();
        let input = Tensor::from_vec(samples, (1, count), &Device::Cpu)?;
        let mid = |what: &str| format!("mid.{clip}.{what}");
        if recorder.stores(&mid("input_values")) {
            recorder.tensor(mid("input_values"), &input)?;
        }
        let mut seen = Seen { convolutions: recorder.stores(&mid("conv_0")), tensors: Vec::new() };
        let means = model.forward(&input, &mut seen)?;
        let mut states = Vec::new();
        for (name, value) in &seen.tensors {
            if name.starts_with("hidden_state_") {
                states.push(value.squeeze(0)?);
            } else if recorder.stores(&mid(name)) {
                recorder.tensor(
                    mid(name),
                    &if THINNED.contains(&name.as_str()) { every_eighth(value)? } else { value.clone() },
                )?;
            }
        }
        recorder.tensor(format!("out.{clip}.hidden_states"), &Tensor::stack(&states, 0)?)?;
        recorder.tensor(format!("out.{clip}.hidden_means"), &means.squeeze(0)?)?;
        let last = states.last().context("a hidden state")?.unsqueeze(0)?;
        recorder.tensor(format!("out.{clip}.last_hidden_state"), &last)?;
    }
    Ok(())
}

fn every_eighth(xs: &Tensor) -> Result<Tensor> {
    let kept: Vec<u32> = (0..xs.dim(2)? as u32).step_by(8).collect();
    let kept = Tensor::new(kept.as_slice(), xs.device())?;
    Ok(xs.index_select(&kept, 2)?)
}

/// Collects states; asks for the convolutions only where they are compared, as otherwise they run in blocks.
struct Seen {
    convolutions: bool,
    tensors: Vec<(String, Tensor)>,
}

impl Probe for Seen {
    fn wants(&self, name: &str) -> bool {
        self.convolutions || !name.starts_with("conv_")
    }

    fn see(&mut self, name: &str, value: &Tensor) -> candle_core::Result<()> {
        self.tensors.push((name.to_owned(), value.clone()));
        Ok(())
    }
}
