//! `musaic generate`: a prompt to one or more audio files.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{
    Error,
    media::{FilmOptions, Limits, OwnSound, Selection, Tags, VideoOptions, lay_under, read_audio, read_video},
    role::{Cancel, DecoderSpec},
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
    config::{Origin, RunConfig},
    failure::BadInput,
    pipeline::{
        batch::{Batch, Row},
        compose::Composition,
        generate::{self, Job, TakeReport},
        output::Output,
        preflight::gigabytes,
        speed,
        studio::Studio,
        system::{self, Input, Moved},
    },
};

/// What a row of a batch may say.
const COLUMNS: [&str; 7] = ["prompt", "audio", "image", "video", "seconds", "seed", "output"];

/// Arguments of `musaic generate`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// What the music should be like; none at all lets the model play freely
    prompt: Option<String>,
    /// File to write: .wav, .flac, .mp3 or .opus by its ending; `-` streams WAV to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// Length in seconds [default: 10]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number)]
    seconds: Option<f64>,
    /// Seed of all random draws [default: drawn, and told]
    #[arg(long, value_name = "S", allow_negative_numbers = true, value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Pieces to make [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    takes: Option<u32>,
    /// Openings to choose from by the words, 1 for no choice; models with a ranker, such as nano [default: 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    openings: Option<u32>,
    /// Go on from this track; the file gets the old part and the new
    #[arg(long, value_name = "FILE")]
    continue_from: Option<PathBuf>,
    /// Follow the tune of this track (melody models)
    #[arg(long, value_name = "FILE")]
    melody: Option<PathBuf>,
    /// Make music for this picture
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Make music for this video, as long as it is
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    /// What becomes of the video's own sound: replace, keep (the music lies below it) or duck (the music steps back where it is
    /// heard) [default: replace]
    #[arg(long, value_name = "WHAT", value_parser = own_sound, requires = "video")]
    sound: Option<OwnSound>,
    /// Only the music: no video with the music laid under it
    #[arg(long, requires = "video", conflicts_with = "sound")]
    no_film: bool,
    /// Make music from this track, as long as it is
    #[arg(long, value_name = "FILE")]
    audio: Option<PathBuf>,
    /// Measure how much each input moved the answer, by leaving it out
    #[arg(long)]
    explain: bool,
    /// Many requests: a .jsonl or .csv file with a row each (prompt, audio, image, video, seconds, seed, output); rows whose
    /// output exists are done
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "output", "takes", "audio", "image", "video", "continue_from", "melody", "explain"])]
    batch: Option<PathBuf>,
    /// Bring the piece to this loudness, such as -14LUFS
    #[arg(long, value_name = "LUFS", allow_hyphen_values = true)]
    normalize: Option<String>,
    /// Print a description of what was made as JSON
    #[arg(long)]
    json: bool,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
    /// Print the configuration these flags make, with the origin of each value, and stop
    #[arg(long)]
    print_config: bool,
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
    model: &'a str,
    device: String,
    format: String,
    parameters: u64,
    load_s: f64,
    peak_memory_bytes: Option<u64>,
    stopped: bool,
    takes: &'a [TakeReport],
    /// Videos with the music laid under them, one a take.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    films: &'a [String],
    #[serde(skip_serializing_if = "<[Moved]>::is_empty")]
    explain: &'a [Moved],
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut layers = args.model.layers()?;
    args.system.apply(&mut layers);
    args.sampling.apply(&mut layers);
    layers.flag("generate.seconds", args.seconds);
    layers.flag("generate.takes", args.takes.map(i64::from));
    layers.flag("generate.openings", args.openings.map(i64::from));
    let named = [&args.audio, &args.image, &args.video].iter().any(|path| path.is_some());
    let mut config = for_music(&mut layers, named)?;
    if args.print_config {
        use std::io::Write;
        std::io::stdout().write_all(layers.print().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.batch {
        return batch(&args, &config, path, layers.origin("generate.seconds") == Some(&Origin::Default));
    }
    let inputs = args.media()?;
    if layers.origin("generate.seconds") == Some(&Origin::Default)
        && let Some(seconds) = length_of(&inputs)?
    {
        config.generate.seconds = seconds;
    }
    let job = job(&args, &config, inputs)?;
    let films = args.films(&job)?;
    let cancel = stop::on_interrupt();
    let talk = |text: String| {
        if !args.quiet {
            super::say(&text);
        }
    };

    let plan = generate::plan(&job)?;
    if let Some(composer) = plan.composer() {
        talk(ask::about(composer));
    }
    talk(format!(
        "{}: {:.1} M parameters as {}, about {} of memory{} on {}",
        job.config.model,
        plan.parameters as f64 / 1e6,
        plan.format,
        gigabytes(plan.need_bytes),
        plan.about_s.map_or(String::new(), |s| format!(" and {} a take", speed::about(s))),
        job.config.device,
    ));
    let mut hearing = HearingProgress::new(job.compose.as_ref().map_or(0, Vec::len), args.quiet);
    let composition = plan.compose(&job, &cancel, &mut hearing)?;
    let mut moved = Vec::new();
    if let Some(composition) = &composition {
        talk(answer(composition));
        moved.clone_from(&composition.moved);
        if !args.json {
            ask::explain(&moved)?;
        }
    }
    let started = Instant::now();
    let mut session = plan.load()?;
    session.set_composition(composition);
    let load_s = started.elapsed().as_secs_f64();

    let mut takes = Vec::new();
    let mut laid = Vec::new();
    let mut stopped = false;
    for take in 0..config.generate.takes {
        let label = if config.generate.takes > 1 { format!("take {}", take + 1) } else { "playing".into() };
        let mut watch = Progress::new(&label, session.spec().frame_rate_hz, args.quiet);
        let report = session.take(&job, take, &cancel, &mut watch)?;
        watch.finish();
        stopped = report.as_ref().is_none_or(|r| r.stopped);
        if let Some(report) = report {
            talk(describe(&report));
            if let (Some(Film { path }), Some(video), false) = (films.get(take as usize), &args.video, stopped) {
                let options = args.film_options(&report)?;
                let music = read_audio(report.path.as_deref().unwrap_or_default(), &Limits::default())?;
                let film = lay_under(video, &music, &options, path, args.force, &cancel)?;
                talk(format!("{}: {:.2} s, the music laid under {}", path.display(), film.duration_s, video.display()));
                laid.push(path.display().to_string());
            }
            takes.push(report);
        }
        if stopped {
            break;
        }
    }
    if stopped {
        talk(match takes.len() {
            0 => "stopped before anything was finished; nothing was written".into(),
            n => format!("stopped; {n} of {} files were written", config.generate.takes),
        });
    }
    if args.json {
        let report = Report {
            schema_version: 1,
            model: &config.model,
            device: config.device.clone(),
            format: session.format().to_string(),
            parameters: session.parameters(),
            load_s,
            peak_memory_bytes: crate::pipeline::preflight::peak_memory(),
            stopped,
            takes: &takes,
            films: &laid,
            explain: &moved,
        };
        super::print_json(&report)?;
    }
    Ok(if stopped { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Makes the rows of a file that have no output yet, with everything loaded once. `free` lets media decide the length.
fn batch(args: &Args, config: &RunConfig, path: &Path, free: bool) -> anyhow::Result<ExitCode> {
    let batch = Batch::open(path, &COLUMNS)?;
    if config.generate.takes > 1 {
        let message = format!("takes: {}, expected 1 with --batch", config.generate.takes);
        return Err(BadInput::new(message)
            .hint("a row is one file: write a row for each take, with its own seed")
            .into());
    }
    let cancel = stop::on_interrupt();
    let mut jobs = Vec::new();
    for (row, output) in batch.rows().iter().zip(batch.outputs()?) {
        if output.exists() && !args.force {
            continue;
        }
        jobs.push(row_job(args, config, row, output, free).with_context(|| row.at().to_owned())?);
    }
    let takes = if jobs.is_empty() { Vec::new() } else { play_all(args, config, &jobs, &cancel)? };
    if args.json {
        super::print_json(&takes)?;
    } else if !args.quiet {
        super::say(&format!("{}: {} new of {} files", path.display(), takes.len(), batch.rows().len()));
    }
    Ok(ExitCode::SUCCESS)
}

fn play_all(args: &Args, config: &RunConfig, jobs: &[Job], cancel: &Cancel) -> anyhow::Result<Vec<TakeReport>> {
    let mut config = config.clone();
    config.generate.seconds = jobs.iter().map(|job| job.config.generate.seconds).fold(0.0, f64::max);
    let kinds = system::one_of_each(jobs.iter().flat_map(|job| job.compose.iter().flatten()));
    let mut studio = Studio::open(&config, &kinds)?;
    let mut takes = Vec::with_capacity(jobs.len());
    for job in jobs {
        let mut hearing = HearingProgress::new(job.compose.as_ref().map_or(0, Vec::len), args.quiet);
        let composition = studio.compose(job, cancel, &mut hearing)?;
        let watch = |spec: &DecoderSpec| Progress::new("playing", spec.frame_rate_hz, args.quiet);
        let report = studio.play(job, composition, cancel, watch)?.ok_or(Error::Cancelled)?;
        if !args.quiet {
            super::say(&describe(&report));
        }
        takes.push(report);
    }
    Ok(takes)
}

/// The request of a row.
fn row_job(args: &Args, config: &RunConfig, row: &Row, output: PathBuf, free: bool) -> anyhow::Result<Job> {
    let row_args = Args {
        prompt: row.text("prompt")?,
        seed: Some(row.number("seed")?.or(args.seed).unwrap_or(0)),
        output: Some(output),
        audio: row.file("audio")?,
        image: row.file("image")?,
        video: row.file("video")?,
        normalize: args.normalize.clone(),
        force: args.force,
        ..Args::default()
    };
    let inputs = row_args.media()?;
    let mut config = config.clone();
    match row.number("seconds")? {
        Some(seconds) => config.generate.seconds = seconds,
        None if free => config.generate.seconds = length_of(&inputs)?.unwrap_or(config.generate.seconds),
        None => {}
    }
    config.validate()?;
    Ok(job(&row_args, &config, inputs)?.with_whole(true))
}

/// Checks what the flags say and makes the job of it.
fn job(args: &Args, config: &RunConfig, inputs: Vec<Input>) -> anyhow::Result<Job> {
    let usual = || if inputs.is_empty() { String::new() } else { usual_words(&inputs) };
    let prompt = args.prompt.clone().unwrap_or_else(usual);
    check_prompt(&prompt)?;
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    let normalize_lufs = args.normalize.as_deref().map(loudness).transpose()?;
    if to_stdout && normalize_lufs.is_some() {
        return Err(BadInput::new(
            "normalize: not possible while streaming to standard output, it needs the whole piece",
        )
        .hint("write to a file")
        .into());
    }
    if to_stdout && args.json {
        return Err(BadInput::new("json: standard output carries the audio already").hint("write to a file").into());
    }
    let seed = args.seed.unwrap_or_else(draw_seed);
    let output = Output::plan(args.output.as_deref(), &prompt, seed, config.generate.takes, args.force)?;
    // Words alone go through a language model only where the user names one.
    let compose = if inputs.is_empty() && config.system.checkpoint.is_empty() { None } else { Some(inputs) };
    Ok(Job::new(config.clone(), prompt, seed, output)
        .with_loudness(normalize_lufs)
        .with_tracks(args.continue_from.clone(), args.melody.clone())
        .with_compose(compose)
        .with_explain(args.explain))
}

impl Args {
    /// Media to compose from.
    fn media(&self) -> anyhow::Result<Vec<Input>> {
        let named =
            [(&self.audio, BridgeKind::Music), (&self.image, BridgeKind::Image), (&self.video, BridgeKind::Video)];
        let named = named.into_iter().filter_map(|(path, kind)| Some((path.as_deref()?, kind)));
        named.map(|(path, kind)| system::look(path, Some(kind))).collect()
    }
}

/// A video that is to be written.
struct Film {
    path: PathBuf,
}

/// Endings of videos that music can be laid under as they are.
const FILMS: [&str; 4] = ["mp4", "mov", "mkv", "webm"];

impl Args {
    /// The videos beside the takes: the same names with the video's own ending, or `mkv`, which takes any pictures.
    fn films(&self, job: &Job) -> anyhow::Result<Vec<Film>> {
        let (Some(video), false, Output::Files(files)) = (&self.video, self.no_film, &job.output) else {
            return Ok(Vec::new());
        };
        if video.is_dir() {
            return Ok(Vec::new());
        }
        let own = video.extension().map(|e| e.to_string_lossy().to_lowercase());
        let ending = own.filter(|own| FILMS.contains(&own.as_str())).unwrap_or_else(|| "mkv".into());
        let mut films = Vec::with_capacity(files.len());
        for file in files {
            let path = file.with_extension(&ending);
            if path.exists() && !self.force {
                return Err(BadInput::new(format!("output {}: exists already", path.display()))
                    .hint("--force overwrites it, --no-film leaves the video out")
                    .into());
            }
            films.push(Film { path });
        }
        Ok(films)
    }

    fn film_options(&self, report: &TakeReport) -> anyhow::Result<FilmOptions> {
        let tags = Tags { recipe: Some(serde_json::to_string(&report.request)?), ..Tags::default() };
        let own_sound = self.sound.unwrap_or_default();
        let given = self.normalize.as_deref().map(loudness).transpose()?;
        let options = FilmOptions { own_sound, tags, ..FilmOptions::default() };
        Ok(match given {
            Some(music_lufs) => FilmOptions { music_lufs, ..options },
            None => options,
        })
    }
}

fn own_sound(text: &str) -> Result<OwnSound, &'static str> {
    match text {
        "replace" => Ok(OwnSound::Replace),
        "keep" => Ok(OwnSound::Keep),
        "duck" => Ok(OwnSound::Duck),
        _ => Err("expected replace, keep or duck"),
    }
}

/// What is asked for where the user says nothing.
fn usual_words(inputs: &[Input]) -> String {
    let names: Vec<_> = inputs.iter().map(|input| system::name_of(input.kind)).collect();
    format!("Generate music for the {}", names.join(" and the "))
}

/// Length of the video, or else of the track, in seconds.
pub(super) fn length_of(inputs: &[Input]) -> anyhow::Result<Option<f64>> {
    let of = |kind| inputs.iter().find(|input| input.kind == kind && !input.path.is_dir());
    let seconds = match (of(BridgeKind::Video), of(BridgeKind::Music)) {
        (Some(video), _) => duration_of_video(&video.path)?,
        (None, Some(track)) => read_audio(&track.path, &Limits::default())?.duration_s(),
        (None, None) => return Ok(None),
    };
    Ok(Some(seconds))
}

fn duration_of_video(path: &Path) -> anyhow::Result<f64> {
    let one = VideoOptions { selection: Selection::Spread { windows: 1 }, frames: 1, ..VideoOptions::default() };
    Ok(read_video(path, &one)?.facts.duration_s)
}

/// What the language model made of it.
pub(super) fn answer(composition: &Composition) -> String {
    let added = composition.record.music_tokens_added;
    let how = if added { " (the music tokens were put behind it)" } else { "" };
    format!("answer{how}: {}", composition.reply.text)
}

pub(super) fn describe(report: &TakeReport) -> String {
    let mut text = format!(
        "{}: {:.2} s, seed {}, {:.1} s to make ({:.1}x real time, first sound after {:.2} s)",
        report.path.as_deref().unwrap_or("standard output"),
        report.seconds,
        report.request.seed,
        report.wall_s,
        report.seconds / report.wall_s.max(1e-9),
        report.first_sound_s.unwrap_or(report.wall_s),
    );
    if report.limited_db > 0.05 {
        text.push_str(&format!(
            "\nwarning: peaks were turned down by up to {:.1} dB to keep them from clipping",
            report.limited_db
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loudness_is_read_as_people_write_it() {
        for text in ["-14LUFS", "-14 lufs", "-14"] {
            assert_eq!(loudness(text).unwrap(), -14.0);
        }
        for text in ["loud", "5", "NaN", "-100"] {
            assert!(loudness(text).is_err(), "{text}");
        }
    }
}
