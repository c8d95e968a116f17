//! The sound of a film on its way into packets.

use std::io::Read;

use ffmpeg_next::{
    ChannelLayout, Codec, Error as Fault, Packet, Rational,
    codec::{self, Compliance, encoder},
    error::EAGAIN,
    format::{Sample, sample::Type},
    frame,
};

use super::mix::RATE_HZ;
use super::{Container, Plan};
use crate::media::ffmpeg;
use crate::{Error, Result};

/// Samples of a block for an encoder that takes any number.
const ANY_BLOCK: usize = 1024;

impl Container {
    /// Encoders by the names that FFmpeg gives them, the best first, with bits a second for each channel.
    fn encoders(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Mp4 | Self::Mov => &[("aac", 96_000)],
            Self::Mkv => &[("libopus", 80_000), ("libvorbis", 96_000), ("aac", 96_000)],
            // FFmpeg's own opus, which it calls experimental, is all that is left for webm then.
            Self::WebM => &[("libopus", 80_000), ("libvorbis", 96_000), ("opus", 96_000)],
        }
    }
}

/// Makes packets of interleaved samples.
pub(super) struct Encoder<'a> {
    encoder: encoder::audio::Encoder,
    sound: &'a mut dyn Read,
    channels: usize,
    /// Samples of each channel that were taken, and all there are.
    taken: usize,
    samples: usize,
    ended: bool,
    /// A packet that was looked at before its time.
    first: Option<Packet>,
    /// Units by which all packets come later.
    later: i64,
}

impl<'a> Encoder<'a> {
    /// The best encoder there is for a container; and its name, where a better one is missing.
    pub fn open(plan: &Plan, sound: &'a mut dyn Read) -> Result<(Self, Option<&'static str>)> {
        let names = plan.container.encoders();
        for (place, &(name, bits)) in names.iter().enumerate() {
            let Some(codec) = encoder::find_by_name(name) else { continue };
            if let Ok(encoder) = open(codec, bits * plan.channels, plan.channels) {
                let (channels, samples) = (plan.channels, plan.samples);
                let opened = Self { encoder, sound, channels, taken: 0, samples, ended: false, first: None, later: 0 };
                return Ok((opened, (place > 0).then_some(name)));
            }
        }
        let expected = format!("one of {}", names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
        Err(Error::argument("encoders of sound in the system's FFmpeg", "none that fits the output file", expected))
    }

    /// What the container is told of it.
    pub fn context(&self) -> &codec::Context {
        &self.encoder
    }

    /// Unit of the time stamps.
    pub fn unit(&self) -> Rational {
        Rational(1, RATE_HZ as i32)
    }

    /// Seconds of sound that were taken.
    pub fn taken_s(&self) -> f64 {
        self.taken as f64 / f64::from(RATE_HZ)
    }

    /// The first packet, before any was taken.
    pub fn first(&mut self) -> Result<Option<&Packet>> {
        self.first = self.make()?;
        Ok(self.first.as_ref())
    }

    /// Lets all packets come so many units later.
    pub fn delay(&mut self, units: i64) {
        self.later = units;
    }

    /// The next packet, or nothing at the end.
    pub fn next(&mut self) -> Result<Option<Packet>> {
        let packet = match self.first.take() {
            Some(first) => Some(first),
            None => self.make()?,
        };
        Ok(packet.map(|mut packet| {
            packet.set_pts(packet.pts().map(|pts| pts + self.later));
            packet.set_dts(packet.dts().map(|dts| dts + self.later));
            packet
        }))
    }

    fn make(&mut self) -> Result<Option<Packet>> {
        let failed =
            |fault| Error::argument("sound to encode", ffmpeg::describe(fault), "sound that its encoder takes");
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => return Ok(Some(packet)),
                Err(Fault::Eof) => return Ok(None),
                Err(Fault::Other { errno: EAGAIN }) if !self.ended => {}
                Err(fault) => return Err(failed(fault)),
            }
            match self.frame()? {
                Some(frame) => self.encoder.send_frame(&frame).map_err(failed)?,
                None => {
                    self.ended = true;
                    self.encoder.send_eof().map_err(failed)?;
                }
            }
        }
    }

    /// The next block of samples.
    fn frame(&mut self) -> Result<Option<frame::Audio>> {
        let block = match self.encoder.frame_size() as usize {
            0 => ANY_BLOCK,
            block => block,
        };
        let len = block.min(self.samples - self.taken);
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; len * self.channels * size_of::<f32>()];
        self.sound.read_exact(&mut bytes).map_err(|source| Error::io("sound to encode", source))?;
        let samples: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let mut frame = frame::Audio::new(self.encoder.format(), len, layout(self.channels));
        frame.set_rate(RATE_HZ);
        frame.set_pts(Some(self.taken as i64));
        if frame.is_packed() {
            frame.plane_mut::<f32>(0).copy_from_slice(&samples);
        } else {
            for channel in 0..self.channels {
                let every = samples.iter().skip(channel).step_by(self.channels);
                frame.plane_mut::<f32>(channel).iter_mut().zip(every).for_each(|(to, &x)| *to = x);
            }
        }
        self.taken += len;
        Ok(Some(frame))
    }
}

fn layout(channels: usize) -> ChannelLayout {
    if channels == 1 { ChannelLayout::MONO } else { ChannelLayout::STEREO }
}

fn open(codec: Codec, bits: usize, channels: usize) -> Result<encoder::audio::Encoder, Fault> {
    let format = match codec.audio()?.formats() {
        Some(mut formats) => formats.find(|format| matches!(format, Sample::F32(_))).ok_or(Fault::EncoderNotFound)?,
        None => Sample::F32(Type::Planar),
    };
    let mut context = codec::Context::new_with_codec(codec);
    // All containers here want the head of the stream in their own; and no version is written.
    context.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
    context.compliance(Compliance::Experimental);
    context.set_time_base(Rational(1, RATE_HZ as i32));
    let mut audio = context.encoder().audio()?;
    audio.set_rate(RATE_HZ as i32);
    audio.set_channel_layout(layout(channels));
    audio.set_format(format);
    audio.set_bit_rate(bits);
    audio.open_as(codec)
}
