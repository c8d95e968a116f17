//! `media/arithmetic`: which frames of a video and which parts of a waveform the reference hands to its encoders.

use anyhow::{Context as _, Result};
use musaic_core::{
    media::{chunks, video::select},
    testing::Case,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::verify::{case::Context, recorder::Recorder};

/// Rate of the clips in `audio_chunks.json`.
const RATE_HZ: u32 = 24_000;

#[derive(Deserialize)]
struct Drawn {
    clip_len: usize,
    seg_len: usize,
    end_idx: Option<usize>,
}

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let null = Value::Null;
    let rows = |file: &str| -> Result<Vec<Value>> {
        Ok(case.json(file)?.as_array().with_context(|| format!("{file} is a list"))?.clone())
    };
    for (i, row) in rows("frame_indices.json")?.iter().enumerate() {
        let item = Drawn::deserialize(row).with_context(|| format!("frame_indices.json[{i}]"))?;
        let want = |field: &str| row.get(field).unwrap_or(&null);
        let ends = select::end_range(item.clip_len, item.seg_len);
        // Where the reference fails there is no range to draw from.
        let fails = json!(want("error").is_string());
        let mut fields = vec![("error", json!(ends.is_none()), &fails)];
        if let Some(end) = item.end_idx {
            let range = ends.map(|ends| json!([ends.start(), ends.end()]));
            fields.push(("end_idx_range", json!(range), want("end_idx_range")));
            fields.push(("indices", json!(select::drawn(item.clip_len, item.seg_len, end)), want("indices")));
        }
        recorder.entry(&format!("frame_indices.json[{i}]"), "the rule", &fields);
    }
    for (i, row) in rows("audio_chunks.json")?.iter().enumerate() {
        let samples = row.get("samples").and_then(Value::as_u64).context("a row of audio_chunks.json has `samples`")?;
        let parts: Vec<_> =
            chunks::first60(samples as usize, RATE_HZ).into_iter().map(|part| [part.start, part.end]).collect();
        let want = row.get("chunks").unwrap_or(&null);
        recorder.entry(&format!("audio_chunks.json[{i}]"), "the rule", &[("chunks", json!(parts), want)]);
    }
    Ok(())
}
