//! `musaic tag`: genre, mood and instruments from a language model, tempo, key, drums, colour and loudness from the sound.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use musaic_adapters::bridge::BridgeKind;
use musaic_core::media::{Limits, read_audio};
use serde::Serialize;

use super::{
    ask::{self, HearingProgress},
    options::{ModelOptions, SystemOptions},
    progress::FileProgress,
    stop,
};
use crate::{
    failure::BadInput,
    listen::{Detectors, tags::Tags},
    pipeline::{
        compose::Composer,
        system::{self, Input, Question},
    },
};

/// What a language model is asked, under the name of the answer.
const QUESTIONS: [(&str, &str); 3] = [
    ("genre", "What is the genre of the music?"),
    ("mood", "What is the mood of the music?"),
    ("instruments", "What instruments are playing in the music?"),
];

/// Arguments of `musaic tag`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tracks
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print as CSV, a line a track
    #[arg(long)]
    csv: bool,
    /// Go on with the other tracks where one cannot be read; the exit code tells
    #[arg(long)]
    keep_going: bool,
    /// Say nothing on the way
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    system: SystemOptions,
}

/// All that is said of a track.
#[derive(Debug, Serialize)]
struct Tagged {
    file: String,
    #[serde(flatten)]
    tags: Tags,
    /// What the language model says, where there is one; how sure it is of its words.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    said: BTreeMap<&'static str, Said>,
}

/// An answer.
#[derive(Debug, Serialize)]
struct Said {
    words: String,
    /// Geometric mean of the probabilities of its tokens.
    confidence: f64,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut layers = args.model.layers()?;
    args.system.apply(&mut layers);
    let config = layers.finish()?;
    let cancel = stop::on_interrupt();
    let detectors = Detectors::built_in()?;
    let progress = FileProgress::new(args.files.len(), args.quiet);
    let mut tagged = Vec::with_capacity(args.files.len());
    let mut failed = 0;
    for (number, path) in args.files.iter().enumerate() {
        cancel.check()?;
        let name = path.display().to_string();
        progress.at(number, &name, 0, 1);
        let tags = read_audio(path, &Limits::default()).and_then(|audio| Tags::of(&audio, &detectors));
        match tags {
            Ok(tags) => tagged.push(Tagged { file: name, tags, said: BTreeMap::new() }),
            Err(error) if args.keep_going => {
                super::say(&format!("error: {error}"));
                failed += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    progress.finish();
    if !config.system.checkpoint.is_empty() {
        let device = config.device()?.open()?;
        let first = tagged.first().map(|tagged| track(&tagged.file));
        let composer = Composer::open(&config, first.transpose()?.into_iter().collect(), &device)?;
        if !args.quiet {
            super::say(&ask::about(&composer));
        }
        let mut encoders = composer.encoders(true);
        let mut hearing = HearingProgress::new(tagged.len(), args.quiet);
        let mut heard = Vec::with_capacity(tagged.len());
        for tagged in &tagged {
            heard.push(composer.hear(&[track(&tagged.file)?], &mut encoders, 0, &cancel, &mut hearing)?);
        }
        drop(encoders);
        let mind = composer.load()?;
        for (tagged, heard) in tagged.iter_mut().zip(&heard) {
            for (name, instruction) in QUESTIONS {
                let question = Question { heard, instruction, wants_music: false, seed: 0, take: 0 };
                let reply = mind.answer(&question, &cancel, &mut |_| Ok(()))?;
                let confidence = mind.confidence(&question, &reply)?;
                tagged.said.insert(name, Said { words: reply.text, confidence });
            }
        }
    }
    if args.json {
        super::print_json(&tagged)?;
    } else if args.csv {
        super::print(&csv(&tagged)?)?;
    } else {
        tagged.iter().try_for_each(|tagged| super::print(&describe(tagged)))?;
    }
    if failed > 0 {
        return Err(BadInput::new(format!("{failed} of {} files could not be read", args.files.len())).into());
    }
    Ok(ExitCode::SUCCESS)
}

fn track(file: &str) -> anyhow::Result<Input> {
    system::look(file.as_ref(), Some(BridgeKind::Music))
}

fn describe(tagged: &Tagged) -> String {
    let tags = &tagged.tags;
    let percent = |p: f64| format!("{:.0}%", 100.0 * p);
    let mut text = format!("{}\n", tagged.file);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
    line("length", format!("{:.2} s", tags.duration_s));
    line(
        "tempo",
        format!("{:.0} beats a minute, or half or double ({})", tags.tempo_bpm, percent(tags.tempo_confidence)),
    );
    line("key", format!("{} ({})", tags.key.name, percent(tags.key.confidence)));
    let loudness = tags.loudness_lufs.map_or("silent".to_owned(), |lufs| format!("{lufs:.1} LUFS"));
    line("loudness", format!("{loudness}, peak {:.1} dBFS", tags.peak_dbfs));
    for (name, tag) in [("drums", &tags.drums), ("colour", &tags.brightness), ("density", &tags.density)] {
        line(name, format!("{} ({})", tag.name, percent(tag.confidence)));
    }
    let led: Vec<_> =
        tags.instruments.iter().map(|tag| format!("{} ({})", tag.name, percent(tag.confidence))).collect();
    line("led by", led.join(", "));
    for (name, said) in &tagged.said {
        line(name, format!("{} ({})", said.words, percent(said.confidence)));
    }
    text
}

fn csv(tagged: &[Tagged]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut head = vec![
        "file",
        "duration_s",
        "tempo_bpm",
        "tempo_confidence",
        "key",
        "key_confidence",
        "loudness_lufs",
        "peak_dbfs",
        "drums",
        "drums_confidence",
        "led_by",
        "led_by_confidence",
        "colour",
        "density",
    ];
    let asked = tagged.iter().any(|tagged| !tagged.said.is_empty());
    if asked {
        head.extend(QUESTIONS.iter().map(|(name, _)| *name));
    }
    writer.write_record(&head)?;
    for tagged in tagged {
        let tags = &tagged.tags;
        let number = |x: f64| format!("{x:.3}");
        let lead = tags.instruments.first();
        let mut row = vec![
            tagged.file.clone(),
            number(tags.duration_s),
            number(tags.tempo_bpm),
            number(tags.tempo_confidence),
            tags.key.name.clone(),
            number(tags.key.confidence),
            tags.loudness_lufs.map(number).unwrap_or_default(),
            number(tags.peak_dbfs),
            tags.drums.name.clone(),
            number(tags.drums.confidence),
            lead.map(|tag| tag.name.clone()).unwrap_or_default(),
            lead.map(|tag| number(tag.confidence)).unwrap_or_default(),
            tags.brightness.name.clone(),
            tags.density.name.clone(),
        ];
        if asked {
            row.extend(
                QUESTIONS.iter().map(|(name, _)| tagged.said.get(name).map(|s| s.words.clone()).unwrap_or_default()),
            );
        }
        writer.write_record(&row)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
