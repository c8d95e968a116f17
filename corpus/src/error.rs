//! What can go wrong while making the corpus.

use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The sound font could not be parsed.
    #[error("{}: not a sound font the synthesiser reads: {cause}\n\nhint: pass an uncompressed .sf2 file, not .sf3", path.display())]
    SoundFont {
        /// The file.
        path: PathBuf,
        /// The cause, as the synthesiser tells it.
        cause: String,
    },
    /// The synthesiser refused its settings.
    #[error("synthesiser at {rate} Hz: {cause}")]
    Synthesizer {
        /// The rate asked for.
        rate: u32,
        /// The cause, as the synthesiser tells it.
        cause: String,
    },
    /// A rate this crate does not render at.
    #[error("sample rate {rate} Hz, expected 16000 or 32000")]
    Rate {
        /// The rate asked for.
        rate: u32,
    },
    /// A WAV file could not be written.
    #[error("{}: {source}", path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: hound::Error,
    },
    /// A record could not be turned into JSON.
    #[error("writing a record: {0}")]
    Json(#[from] serde_json::Error),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
