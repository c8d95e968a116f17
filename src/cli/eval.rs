//! `musaic eval`: does a model follow its prompts, judged by detectors that were checked first.

use std::{
    ops::Range,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use clap::{Args as ClapArgs, Subcommand};
use musaic_core::{
    Error, Result,
    role::{Conditioning, DecodeOptions},
};
use serde::Serialize;

use super::{
    options::{ModelOptions, whole},
    print, print_json, say,
};
use crate::{
    config::RunConfig,
    eval::{
        CLIP_S,
        codec::{Reconstruction, log_mel_db, si_sdr_db},
        fit::{Measured, fit},
        joins::Joins,
        model::{Clip, Loaded, Maker, Part, load},
        pieces::{Piece, pieces},
        prompts::{ATTRIBUTES, prompts},
        repeats::Runs,
        score::{Report, Scored, score},
        validate::{Tally, Validation, validate},
    },
    listen::{Detectors, Features, RATE_HZ, Verdict, hear},
};

/// Arguments of `musaic eval`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// How well the codec gives back held-out pieces
    Codec(Common),
    /// Train detectors on the first and last 10 s of training pieces through the codec; the result goes to stdout
    Fit(Fit),
    /// How often the detectors are right on held-out pieces through the codec
    Detectors(Common),
    /// Generate from prompts, judge the clips, compare with the controls
    Nano(Nano),
    /// Whether long pieces can be heard to be made in windows
    Joins(Long),
}

#[derive(Debug, ClapArgs)]
struct Common {
    /// The corpus: train.jsonl, test.jsonl and the audio they name
    #[arg(long, value_name = "DIR")]
    corpus: PathBuf,
    /// Where clips are kept, so that a later run goes on [default: CORPUS/eval]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Pieces used, of the training or the test split
    #[arg(long, default_value_t = 400)]
    pieces: usize,
    /// Detectors from a file of `musaic eval fit` instead of those built in
    #[arg(long, value_name = "FILE")]
    detectors: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

#[derive(Debug, ClapArgs)]
struct Fit {
    #[command(flatten)]
    common: Common,
    /// Training pieces left out before those that are used
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Smaller networks, to ship beside a model
    #[arg(long)]
    small: bool,
    /// Length of the clips that are heard, 10 at most
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Debug, ClapArgs)]
struct Nano {
    #[command(flatten)]
    common: Common,
    /// Prompts an attribute
    #[arg(long, default_value_t = 120)]
    count: usize,
    /// Training pieces among which repeated runs of codes are looked for
    #[arg(long, default_value_t = 2000)]
    training: usize,
    /// Openings each clip is chosen from [default: as `musaic generate`]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<u32>)]
    openings: Option<u32>,
    /// Attributes, by default all
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = ATTRIBUTES)]
    attributes: Vec<String>,
}

