//! `musaic convert`: rewrites a checkpoint, tensor by tensor, and checks what was written.

mod input;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use musaic_core::{
    Error, WeightFormat,
    weights::{Checkpoint, GgufSettings, Renamed, Source, StoredAs, write_shards},
};

use self::input::{Input, OfM2ugen};
use crate::{
    failure::BadInput,
    llm::{
        OpenLlama,
        export::{Notes, to_gguf},
        gguf::GgufFile,
        m2ugen::{Belongs, HAS_MUSIC_TOKENS, MUSIC_TOKENS, belongs},
    },
};

/// Small files that go along with the weights.
const COMPANIONS: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "params.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
];

/// Buffers that training leaves behind and inference never reads.
const TRAINING_ONLY: [&str; 3] = [".codebook.embed_avg", ".codebook.cluster_size", ".codebook.inited"];

/// Arguments of `musaic convert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A published folder (LLaMA also as Meta has it), or a file of weights (.safetensors, .bin, .pth, .gguf)
    input: PathBuf,
    /// Folder to write: model.safetensors (in shards with an index where it is large), or model.gguf and, of M2UGen, adapters.safetensors
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// f32, f16, bf16, q8_0 (packed: 8.5 bits a weight, expanded again by `--to f32`); LLaMA and M2UGen also gguf:TYPE, with q4_k as one more type
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    to: String,
    /// The LLaMA that INPUT is a delta of (Vicuna), or that an M2UGen checkpoint was trained on
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// Largest file of safetensors, in GB
    #[arg(long, value_name = "GB", default_value_t = 5.0)]
    shard_gb: f64,
    /// Leave out buffers that only training needs
    #[arg(long)]
    slim: bool,
    /// Overwrite a model that is there
    #[arg(long)]
    force: bool,
}

/// What is written.
#[derive(Clone, Copy)]
enum Target {
    Safetensors(StoredAs),
    Gguf(WeightFormat),
}

