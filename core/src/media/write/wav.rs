//! RIFF wave: a `fmt ` chunk, the texts, the samples. Sizes are put in at the end, or left open on a pipe.

use std::io::{self, Write};

use super::pcm::{Quantizer, SampleFormat};
use super::{Encode, Tags, Target, WriteOptions, patch_texts};

/// Sizes of a stream whose end is not known.
const OPEN: u32 = u32::MAX;

pub(super) struct Wav {
    quantizer: Option<Quantizer>,
    bytes_per_sample: usize,
    header_len: u64,
    /// Where the texts begin; the header of the samples follows them.
    texts_at: u64,
    data_len: u64,
    /// Position of the `fact` chunk's sample count, which only float files have.
    fact_at: Option<u64>,
    channels: usize,
    bytes: Vec<u8>,
}

impl Wav {
    pub fn begin(out: &mut Target, sample_rate_hz: u32, channels: usize, options: &WriteOptions) -> io::Result<Self> {
        let (tag, bits) = match options.sample_format {
            SampleFormat::Pcm16 => (1u16, 16u32),
            SampleFormat::Pcm24 => (1, 24),
            SampleFormat::Float32 => (3, 32),
        };
        let frame = channels as u32 * bits / 8;
        let mut head = Vec::new();
        head.extend(b"RIFF");
        head.extend(OPEN.to_le_bytes());
        head.extend(b"WAVEfmt ");
        head.extend(16u32.to_le_bytes());
        head.extend(tag.to_le_bytes());
        head.extend((channels as u16).to_le_bytes());
        head.extend(sample_rate_hz.to_le_bytes());
        head.extend((sample_rate_hz * frame).to_le_bytes());
        head.extend((frame as u16).to_le_bytes());
        head.extend((bits as u16).to_le_bytes());
        let mut fact_at = None;
        if tag == 3 {
            head.extend(b"fact");
            head.extend(4u32.to_le_bytes());
            fact_at = Some(head.len() as u64);
            head.extend(OPEN.to_le_bytes());
        }
        let texts_at = head.len() as u64;
        head.extend(options.tags.riff_info());
        head.extend(b"data");
        head.extend(OPEN.to_le_bytes());
        out.write_all(&head)?;
        Ok(Self {
            quantizer: (tag == 1).then(|| Quantizer::new(bits, options.dither)),
            bytes_per_sample: bits as usize / 8,
            header_len: head.len() as u64,
            texts_at,
            data_len: 0,
            fact_at,
            channels,
            bytes: Vec::new(),
        })
    }
}

impl Encode for Wav {
    fn write(&mut self, out: &mut Target, channels: &[&[f32]]) -> io::Result<()> {
        self.bytes.clear();
        for i in 0..channels.first().map_or(0, |channel| channel.len()) {
            for channel in channels {
                match &mut self.quantizer {
                    Some(quantizer) => {
                        let bytes = quantizer.quantize(channel[i]).to_le_bytes();
                        self.bytes.extend(&bytes[..self.bytes_per_sample]);
                    }
                    None => self.bytes.extend(channel[i].to_le_bytes()),
                }
            }
        }
        self.data_len += self.bytes.len() as u64;
        if out.can_patch() && self.header_len + self.data_len > u64::from(OPEN) - 16 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "wav holds at most 4 GiB; write .flac instead"));
        }
        out.write_all(&self.bytes)?;
        if out.can_patch() { Ok(()) } else { out.flush() }
    }

    fn finish(&mut self, out: &mut Target) -> io::Result<()> {
        if self.data_len % 2 == 1 {
            out.write_all(&[0])?;
        }
        if !out.can_patch() {
            return Ok(());
        }
        let padded = self.data_len + self.data_len % 2;
        out.patch(4, &((self.header_len + padded - 8) as u32).to_le_bytes())?;
        out.patch(self.header_len - 4, &(self.data_len as u32).to_le_bytes())?;
        match self.fact_at {
            Some(at) => {
                let frames = self.data_len / (self.channels * self.bytes_per_sample) as u64;
                out.patch(at, &(frames as u32).to_le_bytes())
            }
            None => Ok(()),
        }
    }

    fn retag(&mut self, out: &mut Target, tags: &Tags) -> io::Result<()> {
        let room = self.header_len - 8 - self.texts_at;
        patch_texts(out, self.texts_at, room, &tags.riff_info())
    }
}
