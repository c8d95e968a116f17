//! Making a span of a track anew: continued from the left, of several takes the one that meets the right side best, joined
//! where it is least heard. What lies outside the span stays as it is.

use std::{f32::consts::FRAC_PI_2, ops::Range, path::Path, time::Instant};

use candle_core::Tensor;
use musaic_core::{
    Error,
    files::sha256_file,
    media::{Audio, AudioWriter, Limiter, SampleFormat, WriteOptions, decibels, measure::rms, resample},
    role::{Cancel, DecodeOptions},
};
use serde::Serialize;

use super::{
    generate::{Job, Session, TakeReport, as_tensor, tags},
    output::Output,
    request::Span,
    sink::{CEILING_DBFS, Watch},
};
use crate::{
    failure::BadInput,
    listen::{ONSET_DB, ONSET_HOP, RATE_HZ, hear, likeness::Heard, onsets},
};

/// Seconds of the left side that the decoder goes on from, if there are so many.
const CONTEXT_S: f64 = 6.0;
/// Fewer are no context.
const LEAST_CONTEXT_S: f64 = 0.5;
/// Seconds beyond an end of the span that takes are compared with: made anew, too, on the right.
const TAIL_S: f64 = 1.5;
/// Fewer on the right tell nothing.
const LEAST_TAIL_S: f64 = 0.3;
/// Shortest span.
const LEAST_SPAN_S: f64 = 0.25;
/// Length of a crossfade in seconds.
const FADE_S: f64 = 0.03;
/// How far before the end of the span the join may be, to lie on a beat.
const SEARCH_S: f64 = 0.3;
/// What is measured around that, since a cut looks like an onset: the spectra reach 32 ms to each side, rises look back 20 ms.
const MARGIN_S: f64 = 0.1;
/// Most that a take is turned up or down to fit the level of the left side, in dB.
const MOST_GAIN_DB: f64 = 9.0;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct SpanReport {
    /// The file, as of any take.
    pub take: TakeReport,
    /// Number of the take that was used, from 0.
    pub chosen: u32,
    /// How well each take meets the right side; larger is better.
    pub scores: Vec<f64>,
    /// Where the new part ends and the track goes on, in seconds.
    pub joined_s: f64,
}

/// Whether `span` lies in a track.
///
/// # Errors
/// It does not; the message says what would.
pub fn check(span: Span, length_s: f64) -> Result<(), BadInput> {
    let Span { from_s, to_s, .. } = span;
    if (0.0..length_s).contains(&from_s) && to_s <= length_s && to_s - from_s >= LEAST_SPAN_S {
        return Ok(());
    }
    Err(BadInput::new(format!(
        "from {from_s} s to {to_s} s: expected a span of at least {LEAST_SPAN_S} s within the track of {length_s:.2} s"
    )))
}

