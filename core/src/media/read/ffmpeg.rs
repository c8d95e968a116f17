//! Sound through FFmpeg: what the other decoders lack.

use std::fs::File;
use std::path::Path;

use ffmpeg_next::{codec, format::Sample, frame, media::Type};

use super::{EXPECTED, MAX_BAD_PACKETS};
use crate::media::isolate::{Part, Sink};
use crate::media::{Limits, ffmpeg};
use crate::{Error, Result};

/// Decodes the best audio stream.
pub(super) fn decode(file: File, path: &Path, _: &Limits, lacking: &str, sink: &mut dyn Sink) -> Result<()> {
    let broken = |fault: ffmpeg_next::Error| {
        Error::format(path, EXPECTED, format!("{}, tried as {lacking}", ffmpeg::describe(fault)))
    };
    let mut input = ffmpeg::open(file).map_err(broken)?;
    let none = || Error::format(path, EXPECTED, "no audio track that can be decoded");
    let stream = input.streams().best(Type::Audio).ok_or_else(none)?;
    let index = stream.index();
    let mut decoder = codec::Context::from_parameters(stream.parameters()).map_err(broken)?.decoder();
    // The encoder's delay is cut by time stamps.
    decoder.set_packet_time_base(stream.time_base());
    let mut decoder = decoder.audio().map_err(broken)?;

    let mut reader = Reader { block: Vec::new(), frame: frame::Audio::empty() };
    let mut bad = 0;
    while let Some(packet) = ffmpeg::next_packet(&mut input, index) {
        match decoder.send_packet(&packet) {
            Ok(()) => bad = 0,
            Err(fault) => {
                bad += 1;
                if bad > MAX_BAD_PACKETS {
                    return Err(broken(fault));
                }
            }
        }
        reader.drain(&mut decoder, path, sink)?;
    }
    // An end that cannot be sent has been sent before.
    let _ = decoder.send_eof();
    reader.drain(&mut decoder, path, sink)
}

struct Reader {
    block: Vec<Vec<f32>>,
    frame: frame::Audio,
}

impl Reader {
    /// Hands out all frames that are ready.
    fn drain(&mut self, decoder: &mut codec::decoder::Audio, path: &Path, sink: &mut dyn Sink) -> Result<()> {
        while decoder.receive_frame(&mut self.frame).is_ok() {
            if planar(&self.frame, &mut self.block).is_none() {
                let found = format!("samples of type {:?}", self.frame.format());
                return Err(Error::format(path, EXPECTED, found));
            }
            sink.take(Part::Samples { block: &self.block, sample_rate_hz: self.frame.rate() })?;
        }
        Ok(())
    }
}

/// Samples of a frame as floats; nothing for a type FFmpeg may have besides.
pub(in crate::media) fn planar(frame: &frame::Audio, block: &mut Vec<Vec<f32>>) -> Option<()> {
    let channels = usize::from(frame.channels());
    block.resize(channels, Vec::new());
    /// Spreads samples of one type over the channels.
    fn spread<T: frame::audio::Sample + Copy>(
        frame: &frame::Audio,
        block: &mut [Vec<f32>],
        packed: bool,
        of: impl Fn(T) -> f32,
    ) {
        let channels = block.len();
        for (channel, samples) in block.iter_mut().enumerate() {
            samples.clear();
            if packed {
                samples.extend(frame.plane::<T>(0).iter().skip(channel).step_by(channels).map(|&x| of(x)));
            } else {
                samples.extend(frame.plane::<T>(channel).iter().map(|&x| of(x)));
            }
        }
    }
    let packed = frame.is_packed();
    match frame.format() {
        Sample::U8(_) => spread(frame, block, packed, |x: u8| (f32::from(x) - 128.0) / 128.0),
        Sample::I16(_) => spread(frame, block, packed, |x: i16| f32::from(x) / 32768.0),
        Sample::I32(_) => spread(frame, block, packed, |x: i32| (f64::from(x) / 2_147_483_648.0) as f32),
        Sample::F32(_) => spread(frame, block, packed, |x: f32| x),
        Sample::F64(_) => spread(frame, block, packed, |x: f64| x as f32),
        _ => return None,
    }
    Some(())
}
