//! Reading Opus in Ogg (RFC 7845) through libopus: always at 48 kHz, pre-skip and end cut exactly.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use ogg::PacketReader;
use opus::{Channels, Decoder};

use super::Audio;
use super::read::{Collector, EXPECTED, Limits};
use crate::{Error, Result};

const RATE_HZ: u32 = 48_000;
/// The longest packet: 120 ms.
const MAX_FRAME: usize = 5760;

/// Decodes the first stream of a file.
pub(super) fn decode(path: &Path, limits: &Limits) -> Result<Audio> {
    let broken = |found: String| Error::format(path, EXPECTED, found);
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    let mut packets = PacketReader::new(BufReader::new(file));
    let mut next = || packets.read_packet().map_err(|source| broken(source.to_string()));

    let head = next()?.ok_or_else(|| broken("no opus header".into()))?;
    let serial = head.stream_serial();
    let (channels, pre_skip, gain) = match head.data[..] {
        // Family 0 is mono or stereo; the surround families need other decoders.
        [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', 0..=15, channels @ 1..=2, a, b, _, _, _, _, c, d, 0, ..] => {
            (channels as usize, u64::from(u16::from_le_bytes([a, b])), i16::from_le_bytes([c, d]))
        }
        _ => return Err(broken("an opus stream that is not mono or stereo".into())),
    };
    next()?.ok_or_else(|| broken("no opus comment".into()))?;

    let layout = if channels == 1 { Channels::Mono } else { Channels::Stereo };
    let refused = |source: opus::Error| broken(source.to_string());
    let mut decoder = Decoder::new(RATE_HZ, layout).map_err(refused)?;
    decoder.set_gain(i32::from(gain)).map_err(refused)?;
    let mut collected = Collector::new(path, limits);
    let mut interleaved = vec![0f32; MAX_FRAME * channels];
    let mut skip = pre_skip as usize;
    while let Some(packet) = next()? {
        if packet.stream_serial() != serial {
            continue;
        }
        let len = decoder.decode_float(&packet.data, &mut interleaved, false).map_err(refused)?;
        let from = skip.min(len);
        skip -= from;
        let block: Vec<Vec<f32>> =
            (0..channels).map(|channel| (from..len).map(|i| interleaved[i * channels + channel]).collect()).collect();
        collected.push(&block, RATE_HZ)?;
        if packet.last_in_stream() {
            collected.truncate(packet.absgp_page().saturating_sub(pre_skip) as usize);
            break;
        }
    }
    collected.finish()
}