/// Makes `span` of the track of `job` anew and writes the whole track. The track that the session was given is used up.
///
/// # Errors
/// The span does not lie in the track, the decoder fails, the file cannot be written, or somebody asked to stop.
pub fn span(
    session: &mut Session,
    job: &Job,
    span: Span,
    cancel: &Cancel,
    watch: &mut dyn Watch,
) -> anyhow::Result<SpanReport> {
    let started = Instant::now();
    let path = match &job.output {
        Output::Files(files) => files.first().cloned(),
        Output::Stdout => None,
    };
    let path = path.ok_or_else(|| BadInput::new("output: a span cannot be streamed, expected a file"))?;
    let track = session.lend_track().ok_or_else(|| BadInput::new("edit: no track"))?;
    check(span, track.duration_s())?;
    let tail_s = (track.duration_s() - span.to_s).min(TAIL_S);
    let left = Left::of(&track, span, session)?;
    let judge = Judge::of(&track, span, &left, tail_s)?;

    let mut best: Option<(f64, u32, Audio)> = None;
    let mut scores = Vec::new();
    for take in 0..span.takes.max(1) {
        let change = |options: &mut DecodeOptions| {
            options.duration_s = span.to_s - span.from_s + tail_s;
            options.continue_from.clone_from(&left.prompt);
        };
        let made = session.sound(job, take, change, cancel, watch)?;
        let made = fit(made, &track, &left)?;
        let score = judge.score(&made)?;
        scores.push(score);
        if best.as_ref().is_none_or(|(least, ..)| score > *least) {
            best = Some((score, take, made));
        }
    }
    let Some((_, chosen, made)) = best else { return Err(BadInput::new("takes: 0, expected at least 1").into()) };
    let joined_s = if tail_s > 0.0 { join_at(&track, span)? } else { span.to_s };
    let place = Place {
        begins_s: span.from_s - left.prompt_s,
        from_s: span.from_s,
        to_s: joined_s,
        left: match (&left.prompt, span.from_s > 0.0) {
            (Some(_), _) => Some(Side::Same),
            (None, true) => Some(Side::Stranger),
            (None, false) => None,
        },
        right: tail_s > 0.0,
    };
    let format = depth(&track, job.continue_from.as_deref());
    let (whole, limited_db) = splice(&track, made, &place)?;

    let request = session.request(job, 0);
    let options = WriteOptions::default().with_tags(tags(&request)?).with_overwrite(true).with_sample_format(format);
    cancel.check()?;
    let mut writer = AudioWriter::create(&path, whole.sample_rate_hz, whole.channels.len(), &options)?;
    writer.write(&whole.planes())?;
    writer.finish()?;
    let take = TakeReport {
        sha256: Some(sha256_file(&path)?),
        path: Some(path.display().to_string()),
        seconds: whole.duration_s(),
        sample_rate_hz: whole.sample_rate_hz,
        channels: whole.channels.len(),
        wall_s: started.elapsed().as_secs_f64(),
        first_sound_s: None,
        steps: 0,
        limited_db,
        stopped: false,
        request,
    };
    Ok(SpanReport { take, chosen, scores, joined_s })
}

/// What lies before a span.
struct Left {
    audio: Audio,
    /// What the decoder goes on from, `[1, channels, samples]`; nothing where there is too little of it.
    prompt: Option<Tensor>,
    prompt_s: f64,
}

impl Left {
    fn of(track: &Audio, span: Span, session: &Session) -> Result<Self, Error> {
        let audio = part(track, span.from_s - CONTEXT_S..span.from_s);
        if span.from_s < LEAST_CONTEXT_S {
            return Ok(Self { audio, prompt: None, prompt_s: 0.0 });
        }
        let spec = session.spec();
        let prompt = as_tensor(&audio, spec.sample_rate_hz, spec.channels, session.device())?;
        let hop = (spec.sample_rate_hz / spec.frame_rate_hz) as usize;
        // Whole frames that end where the span begins.
        let kept = prompt.dim(2)? / hop * hop;
        let prompt = prompt.narrow(2, prompt.dim(2)? - kept, kept)?;
        Ok(Self { audio, prompt: Some(prompt), prompt_s: kept as f64 / f64::from(spec.sample_rate_hz) })
    }
}

/// Says how well a take fits what is kept: what it makes of the time behind the span against what the track has there. What is
/// to be replaced is no measure.
struct Judge {
    /// The part of a take that is looked at, in its own time.
    seconds: Range<f64>,
    kept: Option<Heard>,
    /// Onsets count only where both are of the same time.
    onsets: f64,
}

impl Judge {
    fn of(track: &Audio, span: Span, left: &Left, tail_s: f64) -> Result<Self, Error> {
        if tail_s >= LEAST_TAIL_S {
            // Where the right side begins, in the new part's own time.
            let begin = span.to_s - span.from_s + left.prompt_s;
            let kept = Some(Heard::of(&part(track, span.to_s..span.to_s + tail_s))?);
            return Ok(Self { seconds: begin..begin + tail_s, kept, onsets: 0.5 });
        }
        // Nothing follows: as smoothly as it goes on from the left.
        let kept = if left.prompt_s > 0.0 {
            let length_s = left.audio.duration_s();
            Some(Heard::of(&part(&left.audio, length_s - TAIL_S..length_s))?)
        } else {
            None
        };
        Ok(Self { seconds: left.prompt_s..left.prompt_s + TAIL_S, kept, onsets: 0.0 })
    }

