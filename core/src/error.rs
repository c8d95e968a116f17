//! The error type of the library crates, and the hint that tells a user what to do next.
//!
//! Variants carry data, not sentences: the message is made once, here, in the form
//! "what failed, where, what was seen, what was expected". The binary prints it with the hint below it.

use std::path::{Path, PathBuf};

use crate::weights::LoadReport;

/// Result of the library crates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the library crates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what its name or its place says.
    #[error("{}: {found}, expected {expected}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What a good file holds.
        expected: String,
        /// What was seen.
        found: String,
    },
    /// A file of weights that is damaged, incomplete, or not what it seems.
    #[error("{}: {found}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What was seen.
        found: String,
        /// What the user can do.
        hint: String,
    },
    /// A checkpoint does not fit the model.
    #[error("{0}")]
    Weights(Box<LoadReport>),
    /// A configuration asks for something that does not exist or does not fit.
    #[error("{}: {what}", path.display())]
    Config {
        /// The configuration file, or the folder it lies in.
        path: PathBuf,
        /// Field, value and the allowed range.
        what: String,
    },
    /// An argument is outside its range.
    #[error("{name}: {found}, expected {expected}")]
    Argument {
        /// Name of the argument as the user knows it.
        name: String,
        /// Value that was given.
        found: String,
        /// Allowed values.
        expected: String,
    },
    /// A part that this build leaves out.
    #[error("{what} needs the cargo feature `{feature}`, which this build leaves out")]
    MissingFeature {
        /// The cargo feature.
        feature: &'static str,
        /// What was asked for.
        what: String,
    },
    /// The user, or the program's owner, asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// Tensor arithmetic failed; the text names the operation and the shapes.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Wraps an I/O error with its path.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        // Some libraries wrap the system's error in one that names a temporary file: the user never saw that name.
        let source = match source.kind() {
            std::io::ErrorKind::Other | std::io::ErrorKind::InvalidData => source,
            kind if source.get_ref().is_some() => kind.into(),
            _ => source,
        };
        Self::Io { path: path.as_ref().to_owned(), source }
    }

    /// A file that is not what it should be.
    pub fn format(path: impl AsRef<Path>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_owned(), expected: expected.into(), found: found.into() }
    }

    /// A configuration value that is not implemented or not allowed.
    pub fn config(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Config { path: path.as_ref().to_owned(), what: what.into() }
    }

    /// An argument outside its range.
    pub fn argument(name: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Argument { name: name.into(), found: found.into(), expected: expected.into() }
    }
}

/// What the user can do about an error; printed under the message.
pub trait Hint {
    /// One sentence, or nothing where the message says it all.
    fn hint(&self) -> Option<String>;
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Some("check the spelling of the path".into()),
                std::io::ErrorKind::PermissionDenied => Some("check who may read or write there".into()),
                std::io::ErrorKind::StorageFull => Some("free some disk space".into()),
                _ => None,
            },
            Self::Format { .. } => Some("check that the file is whole, and of the kind its name says".into()),
            Self::Weights(report) => report.hint(),
            Self::Checkpoint { hint, .. } => Some(hint.clone()),
            Self::MissingFeature { feature: "cuda", .. } => {
                Some("use `cpu`, or build with `--features cuda`, which needs the CUDA toolkit".into())
            }
            Self::MissingFeature { feature, .. } => {
                Some(format!("build with `--features {feature}`, or with `--features full`"))
            }
            _ => None,
        }
    }
}
