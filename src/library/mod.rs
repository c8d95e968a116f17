//! A collection of music that can be searched by likeness: a FAISS index of one vector a piece, and beside it
//! (`NAME.json`) which piece each vector is and what made it.
//!
//! The vector of a piece is the mean of its feature vectors (`musaic encode`), of unit length; for MERT that is the mean over
//! its hidden states, which is what the published systems' bridge starts from while its weights are equal.

mod features;
mod music;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use musaic_adapters::knn::{Index, Layout, unit};
use musaic_core::{
    Error,
    files::{read_json, write_atomic},
};
use serde::{Deserialize, Serialize};

pub use self::{
    features::{Features, features_of, read_features},
    music::{Encoding, music_in},
};
use crate::failure::BadInput;

/// Largest list of pieces that is read.
const MAX_JSON: u64 = 1 << 30;

/// What lies beside the index file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// 1; a field that goes or changes its meaning raises it.
    pub schema_version: u32,
    /// What made the features, if the file of features says so; only the same encoder's features may be added or compared.
    pub encoder_sha256: Option<String>,
    /// The pieces in the order of their ids.
    pub pieces: Vec<String>,
}

/// A piece that a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// Its name, or its id where nothing tells the name.
    pub piece: String,
    /// As the index gives it: the cosine, for an index that was made here.
    pub similarity: f32,
}

/// An index and its contents.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    index: Index,
    contents: Option<Contents>,
}

impl Library {
    /// Opens an index file; a published one has no list of pieces beside it.
    ///
    /// # Errors
    /// The index or the list is damaged, or they do not belong together.
    pub fn open(path: &Path) -> Result<Self> {
        let index = Index::open(path)?;
        let beside = beside(path);
        let contents = if beside.is_file() { Some(read_contents(&beside)?) } else { None };
        if let Some(contents) = &contents {
            let (pieces, vectors) = (contents.pieces.len() as u64, index.count());
            ensure!(
                pieces == vectors,
                Error::format(&beside, format!("{vectors} pieces, as in {}", path.display()), format!("{pieces}"))
            );
        }
        Ok(Self { path: path.to_owned(), index, contents })
    }

    /// A new library of `features`.
    ///
    /// # Errors
    /// There are none, too few for the layout, or two of one name.
    pub fn build(path: &Path, layout: Layout, features: Features) -> Result<Self> {
        check_names(&[], &features)?;
        let index = Index::build(layout, features.dim, &features.vectors)?;
        let contents = Contents { schema_version: 1, encoder_sha256: features.encoder_sha256, pieces: features.names };
        Ok(Self { path: path.to_owned(), index, contents: Some(contents) })
    }

    /// More pieces.
    ///
    /// # Errors
    /// They come from another encoder, are of another width, or one of them is there already.
    pub fn add(&mut self, features: Features) -> Result<()> {
        self.check_encoder(&features.path, features.encoder_sha256.as_deref())?;
        let Some(contents) = &mut self.contents else {
            let hint = "only a library that `musaic index build` made can grow";
            return Err(BadInput::new(format!("{}: no list of pieces beside it", self.path.display()))
                .hint(hint)
                .into());
        };
        check_names(&contents.pieces, &features)?;
        self.index.add(&features.vectors)?;
        contents.pieces.extend(features.names);
        Ok(())
    }

    /// Writes the index, then the list. Each takes its name when it is complete; a crash between the two leaves a list that is
    /// too short, which `open` tells.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self) -> Result<()> {
        self.index.write(&self.path)?;
        if let Some(contents) = &self.contents {
            let path = beside(&self.path);
            write_atomic(&path, &serde_json::to_vec_pretty(contents)?)?;
        }
        Ok(())
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The list of pieces, if there is one.
    pub fn contents(&self) -> Option<&Contents> {
        self.contents.as_ref()
    }