    /// Larger is better.
    fn score(&self, made: &Audio) -> Result<f64, Error> {
        let Some(kept) = &self.kept else { return Ok(0.0) };
        let met = Heard::of(&part(made, self.seconds.clone()))?.likeness(kept);
        Ok(met.chroma + self.onsets * met.onsets - 0.05 * met.louder_lu.map_or(20.0, f64::abs))
    }
}

/// Samples of `seconds`, as far as there are any.
fn part(audio: &Audio, seconds: Range<f64>) -> Audio {
    let at = |s: f64| ((s.max(0.0) * f64::from(audio.sample_rate_hz)).round() as usize).min(audio.len());
    let (first, last) = (at(seconds.start), at(seconds.end));
    let channels = audio.channels.iter().map(|channel| channel[first..last.max(first)].to_vec()).collect();
    Audio { channels, sample_rate_hz: audio.sample_rate_hz }
}

/// What was made, at the track's rate and channels and at its level: what went in on the left came out again, and tells by how
/// much.
fn fit(made: Audio, track: &Audio, left: &Left) -> Result<Audio, Error> {
    let mut made = resample(&made, track.sample_rate_hz)?;
    if made.channels.len() != track.channels.len() {
        made.channels = vec![made.mixdown(); track.channels.len()];
    }
    let again = part(&made, 0.0..left.prompt_s);
    let (before, after) = (rms(&left.audio.mixdown()), rms(&again.mixdown()));
    let most = 10f64.powf(MOST_GAIN_DB / 20.0);
    let gain = if before > 1e-4 && after > 1e-4 { (before / after).clamp(1.0 / most, most) } else { 1.0 };
    made.channels.iter_mut().flatten().for_each(|sample| *sample *= gain as f32);
    Ok(made)
}

/// Just before the strongest onset of the track near the end of the span, where a join is heard least. Never behind the end.
fn join_at(track: &Audio, span: Span) -> Result<f64, Error> {
    let Span { from_s, to_s, .. } = span;
    let earliest = (from_s + 2.0 * FADE_S).max(to_s - SEARCH_S);
    let begin_s = (earliest - MARGIN_S).max(0.0);
    let samples = hear(part(track, begin_s..to_s + MARGIN_S).mixdown(), track.sample_rate_hz)?;
    let frame_s = ONSET_HOP as f64 / f64::from(RATE_HZ);
    let rises = onsets(&samples).into_iter().enumerate();
    let near = rises.map(|(frame, rise)| (begin_s + frame as f64 * frame_s, rise));
    let strongest = near.filter(|(s, _)| (earliest..=to_s).contains(s)).max_by(|(_, a), (_, b)| a.total_cmp(b));
    // The spectra see an onset up to a window's half, 32 ms, before it is there.
    Ok(strongest.filter(|(_, rise)| *rise >= ONSET_DB).map_or(to_s, |(s, _)| s))
}

/// The sample format that keeps a track as it is, told by its samples; 16 bits for what comes from a lossy file.
fn depth(track: &Audio, file: Option<&Path>) -> SampleFormat {
    const LOSSLESS: [&str; 6] = ["wav", "flac", "aif", "aiff", "caf", "w64"];
    let ending = file.and_then(Path::extension).map(|e| e.to_string_lossy().to_lowercase());
    let holds = |bits: i32| {
        let scale = 2f32.powi(bits - 1);
        track.channels.iter().flatten().all(|x| x.abs() <= 1.0 && (x * scale).fract() == 0.0)
    };
    match ending {
        Some(ending) if LOSSLESS.contains(&ending.as_str()) && !holds(16) => {
            if holds(24) {
                SampleFormat::Pcm24
            } else {
                SampleFormat::Float32
            }
        }
        _ => SampleFormat::Pcm16,
    }
}

