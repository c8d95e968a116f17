//! Frames out of FFmpeg, by number.
//!
//! The file is read twice: first its packets alone, which say how many frames there are and when each is shown; then the
//! frames that were chosen. Of a long video only the stretches around them are decoded, from the key frame before each, and a
//! frame counts only if its time stamp is that of its number. Where time stamps are missing or do not hold what they promise,
//! frames are decoded and counted from the first.

use std::path::Path;

use ffmpeg_next::{
    Dictionary, Packet, Rational, codec, format::context::Input, format::stream::Disposition, frame, media::Type,
};

use super::picture::Painter;
use super::turn::Turn;
use super::{ClipFacts, EXPECTED, VideoOptions, check, check_length, check_size, select};
use crate::media::isolate::{Part, Sink};
use crate::media::{ffmpeg, read};
use crate::{Error, Result};

/// Videos of fewer frames are decoded from the first: there is little to gain.
const SEEK_FROM: usize = 300;
/// Packets in a row that may fail before a file counts as broken.
const MAX_BAD_PACKETS: usize = 1000;

/// Decodes the chosen frames into `sink`, in the process this is called in.
pub(in crate::media) fn decode(path: &Path, options: &VideoOptions, sink: &mut dyn Sink) -> Result<()> {
    decode_from(path, options, SEEK_FROM, sink)
}

/// As [`decode`], for videos of at least `seek_from` frames from key frame to key frame.
pub(super) fn decode_from(path: &Path, options: &VideoOptions, seek_from: usize, sink: &mut dyn Sink) -> Result<()> {
    let survey = Survey::take(path, options)?;
    let chosen = Chosen::new(survey.times.clone(), &survey, options);
    if survey.exact && survey.times.len() >= seek_from && Clip::open(path, options)?.seeking(&chosen, &survey, sink)? {
        return Ok(());
    }
    let mut clip = Clip::open(path, options)?;
    let counted = clip.counting(&chosen, sink)?;
    if counted > chosen.last() {
        return Ok(());
    }
    if counted == 0 {
        return Err(Error::format(path, EXPECTED, "no frame that can be decoded"));
    }
    if clip.damaged {
        sink.take(Part::Warning(format!("the video is damaged: {counted} of {} frames are used", survey.times.len())))?;
    }
    // Packets that show nothing were counted, or the end is missing: what there is, is chosen from.
    let times = survey.times[..counted].to_vec();
    let chosen = Chosen::new(times, &survey, options);
    let again = Clip::open(path, options)?.counting(&chosen, sink)?;
    if again > chosen.last() { Ok(()) } else { Err(Error::format(path, EXPECTED, "frames that come and go")) }
}

/// What the packets of a video say.
struct Survey {
    /// When each frame is shown, in seconds, rising.
    times: Vec<f64>,
    /// The same in the stream's own units.
    stamps: Vec<i64>,
    /// Numbers of the frames that can be decoded without others, rising.
    keys: Vec<usize>,
    /// Whether every frame has a time stamp of its own.
    exact: bool,
    declared: Option<usize>,
    time_base: f64,
}

impl Survey {
    fn take(path: &Path, options: &VideoOptions) -> Result<Self> {
        let (mut input, index) = open(path, options)?;
        let (declared, time_base) = match input.stream(index) {
            Some(stream) => (usize::try_from(stream.frames()).ok().filter(|&n| n > 0), seconds(stream.time_base())),
            None => (None, 0.0),
        };
        let mut exact = true;
        let mut packets: Vec<(i64, bool)> = Vec::new();
        while let Some(packet) = ffmpeg::next_packet(&mut input, index) {
            if ffmpeg::is_discarded(&packet) {
                continue;
            }
            exact &= packet.pts().is_some();
            let stamp = packet.pts().or(packet.dts()).or(packets.last().map(|last| last.0 + 1)).unwrap_or(0);
            packets.push((stamp, packet.is_key()));
            check_length(path, &options.limits, packets.len(), 0.0)?;
        }
        if packets.is_empty() {
            return Err(Error::format(path, EXPECTED, "a video without a frame"));
        }
        packets.sort_by_key(|packet| packet.0);
        exact &= packets.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let stamps: Vec<i64> = packets.iter().map(|packet| packet.0).collect();
        let times: Vec<f64> = stamps.iter().map(|&stamp| stamp as f64 * time_base).collect();
        let keys = packets.iter().enumerate().filter(|(_, packet)| packet.1).map(|(i, _)| i).collect();
        check_length(path, &options.limits, times.len(), duration(&times))?;
        Ok(Self { times, stamps, keys, exact, declared, time_base })
    }
}

