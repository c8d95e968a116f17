//! `musaic convert`: rewrites a checkpoint, tensor by tensor, and checks what was written.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use musaic_core::{
    Error,
    weights::{Checkpoint, Source, StoredAs, write_safetensors},
};

use crate::failure::BadInput;

/// Small files that go along with the weights.
const COMPANIONS: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
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
    /// A published folder, or a file of weights (.safetensors, .bin, .pth)
    input: PathBuf,
    /// Folder to write: model.safetensors, and the configuration beside it
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// f32, f16, bf16, or q8_0 (packed: 8.5 bits a weight, expanded again by `--to f32`)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    to: String,
    /// Leave out buffers that only training needs
    #[arg(long)]
    slim: bool,
    /// Overwrite a model.safetensors that is there
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stored = match args.to.as_str() {
        "f32" => StoredAs::F32,
        "f16" => StoredAs::F16,
        "bf16" => StoredAs::Bf16,
        "q8_0" => StoredAs::Q8_0,
        other => return Err(BadInput::new(format!("to: `{other}`, expected f32, f16, bf16 or q8_0")).into()),
    };
    let target = args.output.join("model.safetensors");
    if target.exists() && !args.force {
        let message = format!("output {}: exists already", target.display());
        return Err(BadInput::new(message).hint("--force overwrites it").into());
    }
    let source = Checkpoint::open(&args.input)?;
    if let Some(same) = source.files().find(|file| same_file(file, &target)) {
        return Err(BadInput::new(format!("output {}: is the input itself", same.display())).into());
    }
    fs::create_dir_all(&args.output).map_err(|e| Error::io(&args.output, e))?;
    let notes: BTreeMap<_, _> =
        [("format".to_owned(), "pt".to_owned()), ("source_sha256".to_owned(), source.sha256()?.to_owned())].into();
    let bytes = write_safetensors(&target, &source, &notes, &|name, shape| {
        let left_out = args.slim && TRAINING_ONLY.iter().any(|ending| name.ends_with(ending));
        (!left_out).then(|| choose(stored, shape))
    })?;
    if args.input.is_dir() {
        copy_companions(&args.input, &args.output)?;
    }
    let written = Checkpoint::open(&target)?;
    let worst = worst_difference(&source, &written)?;
    super::say(&format!(
        "{}: {:.1} MB, {} tensors, sha256 {}, largest difference {:.1e} of the tensor's largest value",
        target.display(),
        bytes as f64 / 1e6,
        written.summary().tensors,
        written.sha256()?,
        worst
    ));
    Ok(ExitCode::SUCCESS)
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

/// Copies the small files that are there.
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
