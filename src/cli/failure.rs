//! How a failure is told: one message, the hint below it, and an exit code (1 failed, 2 bad input, 130 stopped by the user).

use std::{io, io::Write, process::ExitCode};

use musaic_core::{Error, Hint};

use crate::failure::BadInput;

/// Prints `error` to stderr and gives the exit code that belongs to it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let (code, hint) = classify(error);
    let mut message = format!("error: {}\n", tell(error));
    if let Some(hint) = hint {
        message.push_str(&format!("\nhint: {hint}\n"));
    }
    // Nothing is left to do where stderr itself is gone.
    let _ = io::stderr().write_all(message.as_bytes());
    ExitCode::from(code)
}

/// Says that an error meets every request of a run: what all of them need.
#[derive(Debug, Clone, Copy)]
pub struct OfAll(pub &'static str);

impl std::fmt::Display for OfAll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// The message of a request that failed among others; the error itself where it is no fault of that one: [`OfAll`], somebody
/// asked to stop, the reader of our output is gone, or the disk is full.
///
/// # Errors
/// As said.
pub fn of_one(error: anyhow::Error) -> anyhow::Result<String> {
    let of_all = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref::<Error>() {
        Some(Error::Cancelled) => true,
        Some(Error::Io { source, .. }) => source.kind() == io::ErrorKind::StorageFull,
        _ => false,
    };
    let of_all = error.downcast_ref::<OfAll>().is_some() || error.chain().any(of_all);
    if of_all || is_broken_pipe(&error) { Err(error) } else { Ok(tell(&error)) }
}

/// The message and its causes, each once: many messages already quote their cause.
fn tell(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    message
}

/// Exit code and hint of an error, from the first cause that knows them.
fn classify(error: &anyhow::Error) -> (u8, Option<String>) {
    for cause in error.chain() {
        if let Some(bad) = cause.downcast_ref::<BadInput>() {
            return (2, bad.next().map(str::to_owned));
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            let code = match error {
                Error::Cancelled => 130,
                Error::Tensor(_) => 1,
                Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => 1,
                _ => 2,
            };
            return (code, error.hint());
        }
    }
    (1, None)
}

/// The reader of our output went away: a quiet success.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = match cause.downcast_ref::<Error>() {
            Some(Error::Io { source, .. }) => Some(source),
            _ => cause.downcast_ref::<io::Error>(),
        };
        io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