/// Which side of a new part is what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The same sound, once through the codec: the fade lies before the span and keeps amplitudes.
    Same,
    /// Another sound: the fade lies in the span and keeps power.
    Stranger,
}

/// Where a new part goes.
struct Place {
    /// Where its own time begins.
    begins_s: f64,
    from_s: f64,
    to_s: f64,
    left: Option<Side>,
    right: bool,
}

/// The track with `made` in its place, crossfaded at both ends, no peak above full scale or the track's own; also by how many dB
/// the new part was limited. Not a sample from the end of the place on is touched.
fn splice(track: &Audio, made: Audio, place: &Place) -> Result<(Audio, f64), Error> {
    let rate = f64::from(track.sample_rate_hz);
    let at = |s: f64| (s * rate).round() as i64;
    let (begins, from, to, fade) = (at(place.begins_s), at(place.from_s), at(place.to_s), at(FADE_S).max(1));
    let ceiling = 10f32.powf(CEILING_DBFS as f32 / 20.0).max(track.peak().min(1.0));
    let mut limiter = Limiter::new(track.sample_rate_hz, made.channels.len(), decibels(f64::from(ceiling)).min(0.0))?;
    let mut made = limiter.process(&made.planes())?;
    for (channel, rest) in made.iter_mut().zip(limiter.finish()) {
        channel.extend(rest);
    }
    let rise = match place.left {
        Some(Side::Same) => from - fade..from,
        Some(Side::Stranger) => from..from + fade,
        None => from..from,
    };
    let fall = if place.right { to - fade..to } else { to..to };
    let new_at = |channel: &[f32], n: i64| usize::try_from(n - begins).ok().and_then(|n| channel.get(n)).copied();
    // Of strangers power is kept, unless their peaks meet; a sum of shares is never above both.
    let fits = |range: &Range<i64>, share: &dyn Fn(i64) -> f32| {
        let meets = |(old, new): (&Vec<f32>, &Vec<f32>), n: i64| {
            let (a, b) = power(share(n));
            let (old, new) = (usize::try_from(n).ok().and_then(|n| old.get(n))?, new_at(new, n)?);
            Some((a * old + b * new).abs() > ceiling)
        };
        range.clone().all(|n| track.channels.iter().zip(&made).all(|pair| meets(pair, n) != Some(true)))
    };
    let rising = |n: i64| (n - rise.start) as f32 / fade as f32;
    let falling = |n: i64| (fall.end - n) as f32 / fade as f32;
    let rise_of_power = place.left == Some(Side::Stranger) && fits(&rise, &rising);
    let fall_of_power = fits(&fall, &falling);
    // How much of old and new is heard at a sample.
    let weights = |n: i64| -> (f32, f32) {
        let (new, of_power) = if rise.contains(&n) {
            (rising(n), rise_of_power)
        } else if fall.contains(&n) {
            (falling(n), fall_of_power)
        } else {
            return if (rise.end..fall.start).contains(&n) { (0.0, 1.0) } else { (1.0, 0.0) };
        };
        if of_power { power(new) } else { (1.0 - new, new) }
    };
    let mix = |(old, new): (&Vec<f32>, &Vec<f32>)| -> Vec<f32> {
        let mixed = |(n, &old): (i64, &f32)| match (weights(n), new_at(new, n)) {
            ((a, b), Some(new)) if b > 0.0 => a * old + b * new,
            _ => old,
        };
        (0i64..).zip(old).map(mixed).collect()
    };
    let channels = track.channels.iter().zip(&made).map(mix).collect();
    Ok((Audio { channels, sample_rate_hz: track.sample_rate_hz }, limiter.max_reduction_db()))
}

