//! `m2ugen/llm-forward`: the language core with every mix of media, loaded in every way its files allow.

use std::path::Path;

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{probe::Probe, testing::Case};

use super::m2ugen::{MEDIA, Renamed, features, llama_folders, load};
use crate::{
    llm::m2ugen::{M2ugen, MUSIC_TOKENS, Vectors},
    verify::{case::Context, recorder::Recorder},
};

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let llamas = llama_folders(&context.model)?;
    let (whole, adapter) = (context.model.join("ckpts/checkpoint.pth"), context.model.join("ckpts/adapter.pth"));
    if whole.is_file() {
        // Alone, with the heads of its gates, and with the folder that it is checked against.
        all(case, context, recorder, &load(context, Some(&whole), llamas.first().map(|path| &**path))?)?;
    }
    for llama in &llamas {
        if adapter.is_file() {
            all(case, context, recorder, &load(context, Some(&adapter), Some(llama))?)?;
        }
        fresh(case, context, recorder, llama)?;
    }
    Ok(())
}

/// Every run of the case with one model.
fn all(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>, model: &M2ugen) -> Result<()> {
    let mut heard = Vec::new();
    for (medium, kind) in MEDIA {
        let features = features(case, context, medium, "")?;
        let vectors = model.vectors(&[(kind, &features)], &mut ())?;
        let vector = vectors.of(kind).context("a vector")?.clone();
        recorder.tensor(format!("mid.{medium}_feats"), &vector)?;
        heard.push((medium, kind, vector));
    }
    let names: Vec<_> =
        case.expected().filter_map(|name| name.strip_prefix("out.")?.strip_suffix(".last_hidden")).collect();
    for name in names.into_iter().filter(|name| *name != "fresh") {
        let mut vectors = Vectors::default();
        for (medium, kind, vector) in &heard {
            if *medium == name || name == "all" {
                vectors.set(*kind, vector.clone());
            }
        }
        let known = name == "text" || name == "all" || MEDIA.iter().any(|(medium, _)| *medium == name);
        anyhow::ensure!(known, "the run `{name}` has media that are not known");
        let mut probe = Renamed { recorder, prefix: format!("mid.{name}.") };
        let (hidden, logits) = forward(case, context, model, &vectors, &mut probe)?;
        recorder.tensor(format!("out.{name}.last_hidden"), &hidden)?;
        recorder.tensor(format!("out.{name}.logits"), &logits)?;
    }
    Ok(())
}

/// The whole text at once: states of all positions, logits `[1, vocab]` of the last.
fn forward(
    case: &Case,
    context: &Context<'_>,
    model: &M2ugen,
    vectors: &Vectors,
    probe: &mut dyn Probe,
) -> Result<(Tensor, Tensor)> {
    let ids = case.tensor("in.tokens", context.device)?;
    let (batch, length) = ids.dims2()?;
    let llama = model.llama();
    let mut state = llama.start(batch, length, llama.dtype())?;
    llama.set_prefixes(&mut state, model.prefixes(vectors)?)?;
    let xs = llama.embed(&ids)?;
    probe.see("embeddings", &xs)?;
    let hidden = llama.feed(&xs, &mut state, probe)?;
    let logits = llama.logits(&hidden, probe)?;
    Ok((hidden, logits.narrow(1, length - 1, 1)?.squeeze(1)?))
}

/// LLaMA alone, as training begins.
fn fresh(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>, llama: &Path) -> Result<()> {
    if !recorder.stores("out.fresh.last_hidden") {
        return Ok(());
    }
    let model = load(context, None, Some(llama))?;
    anyhow::ensure!(BridgeKind::ALL.into_iter().all(|kind| !model.can_notice(kind)), "gates of a fresh model");
    let (hidden, logits) = forward(case, context, &model, &Vectors::default(), &mut ())?;
    recorder.tensor("out.fresh.last_hidden", &hidden)?;
    // The reference draws the new rows of the head at random.
    let vocab = logits.dim(1)? - MUSIC_TOKENS.len();
    recorder.tensor("out.fresh.logits_vocab", &logits.narrow(1, 0, vocab)?)
}
