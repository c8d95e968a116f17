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