/// From the first frame to the end of the last, which is taken to last as long as the others on average.
fn duration(times: &[f64]) -> f64 {
    match times {
        [first, .., last] => (last - first) * times.len() as f64 / (times.len() - 1) as f64,
        _ => 0.0,
    }
}

fn seconds(unit: Rational) -> f64 {
    f64::from(unit.numerator()) / f64::from(unit.denominator().max(1))
}

/// The frames that are wanted.
struct Chosen {
    /// Of the first frame's size, which is not known yet.
    facts: ClipFacts,
}

impl Chosen {
    fn new(times: Vec<f64>, survey: &Survey, options: &VideoOptions) -> Self {
        let windows = select::windows(options.selection, options.frames, &times, survey.declared);
        let (numbers, windows) = select::once(&windows);
        Self {
            facts: ClipFacts {
                width: 0,
                height: 0,
                frame_count: times.len(),
                declared_frames: survey.declared,
                duration_s: duration(&times),
                numbers,
                windows,
            },
        }
    }

    /// The last number that is wanted.
    fn last(&self) -> usize {
        self.facts.numbers.last().copied().unwrap_or_default()
    }
}

/// Opens a file and finds its video.
fn open(path: &Path, options: &VideoOptions) -> Result<(Input, usize)> {
    let file = read::open(path, &options.limits, EXPECTED)?;
    let broken = |fault| Error::format(path, EXPECTED, ffmpeg::describe(fault));
    let input = ffmpeg::open(file).map_err(broken)?;
    // The picture of a record's cover is no video.
    let found =
        input.streams().best(Type::Video).filter(|stream| !stream.disposition().contains(Disposition::ATTACHED_PIC));
    let index = found.map(|stream| stream.index());
    match index {
        Some(index) => Ok((input, index)),
        None => Err(Error::format(path, EXPECTED, "a file without video")),
    }
}

/// A video that is being decoded.
struct Clip<'a> {
    path: &'a Path,
    options: &'a VideoOptions,
    input: Input,
    index: usize,
    decoder: codec::decoder::Video,
    painter: Painter,
    turn: Turn,
    /// Frames handed out since the clip was last announced.
    given: usize,
    /// Whether a packet could not be decoded.
    damaged: bool,
    bad: usize,
}

impl<'a> Clip<'a> {
    fn open(path: &'a Path, options: &'a VideoOptions) -> Result<Self> {
        let (input, index) = open(path, options)?;
        let broken = |fault| Error::format(path, EXPECTED, ffmpeg::describe(fault));
        let stream = input.stream(index).ok_or_else(|| Error::format(path, EXPECTED, "a file without video"))?;
        let matrix = stream
            .side_data()
            .find(|data| data.kind() == codec::packet::side_data::Type::DisplayMatrix)
            .and_then(|data| Turn::of_matrix(data.data()));
        let parameters = stream.parameters();
        // Some codecs know their size from the first frame on only; each frame is looked at again.
        let (width, height) = ffmpeg::declared_size(&parameters);
        if width > 0 && height > 0 {
            check_size(path, &options.limits, width, height)?;
        }
        let mut decoder = codec::Context::from_parameters(parameters).map_err(broken)?.decoder();
        decoder.set_packet_time_base(stream.time_base());
        let codec = codec::decoder::find(decoder.id()).ok_or(ffmpeg_next::Error::DecoderNotFound).map_err(broken)?;
        let mut settings = Dictionary::new();
        // Before a decoder allocates a frame; with room for the margins that codecs add on each side.
        let most = options.limits.pixels.saturating_mul(4).saturating_add(1 << 20).min(i32::MAX as u64);
        settings.set("max_pixels", &most.to_string());
        settings.set("threads", &std::thread::available_parallelism().map_or(1, |n| n.get().min(4)).to_string());
        let decoder = decoder.open_as_with(codec, settings).and_then(|opened| opened.video()).map_err(broken)?;
        let turn = matrix.filter(|_| options.turn).unwrap_or(Turn::NONE);
        let painter = Painter::default();
        Ok(Self { path, options, input, index, decoder, painter, turn, given: 0, damaged: false, bad: 0 })
    }

