//! The parent: starts the child, checks and passes on what comes, and says what went wrong.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{GREETING, Head, receive};
use super::{Interleaved, Job, Part, Sink, child};
use crate::media::Limits;
use crate::{Error, Result};

/// Messages that may wait for the parent.
const WAITING: usize = 4;
/// Time between two looks at whether somebody still waits.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of sound that are written to a child at once.
const FEED: usize = 1 << 16;
/// Most of what a child says on stderr that is kept.
const MAX_TALK: u64 = 4096;

/// What the thread that listens passes on.
type Heard = io::Result<Option<(Head, Vec<u8>)>>;

/// Kills and collects the child whatever happens.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Decodes in a child. Nothing where no child could be started: the file has not been looked at then.
pub(super) fn run(job: &Job, path: &Path, mut fed: Interleaved, sink: &mut dyn Sink) -> Option<Result<()>> {
    let fallback = |why: String| {
        tracing::warn!("no decoder could be started, media are decoded in this process: {why}");
    };
    let mut guard = match start(job, path) {
        Ok(child) => Guard(child),
        Err(source) => {
            fallback(source.to_string());
            return None;
        }
    };
    let (Some(mut stdout), Some(stderr)) = (guard.0.stdout.take(), guard.0.stderr.take()) else {
        fallback("it has no pipes".into());
        return None;
    };
    let limits = job.limits();
    // It blocks until the child wants more, or is gone; the pipe stays open until then.
    let stdin = guard.0.stdin.take();
    let feeding = thread::spawn(move || {
        let mut stdin = stdin;
        if let Some(stdin) = &mut stdin {
            let _ = io::copy(&mut io::BufReader::with_capacity(FEED, &mut fed), stdin);
        }
        stdin
    });
    let (sender, receiver) = sync_channel::<Heard>(WAITING);
    // Both end with the child, which the guard ends.
    let talk = thread::spawn(move || {
        let mut kept = Vec::new();
        let mut stderr = stderr;
        let _ = (&mut stderr).take(MAX_TALK).read_to_end(&mut kept);
        let _ = io::copy(&mut stderr, &mut io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    });
    let mut greeting = [0; GREETING.len()];
    let greeted = thread::spawn(move || {
        if stdout.read_exact(&mut greeting).is_err() || &greeting != GREETING {
            return false;
        }
        loop {
            let heard = receive(&mut stdout, &limits);
            let last = !matches!(heard, Ok(Some(_)));
            if sender.send(heard).is_err() || last {
                return true;
            }
        }
    });
    let mut wait = Duration::from_secs(limits.wait_s.max(1));
    let outcome = pass_on(&receiver, &mut wait, path, sink);
    drop(receiver);
    // What is dead already keeps the status it died with.
    let _ = guard.0.kill();
    let status = guard.0.wait();
    drop(feeding.join());
    let talk = talk.join().unwrap_or_default();
    let greeted = greeted.join().unwrap_or(false);
    if !talk.is_empty() {
        tracing::debug!("decoder of {}: {talk}", path.display());
    }
    if !greeted && matches!(outcome, Outcome::Died) {
        fallback(format!("the program ended at once ({})", status.map_or_else(|e| e.to_string(), |s| s.to_string())));
        return None;
    }
    let broken = |found: String| Err(Error::format(path, "a file that can be decoded within the limits", found));
    Some(match outcome {
        Outcome::Told(result) => result,
        Outcome::Late => broken(format!("its decoder took longer than {} s and was stopped", limits.wait_s)),
        Outcome::Nonsense(what) => broken(format!("its decoder went astray ({what})")),
        Outcome::Died => broken(cause(status, &talk, &limits)),
    })
}

/// How the conversation ended.
enum Outcome {
    /// By the child's own word, or the sink's.
    Told(Result<()>),
    /// The pipe ended.
    Died,
    Late,
    Nonsense(String),
}

/// Passes parts on to the sink. Only the time spent waiting for the child is counted, not the sink's own.
fn pass_on(receiver: &Receiver<Heard>, wait: &mut Duration, path: &Path, sink: &mut dyn Sink) -> Outcome {
    loop {
        let since = Instant::now();
        let heard = receiver.recv_timeout((*wait).min(TICK));
        *wait = wait.saturating_sub(since.elapsed());
        let (head, body) = match heard {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) | Err(RecvTimeoutError::Disconnected) => return Outcome::Died,
            Ok(Err(source)) if source.kind() == io::ErrorKind::UnexpectedEof => return Outcome::Died,
            Ok(Err(source)) => return Outcome::Nonsense(source.to_string()),
            Err(RecvTimeoutError::Timeout) if wait.is_zero() => return Outcome::Late,
            Err(RecvTimeoutError::Timeout) => match sink.wait() {
                Ok(()) => continue,
                Err(error) => return Outcome::Told(Err(error)),
            },
        };
        let taken = match head {
            Head::Samples { channels, sample_rate_hz } => {
                let floats = |bytes: &[u8]| {
                    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect::<Vec<f32>>()
                };
                let block: Vec<_> = body.chunks(body.len().max(1).div_ceil(channels)).map(floats).collect();
                match block.is_empty() {
                    true => Ok(()),
                    false => sink.take(Part::Samples { block: &block, sample_rate_hz }),
                }
            }
            Head::Keep(len) => sink.take(Part::Keep(len)),
            Head::Clip(facts) => sink.take(Part::Clip(facts)),
            Head::Shape(shape) => sink.take(Part::Shape(shape)),
            Head::Bytes { at } => sink.take(Part::Bytes { at, bytes: &body }),
            Head::Frame { width, height } => sink.take(Part::Frame(crate::media::Picture { width, height, rgb: body })),
            Head::Warning(text) => {
                tracing::warn!("{}: {text}", path.display());
                Ok(())
            }
            Head::Failed(failure) => return Outcome::Told(Err(failure.into_error(path))),
            Head::Done => return Outcome::Told(Ok(())),
        };
        if let Err(error) = taken {
            return Outcome::Told(Err(error));
        }
    }
}

/// Starts this program again as a decoder.
fn start(job: &Job, path: &Path) -> io::Result<Child> {
    // The program that runs, even where its file has been replaced meanwhile.
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let job = serde_json::to_string(job).map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command.arg(child::ARGUMENT).arg(job).arg(path);
    // Ctrl-C in a terminal goes to a whole group: it is for the program, which ends the decoder, and no fault of the file.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Why a child died without a word.
fn cause(status: io::Result<ExitStatus>, talk: &str, limits: &Limits) -> String {
    let memory = || format!("its decoder wanted more than {} MiB of memory", limits.memory_bytes >> 20);
    // Rust's words for an allocation that failed.
    if talk.contains("memory allocation of") {
        return memory();
    }
    let Ok(status) = status else { return "its decoder was lost".into() };
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        use rustix::process::Signal;
        let is = |other: Signal| signal == other.as_raw();
        return match signal {
            _ if is(Signal::XCPU) => format!("its decoder took more than {} s of processor time", limits.cpu_s),
            _ if is(Signal::XFSZ) => "its decoder tried to write a file".into(),
            _ if is(Signal::KILL) => "its decoder was killed, by its limits or by the system".into(),
            _ if is(Signal::ABORT) || is(Signal::SEGV) || is(Signal::BUS) || is(Signal::ILL) || is(Signal::FPE) => {
                format!("its decoder crashed (signal {signal})")
            }
            _ => format!("its decoder was ended by signal {signal}"),
        };
    }
    format!("its decoder ended without a word ({status})")
}
