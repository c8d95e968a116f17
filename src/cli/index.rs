//! `musaic index`: a collection of music, searched by likeness.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use musaic_adapters::knn::Layout;
use musaic_core::{DeviceChoice, Error, Result, WeightFormat, role::AudioSpan};
use serde::Serialize;

use super::{progress::FileProgress, stop};
use crate::{
    failure::BadInput,
    library::{Contents, Encoding, Features, Library, music_in, read_all},
};

/// Arguments of `musaic index`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an index (FAISS) of music, or of features that `musaic encode` wrote
    Build(Build),
    /// Add more to an index
    Add(Add),
    /// Find the pieces most like others, and less like others
    Search(Search),
    /// Say what an index file is; also a published knn.index
    Info(Info),
}

#[derive(Debug, clap::Args)]
struct Build {
    /// With --encoder music files, or folders of them; otherwise features, as `musaic encode` writes them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Index file to write; the names of the pieces go to a .json beside it
    #[arg(short, long, value_name = "INDEX")]
    output: PathBuf,
    /// flat (exact), ivf, hnsw or pq (large collections)
    #[arg(long, default_value = "flat", value_name = "LAYOUT", value_parser = layout)]
    layout: Layout,
    #[command(flatten)]
    encoding: EncodingArgs,
    /// Overwrite an index that exists
    #[arg(long)]
    force: bool,
}

/// How music is encoded on the way.
#[derive(Debug, clap::Args)]
struct EncodingArgs {
    /// Published folder of a MERT: music is encoded here; a run that was stopped goes on where it was
    #[arg(long, value_name = "FOLDER")]
    encoder: Option<PathBuf>,
    /// What is heard of long pieces: whole, or first60 as the reference does
    #[arg(long, default_value_t, value_name = "SPAN", requires = "encoder")]
    audio: AudioSpan,
    /// cpu, cuda or cuda:INDEX
    #[arg(long, default_value_t, value_name = "DEVICE", requires = "encoder")]
    device: DeviceChoice,
    /// How weights are held: f32, bf16 or f16
    #[arg(long, default_value_t, value_name = "TYPE", requires = "encoder")]
    dtype: WeightFormat,
    /// Quantise weights on load: q8_0 or q4_k
    #[arg(long, value_name = "FORMAT", requires = "encoder", conflicts_with = "dtype")]
    quantize: Option<WeightFormat>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

impl EncodingArgs {
    /// What `--encoder` asks for, if it is there.
    fn open(&self) -> anyhow::Result<Option<Encoding>> {
        let Some(encoder) = &self.encoder else { return Ok(None) };
        let (device, format) = (self.device.open()?, self.quantize.unwrap_or(self.dtype));
        Ok(Some(Encoding::open(encoder, device, format, self.audio)?))
    }

