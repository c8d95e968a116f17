//! `musaic index`: a collection of music, searched by likeness.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use musaic_adapters::knn::Layout;
use musaic_core::Result;
use serde::Serialize;

use crate::{
    failure::BadInput,
    library::{Contents, Features, Library, read_all},
};

/// Arguments of `musaic index`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an index (FAISS) from features that `musaic encode` wrote
    Build(Build),
    /// Add more features to an index
    Add(Add),
    /// Find the pieces most like others, and less like others
    Search(Search),
    /// Say what an index file is; also a published knn.index
    Info(Info),
}

#[derive(Debug, clap::Args)]
struct Build {
    /// Features, as `musaic encode` writes them
    #[arg(required = true, value_name = "SAFETENSORS")]
    features: Vec<PathBuf>,
    /// Index file to write; the names of the pieces go to a .json beside it
    #[arg(short, long, value_name = "INDEX")]
    output: PathBuf,
    /// flat (exact), ivf, hnsw or pq (large collections)
    #[arg(long, default_value = "flat", value_name = "LAYOUT", value_parser = layout)]
    layout: Layout,
    /// Overwrite an index that exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The index
    index: PathBuf,
    /// Features of the same encoder
    #[arg(required = true, value_name = "SAFETENSORS")]
    features: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Search {
    /// The index
    index: PathBuf,
    /// Like this piece, by its name in the index or in --features
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
    let library = Library::build(&args.output, args.layout, read_all(&args.features)?)?;
    library.write()?;
    say_size(&library, &args.output);
    Ok(())
}

fn add(args: &Add) -> anyhow::Result<()> {
    let mut library = Library::open(&args.index)?;
    library.add(read_all(&args.features)?)?;
    library.write()?;
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
    let others = if args.features.is_empty() { None } else { Some(read_all(&args.features)?) };
    if let Some(others) = &others {
        library.check_encoder(others)?;
    }
    let vectors = |library: &Library, names: &[String]| -> anyhow::Result<Vec<_>> {
        let elsewhere = |name: &String| others.as_ref().and_then(|others: &Features| others.vector(name));
        names.iter().map(|name| elsewhere(name).map_or_else(|| library.vector(name), Ok)).collect()
    };
    let wanted: Vec<_> = args.like.iter().chain(&args.and).cloned().collect();
    let (like, unlike) = (vectors(&library, &wanted)?, vectors(&library, &args.not)?);
    let except: Vec<_> = wanted.iter().chain(&args.not).cloned().collect();
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
