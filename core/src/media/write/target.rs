//! Where the bytes go: a temporary file that gets its name at the end, or a stream.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::{Error, Result, files};

/// The receiver of encoded bytes.
pub(in crate::media) enum Target {
    /// A temporary file beside the target; deleted on drop.
    File(BufWriter<NamedTempFile>),
    /// A pipe; nothing written can be changed.
    Stream(Box<dyn Write + Send>),
}

impl Target {
    /// As [`Target::file`], unless `path` is a folder, or a file that may not be replaced.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::io(path, io::ErrorKind::IsADirectory.into()));
        }
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(Error::io(path, io::ErrorKind::AlreadyExists.into()));
        }
        Self::file(path).map_err(|source| Error::io(path, source))
    }

    /// A temporary file in the folder of `path`.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File(BufWriter::with_capacity(1 << 16, files::partial(path)?)))
    }

    pub fn stream(out: Box<dyn Write + Send>) -> Self {
        Self::Stream(out)
    }

    /// Whether [`Target::patch`] works.
    pub fn can_patch(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Overwrites bytes written before, and returns to the end.
    pub fn patch(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => {
                file.seek(SeekFrom::Start(at))?;
                file.write_all(bytes)?;
                file.seek(SeekFrom::End(0)).map(|_| ())
            }
            Self::Stream(_) => Err(io::ErrorKind::NotSeekable.into()),
        }
    }

    /// Syncs the bytes and gives the file its name; flushes a stream.
    pub fn commit(self, path: &Path, overwrite: bool) -> io::Result<()> {
        match self {
            Self::Stream(mut out) => out.flush(),
            Self::File(file) => {
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                files::commit(file, path, overwrite)
            }
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stream(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Stream(out) => out.flush(),
        }
    }
}
