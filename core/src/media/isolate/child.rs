//! The child: limits, then the work, then the end.

use std::ffi::OsString;
use std::io::{BufWriter, Read, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::protocol::{Failure, GREETING, Head, MAX_BYTES, MAX_SOUND, send};
use super::{Job, Part, Sink};
use crate::media::Limits;
use crate::{Error, Result};

/// The argument that makes a program a decoder.
pub(super) const ARGUMENT: &str = "--musaic-decode-media";

/// Whether this program's `main` calls [`enter`].
static PREPARED: AtomicBool = AtomicBool::new(false);

pub(super) fn is_prepared() -> bool {
    PREPARED.load(Ordering::Relaxed)
}

/// Must be the first thing in a program's `main`: where the program was started as a decoder, this decodes and exits; else it
/// notes that decoders may be started, and returns.
///
/// ```no_run
/// musaic_core::media::isolate::enter();
/// // then the program
/// ```
pub fn enter() {
    enter_with(|_| ());
}

/// As [`enter`], with something to do in the decoder before it decodes, given the file's path: a test makes decoders crash
/// with it.
#[doc(hidden)]
pub fn enter_with(before: impl FnOnce(&Path)) {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|argument| argument != ARGUMENT) {
        PREPARED.store(true, Ordering::Relaxed);
        return;
    }
    let code = match (arguments.next(), arguments.next()) {
        (Some(job), Some(path)) => serve(&job, &PathBuf::from(path), before).is_ok(),
        _ => false,
    };
    std::process::exit(if code { 0 } else { 1 });
}

fn serve(job: &OsString, path: &Path, before: impl FnOnce(&Path)) -> std::io::Result<()> {
    let job: Job = serde_json::from_slice(job.as_encoded_bytes()).map_err(std::io::Error::other)?;
    limit(&job.limits())?;
    // A panic is told in the message that follows from it.
    std::panic::set_hook(Box::new(|_| ()));
    let mut fed = Fed { left: job.fed_bytes() };
    fed.watch();
    let mut out = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
    out.write_all(GREETING)?;
    out.flush()?;
    before(path);
    let mut pipe = Pipe { out };
    let result = super::guarded(&job, path, &mut fed, &mut pipe);
    let head = match &result {
        Ok(()) => Head::Done,
        Err(error) => Head::Failed(Failure::of(error)),
    };
    send(&mut pipe.out, &head, 0, [])?;
    pipe.out.flush()
}

/// The sound that the parent writes to stdin.
struct Fed {
    /// Bytes that are still to come.
    left: u64,
}

impl Fed {
    /// Once nothing is to come any more, stdin tells of the parent's end.
    fn watch(&self) {
        if self.left == 0 {
            end_with_the_parent();
        }
    }
}

impl Read for Fed {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let len = std::io::stdin().lock().read(&mut into[..most])?;
        if len == 0 && most > 0 {
            // The parent has gone.
            std::process::exit(1);
        }
        self.left -= len as u64;
        self.watch();
        Ok(len)
    }
}

/// The parent holds the other end of stdin and writes no more: it ends with the parent, however that ended.
fn end_with_the_parent() {
    std::thread::spawn(|| {
        let mut byte = [0; 1];
        let _ = std::io::stdin().read(&mut byte);
        std::process::exit(1);
    });
}

#[cfg(unix)]
fn limit(limits: &Limits) -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let lower_to = |resource, soft: u64, hard: u64| {
        // One that is lower already stays.
        let least = |old: Option<u64>, new: u64| Some(old.map_or(new, |old| old.min(new)));
        let old = getrlimit(resource);
        setrlimit(resource, Rlimit { current: least(old.current, soft), maximum: least(old.maximum, hard) })
    };
    let lower = |resource, value| lower_to(resource, value, value);
    lower(Resource::Core, 0)?;
    lower(Resource::Fsize, 0)?;
    // The soft limit's signal says what it was; the hard one's is that of any other end.
    let cpu_s = limits.cpu_s.max(1);
    lower_to(Resource::Cpu, cpu_s, cpu_s.saturating_add(1))?;
    // What the program itself takes before it decodes anything is not counted.
    #[cfg(target_os = "linux")]
    if let Some((all, data)) = taken() {
        lower(Resource::Data, data.saturating_add(limits.memory_bytes))?;
        // Allocators reserve far more addresses than they use, a new arena for each thread.
        lower(Resource::As, all.saturating_add(limits.memory_bytes.saturating_mul(2)).saturating_add(1 << 30))?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

#[cfg(not(unix))]
fn limit(_: &Limits) -> std::io::Result<()> {
    Ok(())
}

/// Addresses and writable private memory of this process, in bytes.
#[cfg(target_os = "linux")]
fn taken() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("VmSize:")? << 10, kib("VmData:")? << 10))
}

/// The pipe to the parent as a sink.
struct Pipe<'a> {
    out: BufWriter<StdoutLock<'a>>,
}

impl Sink for Pipe<'_> {
    fn take(&mut self, part: Part<'_>) -> Result<()> {
        match part {
            Part::Samples { block, sample_rate_hz } => self.samples(block, sample_rate_hz),
            Part::Keep(len) => self.head(&Head::Keep(len)),
            Part::Clip(facts) => self.head(&Head::Clip(facts)),
            Part::Warning(text) => self.head(&Head::Warning(text)),
            Part::Shape(shape) => self.head(&Head::Shape(shape)),
            Part::Bytes { at, bytes } => self.bytes(at, bytes),
            Part::Frame(picture) => {
                let head = Head::Frame { width: picture.width, height: picture.height };
                send(&mut self.out, &head, picture.rgb.len(), [picture.rgb.as_slice()]).map_err(gone)
            }
        }
    }
}

impl Pipe<'_> {
    fn head(&mut self, head: &Head) -> Result<()> {
        send(&mut self.out, head, 0, []).map_err(gone)
    }

    fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        for (i, piece) in bytes.chunks(MAX_BYTES).enumerate() {
            let head = Head::Bytes { at: at + (i * MAX_BYTES) as u64 };
            send(&mut self.out, &head, piece.len(), [piece]).map_err(gone)?;
        }
        Ok(())
    }

    fn samples(&mut self, block: &[Vec<f32>], sample_rate_hz: u32) -> Result<()> {
        let channels = block.len();
        let len = block.first().map_or(0, Vec::len);
        let head = Head::Samples { channels, sample_rate_hz };
        // A step of at least one sample a channel; a block of too many channels is refused by the parent.
        let step = (MAX_SOUND / 4 / channels.max(1)).max(1);
        let mut bytes = Vec::new();
        for from in (0..len).step_by(step) {
            bytes.clear();
            for channel in block {
                let piece = &channel[from..(from + step).min(len)];
                bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
            }
            send(&mut self.out, &head, bytes.len(), [bytes.as_slice()]).map_err(gone)?;
        }
        Ok(())
    }
}

/// The parent hears no more, so nobody will read this.
fn gone(source: std::io::Error) -> Error {
    Error::io("pipe", source)
}
