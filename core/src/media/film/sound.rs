//! A video's own sound, each sample where it is heard.
//!
//! Not through the decoders of audio files: those hand out samples one after another, and what is to go with pictures must be
//! where its time stamp says, whatever comes late, lacks, or is an encoder's delay.

use std::path::Path;

use ffmpeg_next::{codec, frame, media::Type};

use super::{Shape, survey};
use crate::media::isolate::{Part, Sink};
use crate::media::read::{self, EXPECTED, planar};
use crate::media::{Limits, MAX_SAMPLE_RATE_HZ, ffmpeg};
use crate::{Error, Result};

/// Packets in a row that may fail before a file counts as broken.
const MAX_BAD_PACKETS: usize = 64;
/// Time stamps that are off by less are taken as rounded.
const TOLERANCE_S: f64 = 0.03;
/// Silence is handed out in pieces of so many samples.
const PIECE: u64 = 1 << 14;

/// Decodes the best audio stream, from the first picture to the end of the last.
pub(in crate::media) fn decode(path: &Path, limits: &Limits, shape: &Shape, sink: &mut dyn Sink) -> Result<()> {
    let broken = |fault| Error::format(path, EXPECTED, ffmpeg::describe(fault));
    let mut input = ffmpeg::open(read::open(path, limits, EXPECTED)?).map_err(broken)?;
    let none = || Error::format(path, EXPECTED, "no audio track that can be decoded");
    let stream = input.streams().best(Type::Audio).ok_or_else(none)?;
    let (index, unit) = (stream.index(), f64::from(stream.time_base()));
    let mut decoder = codec::Context::from_parameters(stream.parameters()).map_err(broken)?.decoder();
    // The encoder's delay is cut by time stamps.
    decoder.set_packet_time_base(stream.time_base());
    let mut decoder = decoder.audio().map_err(broken)?;
    let first_s = shape.first as f64 * f64::from(survey::unit(shape));
    let mut place = Place { path, shape, first_s, unit, block: Vec::new(), given: 0, rate: 0, sink };
    let mut frame = frame::Audio::empty();
    let (mut bad, mut ended) = (0, false);
    while !ended && !place.is_full() {
        match ffmpeg::next_packet(&mut input, index) {
            Some(packet) => match decoder.send_packet(&packet) {
                Ok(()) => bad = 0,
                Err(fault) => {
                    bad += 1;
                    if bad > MAX_BAD_PACKETS {
                        return Err(broken(fault));
                    }
                }
            },
            None => {
                // An end that cannot be sent has been sent before.
                let _ = decoder.send_eof();
                ended = true;
            }
        }
        while decoder.receive_frame(&mut frame).is_ok() {
            place.put(&frame)?;
        }
    }
    Ok(())
}

/// Puts frames where they are heard.
struct Place<'a> {
    path: &'a Path,
    shape: &'a Shape,
    /// When the first picture is shown.
    first_s: f64,
    /// Seconds of a unit of the stream's time stamps.
    unit: f64,
    block: Vec<Vec<f32>>,
    /// Samples of each channel that were handed out.
    given: u64,
    rate: u32,
    sink: &'a mut dyn Sink,
}

impl Place<'_> {
    /// Whether there is sound up to the last picture.
    fn is_full(&self) -> bool {
        self.rate > 0 && self.given >= self.shape.samples(self.rate) as u64
    }

    fn put(&mut self, frame: &frame::Audio) -> Result<()> {
        if planar(frame, &mut self.block).is_none() || frame.rate() == 0 || frame.rate() > MAX_SAMPLE_RATE_HZ {
            let found = format!("samples of type {:?} at {} Hz", frame.format(), frame.rate());
            return Err(Error::format(self.path, EXPECTED, found));
        }
        self.rate = frame.rate();
        let rate = f64::from(self.rate);
        let total = self.shape.samples(self.rate) as u64;
        let at = frame.timestamp().map(|stamp| (stamp as f64 * self.unit - self.first_s) * rate);
        let off = at.map_or(0.0, |at| at - self.given as f64).round();
        if self.given == 0 || off.abs() > TOLERANCE_S * rate {
            if off > 0.0 {
                self.silence((off as u64).min(total.saturating_sub(self.given)))?;
            }
            // What comes before the first picture, or again.
            let early = (-off).max(0.0) as usize;
            self.block.iter_mut().for_each(|channel| drop(channel.drain(..early.min(channel.len()))));
        }
        let room = usize::try_from(total.saturating_sub(self.given)).unwrap_or(usize::MAX);
        self.block.iter_mut().for_each(|channel| channel.truncate(room));
        self.give()
    }

    fn silence(&mut self, samples: u64) -> Result<()> {
        let kept = std::mem::take(&mut self.block);
        let mut left = samples;
        while left > 0 {
            let piece = left.min(PIECE);
            self.block = vec![vec![0.0; piece as usize]; kept.len()];
            self.give()?;
            left -= piece;
        }
        self.block = kept;
        Ok(())
    }

    fn give(&mut self) -> Result<()> {
        let len = self.block.first().map_or(0, Vec::len);
        if len == 0 {
            return Ok(());
        }
        self.given += len as u64;
        self.sink.take(Part::Samples { block: &self.block, sample_rate_hz: self.rate })
    }
}