    /// Features of `files`, encoded or read, to `finish`, which writes `output`.
    fn features<T>(
        &self,
        encoding: Option<&Encoding>,
        files: &[PathBuf],
        output: &Path,
        finish: impl FnOnce(Features) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let Some(encoding) = encoding else { return finish(read_all(files)?) };
        let files = music_in(files)?;
        let progress = FileProgress::new(files.len(), self.quiet);
        let mut watch = |file: usize, name: &str, part, parts| progress.at(file, name, part, parts);
        let done = encoding.features(&files, output, &stop::on_interrupt(), &mut watch, finish);
        progress.finish();
        done
    }
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The index
    index: PathBuf,
    /// With --encoder music files, or folders of them; otherwise features. Of the encoder that made the index
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    encoding: EncodingArgs,
}

#[derive(Debug, clap::Args)]
struct Search {
    /// The index
    index: PathBuf,
    /// Like this piece, by its name in the index or in --features, or (with --encoder) this file
    #[arg(long, required = true, value_name = "PIECE")]
    like: Vec<String>,
    /// And like this one
    #[arg(long, value_name = "PIECE")]
    and: Vec<String>,
    /// But not like this one
    #[arg(long, value_name = "PIECE")]
    not: Vec<String>,
    /// Features of pieces that are not in the index
    #[arg(long, value_name = "SAFETENSORS")]
    features: Vec<PathBuf>,
    #[command(flatten)]
    encoding: EncodingArgs,
    /// How many to find
    #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
    count: usize,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Info {
    /// The index
    index: PathBuf,
    /// Also list the pieces
    #[arg(long)]
    pieces: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct About<'a> {
    schema_version: u32,
    vectors: u64,
    dim: usize,
    metric: &'static str,
    contents: Option<&'a Contents>,
}

fn layout(name: &str) -> Result<Layout> {
    Layout::named(name)
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Build(args) => build(args)?,
        What::Add(args) => add(args)?,
        What::Search(args) => search(args)?,
        What::Info(args) => info(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn build(args: &Build) -> anyhow::Result<()> {
    let output = args.output.display();
    if args.output.exists() && !args.force {
        let hint = "--force overwrites it; musaic index add makes it larger";
        return Err(BadInput::new(format!("output {output}: exists already")).hint(hint).into());
    }
    if !cfg!(feature = "knn") {
        // Said before hours of encoding.
        return Err(Error::MissingFeature { feature: "knn", what: format!("making {output}") }.into());
    }
    let build = |features| {
        let library = Library::build(&args.output, args.layout, features)?;
        library.write()?;
        Ok(library)
    };
    let encoding = args.encoding.open()?;
    let library = args.encoding.features(encoding.as_ref(), &args.files, &args.output, build)?;
    say_size(&library, &args.output);
    Ok(())
}

fn add(args: &Add) -> anyhow::Result<()> {
    let mut library = Library::open(&args.index)?;
    let encoding = args.encoding.open()?;
    if let Some(encoding) = &encoding {
        library.check_encoder(&encoding.encoder, Some(&encoding.sha256))?;
    }
    args.encoding.features(encoding.as_ref(), &args.files, &args.index, |features| {
        library.add(features)?;
        library.write()
    })?;
    say_size(&library, &args.index);
    Ok(())
}

fn say_size(library: &Library, path: &Path) {
    let index = library.index();
    super::say(&format!("{}: {} pieces, {} numbers each", path.display(), index.count(), index.dim()));
}

fn search(args: &Search) -> anyhow::Result<()> {
    if args.count == 0 {
        return Err(BadInput::new("count: 0, expected at least 1").into());
    }
    let mut library = Library::open(&args.index)?;
    let mut others = if args.features.is_empty() { None } else { Some(read_all(&args.features)?) };
    if let Some(others) = &others {
        library.check_encoder(&others.path, others.encoder_sha256.as_deref())?;
    }
    let named = || args.like.iter().chain(&args.and).chain(&args.not);
    if let Some(encoding) = args.encoding.open()? {
        library.check_encoder(&encoding.encoder, Some(&encoding.sha256))?;
        let known = |name: &String| {
            others.as_ref().is_some_and(|others| others.names.contains(name)) || library.vector(name).is_ok()
        };
        let mut files: Vec<PathBuf> = named().filter(|name| !known(name)).map(PathBuf::from).collect();
        files.sort();
        files.dedup();
        if !files.is_empty() {
            let scratch = tempfile::tempdir()?;
            let output = scratch.path().join("pieces");
            let new = args.encoding.features(Some(&encoding), &files, &output, Ok)?;
            match &mut others {
                Some(others) => others.append(new)?,
                None => others = Some(new),
            }
        }
    }
    let vectors = |library: &Library, names: &[String]| -> anyhow::Result<Vec<_>> {
        let elsewhere = |name: &String| others.as_ref().and_then(|others: &Features| others.vector(name));
        names.iter().map(|name| elsewhere(name).map_or_else(|| library.vector(name), Ok)).collect()
    };
    let wanted: Vec<_> = args.like.iter().chain(&args.and).cloned().collect();
    let (like, unlike) = (vectors(&library, &wanted)?, vectors(&library, &args.not)?);
    let except: Vec<_> = named().cloned().collect();
    let found = library.search(&like, &unlike, &except, args.count)?;
    if args.json {
        return super::print_json(&found);
    }
    for found in found {
        super::print(&format!("{:7.4}  {}\n", found.similarity, found.piece))?;
    }
    Ok(())
}

fn info(args: &Info) -> anyhow::Result<()> {
    let library = Library::open(&args.index)?;
    let (index, contents) = (library.index(), library.contents());
    let metric = index.metric().name();
    if args.json {
        let contents = contents.filter(|_| args.pieces);
        let about = About { schema_version: 1, vectors: index.count(), dim: index.dim(), metric, contents };
        return super::print_json(&about);
    }
    super::print(&format!("{} vectors of {}, compared by {metric}\n", index.count(), index.dim()))?;
    match contents {
        None => super::print("no list of pieces beside it: they are known by their numbers\n")?,
        Some(contents) => {
            let encoder = contents.encoder_sha256.as_deref().unwrap_or("unknown");
            super::print(&format!("features by the encoder with weights {encoder}\n"))?;
            for piece in contents.pieces.iter().filter(|_| args.pieces) {
                super::print(&format!("{piece}\n"))?;
            }
        }
    }
    Ok(())
}
