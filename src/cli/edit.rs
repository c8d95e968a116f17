//! `musaic edit`: a track and an instruction to another track, or to the same with one span made anew.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{
    Error,
    media::{Audio, AudioFormat, Limits, read_audio},
    role::Cancel,
};
use serde::Serialize;

use super::{
    ask::{self, HearingProgress},
    options::{
        ModelOptions, SamplingOptions, SystemOptions, check_prompt, draw_seed, for_music, loudness, number, whole,
    },
    progress::Progress,
    stop,
};
use crate::{
    config::RunConfig,
    failure::BadInput,
    listen::likeness::{Heard, Likeness},
    pipeline::{
        batch::{Batch, Row},
        compose::Composition,
        edit,
        generate::{self, Job, Session, TakeReport},
        models,
        output::Output,
        request::{Keep, Span},
        store::Store,
        studio::Studio,
        system::{self, Input, Moved},
    },
};

/// What a row of a batch may say.
const COLUMNS: [&str; 8] = ["track", "instruction", "output", "seed", "image", "video", "from", "to"];
/// Takes of a span, where the user says nothing.
const SPAN_TAKES: u32 = 4;
/// Seconds that a decoder's caches hold at once: what a batch of tracks of unknown length is planned with.
const WINDOW_S: f64 = 30.0;
const NO_SYSTEM: &str = "no language model: the instruction itself is what the decoder listens to";

/// Arguments of `musaic edit`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The track to change
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    track: Option<PathBuf>,
    /// What to change, such as "make it slower and add drums"
    #[arg(required_unless_present = "batch")]
    instruction: Option<String>,
    /// Many requests: a .jsonl or .csv file with a row each (track, instruction, output; seed, image, video, from, to); rows
    /// whose output exists are done
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "image", "video", "from", "to", "explain"])]
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
    #[arg(long, value_name = "N", value_parser = whole::<u32>)]
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
    /// Print a description of what was made as JSON; of a batch an object a line
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

/// One track and what is to become of it, checked.
struct Edit {
    job: Job,
    /// The track as it was.
    before: Heard,
}

