//! What symphonia decodes: wav, flac, mp3, vorbis, aac, alac, aiff, caf, and its containers mp4, mkv and ogg.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Fault;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType, probe::Hint};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;

use super::{EXPECTED, MAX_BAD_PACKETS, Verdict};
use crate::media::isolate::{Part, Sink};
use crate::{Error, Result};

/// A file, with the outer size of a wav file shown as open (`0xFFFFFFFF`): recorders that were stopped leave a size
/// there that the chunks within exceed, and the demuxer would refuse the whole file for it.
struct Source {
    file: File,
    position: u64,
    wave: bool,
}

impl Source {
    fn open(mut file: File) -> std::io::Result<Self> {
        let mut head = Vec::new();
        (&mut file).take(12).read_to_end(&mut head)?;
        file.rewind()?;
        Ok(Self { file, position: 0, wave: head.starts_with(b"RIFF") && head.ends_with(b"WAVE") })
    }
}

impl Read for Source {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let len = self.file.read(bytes)?;
        for (at, byte) in (self.position..).zip(&mut bytes[..len]).take(8) {
            if self.wave && (4..8).contains(&at) {
                *byte = u8::MAX;
            }
        }
        self.position += len as u64;
        Ok(len)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.position = self.file.seek(to)?;
        Ok(self.position)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        self.file.metadata().ok().map(|meta| meta.len())
    }
}

/// Decodes the default audio track. All verdicts but [`Verdict::Done`] come before the first sample.
pub(super) fn decode(file: File, path: &Path, sink: &mut dyn Sink) -> Result<Verdict> {
    let broken = |fault: Fault| match fault {
        Fault::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => Error::io(path, source),
        Fault::IoError(_) => Error::format(path, EXPECTED, "a file that is not audio, or ends too early"),
        Fault::Unsupported(what) => Error::format(path, EXPECTED, format!("what its decoder lacks ({what})")),
        other => Error::format(path, EXPECTED, other.to_string()),
    };
    let source = Source::open(file).map_err(|source| Error::io(path, source))?;
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|extension| extension.to_str()) {
        hint.with_extension(extension);
    }
    let stream = MediaSourceStream::new(Box::new(source), Default::default());
    let probed =
        symphonia::default::get_probe().probe(&hint, stream, FormatOptions::default(), MetadataOptions::default());
    let format = match probed {
        Ok(format) => format,
        Err(Fault::Unsupported(_)) => {
            let found = "a file that is not audio, or of a kind that is not known";
            return Ok(Verdict::Unknown(Error::format(path, EXPECTED, found)));
        }
        Err(fault) => return Ok(Verdict::Stuck(broken(fault))),
    };
    let none = || Error::format(path, EXPECTED, "no audio track that can be decoded");
    // A track without parameters is one whose codec is not known.
    let other = format.tracks().iter().any(|track| track.codec_params.is_none());
    let track = format.default_track(TrackType::Audio);
    let Some((track_id, parameters)) = track.and_then(|track| Some((track.id, track.codec_params.as_ref()?.audio()?)))
    else {
        return if other { Ok(Verdict::Lacking("a codec that is not known".into())) } else { Err(none()) };
    };
    if parameters.codec == CODEC_ID_OPUS {
        let parameters = parameters.clone();
        return opus(format, track_id, &parameters, path, sink);
    }
    let decoder = symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default());
    match decoder {
        Ok(decoder) => packets(format, track_id, decoder, path, sink),
        Err(Fault::Unsupported(what)) => Ok(Verdict::Lacking(what.to_string())),
        Err(fault) => Err(broken(fault)),
    }
}

/// What comes next of a track.
enum Next {
    Packet(Packet),
    End,
    /// The file ends in the middle of something.
    Cut,
}

fn next(format: &mut dyn FormatReader, track_id: u32, path: &Path) -> Result<Next> {
    loop {
        match format.next_packet() {
            Ok(Some(packet)) if packet.track_id == track_id => return Ok(Next::Packet(packet)),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Next::End),
            Err(Fault::IoError(source)) if source.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Next::Cut),
            Err(Fault::IoError(source)) => return Err(Error::io(path, source)),
            Err(fault) => return Err(Error::format(path, EXPECTED, fault.to_string())),
        }
    }
}

