//! Greedy generation as the cases store it: scores of the first steps, codes, waveform.

use anyhow::{Context as _, Result};
use candle_core::{DType, Device, Tensor};
use musaic_core::{role::Sampling, testing::Case};
use musaic_decoders::musicgen::{Conditioned, Generation, Musicgen, MusicgenConfig, Plan, delay::Codes, guide_halves};

use crate::verify::{case::Context, recorder::Recorder};

/// Steps a case may ask for: a minute at 50 Hz.
const MAX_STEPS: usize = 3000;

/// Loads the model folder of a case.
pub fn load(context: &Context<'_>) -> Result<Musicgen> {
    let config = MusicgenConfig::open(&context.model.join("config.json"))?;
    Ok(Musicgen::from_weights(&config, &context.weights(&context.model)?)?.0)
}

/// Prompt ids and mask of the text encoder.
pub fn ids_and_mask(case: &Case, ids: &str, mask: &str, device: &Device) -> Result<(Tensor, Tensor)> {
    Ok((case.tensor(ids, device)?.to_dtype(DType::U32)?, case.tensor(mask, device)?.to_dtype(DType::F32)?))
}

/// One stored run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its name: `text_cfg3`.
    pub name: String,
    /// What it is conditioned on: `text`.
    pub source: String,
    /// Guidance; 1 for `nocfg` and where the name has none.
    pub guidance_scale: f64,
}

/// Names of stored runs (`out.NAME.codes`), as their notes explain them: `SOURCE_cfgG`, `SOURCE_nocfg` or `SOURCE`.
pub fn runs(case: &Case) -> Result<Vec<Run>> {
    case.expected()
        .filter_map(|name| name.strip_prefix("out.")?.strip_suffix(".codes"))
        .map(|name| {
            let (source, guidance) = match name.split_once('_') {
                Some((source, "nocfg")) => (source, Some(1.0)),
                Some((source, rest)) => (source, rest.strip_prefix("cfg").and_then(|g| g.parse().ok())),
                None => (name, Some(1.0)),
            };
            let guidance_scale = guidance.with_context(|| format!("the run `{name}` names no guidance"))?;
            Ok(Run { name: name.to_owned(), source: source.to_owned(), guidance_scale })
        })
        .collect()
}

/// Codes with the start token in front.
pub fn with_start(codes: &Codes, pad: u32) -> Codes {
    let mut started = Codes::filled(codes.batch, codes.codebooks, codes.length + 1, pad);
    for row in 0..codes.batch * codes.codebooks {
        started.ids[row * started.length + 1..][..codes.length].copy_from_slice(codes.row(row));
    }
    started
}

/// `ids` followed by `fill` up to `length` columns.
pub fn extend(ids: &Codes, length: usize, fill: u32) -> Codes {
    let mut extended = Codes::filled(ids.batch, ids.codebooks, length, fill);
    for row in 0..ids.batch * ids.codebooks {
        extended.ids[row * length..][..ids.length].copy_from_slice(ids.row(row));
    }
    extended
}

/// Runs greedily (or, teacher-forced, over the codes of the case) and records scores, codes and waveform.
pub fn compare(
    case: &Case,
    context: &Context<'_>,
    recorder: &mut Recorder<'_>,
    model: &Musicgen,
    run: &Run,
    conditioned: &Conditioned,
    prompt: Option<&Codes>,
) -> Result<()> {
    let out = |what: &str| format!("out.{}.{what}", run.name);
    let steps = case.stored(&out("step_logits")).and_then(|stored| stored.shape.first().copied()).unwrap_or(0);
    let codes = if context.forced {
        let codes = case.tensor(&out("codes"), &Device::Cpu)?;
        let codes = Codes::from_tensor(&codes, model.config().decoder.num_codebooks)?;
        let start = prompt.map_or(0, |prompt| prompt.length);
        recorder.tensor(out("step_logits"), &forced_scores(model, run, conditioned, &codes, start, steps)?)?;
        recorder.given(out("codes"), "teacher forcing: fed to the model");
        codes
    } else {
        let (scores, codes) = free(case, model, run, conditioned, prompt, steps)?;
        recorder.tensor(out("step_logits"), &scores)?;
        recorder.tensor(out("codes"), &codes.to_tensor(&Device::Cpu)?)?;
        codes
    };
    recorder.tensor(out("waveform"), &model.waveform(&codes)?)
}

/// Free-running greedy generation: scores of the first `steps` steps `[steps, rows, vocab]`, and all codes.
fn free(
    case: &Case,
    model: &Musicgen,
    run: &Run,
    conditioned: &Conditioned,
    prompt: Option<&Codes>,
    steps: usize,
) -> Result<(Tensor, Codes)> {
    let config = &model.config().decoder;
    let new = case.field("max_new_tokens").and_then(serde_json::Value::as_u64).context("no `max_new_tokens`")?;
    let plan = Plan {
        guidance_scale: run.guidance_scale,
        sampling: Sampling::Greedy,
        cache_dtype: model.lm().dtype(),
        ..Plan::reference(&config.delay_pattern()?, prompt.cloned(), usize::try_from(new)?.min(MAX_STEPS))
    };
    let frames = plan.frames;
    let mut generation = Generation::new(model.lm(), conditioned, plan)?;
    let mut scores = Vec::new();
    while !generation.is_done() {
        let before = generation.progress().0;
        generation.step(&mut ())?;
        // A step may only have taken in a part of a long prompt.
        if generation.progress().0 > before && before < steps {
            scores.extend_from_slice(generation.last_logits());
        }
    }
    let rows = conditioned.batch() * config.num_codebooks;
    let scores = Tensor::from_vec(scores, (steps, rows, config.vocab_size), &Device::Cpu)?;
    Ok((scores, generation.codes(0..frames)))
}

/// Scores of the first `steps` steps after `start` frames, all columns fed at once.
fn forced_scores(
    model: &Musicgen,
    run: &Run,
    conditioned: &Conditioned,
    codes: &Codes,
    start: usize,
    steps: usize,
) -> Result<Tensor> {
    let pattern = model.config().decoder.delay_pattern()?;
    let max_length = codes.length + pattern.channel_codebooks();
    let ids = with_start(codes, pattern.pad());
    let mask = pattern.mask(&ids, max_length)?;
    // The step that predicts column c has seen the columns before it.
    let ids = mask.apply(&extend(&ids, max_length, pattern.pad()))?.columns(0..start + steps);
    let guided = run.guidance_scale != 1.0;
    let logits = model.logits(&ids, conditioned, guided, &mut ())?;
    let logits = if guided { guide_halves(&logits, run.guidance_scale)? } else { logits };
    Ok(logits.narrow(1, conditioned.prefix_length() + start, steps)?.transpose(0, 1)?.contiguous()?)
}
