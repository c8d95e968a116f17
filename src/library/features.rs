//! Files of features, as `musaic encode` writes them: one tensor `[positions, dim]` for each piece.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use musaic_adapters::knn::unit;
use musaic_core::{
    Error,
    weights::{Checkpoint, Source},
};

/// One vector for each piece.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Where they were read.
    pub path: PathBuf,
    /// Hash of the weights that made them, if the file says.
    pub encoder_sha256: Option<String>,
    /// Pieces, in the order of the vectors.
    pub names: Vec<String>,
    /// Width of a vector.
    pub dim: usize,
    /// `[pieces, dim]`, each of unit length.
    pub vectors: Vec<f32>,
}

impl Features {
    /// Vector of a piece `[dim]`.
    pub fn vector(&self, name: &str) -> Option<Vec<f32>> {
        let at = self.names.iter().position(|known| known == name)?;
        Some(self.vectors[at * self.dim..][..self.dim].to_vec())
    }

    /// Those of another file as well.
    ///
    /// # Errors
    /// They are of another width or another encoder.
    pub fn append(&mut self, other: Self) -> Result<()> {
        let wrong = |expected: String, found: String| Error::format(&other.path, expected, found);
        ensure!(
            self.dim == other.dim,
            wrong(format!("features of width {}, as in {}", self.dim, self.path.display()), other.dim.to_string())
        );
        ensure!(
            self.encoder_sha256 == other.encoder_sha256,
            wrong(format!("features of the encoder of {}", self.path.display()), "those of another".into())
        );
        self.names.extend(other.names);
        self.vectors.extend(other.vectors);
        Ok(())
    }
}

/// Reads a file of features; of each piece the mean over positions, of unit length.
///
/// # Errors
/// The file is no safetensors file, empty, holds tensors of other ranks or several widths, or no finite numbers.
pub fn read_features(path: &Path) -> Result<Features> {
    let checkpoint = Checkpoint::open(path)?;
    let note = checkpoint.metadata().get("musaic_features").and_then(|note| serde_json::from_str(note).ok());
    let note: serde_json::Value = note.unwrap_or_default();
    let encoder_sha256 = note.get("encoder_sha256").and_then(|hash| hash.as_str()).map(str::to_owned);
    features_of(path, &checkpoint, encoder_sha256)
}

/// As [`read_features`], of any source; `path` is where messages say that it is.
///
/// # Errors
/// As [`read_features`].
pub fn features_of(path: &Path, source: &dyn Source, encoder_sha256: Option<String>) -> Result<Features> {
    let wrong = |found: String| Error::format(path, "features as `musaic encode` writes them", found);
    let mut features =
        Features { path: path.to_owned(), encoder_sha256, names: Vec::new(), dim: 0, vectors: Vec::new() };
    for (name, shape) in source.tensors() {
        let (positions, dim) = match shape[..] {
            [dim] => (1, dim),
            [positions, dim] => (positions, dim),
            _ => return Err(wrong(format!("`{name}` of shape {shape:?}")).into()),
        };
        ensure!(positions > 0 && dim > 0, wrong(format!("`{name}` of shape {shape:?}")));
        ensure!(
            features.dim == 0 || features.dim == dim,
            wrong(format!("`{name}` of width {dim} beside others of {}", features.dim))
        );
        features.dim = dim;
        let mut mean = vec![0.0; dim];
        let mut at = 0;
        source.read(name, &mut |values| {
            for value in values {
                mean[at % dim] += value;
                at += 1;
            }
            Ok(())
        })?;
        // The length goes away, and with it the number of positions.
        ensure!(mean.iter().all(|v| v.is_finite()), wrong(format!("`{name}` with numbers that are not finite")));
        ensure!(mean.iter().any(|v| *v != 0.0), wrong(format!("`{name}` with nothing but zeros")));
        unit(&mut mean);
        features.names.push(name.clone());
        features.vectors.extend(mean);
    }
    ensure!(!features.names.is_empty(), wrong("no tensor".into()));
    Ok(features)
}