    /// The next packet, or nothing at the end.
    fn packet(&mut self) -> Option<Packet> {
        ffmpeg::next_packet(&mut self.input, self.index)
    }

    /// Feeds a packet, or the end.
    fn feed(&mut self, packet: Option<&Packet>) -> Result<()> {
        let sent = match packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => self.decoder.send_eof(),
        };
        match sent {
            Ok(()) => self.bad = 0,
            Err(ffmpeg_next::Error::Eof) => {}
            Err(fault) => {
                self.damaged = true;
                self.bad += 1;
                if self.bad > MAX_BAD_PACKETS {
                    return Err(Error::format(self.path, EXPECTED, ffmpeg::describe(fault)));
                }
            }
        }
        Ok(())
    }

    /// Hands out a frame, the first one after the facts of the clip.
    fn give(&mut self, chosen: &Chosen, frame: &frame::Video, sink: &mut dyn Sink) -> Result<()> {
        let (width, height) = (frame.width(), frame.height());
        check_size(self.path, &self.options.limits, width.into(), height.into())?;
        if self.given == 0 {
            let (width, height) = self.turn.size(width as usize, height as usize);
            let facts = ClipFacts { width, height, ..chosen.facts.clone() };
            check(self.path, &self.options.limits, &facts)?;
            sink.take(Part::Clip(facts))?;
        }
        let painted = self.painter.paint(frame);
        let picture = painted.map_err(|fault| Error::format(self.path, EXPECTED, ffmpeg::describe(fault)))?;
        self.given += 1;
        sink.take(Part::Frame(self.turn.apply(picture)))
    }

    /// Decodes from the first frame on and counts; gives the number of frames that were seen until the last wanted one.
    fn counting(&mut self, chosen: &Chosen, sink: &mut dyn Sink) -> Result<usize> {
        let mut seen = 0;
        let mut frame = frame::Video::empty();
        loop {
            let packet = self.packet();
            self.feed(packet.as_ref())?;
            while self.decoder.receive_frame(&mut frame).is_ok() {
                if chosen.facts.numbers.get(self.given) == Some(&seen) {
                    self.give(chosen, &frame, sink)?;
                }
                seen += 1;
                if seen > chosen.last() {
                    return Ok(seen);
                }
            }
            if packet.is_none() {
                return Ok(seen);
            }
        }
    }

    /// Decodes from the key frame before each stretch on; gives whether every frame came with its own time stamp.
    fn seeking(&mut self, chosen: &Chosen, survey: &Survey, sink: &mut dyn Sink) -> Result<bool> {
        let mut frame = frame::Video::empty();
        // The next frame the decoder is to show, and whether its input has ended.
        let mut at: Option<usize> = None;
        let mut ended = false;
        for &number in &chosen.facts.numbers {
            let key = survey.keys.partition_point(|&key| key <= number).checked_sub(1).map(|i| survey.keys[i]);
            let Some(key) = key else { return Ok(false) };
            if at.is_none_or(|at| key > at) {
                let microseconds = survey.stamps[key] as f64 * survey.time_base * 1e6;
                if self.input.seek(microseconds.ceil() as i64, ..).is_err() {
                    return Ok(false);
                }
                self.decoder.flush();
                ended = false;
            }
            loop {
                if self.decoder.receive_frame(&mut frame).is_ok() {
                    match frame.timestamp() {
                        Some(stamp) if stamp == survey.stamps[number] => break,
                        Some(stamp) if stamp < survey.stamps[number] => continue,
                        _ => return Ok(false),
                    }
                }
                if ended {
                    return Ok(false);
                }
                let packet = self.packet();
                ended = packet.is_none();
                self.feed(packet.as_ref())?;
            }
            self.give(chosen, &frame, sink)?;
            at = Some(number + 1);
        }
        Ok(true)
    }
}
