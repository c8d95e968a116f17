//! The packets of a video: how many there are, and when each is shown.

use std::path::Path;

use ffmpeg_next::{Rational, format::context::Input, format::stream::Disposition, media::Type};

use super::{EXPECTED, Shape};
use crate::media::isolate::{Part, Sink};
use crate::media::{Limits, ffmpeg, read};
use crate::{Error, Result};

/// Says how long the pictures last, in the process this is called in.
pub(in crate::media) fn survey(path: &Path, limits: &Limits, sink: &mut dyn Sink) -> Result<()> {
    let survey = Survey::take(path, limits)?;
    if survey.declared > survey.stamps.len() {
        let (found, declared) = (survey.stamps.len(), survey.declared);
        sink.take(Part::Warning(format!("the video is damaged: {found} of {declared} frames are used")))?;
    }
    sink.take(Part::Shape(survey.shape))
}

/// What the packets of the pictures say.
pub(super) struct Survey {
    pub shape: Shape,
    /// When each packet is shown and when it must be decoded, in the order they come.
    pub stamps: Vec<Stamp>,
    /// Units that a packet lasts which does not say so.
    pub step: i64,
    /// Whether all packets last alike.
    pub even: bool,
    /// Whether pictures before the first are hidden.
    pub hidden: bool,
    /// Packets that the container declares, or none.
    declared: usize,
}

/// The times of a packet, from the first picture on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub shown: i64,
    pub decoded: i64,
}

impl Survey {
    pub fn take(path: &Path, limits: &Limits) -> Result<Self> {
        let broken = |found: &str| Error::format(path, EXPECTED, found);
        let (mut input, index) = open(path, limits)?;
        let stream = input.stream(index).ok_or_else(|| broken("a file without video"))?;
        let unit = stream.time_base();
        let declared = usize::try_from(stream.frames()).unwrap_or(0);
        let has_sound = input.streams().best(Type::Audio).is_some();
        // Shown, decoded, lasting.
        let mut packets: Vec<(i64, Option<i64>, i64)> = Vec::new();
        let (mut first, mut hidden) = (i64::MAX, false);
        while let Some(packet) = ffmpeg::next_packet(&mut input, index) {
            let shown = packet.pts().ok_or_else(|| broken("pictures that do not say when they are shown"))?;
            if !(-MOST..=MOST).contains(&shown) || packet.dts().is_some_and(|dts| !(-MOST..=MOST).contains(&dts)) {
                return Err(broken("pictures at times out of all bounds"));
            }
            match ffmpeg::is_discarded(&packet) {
                true => hidden = true,
                false => first = first.min(shown),
            }
            packets.push((shown, packet.dts(), packet.duration().clamp(0, MOST)));
            if packets.len() > limits.frames {
                let most = format!("at most {} frames", limits.frames);
                return Err(Error::format(path, most, format!("{} frames and more", packets.len() - 1)));
            }
        }
        if first == i64::MAX {
            return Err(broken("a video without a frame"));
        }
        let (step, even) = steps(&packets);
        let lasting = |&(shown, _, lasting): &(i64, Option<i64>, i64)| shown + if lasting > 0 { lasting } else { step };
        let end = packets.iter().map(lasting).max().unwrap_or(first);
        let stamps = order(&packets, first, step).ok_or_else(|| broken("pictures without an order"))?;
        let unit = (unit.numerator(), unit.denominator());
        let shape = Shape { unit, first, end, packets: packets.len(), has_sound };
        shape.check(path, limits)?;
        let hidden = hidden && stamps.iter().any(|stamp| stamp.shown < 0);
        Ok(Self { shape, stamps, step, even, hidden, declared })
    }
}

/// Times beyond this many units are no times: sums of a few stay far from what an `i64` holds.
const MOST: i64 = 1 << 56;

