//! `m2ugen/projector`: states of the music tokens to the conditioning of either decoder.

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use musaic_adapters::projector::{
    OutputProjector, ProjectorConfig, Scaling, audioldm2_states, musicgen_states, training_loss,
};
use musaic_core::testing::Case;

use crate::{
    llm::m2ugen,
    verify::{case::Context, recorder::Recorder},
};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let checkpoint = context.model.join("ckpts/checkpoint.pth");
    let weights = context.walk(m2ugen::open(Some(&checkpoint), None)?.source);
    let at = weights.pp("output_projector");
    let config = ProjectorConfig::detect(&at).context("no output projector")?;
    let projector = OutputProjector::load(&config, &at)?;
    let report = weights.report();
    let left_over = report.unused.iter().filter(|unused| unused.name.starts_with("output_projector")).count();
    anyhow::ensure!(report.missing.is_empty() && report.misshaped.is_empty() && left_over == 0, "{report}");

    let input = |name: &str| case.tensor(name, context.device);
    let (states, embeddings) = (input("in.aud_hidden")?, input("in.aud_token_embeddings")?);
    let mut seen: Vec<(String, Tensor)> = Vec::new();
    let projected = projector.forward(&states, &embeddings, &mut seen)?;
    for (name, value) in seen {
        let name = format!("mid.{name}");
        // Larger cases store the first layers only.
        if recorder.stores(&name) {
            recorder.tensor(name, &value)?;
        }
    }
    recorder.tensor("out.projected", &projected)?;
    if recorder.stores("out.gen_emb_musicgen") {
        recorder.tensor("out.gen_emb_musicgen", &musicgen_states(&projected, Scaling::Reference)?)?;
    }
    if recorder.stores("out.mse") {
        let mut targets = vec![input("in.target_t5_states")?];
        if case.stored("in.target_gpt_states").is_some() {
            targets.push(input("in.target_gpt_states")?);
        }
        let targets: Vec<_> = targets.iter().collect();
        recorder.tensor("out.mse", &training_loss(&projected, &targets)?)?;
    }
    if recorder.stores("out.prompt_embeds") {
        let sizes = |name: &str| -> Result<(usize, usize)> {
            let (_, length, width) = input(name)?.dims3()?;
            Ok((length, width))
        };
        let sizes = (sizes("in.target_t5_states")?, sizes("in.target_gpt_states")?);
        let (prompt, generated) = audioldm2_states(&projected, sizes.0, sizes.1)?;
        recorder.tensor("out.prompt_embeds", &prompt)?;
        recorder.tensor("out.generated_prompt_embeds", &generated)?;
    }
    Ok(())
}
