//! Opus through libopus: always at 48 kHz. In Ogg (RFC 7845) pre-skip, gain and end are exact.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ogg::PacketReader;
use opus::{Channels, Decoder};

use super::{EXPECTED, Verdict};
use crate::media::isolate::{Part, Sink};
use crate::{Error, Result};

const RATE_HZ: u32 = 48_000;
/// The longest packet: 120 ms.
const MAX_FRAME: usize = 5760;

/// Packets to samples, after the header `OpusHead`.
pub(super) struct Unpacker<'a> {
    path: &'a Path,
    decoder: Decoder,
    channels: usize,
    pre_skip: usize,
    /// Samples of the pre-skip that are still to come.
    skip: usize,
    interleaved: Vec<f32>,
    block: Vec<Vec<f32>>,
}

impl<'a> Unpacker<'a> {
    /// Nothing where the header is that of a layout with more than two channels, or none at all.
    pub(super) fn new(head: &[u8], path: &'a Path) -> Result<Option<Self>> {
        let (channels, pre_skip, gain) = match head {
            // Family 0 is mono or stereo; the surround families need other decoders.
            [
                b'O',
                b'p',
                b'u',
                b's',
                b'H',
                b'e',
                b'a',
                b'd',
                0..=15,
                channels @ 1..=2,
                a,
                b,
                _,
                _,
                _,
                _,
                c,
                d,
                0,
                ..,
            ] => (usize::from(*channels), u16::from_le_bytes([*a, *b]), i16::from_le_bytes([*c, *d])),
            _ => return Ok(None),
        };
        let refused = |source: opus::Error| Error::format(path, EXPECTED, source.to_string());
        let layout = if channels == 1 { Channels::Mono } else { Channels::Stereo };
        let mut decoder = Decoder::new(RATE_HZ, layout).map_err(refused)?;
        // Both in 1/256 dB.
        decoder.set_gain(i32::from(gain)).map_err(refused)?;
        Ok(Some(Self {
            path,
            decoder,
            channels,
            pre_skip: pre_skip.into(),
            skip: pre_skip.into(),
            interleaved: vec![0.0; MAX_FRAME * channels],
            block: vec![Vec::new(); channels],
        }))
    }

    pub(super) fn decode(&mut self, packet: &[u8], sink: &mut dyn Sink) -> Result<()> {
        let decoded = self.decoder.decode_float(packet, &mut self.interleaved, false);
        let len = decoded.map_err(|source| Error::format(self.path, EXPECTED, source.to_string()))?;
        let from = self.skip.min(len);
        self.skip -= from;
        for (channel, samples) in self.block.iter_mut().enumerate() {
            samples.clear();
            samples.extend((from..len).map(|i| self.interleaved[i * self.channels + channel]));
        }
        sink.take(Part::Samples { block: &self.block, sample_rate_hz: RATE_HZ })
    }
}

/// Decodes the first stream of an Ogg file.
pub(super) fn decode(file: File, path: &Path, sink: &mut dyn Sink) -> Result<Verdict> {
    let broken = |found: &str| Error::format(path, EXPECTED, found);
    let mut packets = PacketReader::new(BufReader::new(file));
    let mut next = || packets.read_packet().map_err(|source| broken(&source.to_string()));

    let head = next()?.ok_or_else(|| broken("no opus header"))?;
    let serial = head.stream_serial();
    let Some(mut decoder) = Unpacker::new(&head.data, path)? else {
        return Ok(Verdict::Lacking("opus that is not mono or stereo".into()));
    };
    next()?.ok_or_else(|| broken("no opus comment"))?;
    while let Some(packet) = next()? {
        if packet.stream_serial() != serial {
            continue;
        }
        decoder.decode(&packet.data, sink)?;
        if packet.last_in_stream() {
            sink.take(Part::Keep(packet.absgp_page().saturating_sub(decoder.pre_skip as u64) as usize))?;
            break;
        }
    }
    Ok(Verdict::Done)
}
