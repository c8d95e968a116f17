//! Media files to features, many in a run.
//!
//! Every finished file is kept in a folder beside the output (`OUTPUT.parts`), under a name made of what the file and the encoder
//! hold and how it was encoded. A run that was stopped therefore goes on where it was, whatever has been renamed or added since;
//! at the end the parts become one file, tensor by tensor, and the folder goes.

mod inputs;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use candle_core::{D, Device, Tensor};
use musaic_core::{
    Error, WeightFormat,
    files::{sha256_file, sha256_of},
    role::{AudioSpan, Cancel, Encoder, Modality},
    weights::{Checkpoint, InMemory, Source, StoredAs, write_safetensors},
};
use serde::Serialize;
use serde_json::json;

use self::inputs::Input;
use super::media::{self, MediaOptions};
use crate::{
    failure::BadInput,
    registry::{self, Role},
};

/// Name of the only tensor of a part.
const PART: &str = "features";
/// Raised whenever features of the same file and settings come out otherwise, so that old parts are not taken.
const PARTS_VERSION: u32 = 2;

/// What is encoded, with what, and where it goes.
#[derive(Debug, Clone)]
pub struct Job {
    /// Media files, or folders of pictures, which are videos.
    pub files: Vec<PathBuf>,
    /// The file to write.
    pub output: PathBuf,
    /// Published folder of the encoder.
    pub encoder: PathBuf,
    /// Where to compute.
    pub device: Device,
    /// How weights are held.
    pub format: WeightFormat,
    /// Which part of a long sound is heard.
    pub span: AudioSpan,
    /// How they are read.
    pub media: MediaOptions,
    /// Overwrite an output that exists.
    pub force: bool,
}

/// What came of one file.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    /// The file, which is also the tensor's name.
    pub file: String,
    /// Of its bytes.
    pub sha256: String,
    /// `[positions, dim]`.
    pub shape: Vec<usize>,
    /// It was encoded by a run before.
    pub reused: bool,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// 1; a field that goes or changes its meaning raises it.
    pub schema_version: u32,
    /// The file that was written.
    pub output: String,
    /// Registry name of the encoder.
    pub encoder: String,
    /// Of its weights.
    pub encoder_sha256: String,
    /// How its weights were held.
    pub format: String,
    /// Which part of a long sound was heard.
    pub audio: String,
    /// Whether the reference's behaviour was asked for.
    pub reference: bool,
    /// Which windows of videos were looked at; only where the encoder takes videos.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<String>,
    /// The files, as they were given.
    pub files: Vec<FileReport>,
}

/// Told which file is worked on (from 0), and how many of its parts are done.
pub type Watch<'a> = dyn FnMut(usize, &str, usize, usize) + 'a;

/// Encodes all files of `job` and writes one tensor `[positions, dim]` for each.
///
/// # Errors
/// As [`run_into`], or the output is not called `.safetensors`.
pub fn run(job: &Job, cancel: &Cancel, watch: &mut Watch<'_>) -> anyhow::Result<Report> {
    if job.output.extension().is_none_or(|e| e != "safetensors") {
        let message = format!("output {}: expected a name that ends in .safetensors", job.output.display());
        return Err(BadInput::new(message).into());
    }
    run_into(job, cancel, watch, |source, report| {
        let notes = BTreeMap::from([
            ("musaic_version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("musaic_features".to_owned(), serde_json::to_string(report)?),
        ]);
        write_safetensors(&job.output, source, &notes, &|_, _| Some(StoredAs::F32))?;
        Ok(())
    })
}

/// Encodes all files of `job` and hands the features to `finish`, one tensor `[positions, dim]` for each; it writes the output.
///
/// # Errors
/// A file is bad, the encoder does not load, the output cannot be written, or somebody asked to stop. What was finished until
/// then stays for the next run.
pub fn run_into(
    job: &Job,
    cancel: &Cancel,
    watch: &mut Watch<'_>,
    finish: impl FnOnce(&dyn Source, &Report) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    check_output(job)?;
    let row = registry::encoder_row(&job.encoder)?;
    let Role::Encoder(modality) = row.role else {
        return Err(Error::argument("encoder", row.name, "a part that encodes").into());
    };
    let files = inputs::look_at(&job.files, modality)?;
    let checkpoint = Checkpoint::open(&job.encoder)?;
    let encoder_sha256 = checkpoint.sha256()?.to_owned();
    drop(checkpoint);
    let settings = settings(job, modality, &encoder_sha256)?;
    let mut parts = job.output.clone().into_os_string();
    parts.push(".parts");
    let parts = PathBuf::from(parts);
    fs::create_dir_all(&parts).map_err(|e| Error::io(&parts, e))?;
    let done = encode(job, &files, &settings, &parts, cancel, watch);
    let kept = fs::read_dir(&parts).map_or(0, Iterator::count);
    if kept == 0 {
        // Nothing is left behind by a run that came to nothing.
        let _ = fs::remove_dir(&parts);
    }
    let reports = done.inspect_err(|_| {
        if kept > 0 {
            tracing::warn!(
                "{kept} finished parts are kept in {}; the same command goes on from there",
                parts.display()
            );
        }
    })?;
    let report = Report {
        schema_version: 1,
        output: job.output.display().to_string(),
        encoder: row.name.to_owned(),
        encoder_sha256,
        format: job.format.to_string(),
        audio: job.span.to_string(),
        reference: job.media.reference,
        video: windows(job, modality),
        files: reports,
    };
    let source = Parts::open(&files, &settings, &parts)?;
    finish(&source, &report)?;
    drop(source);
    fs::remove_dir_all(&parts).map_err(|e| Error::io(&parts, e))?;
    Ok(report)
}

fn check_output(job: &Job) -> Result<(), BadInput> {
    let output = job.output.display();
    if job.output.is_dir() {
        return Err(BadInput::new(format!("output {output}: a folder, expected a file name")));
    }
    if job.output.exists() && !job.force {
        return Err(BadInput::new(format!("output {output}: exists already")).hint("--force overwrites it"));
    }
    match job.output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            let message = format!("output {output}: no such folder {}", parent.display());
            Err(BadInput::new(message).hint("make the folder first"))
        }
        _ => Ok(()),
    }
}

