//! What goes through the pipe: a greeting, then messages of a short JSON head and a body, both with their length before
//! them, little-endian.

use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::media::Limits;
use crate::media::film::Shape;
use crate::media::video::ClipFacts;

/// First bytes of a child that is one of ours.
pub(super) const GREETING: &[u8; 8] = b"musaic\x01\n";
/// Longest head; that of a clip lists its frames.
const MAX_HEAD: usize = 1 << 24;
/// Most bytes of sound a message.
pub(super) const MAX_SOUND: usize = 1 << 22;

/// Most bytes of a new file a message.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The head of a message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Head {
    /// The body holds 32-bit floats, channel after channel.
    Samples {
        channels: usize,
        sample_rate_hz: u32,
    },
    Keep(usize),
    Clip(ClipFacts),
    /// The body holds its bytes.
    Frame {
        width: usize,
        height: usize,
    },
    Shape(Shape),
    /// The body holds them.
    Bytes {
        at: u64,
    },
    Warning(String),
    Failed(Failure),
    /// All is sent.
    Done,
}

/// An error on its way to the parent, which adds the path.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Format { expected: String, found: String },
    Io { code: Option<i32>, text: String },
    Feature { feature: String, what: String },
    Argument { name: String, found: String, expected: String },
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Format { expected, found, .. } => Self::Format { expected: expected.clone(), found: found.clone() },
            Error::Io { source, .. } => Self::Io { code: source.raw_os_error(), text: source.to_string() },
            Error::MissingFeature { feature, what } => {
                Self::Feature { feature: (*feature).to_owned(), what: what.clone() }
            }
            Error::Argument { name, found, expected } => {
                Self::Argument { name: name.clone(), found: found.clone(), expected: expected.clone() }
            }
            other => Self::Format { expected: "a whole file".into(), found: other.to_string() },
        }
    }

    pub(super) fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Format { expected, found } => Error::format(path, expected, found),
            Self::Io { code, text } => {
                Error::io(path, code.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error))
            }
            Self::Feature { feature, what } => match feature.as_str() {
                "opus" => Error::MissingFeature { feature: "opus", what },
                _ => Error::MissingFeature { feature: "video", what },
            },
            Self::Argument { name, found, expected } => Error::argument(name, found, expected),
        }
    }
}

/// Writes a message.
pub(super) fn send<'a>(
    out: &mut impl Write,
    head: &Head,
    len: usize,
    body: impl IntoIterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let head = serde_json::to_vec(head).map_err(io::Error::other)?;
    out.write_all(&(head.len() as u32).to_le_bytes())?;
    out.write_all(&head)?;
    out.write_all(&(len as u32).to_le_bytes())?;
    body.into_iter().try_for_each(|piece| out.write_all(piece))
}

/// Reads a message; none where the stream ended between two.
///
/// # Errors
/// The stream ends within a message, or holds something that is no message, or one above the bounds.
pub(super) fn receive(from: &mut impl Read, limits: &Limits) -> io::Result<Option<(Head, Vec<u8>)>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut length = [0; 4];
    match from.read(&mut length[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut length[1..])?,
    }
    let head = read_bounded(from, u32::from_le_bytes(length) as usize, MAX_HEAD)?;
    let head: Head = serde_json::from_slice(&head).map_err(|fault| invalid(fault.to_string()))?;
    from.read_exact(&mut length)?;
    let most = match &head {
        Head::Samples { .. } => MAX_SOUND,
        Head::Bytes { .. } => MAX_BYTES,
        // What is too large for 4 bytes of length was refused by the limit on pixels.
        Head::Frame { .. } => usize::try_from(limits.pixels.saturating_mul(3)).unwrap_or(usize::MAX),
        _ => 0,
    };
    let body = read_bounded(from, u32::from_le_bytes(length) as usize, most)?;
    let fits = match &head {
        Head::Samples { channels, .. } => *channels > 0 && body.len() % (4 * channels) == 0,
        Head::Frame { width, height } => width.checked_mul(*height).and_then(|n| n.checked_mul(3)) == Some(body.len()),
        Head::Bytes { .. } => true,
        _ => body.is_empty(),
    };
    if !fits {
        return Err(invalid(format!("a body of {} bytes after {head:?}", body.len())));
    }
    Ok(Some((head, body)))
}

fn read_bounded(from: &mut impl Read, len: usize, most: usize) -> io::Result<Vec<u8>> {
    if len > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes where {most} are the most")));
    }
    let mut bytes = Vec::new();
    // Memory grows with what really comes.
    from.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(head: &Head, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, head, body.len(), [body]).unwrap();
        bytes
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let mut bytes = sent(&Head::Samples { channels: 2, sample_rate_hz: 8000 }, &[7; 16]);
        bytes.extend(sent(&Head::Frame { width: 2, height: 1 }, &[1, 2, 3, 4, 5, 6]));
        bytes.extend(sent(&Head::Bytes { at: 5 }, &[8; 3]));
        bytes.extend(sent(&Head::Done, &[]));
        let from = &mut bytes.as_slice();
        let limits = Limits::default();
        let (head, body) = receive(from, &limits).unwrap().unwrap();
        assert!(matches!(head, Head::Samples { channels: 2, sample_rate_hz: 8000 }) && body == [7; 16]);
        let (head, body) = receive(from, &limits).unwrap().unwrap();
        assert!(matches!(head, Head::Frame { width: 2, height: 1 }) && body == [1, 2, 3, 4, 5, 6]);
        let (head, body) = receive(from, &limits).unwrap().unwrap();
        assert!(matches!(head, Head::Bytes { at: 5 }) && body == [8; 3]);
        assert!(matches!(receive(from, &limits).unwrap().unwrap().0, Head::Done));
        assert!(receive(from, &limits).unwrap().is_none());
    }

    #[test]
    fn anything_else_is_refused() {
        let limits = Limits { pixels: 4, ..Limits::default() };
        let whole = sent(&Head::Samples { channels: 1, sample_rate_hz: 8000 }, &[0; 8]);
        for cut in 1..whole.len() {
            assert!(receive(&mut &whole[..cut], &limits).is_err(), "{cut}");
        }
        for bytes in [
            vec![0xff; 64],
            sent(&Head::Samples { channels: 3, sample_rate_hz: 8000 }, &[0; 8]),
            sent(&Head::Samples { channels: 0, sample_rate_hz: 8000 }, &[0; 8]),
            sent(&Head::Samples { channels: 1, sample_rate_hz: 8000 }, &vec![0; MAX_SOUND + 4]),
            sent(&Head::Frame { width: 3, height: 3 }, &[0; 27]),
            sent(&Head::Frame { width: 2, height: 1 }, &[0; 3]),
            sent(&Head::Frame { width: usize::MAX, height: 2 }, &[0; 3]),
            sent(&Head::Bytes { at: 0 }, &vec![0; MAX_BYTES + 1]),
            sent(&Head::Done, &[0; 1]),
        ] {
            assert!(receive(&mut bytes.as_slice(), &limits).is_err());
        }
    }

    #[test]
    fn errors_keep_their_kind() {
        let path = Path::new("a.wav");
        for error in [
            Error::format(path, "x", "y"),
            Error::io(path, io::Error::from_raw_os_error(2)),
            Error::MissingFeature { feature: "opus", what: "reading a.wav".into() },
            Error::MissingFeature { feature: "video", what: "reading a.wav".into() },
            Error::argument("frames", "0", "1 or more"),
        ] {
            assert_eq!(Failure::of(&error).into_error(path).to_string(), error.to_string());
        }
    }
}
