//! `musicgen/pipeline`: text states, conditioning, logits with and without guidance, greedy pieces down to the waveform.

use anyhow::{Context as _, Result, bail};
use candle_core::{Device, Tensor};
use musaic_core::testing::{Case, Values};
use musaic_decoders::musicgen::{Musicgen, delay::Codes, guide_halves};

use super::greedy::{self, extend, ids_and_mask, load, with_start};
use crate::verify::{case::Context, recorder::Recorder};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let model = load(context)?;
    let device = context.device;
    let (ids, mask) = ids_and_mask(case, "in.input_ids", "in.attention_mask", device)?;
    let states = model.text_states(&ids, &mask, &mut recorder.probe("mid."))?;
    recorder.tensor("out.text_states", &states)?;
    if recorder.stores("out.text_states_max_length") {
        let (ids, mask) = ids_and_mask(case, "in.input_ids_max_length", "in.attention_mask_max_length", device)?;
        recorder.tensor("out.text_states_max_length", &model.text_states(&ids, &mask, &mut ())?)?;
    }
    let mut projected: Vec<(String, Tensor)> = Vec::new();
    let conditioned = model.condition(&states, Some(&mask), None, &mut projected)?;
    for (name, value) in projected {
        let name = format!("mid.{name}");
        // A model whose widths agree has no projection, and its case need not store one.
        if recorder.stores(&name) {
            recorder.tensor(name, &value)?;
        }
    }

    let ids = delayed_ids(case, recorder, &model)?;
    let logits = model.logits(&ids, &conditioned, false, &mut recorder.probe("mid."))?;
    recorder.tensor("out.logits", &logits)?;
    let both = model.logits(&ids, &conditioned, true, &mut ())?;
    recorder.tensor("out.logits_cfg_both", &both)?;
    for name in case.expected() {
        if let Some(scale) = name.strip_prefix("out.logits_cfg_").and_then(|scale| scale.parse().ok()) {
            recorder.tensor(name, &guide_halves(&both, scale)?)?;
        }
    }
    if recorder.stores("out.logits_unconditional") {
        let nothing = model.unconditional(ids.batch)?;
        recorder.tensor("out.logits_unconditional", &model.logits(&ids, &nothing, false, &mut ())?)?;
    }
    let injected = case.stored("in.injected_states").map(|states| states.to_tensor(device)).transpose()?;
    if let Some(states) = injected.as_ref().filter(|_| recorder.stores("out.logits_injected_nomask")) {
        let first = Codes { batch: 1, ids: ids.ids[..ids.codebooks * ids.length].to_vec(), ..ids };
        let injected = model.condition(states, None, None, &mut ())?;
        recorder.tensor("out.logits_injected_nomask", &model.logits(&first, &injected, false, &mut ())?)?;
    }

    let prompt = prompt_codes(case, context, recorder, &model)?;
    for run in greedy::runs(case)? {
        let injected = || injected.as_ref().context("no in.injected_states");
        let (conditioned, prompt) = match run.source.as_str() {
            "text" => (conditioned.clone(), None),
            "continued" => (conditioned.clone(), Some(prompt.as_ref().context("no in.prompt_audio")?)),
            "uncond" => (model.unconditional(conditioned.batch())?, None),
            // Guidance takes them as a text encoder's output, with a mask of ones; without it there is no mask.
            "injected" if run.guidance_scale == 1.0 => (model.condition(injected()?, None, None, &mut ())?, None),
            "injected" => {
                let (batch, length, _) = injected()?.dims3()?;
                let ones = Tensor::ones((batch, length), candle_core::DType::F32, device)?;
                (model.condition(injected()?, Some(&ones), None, &mut ())?, None)
            }
            other => bail!("the run `{}` is conditioned on `{other}`, which is not known", run.name),
        };
        greedy::compare(case, context, recorder, &model, &run, &conditioned, prompt)?;
    }
    Ok(())
}

/// The codes of the case with the delay pattern.
fn delayed_ids(case: &Case, recorder: &mut Recorder<'_>, model: &Musicgen) -> Result<Codes> {
    let pattern = model.config().decoder.delay_pattern()?;
    let codes = Codes::from_tensor(&case.tensor("in.codes", &Device::Cpu)?, pattern.codebooks())?;
    let ids = with_start(&codes, pattern.pad());
    let max_length = ids.length + pattern.channel_codebooks();
    let mask = pattern.mask(&ids, max_length)?;
    if recorder.stores("mid.pattern_mask") {
        recorder.tensor("mid.pattern_mask", &mask.to_tensor(&Device::Cpu)?)?;
    }
    let delayed = mask.apply(&extend(&ids, max_length, pattern.pad()))?.columns(0..ids.length);
    if recorder.stores("mid.delayed_ids") {
        recorder.tensor("mid.delayed_ids", &delayed.to_tensor(&Device::Cpu)?.flatten(0, 1)?)?;
    }
    Ok(delayed)
}

/// Codes of the audio prompt, where the case has one.
fn prompt_codes(
    case: &Case,
    context: &Context<'_>,
    recorder: &mut Recorder<'_>,
    model: &Musicgen,
) -> Result<Option<Codes>> {
    let Some(audio) = case.stored("in.prompt_audio") else { return Ok(None) };
    let mask = case.tensor("in.prompt_padding_mask", context.device)?;
    let codes = model.prompt_codes(&audio.to_tensor(context.device)?, Some(&mask))?;
    const NAME: &str = "mid.prompt_codes";
    if let Some(want) = case.stored(NAME) {
        let got = codes.to_tensor(&Device::Cpu)?.unsqueeze(0)?;
        if context.forced && Values::from_tensor(&got)? != *want {
            recorder.given(NAME, "a decision between close codebook rows");
            let want = want.to_tensor(&Device::Cpu)?.squeeze(0)?;
            return Ok(Some(Codes::from_tensor(&want, codes.codebooks)?));
        }
        recorder.tensor(NAME, &got)?;
    }
    Ok(Some(codes))
}