#[derive(Debug, ClapArgs)]
struct Long {
    /// Length of a piece
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Prompts, each once
    #[arg(long = "prompt", value_name = "TEXT", default_values = LONG_PROMPTS)]
    prompts: Vec<String>,
    /// Seed of the first take of each prompt
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Takes of each prompt
    #[arg(long, default_value_t = 2)]
    takes: u64,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

/// Pieces of various kinds, for joins.
const LONG_PROMPTS: [&str; 5] = [
    "calm piano melody",
    "upbeat electronic dance track with drums",
    "dark slow strings without drums",
    "funk with slap bass, 104 bpm",
    "bright folk guitar in G major",
];

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.step {
        Step::Codec(common) => codec(&common),
        Step::Fit(fit) => fit.run(),
        Step::Detectors(common) => {
            let maker = common.maker(&common.config()?)?;
            let judged = common.judged(&maker, &common.judges()?)?;
            let validation = validate(judged.iter().map(|j| (&j.piece, &j.verdict)));
            show(&validation, common.json, Validation::markdown)
        }
        Step::Nano(nano) => nano.run(),
        Step::Joins(long) => long.run(),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn show<T: Serialize>(value: &T, json: bool, markdown: impl Fn(&T) -> String) -> anyhow::Result<()> {
    if json { print_json(value) } else { print(&markdown(value)) }
}

impl Common {
    fn config(&self) -> anyhow::Result<RunConfig> {
        Ok(self.model.layers()?.finish()?)
    }

    /// The model, with its clips in a folder named after its weights.
    fn maker(&self, config: &RunConfig) -> anyhow::Result<Maker> {
        let Loaded { model, ranker, sha256 } = load(&config.model, config.format()?)?;
        let out = self.out.clone().unwrap_or_else(|| self.corpus.join("eval"));
        Ok(Maker::new(model, ranker, out.join(&sha256[..12])))
    }

    /// What `take` makes of each piece and its clip; one thread a core, each with clips of its own.
    fn clips<T: Send>(
        &self,
        maker: &Maker,
        split: &str,
        range: Range<usize>,
        part: Part,
        take: impl Fn(Piece, Clip) -> T + Sync,
    ) -> Result<Vec<T>> {
        let all = pieces(&self.corpus, split, range.end)?;
        let all = all.get(range.start.min(all.len())..).unwrap_or_default();
        let (total, done) = (all.len(), AtomicUsize::new(0));
        let clip = |piece: &Piece| {
            let clip = maker.through_codec(split, &self.corpus.join(&piece.file), piece.id, part)?;
            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_multiple_of(200) {
                say(&format!("{split}: {count} of {total} pieces through the codec"));
            }
            Ok(take(piece.clone(), clip))
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = all
                .chunks(total.div_ceil(threads).max(1))
                .map(|share| scope.spawn(|| share.iter().map(clip).collect::<Result<Vec<T>>>()))
                .collect();
            let mut out = Vec::with_capacity(total);
            for worker in workers {
                let part = worker.join().map_err(|_| Error::argument("worker", "a panic", "clips"))?;
                out.extend(part?);
            }
            Ok(out)
        })
    }

    fn judges(&self) -> Result<Detectors> {
        self.detectors.as_deref().map_or_else(Detectors::built_in, Detectors::open)
    }
}

/// A real piece, judged.
struct Judged {
    piece: Piece,
    verdict: Verdict,
    codes: Vec<u32>,
}

impl Common {
    /// The test pieces under the detectors.
    fn judged(&self, maker: &Maker, judges: &Detectors) -> Result<Vec<Judged>> {
        say(&format!("detectors: {}", judges.about()));
        self.clips(maker, "test", 0..self.pieces, Part::Middle, |piece, clip| Judged {
            verdict: judges.judge(&Features::of(&clip.samples)),
            piece,
            codes: clip.codes,
        })
    }
}

fn codec(common: &Common) -> anyhow::Result<()> {
    let maker = common.maker(&common.config()?)?;
    let mut all = Vec::new();
    for piece in pieces(&common.corpus, "test", common.pieces)? {
        let truth = maker.read(&common.corpus.join(&piece.file))?;
        let back = maker.decode(&maker.encode(&truth)?)?;
        let truth = hear(truth, maker.rate())?;
        all.push((si_sdr_db(&truth, &back), log_mel_db(&truth, &back)));
    }
    show(&Reconstruction::of(all), common.json, |r| {
        format!(
            "Codec on {} whole held-out pieces: SI-SDR mean {:.2} dB, median {:.2} dB; log-mel distance {:.2} dB.\n",
            r.pieces, r.si_sdr_mean_db, r.si_sdr_median_db, r.log_mel_db
        )
    })
}

impl Fit {
    fn run(&self) -> anyhow::Result<()> {
        let common = &self.common;
        let maker = common.maker(&common.config()?)?;
        let length = (self.seconds * f64::from(RATE_HZ)) as usize;
        if !(1.0..=CLIP_S as f64).contains(&self.seconds) {
            let expected = format!("1 to {CLIP_S}");
            return Err(Error::argument("seconds", self.seconds.to_string(), expected).into());
        }
        let measure = |piece: Piece, clip: Clip| -> Vec<Measured> {
            let parts = clip.samples.chunks_exact(length);
            parts.map(|part| Measured { features: Features::of(part), piece: piece.clone() }).collect()
        };
        let mut all = Vec::new();
        for part in [Part::First, Part::Last] {
            all.extend(common.clips(&maker, "train", self.skip..self.skip + common.pieces, part, measure)?);
        }
        let all: Vec<Measured> = all.into_iter().flatten().collect();
        say(&format!("training on {} clips", all.len()));
        print(&format!("{}\n", serde_json::to_string(&fit(&all, length, self.small)?)?))
    }
}

impl Nano {
    fn run(&self) -> anyhow::Result<()> {
        let common = &self.common;
        let mut layers = common.model.layers()?;
        layers.flag("generate.openings", self.openings.map(i64::from));
        let config = layers.finish()?;
        let (options, count) = (defaults(&config), config.generate.openings);
        let mut maker = common.maker(&config)?;

        let judges = common.judges()?;
        let real = common.judged(&maker, &judges)?;
        let validation = validate(real.iter().map(|j| (&j.piece, &j.verdict)));
        let test: Vec<Piece> = real.iter().map(|j| j.piece.clone()).collect();
        let training = common.clips(&maker, "train", 0..self.training, Part::First, |_, clip| clip.codes)?;
        let runs = Runs::new(training.iter().map(Vec::as_slice));

        let (mut scores, mut verdicts, mut codes) = (Vec::new(), Vec::new(), Vec::new());
        for attribute in
            ATTRIBUTES.iter().filter(|a| self.attributes.is_empty() || self.attributes.iter().any(|b| b == *a))
        {
            let asked = prompts(&common.corpus.join("prompts"), attribute, self.count, &test)?;
            let mut scored = Vec::new();
            for (i, prompt) in asked.into_iter().enumerate() {
                if i % 20 == 19 {
                    say(&format!("{attribute}: {} prompts", i + 1));
                }
                // The name tells prompt from prompt; a pair has one seed.
                let name = format!("{attribute}-{i:04}-{:016x}-of-{count}", fingerprint(&prompt.text));
                let clip = maker.generate(&name, &prompt.text, 1 + prompt.pair, &options, count)?;
                let verdict = judges.judge(&Features::of(&clip.samples));
                verdicts.push(verdict.clone());
                codes.push(clip.codes);
                scored.push(Scored { prompt, verdict });
            }
            scores.push(score(attribute, &scored, &validation));
        }
        let report = Report {
            scores,
            failed: Tally::of(verdicts.iter().map(|v| v.failure.is_some())),
            in_key: 100.0 * verdicts.iter().map(|v| v.in_key).sum::<f64>() / verdicts.len().max(1) as f64,
            in_key_real: validation.in_key,
            repeats: runs.repeats(codes.iter().map(Vec::as_slice)),
            repeats_real: runs.repeats(real.iter().map(|j| j.codes.as_slice())),
        };
        show(&report, common.json, Report::markdown)
    }
}

/// How users' pieces are made unless they say otherwise.
fn defaults(config: &RunConfig) -> DecodeOptions {
    let g = &config.generate;
    DecodeOptions { guidance_scale: g.guidance, sampling: g.sampling(), ..DecodeOptions::default() }
}

impl Long {
    fn run(&self) -> anyhow::Result<()> {
        let config = self.model.layers()?.finish()?;
        let Loaded { model, .. } = load(&config.model, config.format()?)?;
        let options = defaults(&config);
        let rate = model.codec().config().sampling_rate as u32;
        let frame_rate = model.codec().config().frame_rate();
        let frames = (self.seconds * frame_rate as f64).round() as usize;
        let at = |frame: usize| frame * RATE_HZ as usize / frame_rate;
        let mut joins = Joins::default();
        for prompt in &self.prompts {
            for take in 0..self.takes {
                let options = DecodeOptions { seed: self.seed + take, ..options.clone() };
                let mut generation = model.begin(&Conditioning::Text(prompt.clone()), &options, None, frames)?;
                let places: Vec<usize> = generation.slides().into_iter().map(at).collect();
                let codes = generation.run()?;
                let samples = model.waveform(&codes)?.flatten_all()?.to_vec1::<f32>()?;
                joins.add(&hear(samples, rate)?, &places);
                say(&format!("{prompt}: take {}", take + 1));
            }
        }
        show(&joins, self.json, Joins::markdown)
    }
}

fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
