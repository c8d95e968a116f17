//! Packets of pictures and sound into one file.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ffmpeg_next::{
    Dictionary, Packet, Stream,
    codec::packet::side_data,
    format::{self, context::Output, context::StreamIo},
};

use super::encode::Encoder;
use super::survey::{self, Survey};
use super::{Container, EXPECTED, Plan};
use crate::media::ffmpeg;
use crate::media::isolate::{Part, Sink};
use crate::media::video::Turn;
use crate::{Error, Result};

impl Container {
    /// The name of FFmpeg's muxer.
    fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Mov => "mov",
            Self::Mkv => "matroska",
            Self::WebM => "webm",
        }
    }

    fn holds(self) -> &'static str {
        match self {
            Self::Mp4 => "pictures that mp4 can hold (H.264, HEVC, AV1, VP9, MPEG-4); mkv holds nearly all",
            Self::Mov => "pictures that mov can hold (H.264, HEVC, ProRes, MPEG-4); mkv holds nearly all",
            Self::Mkv => "pictures that mkv can hold",
            Self::WebM => "pictures that webm can hold (VP8, VP9, AV1); mkv holds nearly all",
        }
    }
}

/// Copies the pictures of `path` and encodes `sound` beside them, in the process this is called in; `sink` gets the bytes of the
/// new file.
pub(in crate::media) fn lay(path: &Path, plan: &Plan, sound: &mut dyn Read, sink: &mut dyn Sink) -> Result<()> {
    let survey = Survey::take(path, &plan.limits)?;
    if survey.shape != plan.shape {
        return Err(Error::format(path, EXPECTED, "a file that changes while it is read"));
    }
    if survey.hidden && matches!(plan.container, Container::Mkv | Container::WebM) {
        let text = "pictures that the file hides at its start are shown in the new one, which cannot hide them";
        sink.take(Part::Warning(text.into()))?;
    }
    let (mut encoder, second_best) = Encoder::open(plan, sound)?;
    if let Some(name) = second_best {
        sink.take(Part::Warning(format!("the system's FFmpeg lacks libopus: sound is encoded by {name}")))?;
    }
    let (mut input, index) = survey::open(path, &plan.limits)?;
    let pages = Pages::default();
    let delay = lost_delay(plan, &mut encoder)?;
    encoder.delay(delay);
    let mut film = Film::begin(path, plan, &survey, &input, index, &encoder, &pages)?;
    let mut count = 0;
    while let Some(mut packet) = ffmpeg::next_packet(&mut input, index) {
        let changes = || Error::format(path, EXPECTED, "packets that come and go");
        let stamp = survey.stamps.get(count).ok_or_else(changes)?;
        count += 1;
        film.sound(&mut encoder, stamp.decoded as f64 * f64::from(survey::unit(&plan.shape)))?;
        packet.set_pts(Some(stamp.shown));
        packet.set_dts(Some(stamp.decoded));
        if packet.duration() <= 0 {
            packet.set_duration(survey.step);
        }
        film.picture(packet)?;
        pages.hand_out(sink)?;
    }
    film.sound(&mut encoder, f64::INFINITY)?;
    film.output.write_trailer().map_err(|fault| film.failed(fault))?;
    // What its buffers hold still comes when it goes.
    drop(film);
    pages.hand_out(sink)
}

/// Units of the encoder's delay that get lost on the way through a Matroska file and back. FFmpeg up to 5.1 writes the delay of
/// Opus, which readers take from all times, but adds it to none; so it is tried, with a packet at one second.
fn lost_delay(plan: &Plan, encoder: &mut Encoder<'_>) -> Result<i64> {
    if matches!(plan.container, Container::Mp4 | Container::Mov) {
        return Ok(0);
    }
    let unit = encoder.unit();
    let Some(mut packet) = encoder.first()?.cloned() else { return Ok(0) };
    let delay = packet.pts().unwrap_or(0).min(0).saturating_neg();
    let second = i64::from(unit.denominator());
    packet.set_pts(Some(second));
    packet.set_dts(Some(second));
    let pages = Pages::default();
    let mut tried = || -> Result<i64, ffmpeg_next::Error> {
        let io = StreamIo::from_write_seek(pages.clone())?;
        let mut output = format::output_to_stream(io, None, Some(plan.container.muxer()))?;
        output.add_stream_with(encoder.context())?.set_time_base(unit);
        output.write_header()?;
        packet.rescale_ts(unit, output.stream(0).map_or(unit, |stream| stream.time_base()));
        packet.set_stream(0);
        packet.write_interleaved(&mut output)?;
        output.write_trailer()?;
        drop(output);
        let read = StreamIo::from_read_seek(io::Cursor::new(pages.bytes()))?;
        let mut input = format::input_from_stream(read, None, None)?;
        let mut again = Packet::empty();
        again.read(&mut input)?;
        again.rescale_ts(input.stream(0).map_or(unit, |stream| stream.time_base()), unit);
        Ok(second - again.pts().unwrap_or(second))
    };
    // Milliseconds are rounded.
    let lost = tried().unwrap_or(0);
    Ok(if 2 * lost > delay { delay } else { 0 })
}

/// A film that is being written.
struct Film<'a> {
    path: &'a Path,
    plan: &'a Plan,
    output: Output,
}

