//! `m2ugen/generate`: greedy answers as published: where they end, what they say, which states they hold, and what the
//! projector makes of these.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use candle_core::{Device, Tensor};
use musaic_adapters::projector::{Scaling, musicgen_states};
use musaic_core::{
    role::{Cancel, Sampling},
    testing::Case,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::m2ugen::{MEDIA, features, llama_folders, load};
use crate::{
    llm::{
        LlamaTokenizer,
        m2ugen::{AnswerOptions, Answering, M2ugen, MAX_POSITIONS, MUSIC_TOKENS, Stopped, Vectors},
    },
    verify::{case::Context, recorder::Recorder},
};

/// One run of `expected.json`.
#[derive(Deserialize)]
struct Run {
    modalities: Vec<String>,
    max_gen_len: usize,
}

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let llamas = llama_folders(&context.model)?;
    let checkpoint = context.model.join("ckpts/checkpoint.pth");
    let model = load(context, Some(&checkpoint), llamas.first().map(|path| &**path))?;
    let tokenizer = LlamaTokenizer::open(&context.model.join("llama/tokenizer.model"), &MUSIC_TOKENS)?;
    let file = case.field("texts").and_then(Value::as_str).unwrap_or("expected.json");
    let expected: BTreeMap<String, Value> = serde_json::from_value(case.json(file)?)?;
    for (name, want) in &expected {
        let run = Run::deserialize(want).with_context(|| format!("reading the run `{name}`"))?;
        one(case, context, recorder, (&model, &tokenizer), name, &run, want)?;
    }
    Ok(())
}

fn one(
    case: &Case,
    context: &Context<'_>,
    recorder: &mut Recorder<'_>,
    (model, tokenizer): (&M2ugen, &LlamaTokenizer),
    name: &str,
    run: &Run,
    want: &Value,
) -> Result<()> {
    let mut vectors = Vectors::default();
    for (medium, kind) in MEDIA.into_iter().filter(|(medium, _)| run.modalities.iter().any(|m| m == medium)) {
        let heard = model.vectors(&[(kind, &features(case, context, medium, "")?)], &mut ())?;
        vectors.set(kind, heard.of(kind).context("a vector")?.clone());
    }
    let prompt: Vec<u32> = ids(case, &format!("in.{name}.prompt"))?;
    let stored = ids(case, &format!("out.{name}.ids"))?;
    let options = AnswerOptions {
        max_new_tokens: run.max_gen_len,
        sampling: Sampling::Greedy,
        reference: true,
        ..AnswerOptions::default()
    };
    let mut session = model.session(&vectors)?;
    let music = (model.first_music_id(), MUSIC_TOKENS.len());
    let mut answering =
        Answering::new(&mut session, tokenizer, &prompt, music, MAX_POSITIONS, options, &Cancel::default())?;
    let (mut states, mut first) = (Vec::new(), None);
    loop {
        let hidden = answering.hidden().context("a state")?.squeeze(1)?;
        let given = context.forced.then(|| stored.get(states.len()).copied()).flatten();
        if (context.forced && given.is_none()) || answering.step_with(given)?.is_none() {
            break;
        }
        states.push(hidden);
        if first.is_none() {
            first = Some(Tensor::from_slice(answering.logits(), answering.logits().len(), &Device::Cpu)?);
        }
    }
    recorder.tensor(format!("mid.{name}.logits_first"), &first.context("no step")?)?;
    recorder.tensor(format!("mid.{name}.last_hidden_steps"), &Tensor::cat(&states, 0)?)?;
    let answer = answering.finish()?;
    let got: Vec<_> = answer.ids.iter().map(|&id| i64::from(id)).collect();
    if context.forced {
        recorder.given(format!("out.{name}.ids"), "teacher forcing: fed to the model");
    } else {
        recorder.tensor(format!("out.{name}.ids"), &Tensor::from_vec(got, answer.ids.len(), &Device::Cpu)?)?;
    }
    let pieces: Vec<_> = answer.ids.iter().map(|&id| tokenizer.piece(id)).collect();
    let stopped = match answer.stopped {
        Stopped::NextTurn => "newline+###",
        Stopped::Length => "max_gen_len",
        _ => "another rule",
    };
    let mut fields = vec![
        ("decoded", json!(answer.text)),
        ("pieces", json!(pieces)),
        ("n_steps", json!(answer.ids.len())),
        ("music", json!(answer.music.is_some())),
        ("stopped_by", json!(stopped)),
    ];
    if answer.music.is_some() {
        fields.push(("music_caption", json!(answer.text)));
    }
    let fields: Vec<_> = fields.into_iter().filter_map(|(f, got)| Some((f, got, want.get(f)?))).collect();
    recorder.entry(&format!("expected.json[{name}]"), "the answer", &fields);
    let Some(states) = answer.music else { return Ok(()) };
    let projected = model.project(&states, &mut ())?;
    recorder.tensor(format!("out.{name}.aud_hidden"), &states)?;
    recorder.tensor(format!("out.{name}.projected"), &projected)?;
    recorder.tensor(format!("out.{name}.gen_emb_musicgen"), &musicgen_states(&projected, Scaling::Reference)?)
}

fn ids(case: &Case, name: &str) -> Result<Vec<u32>> {
    let ids = case.values(name)?.integers()?.iter().map(|&id| u32::try_from(id));
    ids.collect::<Result<_, _>>().with_context(|| format!("{name} holds no ids"))
}
