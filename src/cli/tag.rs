//! `musaic tag`: genre, mood and instruments from a language model, tempo, key, drums, colour and loudness from the sound.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use musaic_adapters::bridge::BridgeKind;
use musaic_core::{
    media::{Limits, read_audio},
    role::Cancel,
};
use serde::Serialize;

use super::{
    JsonList,
    ask::{self, Asker},
    failure,
    options::{ModelOptions, SystemOptions, only_in_batch},
    progress::FileProgress,
    stop,
};
use crate::{
    config::RunConfig,
    failure::BadInput,
    listen::{Detectors, tags::Tags},
    pipeline::{
        batch::{Batch, Done},
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
    #[arg(required_unless_present = "batch", conflicts_with = "batch", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Many tracks: a .jsonl or .csv file with a row each (file); results go to --output, and a run that was stopped goes on there
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with_all = ["json", "csv"])]
    batch: Option<PathBuf>,
    /// Where the results of --batch go, one JSON object a line
    #[arg(short, long, value_name = "JSONL")]
    output: Option<PathBuf>,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print as CSV, a line a track
    #[arg(long)]
    csv: bool,
    /// Go on with the others where one fails; the exit code tells, and in a batch a line with its `error`, which the next run
    /// tries again
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
    only_in_batch(args.output.as_deref(), args.batch.as_deref())?;
    let mut layers = args.model.layers()?;
    args.system.apply(&mut layers);
    let config = layers.finish()?;
    if let Some(path) = &args.batch {
        return batch(args, &config, path);
    }
    let mut tagger = Tagger::open(args, &config, &args.files)?;
    let mut out = Out::new(args, &config);
    let mut failed = 0;
    for path in &args.files {
        match tagger.tag(path) {
            Ok(tagged) => out.push(&tagged)?,
            Err(error) if args.keep_going => {
                super::say(&format!("error: {}", failure::of_one(error)?));
                failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    out.finish()?;
    ask::tell_failures(failed, args.files.len())
}

fn batch(args: &Args, config: &RunConfig, path: &Path) -> anyhow::Result<ExitCode> {
    let output = args.output.as_deref().ok_or_else(|| BadInput::new("output: nothing given for --batch"))?;
    let batch = Batch::open(path, &["file", "audio"])?;
    let mut settings = ask::settings(config)?;
    settings["tagged"] = true.into();
    let mut done = Done::open(output, &settings)?;
    let mut rows = Vec::new();
    for row in batch.rows().iter().filter(|row| !done.has(row)) {
        match row.files()?.as_slice() {
            [file] => rows.push((row, file.clone())),
            [] => return Err(row.missing("file").into()),
            _ => return Err(BadInput::new(format!("{}: two files, expected one", row.at())).into()),
        }
    }
    let files: Vec<_> = rows.iter().map(|(_, file)| file.clone()).collect();
    let (mut new, mut failed) = (0, 0);
    if !rows.is_empty() {
        let mut tagger = Tagger::open(args, config, &files)?;
        for (row, file) in &rows {
            match tagger.tag(file).with_context(|| row.at().to_owned()) {
                Ok(tagged) => {
                    done.push(row, &tagged)?;
                    new += 1;
                }
                Err(error) if args.keep_going => {
                    done.push_error(row, &failure::of_one(error)?)?;
                    failed += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
    if !args.quiet {
        super::say(&format!("{}: {new} new of {} tracks", output.display(), batch.rows().len()));
    }
    ask::tell_failures(failed, batch.rows().len())
}

/// What names tags.
struct Tagger {
    detectors: Detectors,
    asker: Option<Asker>,
    progress: FileProgress,
    number: usize,
    cancel: Cancel,
}

impl Tagger {
    fn open(args: &Args, config: &RunConfig, files: &[PathBuf]) -> anyhow::Result<Self> {
        // That a track can be read is seen when its turn comes.
        let unread = |path: &PathBuf| Input { path: path.clone(), kind: BridgeKind::Music, sha256: String::new() };
        let inputs: Vec<_> = files.iter().map(unread).collect();
        let asker = if config.system.checkpoint.is_empty() {
            None
        } else {
            Some(Asker::open(config, inputs.chunks(1), args.quiet)?)
        };
        Ok(Self {
            detectors: Detectors::built_in()?,
            asker,
            progress: FileProgress::new(files.len(), args.quiet),
            number: 0,
            cancel: stop::on_interrupt(),
        })
    }

    fn tag(&mut self, path: &Path) -> anyhow::Result<Tagged> {
        self.cancel.check()?;
        let file = path.display().to_string();
        self.progress.at(self.number, &file, 0, 1);
        self.number += 1;
        let tags = Tags::of(&read_audio(path, &Limits::default())?, &self.detectors)?;
        self.progress.finish();
        let mut said = BTreeMap::new();
        if let Some(asker) = &mut self.asker {
            let heard = asker.hear(&[system::look(path, Some(BridgeKind::Music))?], 0, &self.cancel)?;
            let mind = asker.mind()?;
            for (name, instruction) in QUESTIONS {
                let question = Question { heard: &heard, instruction, wants_music: false, seed: 0, take: 0 };
                let reply = mind.answer(&question, &self.cancel, &mut |_| Ok(()))?;
                let confidence = mind.confidence(&question, &reply)?;
                said.insert(name, Said { words: reply.text, confidence });
            }
        }
        Ok(Tagged { file, tags, said })
    }
}

/// Prints each track as it comes.
enum Out {
    Words,
    Json(JsonList),
    Csv { asked: bool, begun: bool },
}

impl Out {
    fn new(args: &Args, config: &RunConfig) -> Self {
        match (args.json, args.csv) {
            (true, _) => Self::Json(JsonList::default()),
            (_, true) => Self::Csv { asked: !config.system.checkpoint.is_empty(), begun: false },
            _ => Self::Words,
        }
    }

    fn push(&mut self, tagged: &Tagged) -> anyhow::Result<()> {
        match self {
            Self::Words => super::print(&describe(tagged)),
            Self::Json(list) => list.push(tagged),
            Self::Csv { asked, begun } => {
                let head = if std::mem::replace(begun, true) { None } else { Some(csv_head(*asked)) };
                super::print(&csv(head.into_iter().chain([csv_row(tagged, *asked)]))?)
            }
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Json(list) => list.finish(),
            Self::Csv { asked, begun: false } => super::print(&csv([csv_head(asked)].into_iter())?),
            _ => Ok(()),
        }
    }
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

fn csv_head(asked: bool) -> Vec<String> {
    let head = [
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
    let said = QUESTIONS.iter().filter(|_| asked).flat_map(|(name, _)| [(*name).into(), format!("{name}_confidence")]);
    head.map(str::to_owned).into_iter().chain(said).collect()
}

fn csv_row(tagged: &Tagged, asked: bool) -> Vec<String> {
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
    for (name, _) in QUESTIONS.iter().filter(|_| asked) {
        let said = tagged.said.get(name);
        row.push(said.map(|said| said.words.clone()).unwrap_or_default());
        row.push(said.map(|said| number(said.confidence)).unwrap_or_default());
    }
    row
}

fn csv(rows: impl Iterator<Item = Vec<String>>) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(&row)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
