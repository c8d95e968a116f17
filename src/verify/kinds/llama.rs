//! `llm/llama`: a Hugging Face folder: whole texts, batches, padding on the left, greedy continuation with a cache.

use anyhow::{Context as _, Result};
use candle_core::{D, DType, Device, Tensor};
use musaic_core::{
    probe::Probe,
    testing::{Case, Values},
};

use crate::{
    llm::{Llama, LlamaConfig},
    verify::{case::Context, recorder::Recorder},
};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let config = LlamaConfig::open(&context.model.join("config.json"))?;
    let weights = context.weights(&context.model)?;
    let model = Llama::load(&config, &weights)?;
    weights.finish()?;

    let ids = case.tensor("in.input_ids", &Device::Cpu)?;
    let (_, length) = ids.dims2()?;
    let inv_freq = model.inv_freq(length);
    recorder.tensor("mid.inv_freq", &Tensor::from_slice(&inv_freq, inv_freq.len(), &Device::Cpu)?)?;
    let logits = forward(&model, &ids, &mut Last { case, recorder })?;
    Last { case, recorder }.see("out.logits", &logits)?;
    recorder.tensor("out.loss", &next_token_loss(&logits, &ids)?)?;

    let batch = case.tensor("in.batch_ids", &Device::Cpu)?;
    recorder.tensor("out.batch_logits", &forward(&model, &batch, &mut ())?)?;
    recorder.tensor("out.left_padded_logits", &left_padded(case, &model, &batch)?)?;
    greedy(case, context, recorder, &model, &ids)
}

/// A whole text at once.
fn forward(model: &Llama, ids: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
    let (batch, length) = ids.dims2()?;
    let mut state = model.start(batch, length, model.dtype())?;
    let xs = model.embed(ids)?;
    probe.see("mid.embeddings", &xs)?;
    let mut layers = Mid(probe);
    let hidden = model.feed(&xs, &mut state, &mut layers)?;
    Ok(model.logits(&hidden, &mut layers)?)
}

/// Padding is not looked at; its own rows are zeroed.
fn left_padded(case: &Case, model: &Llama, ids: &Tensor) -> Result<Tensor> {
    let (_, length) = ids.dims2()?;
    let mask = case.tensor("in.batch_mask", &Device::Cpu)?.to_dtype(DType::F32)?;
    let padding = mask.to_vec2::<f32>()?.iter().map(|row| row.iter().take_while(|&&m| m == 0.0).count()).collect();
    let padding: Vec<usize> = padding;
    let mut state = model.start_padded(&padding, length, model.dtype())?;
    let hidden = model.feed(&model.embed(ids)?, &mut state, &mut ())?;
    let logits = model.logits(&hidden, &mut ())?.to_device(&Device::Cpu)?;
    Ok(logits.broadcast_mul(&mask.unsqueeze(2)?)?)
}

/// Argmax after argmax; elsewhere than in f32 on the CPU the ids of the case are fed.
fn greedy(
    case: &Case,
    context: &Context<'_>,
    recorder: &mut Recorder<'_>,
    model: &Llama,
    prompt: &Tensor,
) -> Result<()> {
    let wanted = case.values("out.greedy_ids")?;
    let steps = wanted.len();
    let mut state = model.start(1, prompt.dim(1)? + steps, model.dtype())?;
    let (mut fed, mut ids, mut rows) = (prompt.clone(), Vec::new(), Vec::new());
    for step in 0..steps {
        let hidden = model.feed(&model.embed(&fed)?, &mut state, &mut ())?;
        let last = hidden.narrow(1, hidden.dim(1)? - 1, 1)?;
        let logits = model.logits(&last, &mut ())?.flatten_all()?.to_device(&Device::Cpu)?;
        let id = match context.forced {
            true => *wanted.integers()?.get(step).context("out.greedy_ids is short")?,
            false => i64::from(logits.argmax(D::Minus1)?.to_scalar::<u32>()?),
        };
        rows.push(logits);
        ids.push(id);
        fed = Tensor::from_slice(&[id], (1, 1), &Device::Cpu)?;
    }
    recorder.tensor("out.greedy_logits", &Tensor::stack(&rows, 0)?)?;
    if context.forced {
        recorder.given("out.greedy_ids", "teacher forcing: fed to the model");
        return Ok(());
    }
    recorder.tensor("out.greedy_ids", &Tensor::from_vec(ids, (1, steps), &Device::Cpu)?)
}

/// Mean cross entropy of each next token.
pub fn next_token_loss(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec3::<f64>()?;
    let (mut total, mut count) = (0.0, 0);
    for (logits, ids) in logits.iter().zip(ids.to_vec2::<i64>()?) {
        for (row, &next) in logits.iter().zip(&ids[1..]) {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total_exp: f64 = row.iter().map(|x| (x - largest).exp()).sum();
            total += largest + total_exp.ln() - row.get(usize::try_from(next)?).context("an id beyond the logits")?;
            count += 1;
        }
    }
    Ok(Tensor::new((total / f64::from(count)) as f32, &Device::Cpu)?)
}

/// Puts `mid.` before what a model shows.
struct Mid<'a>(&'a mut dyn Probe);

impl Probe for Mid<'_> {
    fn wants(&self, name: &str) -> bool {
        self.0.wants(&format!("mid.{name}"))
    }

    fn see(&mut self, name: &str, value: &Tensor) -> candle_core::Result<()> {
        self.0.see(&format!("mid.{name}"), value)
    }
}

/// Records what the case stores; of tensors it stores the end of, the end.
struct Last<'r, 'a> {
    case: &'r Case,
    recorder: &'r mut Recorder<'a>,
}

impl Probe for Last<'_, '_> {
    fn wants(&self, name: &str) -> bool {
        self.recorder.stores(name)
    }

    fn see(&mut self, name: &str, value: &Tensor) -> candle_core::Result<()> {
        let mut value = value.clone();
        if let Some(Values { shape, .. }) = self.case.stored(name)
            && let (&[_, kept, _], (_, time, _)) = (shape.as_slice(), value.dims3()?)
            && kept < time
            && says_last(self.case, name, kept)
        {
            value = value.narrow(1, time - kept, kept)?;
        }
        self.recorder.tensor(name, &value).map_err(candle_core::Error::msg)
    }
}

/// Whether the case describes a tensor as the last `kept` positions.
fn says_last(case: &Case, name: &str, kept: usize) -> bool {
    let about = case.field("outputs").and_then(|outputs| outputs.get(name)?.get("about")?.as_str());
    about.is_some_and(|about| about.contains(&format!("last {kept} positions")))
}