/// What became of it.
struct Made {
    take: TakeReport,
    chosen_take: Option<u32>,
    joined_s: Option<f64>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cancel = stop::on_interrupt();
    if let Some(path) = &args.batch {
        return batch(args, path, &cancel);
    }
    if args.takes.is_some() && args.from.is_none() {
        return Err(BadInput::new("takes: without a span, expected --from and --to").into());
    }
    let edit = prepare(args)?;
    let plan = generate::plan(&edit.job)?;
    match plan.composer() {
        Some(composer) => talk(args, &ask::about(composer)),
        None => talk(args, NO_SYSTEM),
    }
    let mut hearing = hearing(args, &edit.job);
    let composition = plan.compose(&edit.job, &cancel, &mut hearing)?;
    let moved = composition.as_ref().map(|composition| composition.moved.clone()).unwrap_or_default();
    tell_answer(args, composition.as_ref());
    if !args.json {
        ask::explain(&moved)?;
    }
    let mut session = plan.load()?;
    session.set_composition(composition);
    let Some(made) = play(args, &mut session, &edit.job, &cancel)? else {
        talk(args, "stopped before anything was finished; nothing was written");
        return Ok(ExitCode::from(130));
    };
    let likeness = compare(args, &edit, &made)?;
    if args.json {
        super::print_json(&made.report(likeness, &moved))?;
    }
    Ok(if made.take.stopped { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Makes the rows of a file that have no output yet, with everything loaded once.
fn batch(args: &Args, path: &Path, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let batch = Batch::open(path, &COLUMNS)?;
    let mut rows = Vec::new();
    for (row, output) in batch.rows().iter().zip(batch.outputs()?) {
        if !output.exists() || args.force {
            rows.push((row, args.of_row(row, output).with_context(|| row.at().to_owned())?));
        }
    }
    if !rows.is_empty() {
        // How long the tracks are is seen when their turn comes: as long as the decoder's window.
        let config = args.config(WINDOW_S)?;
        let inputs = rows.iter().map(|(_, args)| args.media(&config)).collect::<anyhow::Result<Vec<_>>>()?;
        let kinds = system::one_of_each(inputs.iter().flatten().flatten());
        let mut studio = Studio::open(&config, &kinds)?;
        match studio.composer() {
            Some(composer) => talk(args, &ask::about(composer)),
            None => talk(args, NO_SYSTEM),
        }
        for (row, args) in &rows {
            row_of(args, &mut studio, cancel).with_context(|| row.at().to_owned())?;
        }
    }
    talk(args, &format!("{}: {} new of {} files", path.display(), rows.len(), batch.rows().len()));
    Ok(ExitCode::SUCCESS)
}

fn row_of(args: &Args, studio: &mut Studio, cancel: &Cancel) -> anyhow::Result<()> {
    let mut edit = prepare(args)?;
    edit.job = edit.job.with_whole(true);
    let composition = studio.compose(&edit.job, cancel, &mut hearing(args, &edit.job))?;
    tell_answer(args, composition.as_ref());
    let session = studio.session(&edit.job, composition)?;
    let made = play(args, session, &edit.job, cancel)?.ok_or(Error::Cancelled)?;
    let likeness = compare(args, &edit, &made)?;
    if args.json {
        super::print(&format!("{}\n", serde_json::to_string(&made.report(likeness, &[]))?))?;
    }
    Ok(())
}

impl Args {
    /// The same for a row of a batch.
    fn of_row(&self, row: &Row, output: PathBuf) -> anyhow::Result<Self> {
        let time_of = |name: &str| -> anyhow::Result<Option<f64>> {
            let Some(text) = row.text(name)? else { return Ok(None) };
            Ok(Some(time(&text).map_err(|expected| BadInput::new(format!("{}: {name}: {expected}", row.at())))?))
        };
        let (from, to) = (time_of("from")?, time_of("to")?);
        if from.is_some() != to.is_some() {
            let (there, missing) = if from.is_some() { ("from", "to") } else { ("to", "from") };
            return Err(BadInput::new(format!("{}: `{there}` without `{missing}`, expected both", row.at())).into());
        }
        Ok(Self {
            track: Some(row.file("track")?.ok_or_else(|| row.missing("track"))?),
            instruction: Some(row.text("instruction")?.ok_or_else(|| row.missing("instruction"))?),
            output: Some(output),
            seed: Some(row.number("seed")?.or(self.seed).unwrap_or(0)),
            image: row.file("image")?,
            video: row.file("video")?,
            from,
            to,
            batch: None,
            ..self.clone()
        })
    }

    /// The configuration for a piece of so many seconds, unless the user says how many.
    fn config(&self, seconds: f64) -> anyhow::Result<RunConfig> {
        let mut layers = self.model.layers()?;
        self.system.apply(&mut layers);
        self.sampling.apply(&mut layers);
        layers.flag("generate.seconds", Some(self.seconds.unwrap_or(seconds)));
        for_music(&mut layers, false)
    }

    fn span(&self) -> Option<Span> {
        let (from_s, to_s) = (self.from?, self.to?);
        Some(Span { from_s, to_s, takes: self.takes.unwrap_or(SPAN_TAKES).max(1) })
    }

    /// What is heard and seen, where a language model is configured.
    fn media(&self, config: &RunConfig) -> anyhow::Result<Option<Vec<Input>>> {
        if config.system.checkpoint.is_empty() {
            let given = [("image", self.image.is_some()), ("video", self.video.is_some()), ("explain", self.explain)];
            if let Some((name, _)) = given.into_iter().find(|(_, given)| *given) {
                let message = format!("{name}: there is no language model to look at it, expected one beside --{name}");
                return Err(BadInput::new(message)
                    .hint("name one with --checkpoint and --llama, or `--preset debug`")
                    .into());
            }
            return Ok(None);
        }
        let named =
            [(&self.track, BridgeKind::Music), (&self.image, BridgeKind::Image), (&self.video, BridgeKind::Video)];
        let named = named.into_iter().filter_map(|(path, kind)| Some((path.as_deref()?, kind)));
        named.map(|(path, kind)| system::look(path, Some(kind))).collect::<anyhow::Result<_>>().map(Some)
    }

    /// What of the track is kept; nothing where only a span of it is made anew.
    fn kept(&self, config: &RunConfig) -> anyhow::Result<Option<Keep>> {
        let follows = Store::open(&models::find(&config.model)?)?.follows_melody();
        match (self.span(), self.keep) {
            (Some(_), None) => Ok(None),
            (Some(_), Some(keep)) => {
                let message = format!("keep: {keep} with a span, expected neither or one of them");
                Err(BadInput::new(message).hint("outside a span everything is kept").into())
            }
            (None, Some(Keep::Melody)) if !follows => {
                let message = format!("keep: melody, but `{}` follows no tune", config.model);
                Err(BadInput::new(message).hint("name a melody model, such as facebook/musicgen-melody").into())
            }
            (None, given) => Ok(Some(given.unwrap_or(if follows { Keep::Melody } else { Keep::Start }))),
        }
    }
}

/// Reads the track and checks all that can be checked of it before anything is loaded.
fn prepare(args: &Args) -> anyhow::Result<Edit> {
    let (Some(track), Some(instruction)) = (&args.track, &args.instruction) else {
        return Err(BadInput::new("edit: expected a track and an instruction").into());
    };
    check_prompt(instruction)?;
    if args.output.as_deref() == Some(Path::new("-")) {
        let message = "output `-`: expected a file, since the track is compared with what is made";
        return Err(BadInput::new(message).hint("name a file with -o").into());
    }
    let audio = read_audio(track, &Limits::default())?;
    let config = args.config(audio.duration_s())?;
    let keep = args.kept(&config)?;
    let seed = args.seed.unwrap_or_else(draw_seed);
    let output = Output::plan(args.output.as_deref(), instruction, seed, 1, args.force)?;
    if let (Output::Files(files), Some(span)) = (&output, args.span()) {
        check_span(&files[0], span, &audio)?;
    }
    // What is compared later is small beside the track.
    let before = Heard::of(&audio)?;
    drop(audio);
    let compose = args.media(&config)?;
    let goes_on = args.span().is_some() || keep == Some(Keep::Start);
    let melody = (keep == Some(Keep::Melody)).then(|| track.clone());
    let job = Job::new(config, instruction, seed, output)
        .with_loudness(args.normalize.as_deref().map(loudness).transpose()?)
        .with_tracks(goes_on.then(|| track.clone()), melody)
        .with_compose(compose)
        .with_edit(keep, args.span())
        .with_explain(args.explain);
    Ok(Edit { job, before })
}

/// Whether a span lies in its track, and whether the file can hold the track's own samples.
fn check_span(path: &Path, span: Span, track: &Audio) -> anyhow::Result<()> {
    edit::check(span, track.duration_s())?;
    let format = AudioFormat::of_path(path)?;
    let (channels, most) = (track.channels.len(), format.most_channels());
    if channels > most {
        let message =
            format!("output {}: {channels} channels as in the track, expected at most {most}", path.display());
        return Err(BadInput::new(message).hint("outside a span the track stays as it is: write .wav or .flac").into());
    }
    if matches!(format, AudioFormat::Opus | AudioFormat::Mp3) {
        tracing::warn!("{}: a lossy format changes what lies outside the span a little", path.display());
    }
    Ok(())
}

/// Makes the take; nothing where it was stopped before anything was there.
fn play(args: &Args, session: &mut Session, job: &Job, cancel: &Cancel) -> anyhow::Result<Option<Made>> {
    let mut watch = Progress::new("playing", session.spec().frame_rate_hz, args.quiet);
    let made = match job.span {
        Some(span) => {
            let report = edit::span(session, job, span, cancel, &mut watch)?;
            Some(Made { take: report.take, chosen_take: Some(report.chosen), joined_s: Some(report.joined_s) })
        }
        None => {
            let take = session.take(job, 0, cancel, &mut watch)?;
            take.map(|take| Made { take, chosen_take: None, joined_s: None })
        }
    };
    watch.finish();
    Ok(made)
}

/// Says what was made, and how like the track before it is.
fn compare(args: &Args, edit: &Edit, made: &Made) -> anyhow::Result<Likeness> {
    let path = made.take.path.clone().unwrap_or_default();
    let likeness = edit.before.likeness(&Heard::of(&read_audio(&path, &Limits::default())?)?);
    talk(args, &super::generate::describe(&made.take));
    if let (Some(chosen), Some(joined), Some(span)) = (made.chosen_take, made.joined_s, edit.job.span) {
        let text = format!("take {} of {} is used; the track goes on at {joined:.2} s", chosen + 1, span.takes);
        talk(args, &text);
    }
    let louder = likeness.louder_lu.map_or("silent".into(), |lu| format!("{lu:+.1} LU"));
    let text = format!(
        "against the track before: notes {:.2} (1 is the same), onsets {:.2} (1 is the same), loudness {louder}",
        likeness.chroma, likeness.onsets
    );
    talk(args, &text);
    Ok(likeness)
}

impl Made {
    fn report<'a>(&'a self, likeness: Likeness, explain: &'a [Moved]) -> Report<'a> {
        let (chosen_take, joined_s) = (self.chosen_take, self.joined_s);
        Report { schema_version: 1, take: &self.take, likeness, chosen_take, joined_s, explain }
    }
}

fn hearing(args: &Args, job: &Job) -> HearingProgress {
    HearingProgress::new(job.compose.as_ref().map_or(0, Vec::len), args.quiet)
}

fn tell_answer(args: &Args, composition: Option<&Composition>) {
    if let Some(composition) = composition {
        talk(args, &super::generate::answer(composition));
    }
}

fn talk(args: &Args, text: &str) {
    if !args.quiet {
        super::say(text);
    }
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
