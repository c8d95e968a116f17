//! Opus in Ogg (RFC 7845): 48 kHz, frames of 20 ms, exact length by pre-skip and the granule position of the last page.

use std::io::{self, Write};

use ogg::{PacketWriteEndInfo, PacketWriter};
use opus::{Application, Bitrate, Channels, Encoder};

use super::{Encode, Tags, Target, WriteOptions, patch_texts};
use crate::media::Resampler;

const RATE_HZ: u32 = 48_000;
/// Samples of a frame: 20 ms.
const FRAME: usize = 960;
/// Largest packet that libopus advises to allow for.
const MAX_PACKET: usize = 4000;
/// Frames of a page: one second.
const PAGE_FRAMES: u64 = 50;
/// Serial number of the stream; any will do where there is only one.
const SERIAL: u32 = 1;
/// Bits a second of one channel, of which music at 48 kHz is transparent to most ears.
const BITRATE_PER_CHANNEL: i32 = 80_000;

pub(super) struct Opus {
    encoder: Encoder,
    resampler: Resampler,
    pages: PacketWriter<'static, Vec<u8>>,
    /// Interleaved samples at 48 kHz that do not fill a frame yet.
    pending: Vec<f32>,
    channels: usize,
    /// As the file's head names it; what is encoded has 48 kHz.
    sample_rate_hz: u32,
    head_len: u64,
    pre_skip: u64,
    taken: u64,
    frames: u64,
}

fn failed(source: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("opus encoder: {source}"))
}

impl Opus {
    pub fn begin(out: &mut Target, sample_rate_hz: u32, channels: usize, options: &WriteOptions) -> io::Result<Self> {
        let layout = if channels == 1 { Channels::Mono } else { Channels::Stereo };
        let mut encoder = Encoder::new(RATE_HZ, layout, Application::Audio).map_err(failed)?;
        encoder.set_bitrate(Bitrate::Bits(BITRATE_PER_CHANNEL * channels as i32)).map_err(failed)?;
        let pre_skip = encoder.get_lookahead().map_err(failed)? as u64;

        let resampler = Resampler::new(channels, sample_rate_hz, RATE_HZ).map_err(failed)?;
        let mut opus = Self {
            encoder,
            resampler,
            pages: PacketWriter::new(Vec::new()),
            pending: Vec::new(),
            channels,
            sample_rate_hz,
            head_len: 0,
            pre_skip,
            taken: 0,
            frames: 0,
        };
        opus.pages = opus.head(&options.tags)?;
        opus.head_len = opus.pages.inner().len() as u64;
        opus.flush(out)?;
        Ok(opus)
    }

    /// The pages at the start of the file: what it is, and the texts.
    fn head(&self, tags: &Tags) -> io::Result<PacketWriter<'static, Vec<u8>>> {
        let mut head = b"OpusHead\x01".to_vec();
        head.push(self.channels as u8);
        head.extend((self.pre_skip as u16).to_le_bytes());
        head.extend(self.sample_rate_hz.to_le_bytes());
        // No output gain; mapping family 0: mono or stereo.
        head.extend([0, 0, 0]);
        let tags = [b"OpusTags".as_slice(), &tags.vorbis_comment("libopus")].concat();
        let mut pages = PacketWriter::new(Vec::new());
        pages.write_packet(head, SERIAL, PacketWriteEndInfo::EndPage, 0)?;
        pages.write_packet(tags, SERIAL, PacketWriteEndInfo::EndPage, 0)?;
        Ok(pages)
    }

    /// Passes on the bytes of finished pages.
    fn flush(&mut self, out: &mut Target) -> io::Result<()> {
        out.write_all(self.pages.inner())?;
        self.pages.inner_mut().clear();
        Ok(())
    }

    fn take(&mut self, channels: &[Vec<f32>]) {
        let len = channels.first().map_or(0, Vec::len);
        self.taken += len as u64;
        for i in 0..len {
            self.pending.extend(channels.iter().map(|channel| channel[i]));
        }
    }

    /// Encodes the next frame; `last` ends the stream at its true length.
    fn frame(&mut self, last: bool) -> io::Result<()> {
        let samples: Vec<f32> = self.pending.drain(..FRAME * self.channels).collect();
        let packet = self.encoder.encode_vec_float(&samples, MAX_PACKET).map_err(failed)?;
        self.frames += 1;
        let (end, position) = if last {
            (PacketWriteEndInfo::EndStream, self.pre_skip + self.taken)
        } else if self.frames.is_multiple_of(PAGE_FRAMES) {
            (PacketWriteEndInfo::EndPage, self.frames * FRAME as u64)
        } else {
            (PacketWriteEndInfo::NormalPacket, self.frames * FRAME as u64)
        };
        self.pages.write_packet(packet, SERIAL, end, position)
    }
}

impl Encode for Opus {
    fn write(&mut self, out: &mut Target, channels: &[&[f32]]) -> io::Result<()> {
        let resampled = self.resampler.push(channels).map_err(failed)?;
        self.take(&resampled);
        // One frame stays back: the last one is marked.
        while self.pending.len() > FRAME * self.channels {
            self.frame(false)?;
        }
        self.flush(out)
    }

    fn finish(&mut self, out: &mut Target) -> io::Result<()> {
        let rest = self.resampler.finish();
        self.take(&rest);
        let frames = (self.pre_skip + self.taken).div_ceil(FRAME as u64).max(self.frames + 1);
        self.pending.resize((frames - self.frames) as usize * FRAME * self.channels, 0.0);
        for left in (0..frames - self.frames).rev() {
            self.frame(left == 0)?;
        }
        self.flush(out)
    }
    fn retag(&mut self, out: &mut Target, tags: &Tags) -> io::Result<()> {
        // Whole pages: each carries a checksum of its contents.
        patch_texts(out, 0, self.head_len, self.head(tags)?.inner())
    }
}