    /// The vector of a piece of this library `[dim]`, by name or, where nothing tells the names, by id.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn vector(&self, piece: &str) -> Result<Vec<f32>> {
        let id = match &self.contents {
            Some(contents) => contents.pieces.iter().position(|name| name == piece).map(|id| id as u64),
            None => piece.parse().ok().filter(|id| *id < self.index.count()),
        };
        let id = id.ok_or_else(|| {
            let expected = match self.contents {
                Some(_) => "a piece of the library",
                None => "an id of the index, which has no list of pieces",
            };
            let message = format!("piece `{piece}`: not in {}, expected {expected}", self.path.display());
            let hint = "musaic index info --pieces lists them; --encoder or --features take pieces from elsewhere";
            BadInput::new(message).hint(hint)
        })?;
        Ok(self.index.vector(id)?)
    }

    /// The `count` pieces nearest to the sum of `like` less the sum of `unlike`, without the pieces named in `except`.
    ///
    /// # Errors
    /// A vector is of another width, or what is asked for cancels out.
    pub fn search(
        &mut self,
        like: &[Vec<f32>],
        unlike: &[Vec<f32>],
        except: &[String],
        count: usize,
    ) -> Result<Vec<Found>> {
        let dim = self.index.dim();
        let mut wish = vec![0.0; dim];
        for (sign, vector) in like.iter().map(|v| (1.0, v)).chain(unlike.iter().map(|v| (-1.0, v))) {
            ensure!(
                vector.len() == dim,
                Error::argument("features", format!("width {}", vector.len()), format!("{dim}, that of the library"))
            );
            let mut vector = vector.clone();
            unit(&mut vector);
            wish.iter_mut().zip(&vector).for_each(|(sum, v)| *sum += sign * v);
        }
        let length = wish.iter().map(|v| v * v).sum::<f32>().sqrt();
        ensure!(length > 1e-3, BadInput::new("what is wished for and what is not cancel out"));
        unit(&mut wish);
        // As many more as are left out again.
        let asked = (count + except.len()).min(usize::try_from(self.index.count())?).max(1);
        let hits = self.index.search(&wish, asked)?.swap_remove(0);
        let named = |id: u64| match &self.contents {
            Some(contents) => contents.pieces.get(usize::try_from(id).ok()?).cloned(),
            None => Some(id.to_string()),
        };
        let found =
            hits.into_iter().filter_map(|hit| Some(Found { piece: named(hit.id?)?, similarity: hit.similarity }));
        Ok(found.filter(|found| !except.contains(&found.piece)).take(count).collect())
    }

    /// Refuses features of `path` that another encoder made: their numbers mean other things.
    ///
    /// # Errors
    /// They do.
    pub fn check_encoder(&self, path: &Path, encoder_sha256: Option<&str>) -> Result<()> {
        let ours = self.contents.as_ref().and_then(|contents| contents.encoder_sha256.as_ref());
        match (ours, encoder_sha256) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                let message = format!(
                    "{}: features of the encoder {}.., expected those of {}.., which made {}",
                    path.display(),
                    &theirs[..theirs.len().min(12)],
                    &ours[..ours.len().min(12)],
                    self.path.display()
                );
                Err(BadInput::new(message).hint("encode these files with the encoder of the library").into())
            }
            _ => Ok(()),
        }
    }
}

/// The list of an index.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

fn read_contents(path: &Path) -> Result<Contents> {
    let contents: Contents = read_json(path, MAX_JSON, "a list of pieces")?;
    let version = contents.schema_version;
    ensure!(version == 1, Error::format(path, "schema_version 1", version.to_string()));
    Ok(contents)
}

/// Every piece has one name.
fn check_names(there: &[String], features: &Features) -> Result<()> {
    let mut names: std::collections::HashSet<_> = there.iter().collect();
    match features.names.iter().find(|name| !names.insert(name)) {
        Some(name) => Err(BadInput::new(format!("piece `{name}`: twice in the library"))
            .hint("a piece is known by its path; leave out the second")
            .into()),
        None => Ok(()),
    }
}

/// Features of all `paths` together.
///
/// # Errors
/// One cannot be read, or they come from different encoders.
pub fn read_all(paths: &[PathBuf]) -> Result<Features> {
    let mut paths = paths.iter();
    let first = paths.next().context("no file of features")?;
    let mut all = read_features(first)?;
    for path in paths {
        all.append(read_features(path)?)?;
    }
    Ok(all)
}

#[cfg(all(test, feature = "knn"))]
mod tests;