/// How long a packet lasts on average, and whether all last alike.
fn steps(packets: &[(i64, Option<i64>, i64)]) -> (i64, bool) {
    let mut shown: Vec<i64> = packets.iter().map(|packet| packet.0).collect();
    shown.sort_unstable();
    match shown[..] {
        [first, second, .., last] => {
            let mean = (last - first) / (shown.len() as i64 - 1);
            (mean.max(1), shown.windows(2).all(|pair| pair[1] - pair[0] == second - first))
        }
        [first, second] => ((second - first).max(1), true),
        _ => (packets.first().map_or(1, |packet| packet.2.max(1)), true),
    }
}

/// The times of all packets, from `first` on. Those of decoding are the container's where they rise and none comes after its
/// picture is shown; else they are made from those of showing.
fn order(packets: &[(i64, Option<i64>, i64)], first: i64, step: i64) -> Option<Vec<Stamp>> {
    let given = packets.iter().map(|&(shown, decoded, _)| decoded.filter(|&decoded| decoded <= shown));
    let given: Option<Vec<i64>> = given.collect();
    let rising = |times: &[i64]| times.windows(2).all(|pair| pair[0] < pair[1]);
    let decoded = match given {
        Some(given) if rising(&given) => given,
        _ => {
            let mut sorted: Vec<i64> = packets.iter().map(|packet| packet.0).collect();
            sorted.sort_unstable();
            if !rising(&sorted) {
                return None;
            }
            // A picture that is shown `late` places before its packet comes makes all be decoded as much earlier.
            let late = packets.iter().enumerate().map(|(i, packet)| {
                let place = sorted.partition_point(|&shown| shown < packet.0);
                i.saturating_sub(place)
            });
            let late = late.max().unwrap_or(0);
            let before = (0..late).map(|i| sorted[0] - (late - i) as i64 * step);
            before.chain(sorted.iter().copied()).take(packets.len()).collect()
        }
    };
    let stamp = |(&(shown, _, _), decoded)| Stamp { shown: shown - first, decoded: decoded - first };
    Some(packets.iter().zip(decoded).map(stamp).collect())
}

/// Opens a file and finds its video.
pub(super) fn open(path: &Path, limits: &Limits) -> Result<(Input, usize)> {
    let file = read::open(path, limits, EXPECTED)?;
    let input = ffmpeg::open(file).map_err(|fault| Error::format(path, EXPECTED, ffmpeg::describe(fault)))?;
    // The picture of a record's cover is no video.
    let found =
        input.streams().best(Type::Video).filter(|stream| !stream.disposition().contains(Disposition::ATTACHED_PIC));
    match found.map(|stream| stream.index()) {
        Some(index) => Ok((input, index)),
        None => Err(Error::format(path, EXPECTED, "a file without video")),
    }
}

/// The unit of a shape's stamps.
pub(super) fn unit(shape: &Shape) -> Rational {
    Rational(shape.unit.0, shape.unit.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_decoding() {
        let times = |packets: &[(i64, Option<i64>)], first| {
            let packets: Vec<_> = packets.iter().map(|&(shown, decoded)| (shown, decoded, 10)).collect();
            order(&packets, first, 10).map(|all| all.iter().map(|s| (s.shown, s.decoded)).collect::<Vec<_>>())
        };
        // Given and good.
        let given = [(120, Some(100)), (140, Some(110)), (130, Some(120))];
        assert_eq!(times(&given, 120).unwrap(), [(0, -20), (20, -10), (10, 0)]);
        // Lacking, standing still, or late: made.
        for decoded in [[None, None, None, None], [Some(9); 4], [Some(5), Some(200), Some(201), Some(202)]] {
            let packets: Vec<_> = [100, 130, 110, 120].into_iter().zip(decoded).collect();
            assert_eq!(times(&packets, 100).unwrap(), [(0, -10), (30, 0), (10, 10), (20, 20)]);
        }
        assert!(times(&[(1, None), (1, None)], 1).is_none());
        assert_eq!(steps(&[(0, None, 0), (30, None, 0), (10, None, 0)]), (15, false));
        assert_eq!(steps(&[(7, None, 4)]), (4, true));
    }
}