fn packets(
    mut format: Box<dyn FormatReader>,
    track_id: u32,
    mut decoder: Box<dyn AudioDecoder>,
    path: &Path,
    sink: &mut dyn Sink,
) -> Result<Verdict> {
    let broken = |fault: Fault| Error::format(path, EXPECTED, fault.to_string());
    // These containers are often left unfinished by recorders; what is there is whole.
    let plain = matches!(format.format_info().short_name, "wave" | "aiff");
    let mut block = Vec::new();
    let (mut bad, mut len) = (0, 0);
    loop {
        let packet = match next(format.as_mut(), track_id, path)? {
            Next::Packet(packet) => packet,
            Next::End => return Ok(Verdict::Done),
            Next::Cut if plain && len > 0 => {
                sink.take(Part::Warning(format!("the file ends early, after {len} samples")))?;
                return Ok(Verdict::Done);
            }
            Next::Cut => {
                return Err(Error::format(path, EXPECTED, format!("a file that ends early, after {len} samples")));
            }
        };
        match decoder.decode(&packet) {
            Ok(decoded) => {
                bad = 0;
                decoded.copy_to_vecs_planar(&mut block);
                len += block.first().map_or(0, Vec::len);
                sink.take(Part::Samples { block: &block, sample_rate_hz: decoded.spec().rate() })?;
            }
            // Some variants of a codec show only in its packets.
            Err(Fault::Unsupported(what)) if len == 0 => return Ok(Verdict::Lacking(what.to_string())),
            // The first packets of an mp3 may lack the bits they borrow from packets cut away.
            Err(fault @ (Fault::DecodeError(_) | Fault::IoError(_))) => {
                bad += 1;
                if bad > MAX_BAD_PACKETS {
                    return Err(broken(fault));
                }
            }
            Err(fault) => return Err(broken(fault)),
        }
    }
}

/// Opus in Matroska and mp4: symphonia takes the container apart, libopus decodes.
#[cfg(feature = "opus")]
fn opus(
    mut format: Box<dyn FormatReader>,
    track_id: u32,
    parameters: &AudioCodecParameters,
    path: &Path,
    sink: &mut dyn Sink,
) -> Result<Verdict> {
    let head = header(parameters.extra_data.as_deref().unwrap_or_default());
    let mut decoder = match super::opus::Unpacker::new(&head, path)? {
        Some(decoder) => decoder,
        None => return Ok(Verdict::Lacking("this layout of opus".into())),
    };
    loop {
        match next(format.as_mut(), track_id, path)? {
            Next::Packet(packet) => decoder.decode(&packet.data, sink)?,
            Next::End => return Ok(Verdict::Done),
            Next::Cut => return Err(Error::format(path, EXPECTED, "a file that ends early")),
        }
    }
}

/// The header as in Ogg. That of mp4 is version 0, and its numbers of two bytes are big-endian (pre-skip at 10, gain at 16).
#[cfg(feature = "opus")]
fn header(head: &[u8]) -> Vec<u8> {
    let mut head = head.to_vec();
    if head.len() >= 19 && head[8] == 0 {
        head.swap(10, 11);
        head.swap(16, 17);
    }
    head
}

#[cfg(not(feature = "opus"))]
fn opus(_: Box<dyn FormatReader>, _: u32, _: &AudioCodecParameters, _: &Path, _: &mut dyn Sink) -> Result<Verdict> {
    Ok(Verdict::Lacking("opus".into()))
}

#[cfg(all(test, feature = "opus"))]
mod tests {
    #[test]
    fn headers_of_mp4_are_big_endian() {
        let mp4 = b"OpusHead\0\x02\x01\x38\0\0\xbb\x80\xfe\0\0";
        assert_eq!(super::header(mp4), b"OpusHead\0\x02\x38\x01\0\0\xbb\x80\0\xfe\0");
        let ogg = b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\xfe\0";
        assert_eq!(super::header(ogg), ogg);
        assert_eq!(super::header(b"Opus"), b"Opus");
    }
}