/// Which windows of a video are looked at: `spread:MOST`, or `drawn:SEED` as the reference does.
fn windows(job: &Job, modality: Modality) -> Option<String> {
    let MediaOptions { reference, windows, seed } = job.media;
    let said = if reference { format!("drawn:{seed}") } else { format!("spread:{windows}") };
    (modality == Modality::Video).then_some(said)
}

/// Everything but the file that the features depend on.
fn settings(job: &Job, modality: Modality, encoder_sha256: &str) -> anyhow::Result<String> {
    let text = |name: &str| sha256_file(&job.encoder.join(name));
    Ok(json!({
        "version": PARTS_VERSION,
        "encoder": encoder_sha256,
        "config": text("config.json")?,
        "preprocessor": text("preprocessor_config.json")?,
        "device": format!("{:?}", job.device.location()),
        "format": job.format.name(),
        "audio": job.span.to_string(),
        "reference": job.media.reference,
        "video": windows(job, modality),
    })
    .to_string())
}

/// The file of a part.
fn part(parts: &Path, settings: &str, input: &Input) -> PathBuf {
    let key = sha256_of([settings, &input.sha256]);
    parts.join(format!("{key}.safetensors"))
}

/// Shape of a part that is whole.
fn finished(path: &Path) -> Option<Vec<usize>> {
    let checkpoint = Checkpoint::open(path).ok()?;
    let shape = checkpoint.tensors().get(PART)?;
    (shape.len() == 2).then(|| shape.clone())
}

fn encode(
    job: &Job,
    files: &[Input],
    settings: &str,
    parts: &Path,
    cancel: &Cancel,
    watch: &mut Watch<'_>,
) -> anyhow::Result<Vec<FileReport>> {
    // Loaded when the first file needs it: a run that only has to put parts together does not.
    let mut encoder: Option<Box<dyn Encoder>> = None;
    let mut reports = Vec::with_capacity(files.len());
    for (number, input) in files.iter().enumerate() {
        let path = part(parts, settings, input);
        let mut report =
            FileReport { file: input.name.clone(), sha256: input.sha256.clone(), shape: Vec::new(), reused: true };
        if let Some(shape) = finished(&path) {
            reports.push(FileReport { shape, ..report });
            continue;
        }
        cancel.check()?;
        let encoder = match &mut encoder {
            Some(encoder) => encoder,
            empty => empty.insert(registry::open_encoder(&job.encoder, &job.device, job.format)?),
        };
        let media = media::read(&input.path, encoder.spec(), &job.media)?;
        let features = encoder
            .features(media.borrow(), job.span, cancel, &mut |done, of| watch(number, &input.name, done, of))
            .with_context(|| input.name.clone())?;
        report = FileReport { shape: features.dims()[1..].to_vec(), reused: false, ..report };
        write_part(&path, features)?;
        reports.push(report);
    }
    Ok(reports)
}

fn write_part(path: &Path, features: Tensor) -> anyhow::Result<()> {
    anyhow::ensure!(
        features.sum_all()?.to_scalar::<f32>()?.is_finite(),
        "features that are no finite numbers, of width {}",
        features.dim(D::Minus1)?
    );
    let source = InMemory::new(HashMap::from([(PART.to_owned(), features.squeeze(0)?)]));
    write_safetensors(path, &source, &BTreeMap::new(), &|_, _| Some(StoredAs::F32))?;
    Ok(())
}

/// The parts under the names of their files, read when they are written.
struct Parts {
    files: HashMap<String, PathBuf>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Parts {
    fn open(files: &[Input], settings: &str, parts: &Path) -> anyhow::Result<Self> {
        let mut source = Self { files: HashMap::new(), shapes: BTreeMap::new() };
        for input in files {
            let path = part(parts, settings, input);
            let shape = finished(&path).with_context(|| format!("{}: gone, or broken", path.display()))?;
            source.shapes.insert(input.name.clone(), shape);
            source.files.insert(input.name.clone(), path);
        }
        Ok(source)
    }
}

impl Source for Parts {
    fn label(&self) -> String {
        "finished parts".into()
    }

    fn tensors(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    fn read(&self, name: &str, sink: &mut dyn FnMut(&[f32]) -> musaic_core::Result<()>) -> musaic_core::Result<()> {
        match self.files.get(name) {
            Some(path) => Checkpoint::open(path)?.read(PART, sink),
            None => Ok(()),
        }
    }
}
