//! FLAC through `flacenc`: frames of fixed size as they fill, stream info with the MD5 of the samples at the end.

use std::io::{self, Write};

use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, StreamInfo};
use flacenc::config;
use flacenc::error::{Verified, Verify};
use flacenc::source::{Context, Fill, FrameBuf};

use super::pcm::{Quantizer, SampleFormat};
use super::{Encode, Tags, Target, WriteOptions, patch_texts};

/// Samples of a frame, the usual number.
const BLOCK: usize = 4096;
/// Length of the stream info with its block header.
const STREAM_INFO_LEN: usize = 38;
/// Where the texts begin: behind the magic number, the stream info and a block header.
const TEXTS_AT: u64 = 4 + STREAM_INFO_LEN as u64 + 4;
/// Who wrote the texts.
const VENDOR: &str = "musaic";

pub(super) struct Flac {
    config: Verified<config::Encoder>,
    info: StreamInfo,
    buffer: (FrameBuf, Context),
    quantizer: Quantizer,
    /// Interleaved samples that do not fill a frame yet.
    pending: Vec<i32>,
    channels: usize,
    bits: usize,
    sample_rate_hz: u32,
    texts_len: u64,
    frames: usize,
    frame_len: (u32, u32),
}

fn failed(source: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("flac encoder: {source}"))
}

impl Flac {
    pub fn begin(out: &mut Target, sample_rate_hz: u32, channels: usize, options: &WriteOptions) -> io::Result<Self> {
        let bits = if options.sample_format == SampleFormat::Pcm16 { 16 } else { 24 };
        let config = config::Encoder::default().into_verified().map_err(|(_, source)| failed(source))?;
        let comment = options.tags.vorbis_comment(VENDOR);
        if comment.len() >= 1 << 24 {
            return Err(failed("the texts are longer than 16 MiB"));
        }
        let flac = Self {
            config,
            info: StreamInfo::new(sample_rate_hz as usize, channels, bits).map_err(failed)?,
            buffer: (FrameBuf::with_size(channels, BLOCK).map_err(failed)?, Context::new(bits, channels)),
            quantizer: Quantizer::new(bits as u32, options.dither),
            pending: Vec::new(),
            channels,
            bits,
            sample_rate_hz,
            texts_len: comment.len() as u64,
            frames: 0,
            frame_len: (0, 0),
        };
        out.write_all(b"fLaC")?;
        out.write_all(&flac.stream_info())?;
        out.write_all(&(0x8400_0000 | comment.len() as u32).to_be_bytes())?;
        out.write_all(&comment)?;
        Ok(flac)
    }

    /// The stream info block as far as it is known.
    fn stream_info(&self) -> [u8; STREAM_INFO_LEN] {
        let mut block = [0; STREAM_INFO_LEN];
        block[..4].copy_from_slice(&34u32.to_be_bytes());
        block[4..6].copy_from_slice(&(BLOCK as u16).to_be_bytes());
        block[6..8].copy_from_slice(&(BLOCK as u16).to_be_bytes());
        block[8..11].copy_from_slice(&self.frame_len.0.to_be_bytes()[1..]);
        block[11..14].copy_from_slice(&self.frame_len.1.to_be_bytes()[1..]);
        // 20 bits of rate, 3 of channels, 5 of depth, 36 of length.
        let packed = u64::from(self.sample_rate_hz) << 44
            | (self.channels as u64 - 1) << 41
            | (self.bits as u64 - 1) << 36
            | self.buffer.1.total_samples() as u64 & ((1 << 36) - 1);
        block[14..22].copy_from_slice(&packed.to_be_bytes());
        block[22..].copy_from_slice(&self.buffer.1.md5_digest());
        block
    }

    /// Encodes the first `samples` pending interleaved samples as one frame.
    fn frame(&mut self, out: &mut Target, samples: usize) -> io::Result<()> {
        self.buffer.fill_interleaved(&self.pending[..samples]).map_err(failed)?;
        self.pending.drain(..samples);
        let frame =
            flacenc::encode_fixed_size_frame(&self.config, &self.buffer.0, self.frames, &self.info).map_err(failed)?;
        let mut sink = ByteSink::new();
        frame.write(&mut sink).map_err(failed)?;
        let len = sink.as_slice().len() as u32;
        let (least, most) = self.frame_len;
        self.frame_len = (if self.frames == 0 { len } else { least.min(len) }, most.max(len));
        self.frames += 1;
        out.write_all(sink.as_slice())
    }
}

impl Encode for Flac {
    fn write(&mut self, out: &mut Target, channels: &[&[f32]]) -> io::Result<()> {
        for i in 0..channels.first().map_or(0, |channel| channel.len()) {
            self.pending.extend(channels.iter().map(|channel| self.quantizer.quantize(channel[i])));
            if self.pending.len() == BLOCK * self.channels {
                self.frame(out, BLOCK * self.channels)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Target) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.frame(out, self.pending.len())?;
        }
        out.patch(4, &self.stream_info())
    }

    fn retag(&mut self, out: &mut Target, tags: &Tags) -> io::Result<()> {
        patch_texts(out, TEXTS_AT, self.texts_len, &tags.vorbis_comment(VENDOR))
    }
}
