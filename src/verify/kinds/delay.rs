//! `musicgen/delay`: building, applying and removing the delay pattern.

use anyhow::{Context as _, Result, ensure};
use candle_core::Tensor;
use musaic_core::testing::Case;
use musaic_decoders::musicgen::delay::{Codes, DelayPattern};
use serde::Deserialize;

use super::greedy::extend;
use crate::verify::{case::Context, recorder::Recorder};

#[derive(Deserialize)]
struct Item {
    name: String,
    channels: usize,
    num_codebooks: usize,
    max_length: usize,
}

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let plan = case.field("plan").context("a case of this kind has a `plan`")?;
    for item in Vec::<Item>::deserialize(plan).context("reading `plan`")? {
        let name = &item.name;
        let read = |what: &str| -> Result<Codes> {
            let ids = case.tensor(&format!("in.{name}.{what}"), context.device)?;
            Ok(Codes::from_tensor(&ids, item.num_codebooks)?)
        };
        let (ids, generated) = (read("ids")?, read("generated")?);
        ensure!(generated.length == item.max_length, "`{name}`: in.{name}.generated has not max_length columns");
        // The first column is all pad: the start token.
        let pad = *ids.ids.first().context("no start token")?;
        let pattern = DelayPattern::new(item.num_codebooks, item.channels, pad)?;
        let mask = pattern.mask(&ids, item.max_length)?;
        let rows = |codes: &Codes| -> Result<Tensor> { Ok(codes.to_tensor(context.device)?.flatten(0, 1)?) };
        // A prompt is delayed before it is cut; where nothing is delayed it stays as it is.
        let padded = extend(&ids, item.max_length, pad);
        let first = mask.apply(&padded)?.columns(0..mask.first);
        recorder.tensor(format!("out.{name}.first_ids"), &rows(&first)?)?;
        recorder.tensor(format!("out.{name}.mask"), &mask.to_tensor(context.device)?)?;
        let applied = mask.apply(&generated)?;
        recorder.tensor(format!("out.{name}.applied"), &rows(&applied)?)?;
        recorder.tensor(format!("out.{name}.codes"), &pattern.revert(&applied)?.to_tensor(context.device)?)?;
    }
    Ok(())
}
