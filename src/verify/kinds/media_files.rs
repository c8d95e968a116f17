//! `media/files`: real files, whole and broken, by the rules of the case's notes.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use candle_core::Tensor;
use musaic_core::{
    Error,
    media::{
        Audio, Limits, Picture, PictureOptions, Selection, Video, VideoOptions, measure::relative_error_at_best_lag,
        read_audio_as_reference, read_picture, read_video,
    },
    testing::{Case, Data, frame_number},
};
use serde_json::{Map, Value, json};

use crate::verify::{case::Context, recorder::Recorder};

/// A lossy decoder may start and end elsewhere, by this many samples.
const LAG: usize = 2200;

/// What the notes allow a file: two seconds, and 256 MiB.
fn limits() -> Limits {
    Limits { memory_bytes: 256 << 20, cpu_s: 2, ..Limits::default() }
}

fn options() -> VideoOptions {
    VideoOptions { selection: Selection::Every, turn: false, limits: limits(), ..VideoOptions::default() }
}

pub fn run(case: &Case, context: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    for (name, facts) in section(case, "audio")? {
        audio(case, context, name, facts, recorder).with_context(|| name.clone())?;
    }
    for (name, facts) in section(case, "video")? {
        video(case, name, facts, recorder).with_context(|| name.clone())?;
    }
    for (name, facts) in section(case, "broken")? {
        broken(case, name, facts, recorder)?;
    }
    Ok(())
}

fn section<'a>(case: &'a Case, name: &str) -> Result<&'a Map<String, Value>> {
    case.field(name).and_then(Value::as_object).with_context(|| format!("a case of this kind has `{name}`"))
}

fn path(case: &Case, name: &str) -> Result<PathBuf> {
    Ok(case.path(&format!("files/{name}"))?)
}

/// `out.FILE.WHAT`, with the file's dots as underscores.
fn key(name: &str, what: &str) -> String {
    format!("out.{}.{what}", name.replace('.', "_"))
}

fn floats(case: &Case, name: &str) -> Result<Vec<f64>> {
    Ok(match &case.values(name)?.data {
        Data::Floats(data) => data.clone(),
        Data::Integers(data) => data.iter().map(|&x| x as f64).collect(),
    })
}

fn audio(case: &Case, context: &Context<'_>, name: &str, facts: &Value, recorder: &mut Recorder<'_>) -> Result<()> {
    let got = read_audio_as_reference(path(case, name)?, &limits())?;
    let seconds = (got.len() as f64 / f64::from(got.sample_rate_hz)).round_ties_even() as u64;
    let mut fields = vec![
        ("rate", json!(got.sample_rate_hz), &facts["rate"]),
        ("channels", json!(got.channels.len()), &facts["channels"]),
    ];
    if facts["reference_length_seconds"].is_u64() {
        fields.push(("reference_length_seconds", json!(seconds), &facts["reference_length_seconds"]));
    }
    recorder.entry(&format!("audio/{name}"), "our decoders", &fields);
    let mono = got.mixdown();
    let key = facts["tensor"].as_str().map_or_else(|| key(name, "mono"), str::to_owned);
    if facts["lossy"] == json!(false) {
        let len = mono.len();
        return recorder.tensor(key, &Tensor::from_vec(mono, len, context.device)?);
    }
    let want: Vec<f32> = floats(case, &key)?.into_iter().map(|x| x as f32).collect();
    let bound = if facts["codec"] == "opus" { 2e-3 } else { 1e-4 };
    recorder.by_rule(key, relative_error_at_best_lag(&mono, &want, LAG), bound);
    Ok(())
}

fn video(case: &Case, name: &str, facts: &Value, recorder: &mut Recorder<'_>) -> Result<()> {
    let video = read_video(path(case, name)?, &options())?;
    let found = &video.facts;
    recorder.entry(
        &format!("video/{name}"),
        "our decoders",
        &[
            ("width", json!(found.width), &facts["width"]),
            ("height", json!(found.height), &facts["height"]),
            ("declared_frames", json!(found.declared_frames.unwrap_or(0)), &facts["declared_frames"]),
            ("decoded_frames", json!(video.frames.len()), &facts["decoded_frames"]),
        ],
    );
    let means: Vec<f64> = video.frames.iter().flat_map(mean).collect();
    let want = floats(case, &key(name, "frame_means"))?;
    recorder.by_rule(key(name, "frame_means"), largest_difference(&means, &want), 3.0);
    frames(case, name, facts, &video, recorder)
}