impl Target {
    fn parse(text: &str) -> Result<Self, BadInput> {
        let bad = |expected: &str| BadInput::new(format!("to: `{text}`, expected {expected}"));
        if let Some(format) = text.strip_prefix("gguf:") {
            let format = format.parse().map_err(|_| bad("gguf:f32, gguf:f16, gguf:bf16, gguf:q8_0 or gguf:q4_k"))?;
            return Ok(Self::Gguf(format));
        }
        Ok(Self::Safetensors(match text {
            "f32" => StoredAs::F32,
            "f16" => StoredAs::F16,
            "bf16" => StoredAs::Bf16,
            "q8_0" => StoredAs::Q8_0,
            _ => return Err(bad("f32, f16, bf16, q8_0, or gguf: with a type")),
        }))
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let target = Target::parse(&args.to)?;
    if !(args.shard_gb >= 1e-6 && args.shard_gb <= 1e6) {
        return Err(BadInput::new(format!("shard-gb: {}, expected 0.000001 to 1000000", args.shard_gb)).into());
    }
    let written: &[&str] = match target {
        Target::Safetensors(_) => &["model.safetensors", "model.safetensors.index.json"],
        Target::Gguf(_) => &["model.gguf", "adapters.safetensors"],
    };
    if let Some(there) = written.iter().map(|name| args.output.join(name)).find(|path| path.exists() && !args.force) {
        let message = format!("output {}: exists already", there.display());
        return Err(BadInput::new(message).hint("--force overwrites it").into());
    }
    let input = Input::open(&args.input, args.base.as_deref())?;
    if let Some(same) = input.files().find(|file| is_written(file, &args.output)) {
        return Err(BadInput::new(format!("output {}: is the input itself", same.display())).into());
    }
    fs::create_dir_all(&args.output).map_err(|e| Error::io(&args.output, e))?;
    let notes = input.notes()?;
    match target {
        Target::Safetensors(stored) => safetensors(args, stored, input, notes)?,
        Target::Gguf(format) => gguf(args, format, input, notes)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a file of the input lies where one of the output would.
fn is_written(file: &Path, output: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let ours = (name.starts_with("model") || name.starts_with("adapters"))
        && (name.ends_with(".safetensors") || name.ends_with(".gguf"));
    ours && file
        .parent()
        .is_some_and(|folder| same_file(if folder == Path::new("") { Path::new(".") } else { folder }, output))
}

fn safetensors(args: &Args, stored: StoredAs, input: Input, mut notes: BTreeMap<String, String>) -> anyhow::Result<()> {
    notes.insert("format".to_owned(), "pt".to_owned());
    let companions = input.companions();
    let source = input.into_source();
    let choose = |name: &str, shape: &[usize]| {
        let left_out = args.slim && TRAINING_ONLY.iter().any(|ending| name.ends_with(ending));
        (!left_out).then(|| choose(stored, shape))
    };
    let most = (args.shard_gb * 1e9) as u64;
    let (files, bytes) = write_shards(&args.output, "model", &*source, &notes, &choose, most)?;
    remove_stale(&args.output, &files)?;
    for file in companions {
        copy(&file, &args.output.join(file.file_name().unwrap_or_default()))?;
    }
    let written = Checkpoint::open(&args.output)?;
    let shown = match files.as_slice() {
        [only] => only.display().to_string(),
        files => format!("{} files in {}", files.len(), args.output.display()),
    };
    report(&shown, bytes, &*source, &written)?;
    Ok(())
}

/// Files of an earlier model of this name: a reader would take them for a part of this one.
fn remove_stale(folder: &Path, files: &[PathBuf]) -> Result<(), Error> {
    let index = folder.join("model.safetensors.index.json");
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shard = name.strip_prefix("model").and_then(|rest| rest.strip_suffix(".safetensors"));
        let ours = shard.is_some_and(|part| part.is_empty() || part.contains("-of-")) || path == index;
        let new = files.contains(&path) || (path == index && files.len() > 1);
        if ours && !new {
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

fn gguf(args: &Args, format: WeightFormat, input: Input, notes: BTreeMap<String, String>) -> anyhow::Result<()> {
    let path = args.output.join("model.gguf");
    let mut texts: Vec<_> = notes.iter().map(|(key, text)| (format!("musaic.{key}"), text.clone())).collect();
    let mut along = Vec::new();
    let (llama, adapters, added) = match input {
        Input::M2ugen(model) => {
            let OfM2ugen { source, llama, stored, .. } = *model;
            let llama = llama?;
            texts.push((HAS_MUSIC_TOKENS.to_owned(), MUSIC_TOKENS.len().to_string()));
            let adapters = Renamed::new(source, |name| (belongs(name) == Belongs::Adapters).then(|| name.to_owned()))?;
            (llama, Some((adapters, stored)), Vec::from(MUSIC_TOKENS.map(str::to_owned)))
        }
        Input::Llama(llama) => (*llama, None, Vec::new()),
        // A folder or a file that is one only if its configuration says so.
        Input::Plain(checkpoint) => {
            let known = checkpoint.settings().into_iter().flat_map(GgufSettings::iter);
            along
                .extend(known.filter(|(key, _)| key.starts_with("tokenizer.")).map(|(k, v)| (k.to_owned(), v.clone())));
            (OpenLlama::open(&args.input)?, None, Vec::new())
        }
    };
    let tokenizer = if along.is_empty() { llama.sentencepiece()? } else { None };
    let added = match &tokenizer {
        Some(model) if added.is_empty() => input::added_tokens(&llama.path, model.pieces.len())?,
        _ => added,
    };
    if tokenizer.is_none() && along.is_empty() {
        super::say("no tokenizer.model beside the weights: the file is written without a tokenizer");
    }
    let name = args.input.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let notes_of = Notes { name, tokenizer: tokenizer.map(|model| (model, added)), settings: along, texts };
    let config = llama.config.clone();
    let source = to_gguf(&path, llama, format, &notes_of)?;
    let written = GgufFile::open(&path)?;
    let same = (written.config.num_hidden_layers, written.config.vocab_size, written.config.tie_word_embeddings)
        == (config.num_hidden_layers, config.vocab_size, config.tie_word_embeddings);
    anyhow::ensure!(same, "{}: was written with another configuration than it was read", path.display());
    let bytes = fs::metadata(&path).map_err(|e| Error::io(&path, e))?.len();
    report(&path.display().to_string(), bytes, &*source, written.checkpoint())?;
    if let Some((adapters, stored)) = adapters {
        let (files, bytes) = write_shards(&args.output, "adapters", &adapters, &notes, &|_, _| Some(stored), u64::MAX)?;
        let [file] = files.as_slice() else { anyhow::bail!("adapters: expected one file, found {}", files.len()) };
        report(&file.display().to_string(), bytes, &adapters, &Checkpoint::open(file)?)?;
    }
    Ok(())
}

/// Reads what was written again: shapes, the hash that each file notes, and every number; says how far they are apart.
fn report(shown: &str, bytes: u64, source: &dyn Source, written: &Checkpoint) -> anyhow::Result<()> {
    for (name, shape) in written.tensors() {
        let expected = source.tensors().get(name);
        anyhow::ensure!(expected == Some(shape), "{shown}: `{name}` has shape {shape:?}, expected {expected:?}");
    }
    let checked = written.check_data()?;
    anyhow::ensure!(checked == written.files().count(), "{shown}: a file does not note the hash of its numbers");
    let worst = worst_difference(source, written)?;
    super::say(&format!(
        "{shown}: {:.1} MB, {} tensors, sha256 {}, largest difference {worst:.1e} of the tensor's largest value",
        bytes as f64 / 1e6,
        written.summary().tensors,
        written.sha256()?,
    ));
    Ok(())
}

/// Vectors stay in f32 beside packed matrices: they are few, and packing them saves nothing.
fn choose(stored: StoredAs, shape: &[usize]) -> StoredAs {
    // Rows shorter than a block would be filled up with zeros: half precision is smaller and better.
    let row: usize = shape.get(1..).unwrap_or_default().iter().product();
    if stored == StoredAs::Q8_0 && shape.len() >= 2 && row < 32 { StoredAs::F16 } else { stored }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Copies the small files that are there and not yet at their place.
pub(super) fn copy_companions(from: &Path, to: &Path) -> Result<(), Error> {
    COMPANIONS.iter().try_for_each(|name| copy(&from.join(name), &to.join(name)))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if from.is_file() && !same_file(from, to) {
        fs::copy(from, to).map_err(|e| Error::io(to, e))?;
    }
    Ok(())
}

/// Reads both again, tensor by tensor: the largest difference, relative to the largest value of its tensor.
fn worst_difference(a: &dyn Source, b: &dyn Source) -> Result<f64, Error> {
    let read = |source: &dyn Source, name: &str| {
        let mut values = Vec::new();
        source.read(name, &mut |piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok::<_, Error>(values)
    };
    let mut worst = 0f64;
    for name in b.tensors().keys() {
        let (x, y) = (read(a, name)?, read(b, name)?);
        let scale = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let difference = x.iter().zip(&y).fold(0f32, |m, (v, w)| m.max((v - w).abs()));
        if scale > 0.0 {
            worst = worst.max(f64::from(difference / scale));
        }
    }
    Ok(worst)
}
