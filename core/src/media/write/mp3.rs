//! MP3 through LAME: variable rate, quality 2 (about 190 kbit/s in stereo), with the tag that lets players cut the
//! encoder's delay and padding.

use std::io::{self, Write};

use mp3lame_encoder::{Builder, DualPcm, Encoder, FlushGap, MonoPcm, Quality, VbrMode, max_required_buffer_size};

use super::{Encode, Tags, Target, WriteOptions, patch_texts};
use crate::media::Resampler;

/// The rates that MPEG audio knows.
const RATES_HZ: [u32; 9] = [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000];

pub(super) struct Mp3 {
    encoder: Encoder,
    resampler: Resampler,
    tag_at: u64,
    bytes: Vec<u8>,
}

fn failed(source: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("mp3 encoder: {source}"))
}

impl Mp3 {
    pub fn begin(out: &mut Target, sample_rate_hz: u32, channels: usize, options: &WriteOptions) -> io::Result<Self> {
        // The next rate up loses nothing; above 48 kHz nothing audible is lost.
        let rate = RATES_HZ.into_iter().find(|&rate| rate >= sample_rate_hz).unwrap_or(48_000);
        let build = || {
            Builder::new()?
                .with_num_channels(channels as u8)
                .and_then(|builder| builder.with_sample_rate(rate))
                .and_then(|builder| builder.with_output_sample_rate(std::num::NonZeroU32::new(rate)))
                .and_then(|builder| builder.with_vbr_mode(VbrMode::Mtrh))
                .and_then(|builder| builder.with_vbr_quality(Quality::NearBest))
                .and_then(|builder| builder.with_quality(Quality::VeryNice))
                .and_then(|builder| builder.with_to_write_vbr_tag(true))
                .and_then(Builder::build)
                .ok()
        };
        let encoder = build().ok_or_else(|| failed(format!("{channels} channels at {rate} Hz are refused")))?;
        let texts = options.tags.id3();
        out.write_all(&texts)?;
        let resampler = Resampler::new(channels, sample_rate_hz, rate).map_err(failed)?;
        Ok(Self { encoder, resampler, tag_at: texts.len() as u64, bytes: Vec::new() })
    }

    fn encode(&mut self, out: &mut Target, channels: &[Vec<f32>]) -> io::Result<()> {
        let len = channels.first().map_or(0, Vec::len);
        if len == 0 {
            return Ok(());
        }
        self.bytes.clear();
        self.bytes.reserve(max_required_buffer_size(len));
        match channels {
            [left, right] => self.encoder.encode_to_vec(DualPcm { left, right }, &mut self.bytes),
            [mono] => self.encoder.encode_to_vec(MonoPcm(mono), &mut self.bytes),
            _ => return Err(failed("more than two channels")),
        }
        .map_err(failed)?;
        out.write_all(&self.bytes)
    }
}

impl Encode for Mp3 {
    fn write(&mut self, out: &mut Target, channels: &[&[f32]]) -> io::Result<()> {
        let resampled = self.resampler.push(channels).map_err(failed)?;
        self.encode(out, &resampled)
    }

    fn finish(&mut self, out: &mut Target) -> io::Result<()> {
        let rest = self.resampler.finish();
        self.encode(out, &rest)?;
        self.bytes.clear();
        self.bytes.reserve(7200);
        self.encoder.flush_to_vec::<FlushGap>(&mut self.bytes).map_err(failed)?;
        out.write_all(&self.bytes)?;
        // LAME left an empty frame at the start for it.
        let mut tag = Vec::with_capacity(self.encoder.lame_tag_size());
        if self.encoder.lame_tag_encode_to_vec(&mut tag).is_some() {
            out.patch(self.tag_at, &tag)?;
        }
        Ok(())
    }

    fn retag(&mut self, out: &mut Target, tags: &Tags) -> io::Result<()> {
        patch_texts(out, 0, self.tag_at, &tags.id3())
    }
}
