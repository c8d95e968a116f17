//! `musaic edit`: a track and an instruction to another track, or to the same with one span made anew.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::media::{AudioFormat, Limits, read_audio};
use serde::Serialize;

use super::{
    ask::{self, HearingProgress},
    options::{ModelOptions, SamplingOptions, SystemOptions, check_prompt, draw_seed, loudness, number, whole},
    progress::Progress,
    stop,
};
use crate::{
    failure::BadInput,
    listen::likeness::{Heard, Likeness},
    pipeline::{
        batch::Batch,
        edit,
        generate::{self, Job, TakeReport},
        models,
        output::Output,
        request::{Keep, Span},
        store::Store,
        system::{self, Moved},
    },
};

/// Takes of a span, where the user says nothing.
const SPAN_TAKES: u32 = 4;

/// Arguments of `musaic edit`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The track to change
    #[arg(required_unless_present = "batch")]
    track: Option<PathBuf>,
    /// What to change, such as "make it slower and add drums"
    #[arg(required_unless_present = "batch")]
    instruction: Option<String>,
    /// Many requests: a .jsonl or .csv file with a row each (track, instruction, output; seed, image, video, from, to); rows
    /// whose output exists are done
    #[arg(long, value_name = "FILE", conflicts_with_all = ["track", "output"])]
    batch: Option<PathBuf>,
    /// File to write: .wav, .flac, .mp3 or .opus by its ending
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite a file that exists
    #[arg(long)]
    force: bool,
    /// What of the track the decoder hears itself: none, start (its first seconds) or melody [default: melody where the
    /// decoder follows one, else start]
    #[arg(long, value_name = "WHAT", value_parser = keep)]
    keep: Option<Keep>,
    /// Make only a span anew, from here on
    #[arg(long, value_name = "TIME", value_parser = time, requires = "to")]
    from: Option<f64>,
    /// End of the span
    #[arg(long, value_name = "TIME", value_parser = time, requires = "from")]
    to: Option<f64>,
    /// Takes of a span, of which the one that meets what follows best is used [default: 4]
    #[arg(long, value_name = "N", requires = "from", value_parser = whole::<u32>)]
    takes: Option<u32>,
    /// Also look at this picture
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Also look at this video
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    /// Length in seconds [default: the track's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number, conflicts_with = "from")]
    seconds: Option<f64>,
    /// Seed of all random draws [default: drawn, and told]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Bring the whole to this loudness, such as -14LUFS
    #[arg(long, value_name = "LUFS", allow_hyphen_values = true, conflicts_with = "from")]
    normalize: Option<String>,
    /// Measure how much each input moved the answer, by leaving it out
    #[arg(long)]
    explain: bool,
    /// Print a description of what was made as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    system: SystemOptions,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    take: &'a TakeReport,
    /// Before and after.
    likeness: Likeness,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen_take: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_s: Option<f64>,
    #[serde(skip_serializing_if = "<[Moved]>::is_empty")]
    explain: &'a [Moved],
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.batch else { return one(args, false) };
    let batch = Batch::open(path)?;
    for row in batch.rows() {
        let output = row.file("output").ok_or_else(|| row.missing("output"))?;
        if output.exists() && !args.force {
            continue;
        }
        let time_of = |name: &str| -> anyhow::Result<Option<f64>> {
            let wrong = |expected| BadInput::new(format!("{}: {name}: {expected}", row.at()));
            Ok(row.text(name).map(|text| time(&text).map_err(wrong)).transpose()?)
        };
        let args = Args {
            track: Some(row.file("track").ok_or_else(|| row.missing("track"))?),
            instruction: Some(row.text("instruction").ok_or_else(|| row.missing("instruction"))?),
            output: Some(output),
            seed: Some(row.number("seed")?.or(args.seed).unwrap_or(0)),
            image: row.file("image"),
            video: row.file("video"),
            from: time_of("from")?,
            to: time_of("to")?,
            batch: None,
            ..args.clone()
        };
        let code = one(&args, true).with_context(|| row.at().to_owned())?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn one(args: &Args, in_batch: bool) -> anyhow::Result<ExitCode> {
    let (Some(track), Some(instruction)) = (&args.track, &args.instruction) else {
        return Err(BadInput::new("edit: expected a track and an instruction").into());
    };
    let mut layers = args.model.layers()?;
    args.system.apply(&mut layers);
    args.sampling.apply(&mut layers);
    layers.flag("generate.seconds", args.seconds);
    check_prompt(instruction)?;
    let before = read_audio(track, &Limits::default())?;
    if args.seconds.is_none() {
        layers.flag("generate.seconds", Some(before.duration_s()));
    }
    let config = layers.finish()?;
    let seed = args.seed.unwrap_or_else(draw_seed);
    let span = match (args.from, args.to) {
        (Some(from_s), Some(to_s)) => Some(Span { from_s, to_s, takes: args.takes.unwrap_or(SPAN_TAKES).max(1) }),
        _ => None,
    };
    let follows = Store::open(&models::find(&config.model)?)?.follows_melody();
    let keep = match (span, args.keep) {
        (Some(_), None) => None,
        (Some(_), Some(keep)) => {
            let message = format!("keep: {keep} with a span, expected neither or one of them");
            return Err(BadInput::new(message).hint("outside a span everything is kept").into());
        }
        (None, Some(Keep::Melody)) if !follows => {
            let message = format!("keep: melody, but `{}` follows no tune", config.model);
            return Err(BadInput::new(message).hint("name a melody model, such as facebook/musicgen-melody").into());
        }
        (None, given) => Some(given.unwrap_or(if follows { Keep::Melody } else { Keep::Start })),
    };
    let output = Output::plan(args.output.as_deref(), instruction, seed, 1, args.force)?;
    if let (Output::Files(files), Some(span)) = (&output, span) {
        check_span(&files[0], span)?;
    }
    let talk = |text: String| {
        if !args.quiet {
            super::say(&text);
        }
    };
    let compose = if config.system.checkpoint.is_empty() {
        talk("no language model: the instruction itself is what the decoder listens to".into());
        None
    } else {
        let named = [
            (Some(track), BridgeKind::Music),
            (args.image.as_ref(), BridgeKind::Image),
            (args.video.as_ref(), BridgeKind::Video),
        ];
        let named = named.into_iter().filter_map(|(path, kind)| Some((path?, kind)));
        Some(named.map(|(path, kind)| system::look(path, Some(kind))).collect::<anyhow::Result<Vec<_>>>()?)
    };
    let goes_on = span.is_some() || keep == Some(Keep::Start);
    let melody = (keep == Some(Keep::Melody)).then(|| track.clone());
    let job = Job::new(config, instruction, seed, output)
        .with_loudness(args.normalize.as_deref().map(loudness).transpose()?)
        .with_tracks(goes_on.then(|| track.clone()), melody)
        .with_compose(compose)
        .with_edit(keep, span)
        .with_explain(args.explain)
        .with_whole(in_batch);

    let cancel = stop::on_interrupt();
    let plan = generate::plan(&job)?;
    if let Some(composer) = plan.composer() {
        talk(ask::about(composer));
    }
    let mut hearing = HearingProgress::new(job.compose.as_ref().map_or(0, Vec::len), args.quiet);
    let composition = plan.compose(&job, &cancel, &mut hearing)?;
    let moved = composition.as_ref().map(|composition| composition.moved.clone()).unwrap_or_default();
    if let Some(composition) = &composition {
        talk(super::generate::answer(composition));
        if !args.json {
            ask::explain(&moved)?;
        }
    }
    let mut session = plan.load()?;
    session.set_composition(composition);
    let mut watch = Progress::new("playing", session.spec().frame_rate_hz, args.quiet);
    let (take, chosen_take, joined_s) = match job.span {
        Some(span) => {
            let report = edit::span(&mut session, &job, span, &cancel, &mut watch)?;
            (Some(report.take), Some(report.chosen), Some(report.joined_s))
        }
        None => (session.take(&job, 0, &cancel, &mut watch)?, None, None),
    };
    watch.finish();
    let Some(take) = take else {
        talk("stopped before anything was finished; nothing was written".into());
        return Ok(ExitCode::from(130));
    };
    let path = take.path.clone().unwrap_or_default();
    let after = read_audio(&path, &Limits::default())?;
    let likeness = Heard::of(&before)?.likeness(&Heard::of(&after)?);
    talk(super::generate::describe(&take));
    if let (Some(chosen), Some(joined)) = (chosen_take, joined_s) {
        talk(format!(
            "take {} of {} is used; the track goes on at {joined:.2} s",
            chosen + 1,
            span.map_or(1, |s| s.takes)
        ));
    }
    talk(format!(
        "against the track before: notes {:.2} (1 is the same), onsets {:.2} (1 is the same), loudness {}",
        likeness.chroma,
        likeness.onsets,
        likeness.louder_lu.map_or("silent".into(), |lu| format!("{lu:+.1} LU"))
    ));
    if args.json {
        let report = Report { schema_version: 1, take: &take, likeness, chosen_take, joined_s, explain: &moved };
        super::print_json(&report)?;
    }
    Ok(if take.stopped { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// A span is cut into the track's own samples: a format that fixes another rate would change what is to stay.
fn check_span(path: &std::path::Path, span: Span) -> anyhow::Result<()> {
    if matches!(AudioFormat::of_path(path)?, AudioFormat::Opus | AudioFormat::Mp3) {
        tracing::warn!("{}: a lossy format changes what lies outside the span a little", path.display());
    }
    if span.from_s >= span.to_s {
        return Err(BadInput::new(format!(
            "from {} s to {} s: expected an end after the begin",
            span.from_s, span.to_s
        ))
        .into());
    }
    Ok(())
}

fn keep(text: &str) -> Result<Keep, &'static str> {
    [Keep::None, Keep::Start, Keep::Melody]
        .into_iter()
        .find(|keep| keep.to_string() == text)
        .ok_or("expected none, start or melody")
}

/// `4s`, `4`, `0:04`, `1:02.5`.
fn time(text: &str) -> Result<f64, &'static str> {
    const EXPECTED: &str = "expected a time, such as 4s, 4.5 or 1:02.5";
    let text = text.trim().trim_end_matches('s');
    let parts: Vec<_> = text.split(':').collect();
    let number = |part: &str| part.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0).ok_or(EXPECTED);
    match parts.as_slice() {
        [seconds] => number(seconds),
        [minutes, seconds] => Ok(60.0 * number(minutes)? + number(seconds)?),
        _ => Err(EXPECTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [("4s", 4.0), ("4", 4.0), ("0.5", 0.5), ("0:04", 4.0), ("1:02.5", 62.5)] {
            assert_eq!(time(text), Ok(seconds));
        }
        for text in ["", "-1", "four", "1:2:3", "NaN", "inf"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