impl<'a> Film<'a> {
    fn begin(
        path: &'a Path,
        plan: &'a Plan,
        survey: &Survey,
        input: &format::context::Input,
        index: usize,
        encoder: &Encoder<'_>,
        pages: &Pages,
    ) -> Result<Self> {
        let broken = |fault| Error::format(path, EXPECTED, ffmpeg::describe(fault));
        let io = StreamIo::from_write_seek(pages.clone()).map_err(broken)?;
        let mut output = format::output_to_stream(io, None, Some(plan.container.muxer())).map_err(broken)?;
        let from = input.stream(index).ok_or_else(|| Error::format(path, EXPECTED, "a file without video"))?;
        let unit = from.time_base();
        let rate = from.avg_frame_rate();
        if matches!(plan.container, Container::Mkv | Container::WebM) && is_turned(&from) {
            let found = "pictures that are to be turned, which its muxer would forget";
            return Err(Error::format(
                path,
                "pictures that are shown as they lie; mp4 and mov keep how they are turned",
                found,
            ));
        }
        ffmpeg::add_copied_stream(&mut output, &from).map_err(broken)?;
        if let Some(mut stream) = output.stream_mut(0) {
            stream.set_time_base(unit);
            // A rate that changes is none.
            if survey.even && rate.numerator() > 0 {
                stream.set_avg_frame_rate(rate);
            }
        }
        output.add_stream_with(encoder.context()).map_err(broken)?.set_time_base(encoder.unit());
        let mut texts = Dictionary::new();
        plan.texts.iter().for_each(|(name, text)| texts.set(name, text));
        output.set_metadata(texts);
        let mut settings = Dictionary::new();
        // No version and no random number is written.
        settings.set("fflags", "+bitexact");
        if matches!(plan.container, Container::Mp4 | Container::Mov) {
            // So that players can begin before they have all of it: room for the index, at the head.
            settings.set("moov_size", &index_bytes(plan).to_string());
        }
        let written = output.write_header_with(settings).map(drop);
        written.map_err(|fault| {
            let (codec, why) = (from.parameters().id(), ffmpeg::describe(fault));
            let found = format!("pictures ({codec:?}) that its muxer refuses ({why})");
            Error::format(path, plan.container.holds(), found)
        })?;
        Ok(Self { path, plan, output })
    }

    /// Writes sound up to a time.
    fn sound(&mut self, encoder: &mut Encoder<'_>, until_s: f64) -> Result<()> {
        while encoder.taken_s() <= until_s {
            let Some(packet) = encoder.next()? else { return Ok(()) };
            self.write(packet, 1, encoder.unit())?;
        }
        Ok(())
    }

    fn picture(&mut self, packet: Packet) -> Result<()> {
        self.write(packet, 0, survey::unit(&self.plan.shape))
    }

    fn write(&mut self, mut packet: Packet, stream: usize, unit: ffmpeg_next::Rational) -> Result<()> {
        let to = self.output.stream(stream).map_or(unit, |stream| stream.time_base());
        packet.rescale_ts(unit, to);
        packet.set_stream(stream);
        packet.set_position(-1);
        packet.write_interleaved(&mut self.output).map_err(|fault| self.failed(fault))
    }

    fn failed(&self, fault: ffmpeg_next::Error) -> Error {
        let found = format!("pictures that cannot be copied ({})", ffmpeg::describe(fault));
        Error::format(self.path, self.plan.container.holds(), found)
    }
}

/// Whether pictures are not shown as they lie.
fn is_turned(stream: &Stream<'_>) -> bool {
    let mut matrices = stream.side_data().filter(|data| data.kind() == side_data::Type::DisplayMatrix);
    matrices.any(|matrix| Turn::of_matrix(matrix.data()) != Some(Turn::NONE))
}

/// Most bytes of the index of an mp4: for each packet its size, place, chunk, two times and a key; for the rest what heads and
/// texts take.
fn index_bytes(plan: &Plan) -> usize {
    /// `stsz`, `co64`, `stsc`, `stts`, `ctts`, `stss` and `sdtp`.
    const PACKET: usize = 4 + 8 + 12 + 8 + 8 + 4 + 1;
    const REST: usize = 1 << 15;
    // Frames of AAC have 1024 samples.
    let packets = plan.shape.packets + plan.samples / 1024 + 3;
    let texts: usize = plan.texts.iter().map(|(name, text)| name.len() + text.len()).sum();
    (packets * PACKET + texts + REST).min(i32::MAX as usize)
}

/// Most bytes that a muxer leaves out to come back to them.
const MAX_ROOM: u64 = 1 << 28;

/// The new file as its muxer sees it: bytes wait here with their places until they are handed out.
#[derive(Clone, Default)]
struct Pages(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    at: u64,
    len: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Pages {
    /// All that was written.
    fn bytes(&self) -> Vec<u8> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; usize::try_from(waiting.len).unwrap_or(0)];
        for (at, piece) in &waiting.pieces {
            bytes[*at as usize..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    }

    fn hand_out(&self, sink: &mut dyn Sink) -> Result<()> {
        let pieces = std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).pieces);
        pieces.iter().try_for_each(|(at, bytes)| sink.take(Part::Bytes { at: *at, bytes }))
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, len) = (waiting.at, waiting.len);
        if at > len {
            // Room that was left out, for the index.
            if at - len > MAX_ROOM {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            waiting.pieces.push((len, vec![0; (at - len) as usize]));
        }
        match waiting.pieces.last_mut() {
            Some((from, piece)) if *from + piece.len() as u64 == at => piece.extend_from_slice(bytes),
            _ => waiting.pieces.push((at, bytes.to_vec())),
        }
        waiting.at += bytes.len() as u64;
        waiting.len = waiting.len.max(waiting.at);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Pages {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => waiting.at.checked_add_signed(by),
            SeekFrom::End(by) => waiting.len.checked_add_signed(by),
        };
        waiting.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(waiting.at)
    }
}