/// The stored frames: the right ones, and alike.
fn frames(case: &Case, name: &str, facts: &Value, video: &Video<Picture>, recorder: &mut Recorder<'_>) -> Result<()> {
    let want = floats(case, &key(name, "frames"))?;
    let indices: Vec<u64> = serde_json::from_value(facts["frame_indices"].clone()).context("`frame_indices`")?;
    let size = video.facts.width * video.facts.height * 3;
    let (mut total, mut worst) = (0.0, 0f64);
    for (i, &index) in indices.iter().enumerate() {
        let got = video.frames.get(index as usize);
        let (Some(got), Some(want)) = (got, want.get(i * size..(i + 1) * size)) else {
            recorder.by_rule(key(name, "frames"), f64::NAN, 4.0);
            return Ok(());
        };
        let difference = got.rgb.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).abs()).sum::<f64>();
        (total, worst) = (total + difference / size as f64, worst.max(difference / size as f64));
        let shown = Picture { rgb: want.iter().map(|&x| x as u8).collect(), ..*got };
        let fields = [("number", json!(frame_number(got)), &json!(frame_number(&shown)))];
        recorder.entry(&format!("video/{name}[{index}]"), "our decoders", &fields);
    }
    // With half the colours and a size that is no multiple of them, single frames may be further off.
    let odd = video.facts.width % 2 == 1 || video.facts.height % 2 == 1;
    let error = if odd { total / indices.len().max(1) as f64 } else { worst };
    recorder.by_rule(key(name, "frames"), if want.len() == indices.len() * size { error } else { f64::NAN }, 4.0);
    Ok(())
}

fn mean(picture: &Picture) -> [f64; 3] {
    let pixels = (picture.rgb.len() / 3).max(1) as f64;
    [0, 1, 2].map(|channel| picture.rgb.iter().skip(channel).step_by(3).map(|&x| f64::from(x)).sum::<f64>() / pixels)
}

fn largest_difference(got: &[f64], want: &[f64]) -> f64 {
    match got.len() == want.len() {
        true => got.iter().zip(want).fold(0.0, |most, (got, want)| (got - want).abs().max(most)),
        false => f64::NAN,
    }
}

/// A broken file: an error that names it, or what can be decoded of it; never more than the reference's tools find.
fn broken(case: &Case, name: &str, facts: &Value, recorder: &mut Recorder<'_>) -> Result<()> {
    let file = path(case, name)?;
    if let Some(theirs) = facts.get("ffmpeg_audio") {
        let read = read_audio_as_reference(&file, &limits());
        let good = match &read {
            Ok(audio) => sound_is_right(audio, theirs),
            // It promises more than it holds, and what it holds is plain.
            Err(error) => is_clear(error, name) && name != "promises_more.wav",
        };
        let told = read.map(|audio| audio.len()).map_err(|error| error.to_string());
        let told = format!("{told:?}");
        recorder.entry(&format!("broken/{name}"), &told, &[("audio", json!(good), &json!(true))]);
    }
    if let Some(theirs) = facts.get("image") {
        let read = read_picture(&file, &PictureOptions::reference());
        let good = match &read {
            Ok(picture) => theirs["size"].is_null() || theirs["size"] == json!([picture.width, picture.height]),
            // It is whole, and only its name is wrong.
            Err(error) => is_clear(error, name) && name != "png_named.jpg",
        };
        let told = read.map(|picture| (picture.width, picture.height)).map_err(|error| error.to_string());
        let told = format!("{told:?}");
        recorder.entry(&format!("broken/{name} as picture"), &told, &[("image", json!(good), &json!(true))]);
    }
    if let Some(theirs) = facts.get("video") {
        let read = read_video(&file, &options());
        let good = match &read {
            Ok(video) => {
                let right = video.frames.iter().enumerate().all(|(i, frame)| frame_number(frame) == i % 256);
                theirs["decoded_frames"].is_null() || right
            }
            Err(error) => is_clear(error, name),
        };
        let told = read.map(|video| video.frames.len()).map_err(|error| error.to_string());
        let told = format!("{told:?}");
        recorder.entry(&format!("broken/{name} as video"), &told, &[("video", json!(good), &json!(true))]);
    }
    Ok(())
}

/// Whether a decoded part is a prefix's length of what they decode, and finite. Where they refuse, any part is right.
fn sound_is_right(audio: &Audio, theirs: &Value) -> bool {
    let most = theirs["samples"].as_u64().map_or(usize::MAX, |samples| samples as usize + LAG);
    audio.len() <= most && audio.channels.iter().flatten().all(|x| x.is_finite())
}

/// Whether an error names the file, and is not that of a decoder that crashed, hung or grew.
fn is_clear(error: &Error, name: &str) -> bool {
    let text = error.to_string();
    let failed = ["took", "wanted", "crashed", "was", "went", "ended"].map(|verb| format!("its decoder {verb}"));
    text.contains(name) && !failed.iter().any(|failed| text.contains(failed))
}