/// Shares of old and new of a fade that keeps power.
fn power(new: f32) -> (f32, f32) {
    ((new * FRAC_PI_2).cos(), (new * FRAC_PI_2).sin())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 16_000;

    fn place(left: Option<Side>, right: bool) -> Place {
        Place { begins_s: 2.0, from_s: 3.0, to_s: 6.0, left, right }
    }

    fn tone(hz: f64, gain: f64, seconds: f64) -> Vec<f32> {
        let wave = |n: usize| (gain * (std::f64::consts::TAU * hz * n as f64 / f64::from(RATE)).sin()) as f32;
        (0..(seconds * f64::from(RATE)) as usize).map(wave).collect()
    }

    #[test]
    fn outside_the_span_nothing_changes() {
        let track = Audio::mono((0..1000).map(|n| n as f32 / 1250.0).collect(), 100);
        let made = Audio::mono(vec![-0.5; 600], 100);
        let (old, new) = (&track.channels[0], |left, right| {
            let (whole, limited_db) = splice(&track, made.clone(), &place(left, right)).unwrap();
            assert_eq!((whole.len(), limited_db), (1000, 0.0));
            whole.channels.into_iter().next().unwrap()
        });
        let both = new(Some(Side::Same), true);
        assert_eq!((&old[..297], &old[600..]), (&both[..297], &both[600..]));
        assert!(both[300..597].iter().all(|x| (x + 0.5).abs() < 1e-6));
        // Amplitudes are kept on the left: a third of the way there is a third of the new.
        assert!((both[298] - (2.0 / 3.0 * old[298] - 0.5 / 3.0)).abs() < 1e-5, "{}", both[298]);
        // Without a context the fade lies in the span; without any left side it begins at once.
        let stranger = new(Some(Side::Stranger), true);
        assert_eq!(old[..301], stranger[..301]);
        assert!(stranger[303..597].iter().all(|x| (x + 0.5).abs() < 1e-6));
        let bare = new(None, false);
        assert!(bare[300..600].iter().all(|x| (x + 0.5).abs() < 1e-6));
        assert_eq!(old[600..], bare[600..]);
    }

    #[test]
    fn no_peak_is_above_full_scale() {
        for (old, new) in [(0.5, 1.5), (0.95, 0.95), (1.0, 1.0), (1.0, 0.2)] {
            let track = Audio::mono(tone(220.0, old, 10.0), RATE);
            // In phase with the track, so that a fade of equal power adds up.
            let made = Audio::mono(tone(220.0, new, 6.0), RATE);
            let (whole, limited_db) = splice(&track, made, &place(Some(Side::Stranger), true)).unwrap();
            assert!(whole.peak() <= 1.0 + 1e-5, "{} {}", old, whole.peak());
            assert_eq!(limited_db > 0.05, new > old, "{old} {new}: {limited_db}");
            assert_eq!(whole.channels[0][96_000..], track.channels[0][96_000..]);
            // No click: no larger step than the loudest tone makes.
            let step = |x: &[f32]| x.windows(2).map(|p| (p[1] - p[0]).abs()).fold(0.0, f32::max);
            assert!(step(&whole.channels[0]) < 1.05 * 0.0864, "{old} {new}: {}", step(&whole.channels[0]));
        }
    }

    #[test]
    fn what_is_made_takes_the_level_of_the_left_side() {
        let track = Audio { channels: vec![vec![0.2; 800]; 2], sample_rate_hz: 100 };
        let left = Left { audio: part(&track, 0.0..2.0), prompt: None, prompt_s: 2.0 };
        let made = fit(Audio::mono(vec![0.1; 500], 100), &track, &left).unwrap();
        assert_eq!(made.channels.len(), 2);
        assert!(made.channels[1].iter().all(|x| (x - 0.2).abs() < 1e-6));
    }

    /// 10 s of `under`, and from `at_s` on of `tone` besides, dying away with `decay` a second.
    fn entering(under: f64, at_s: f64, gain: f64, decay: f64) -> Audio {
        let mut samples = tone(220.0, under, 10.0);
        for (overtone, under) in [(277.2, 0.8 * under), (329.6, 0.6 * under)] {
            samples.iter_mut().zip(tone(overtone, under, 10.0)).for_each(|(slot, x)| *slot += x);
        }
        let first = (at_s * f64::from(RATE)) as usize;
        for k in 1..=4 {
            for (n, x) in tone(440.0 * f64::from(k), gain / f64::from(k), 10.0 - at_s).into_iter().enumerate() {
                let t = n as f64 / f64::from(RATE);
                samples[first + n] += x * ((-decay * t).exp() * (t / 0.005).min(1.0)) as f32;
            }
        }
        Audio::mono(samples, RATE)
    }

    #[test]
    fn a_join_lies_on_a_beat_and_never_behind_the_end() {
        let span = |from_s, to_s| Span { from_s, to_s, takes: 1 };
        let joined = |track: &Audio, span| join_at(track, span).unwrap();
        // A pluck and a soft note that begin near the end, over nothing and over a chord.
        for track in [entering(0.0, 4.8, 0.4, 6.0), entering(0.1, 4.8, 0.4, 6.0), entering(0.02, 4.8, 0.03, 1.0)] {
            let at = joined(&track, span(3.0, 5.0));
            assert!((4.8 - 0.035..=4.8).contains(&at), "{at}");
            // What begins behind the end is not looked for, nor what lies too near the begin.
            assert_eq!(joined(&track, span(3.0, 4.6)), 4.6);
            assert_eq!(joined(&track, span(4.79, 5.05)), 5.05);
        }
        // A chord that lasts has nothing to join at: the ends of what is measured are none of its onsets.
        let chord = entering(0.2, 9.0, 0.0, 1.0);
        for to in [1.0, 2.345, 5.0, 9.97] {
            assert_eq!(joined(&chord, span(0.0, to)), to);
        }
    }

    #[test]
    fn what_follows_decides_among_takes() {
        // The track changes its chord at the end of the span; what is replaced is no measure.
        let notes =
            |first: f64, second: f64| Audio::mono([tone(first, 0.2, 4.0), tone(second, 0.2, 4.0)].concat(), RATE);
        let (track, span) = (notes(220.0, 311.1), Span { from_s: 2.0, to_s: 4.0, takes: 2 });
        let left = Left { audio: part(&track, 0.0..2.0), prompt: None, prompt_s: 2.0 };
        let judge = Judge::of(&track, span, &left, 1.5).unwrap();
        assert!(judge.score(&notes(392.0, 311.1)).unwrap() > judge.score(&notes(220.0, 220.0)).unwrap() + 0.5);
        // At the end of the track it is the left side.
        let judge = Judge::of(&track, Span { to_s: 8.0, ..span }, &left, 0.0).unwrap();
        let made = |hz| Audio::mono([tone(220.0, 0.2, 2.0), tone(hz, 0.2, 6.0)].concat(), RATE);
        assert!(judge.score(&made(220.0)).unwrap() > judge.score(&made(311.1)).unwrap() + 0.5);
    }

    #[test]
    fn the_depth_of_a_track_is_kept() {
        let depth = |x: f32, file: &str| super::depth(&Audio::mono(vec![0.5, x], RATE), Some(Path::new(file)));
        assert_eq!(depth(3.0 / 32_768.0, "a.wav"), SampleFormat::Pcm16);
        assert_eq!(depth(3.0 / 8_388_608.0, "a.flac"), SampleFormat::Pcm24);
        assert_eq!(depth(1e-9, "a.wav"), SampleFormat::Float32);
        assert_eq!(depth(1.5, "a.wav"), SampleFormat::Float32);
        assert_eq!(depth(1e-9, "a.mp3"), SampleFormat::Pcm16);
    }
}
