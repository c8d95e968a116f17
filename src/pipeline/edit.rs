//! Making a span of a track anew: continued from the left, of several takes the one that meets the right side best, joined
//! where it is least heard. What lies outside the span stays as it is.

use std::{ops::Range, time::Instant};

use musaic_core::{
    Error,
    files::sha256_file,
    media::{Audio, AudioWriter, WriteOptions, measure::rms, resample},
    role::Cancel,
};
use serde::Serialize;

use super::{
    generate::{Job, Session, TakeReport, as_tensor, tags},
    output::Output,
    request::Span,
    sink::Watch,
};
use crate::{
    failure::BadInput,
    listen::{ONSET_HOP, RATE_HZ, hear, likeness::Heard, onsets},
};

/// Seconds of the left side that the decoder goes on from, if there are so many.
const CONTEXT_S: f64 = 6.0;
/// Fewer are no context.
const LEAST_CONTEXT_S: f64 = 0.5;
/// Seconds of the right side that takes are compared with, and made to overlap with.
const TAIL_S: f64 = 1.5;
/// Shortest span.
const LEAST_SPAN_S: f64 = 0.25;
/// Length of a crossfade in seconds.
const FADE_S: f64 = 0.03;
/// How far from the end of the span the join may be, to lie on a beat.
const SEARCH_S: f64 = 0.3;
/// Most that a take is turned up or down to fit the level of the left side, in dB.
const MOST_GAIN_DB: f64 = 9.0;
/// Peaks of what is new stay under this.
const CEILING: f32 = 0.966;

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

/// Makes `span` of the track of `job` anew and writes the whole track.
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
    let track = session.track().cloned().ok_or_else(|| BadInput::new("edit: no track"))?;
    let length_s = track.duration_s();
    let fits =
        (0.0..length_s).contains(&span.from_s) && span.to_s <= length_s && span.to_s - span.from_s >= LEAST_SPAN_S;
    if !fits {
        let message = format!(
            "from {} s to {} s: expected a span of at least {LEAST_SPAN_S} s within the track of {length_s:.2} s",
            span.from_s, span.to_s
        );
        return Err(BadInput::new(message).into());
    }
    let spec = session.spec().clone();
    let context_s = if span.from_s >= LEAST_CONTEXT_S { span.from_s.min(CONTEXT_S) } else { 0.0 };
    let tail_s = (length_s - span.to_s).min(TAIL_S);
    let left = part(&track, span.from_s - context_s..span.from_s);
    let prompt = if context_s > 0.0 {
        let prompt = as_tensor(&left, spec.sample_rate_hz, spec.channels, session.device())?;
        let hop = (spec.sample_rate_hz / spec.frame_rate_hz) as usize;
        // Whole frames that end where the span begins.
        let kept = prompt.dim(2)? / hop * hop;
        Some(prompt.narrow(2, prompt.dim(2)? - kept, kept)?)
    } else {
        None
    };
    let prompt_s = match &prompt {
        Some(prompt) => prompt.dim(2)? as f64 / f64::from(spec.sample_rate_hz),
        None => 0.0,
    };

    let mut best: Option<(f64, u32, Audio)> = None;
    let mut scores = Vec::new();
    let right = part(&track, (span.to_s - TAIL_S).max(span.from_s)..span.to_s + tail_s);
    let right = Heard::of(&right)?;
    for take in 0..span.takes.max(1) {
        let made = session.sound(
            job,
            take,
            |options| {
                options.duration_s = span.to_s - span.from_s + tail_s;
                options.continue_from.clone_from(&prompt);
                options.emit_prompt = true;
                options.melody = None;
            },
            cancel,
            watch,
        )?;
        let made = fit(made, &track, &left, prompt_s)?;
        // Where the right side begins, in the new part's own time.
        let begin = span.to_s - span.from_s + prompt_s;
        let from = (begin - TAIL_S).max(prompt_s);
        let met = Heard::of(&part(&made, from..begin + tail_s))?.likeness(&right);
        let score = met.chroma + 0.5 * met.onsets - 0.05 * met.louder_lu.map_or(20.0, f64::abs);
        scores.push(score);
        if best.as_ref().is_none_or(|(least, ..)| score > *least) {
            best = Some((score, take, made));
        }
    }
    let Some((_, chosen, made)) = best else { return Err(BadInput::new("takes: 0, expected at least 1").into()) };
    let joined_s = join_at(&track, span.to_s, tail_s)?;
    let whole = splice(&track, &made, span.from_s - prompt_s, span.from_s, joined_s, prompt_s > 0.0, tail_s > 0.0);

    let request = session.request(job, 0);
    let path = match &job.output {
        Output::Files(files) => files.first().cloned(),
        Output::Stdout => None,
    };
    let path = path.ok_or_else(|| BadInput::new("output: a span cannot be streamed, expected a file"))?;
    let options = WriteOptions::default().with_tags(tags(&request)?).with_overwrite(true);
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
        limited_db: 0.0,
        stopped: false,
        request,
    };
    Ok(SpanReport { take, chosen, scores, joined_s })
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
fn fit(made: Audio, track: &Audio, left: &Audio, prompt_s: f64) -> Result<Audio, Error> {
    let mut made = resample(&made, track.sample_rate_hz)?;
    if made.channels.len() != track.channels.len() {
        made.channels = vec![made.mixdown(); track.channels.len()];
    }
    let again = part(&made, 0.0..prompt_s);
    let (before, after) = (rms(&left.mixdown()), rms(&again.mixdown()));
    let most = 10f64.powf(MOST_GAIN_DB / 20.0);
    let gain = if before > 1e-4 && after > 1e-4 { (before / after).clamp(1.0 / most, most) } else { 1.0 };
    let peak = made.peak() * gain as f32;
    let gain = gain as f32 * if peak > CEILING { CEILING / peak } else { 1.0 };
    made.channels.iter_mut().flatten().for_each(|sample| *sample *= gain);
    Ok(made)
}

/// Just before the strongest onset of the track near the end of the span, where a join is heard least.
fn join_at(track: &Audio, to_s: f64, tail_s: f64) -> Result<f64, Error> {
    if tail_s <= 0.0 {
        return Ok(to_s);
    }
    let near = (to_s - SEARCH_S).max(0.0)..to_s + SEARCH_S.min(tail_s - FADE_S).max(0.0);
    let samples = hear(part(track, near.clone()).mixdown(), track.sample_rate_hz)?;
    let rises = onsets(&samples);
    let strongest = (0..rises.len()).max_by(|&a, &b| rises[a].total_cmp(&rises[b]));
    let frame_s = ONSET_HOP as f64 / f64::from(RATE_HZ);
    Ok(match strongest {
        // The spectra see an onset up to a window's half, 32 ms, before it is there.
        Some(frame) if rises[frame] > 1.0 => {
            (near.start + frame as f64 * frame_s).clamp(to_s - SEARCH_S, to_s + tail_s)
        }
        _ => to_s,
    })
}

/// The track with `made` (whose time begins at `begins_s`) between `from_s` and `to_s`. Crossfades end at both.
fn splice(
    track: &Audio,
    made: &Audio,
    begins_s: f64,
    from_s: f64,
    to_s: f64,
    fade_left: bool,
    fade_right: bool,
) -> Audio {
    let rate = f64::from(track.sample_rate_hz);
    let at = |s: f64| (s * rate).round() as i64;
    let (begins, from, to, fade) = (at(begins_s), at(from_s), at(to_s), at(FADE_S).max(1));
    // How much of the new part is heard at a sample.
    let weight = |n: i64| -> f32 {
        let rising =
            if fade_left { ((n - (from - fade)) as f32 / fade as f32).clamp(0.0, 1.0) } else { f32::from(n >= from) };
        let falling = if fade_right { ((to - n) as f32 / fade as f32).clamp(0.0, 1.0) } else { 1.0 };
        rising.min(falling)
    };
    let mix = |(old, new): (&Vec<f32>, &Vec<f32>)| -> Vec<f32> {
        (0i64..)
            .zip(old)
            .map(|(n, &old)| {
                let new = usize::try_from(n - begins).ok().and_then(|n| new.get(n)).copied();
                match (weight(n), new) {
                    (weight, Some(new)) if weight > 0.0 => {
                        // Of equal power: the two sides are strangers.
                        let angle = weight * std::f32::consts::FRAC_PI_2;
                        old * angle.cos() + new * angle.sin()
                    }
                    _ => old,
                }
            })
            .collect()
    };
    let channels = track.channels.iter().zip(&made.channels).map(mix).collect();
    Audio { channels, sample_rate_hz: track.sample_rate_hz }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_the_span_nothing_changes() {
        let track = Audio::mono((0..1000).map(|n| n as f32 / 1000.0).collect(), 100);
        let made = Audio::mono(vec![-1.0; 600], 100);
        let whole = splice(&track, &made, 2.0, 3.0, 6.0, true, true);
        assert_eq!(whole.len(), track.len());
        let (old, new) = (&track.channels[0], &whole.channels[0]);
        assert_eq!(old[..297], new[..297]);
        assert_eq!(old[600..], new[600..]);
        assert!(new[301..596].iter().all(|x| (x + 1.0).abs() < 1e-6));
        // Without a left side it begins at once, without a right one it lasts to the end.
        let whole = splice(&track, &Audio::mono(vec![-1.0; 1000], 100), 0.0, 0.0, 10.0, false, false);
        assert!(whole.channels[0].iter().all(|x| (x + 1.0).abs() < 1e-6));
    }

    #[test]
    fn what_is_made_takes_the_level_of_the_left_side() {
        let track = Audio { channels: vec![vec![0.2; 800]; 2], sample_rate_hz: 100 };
        let left = part(&track, 0.0..2.0);
        let made = fit(Audio::mono(vec![0.1; 500], 100), &track, &left, 2.0).unwrap();
        assert_eq!(made.channels.len(), 2);
        assert!(made.channels[1].iter().all(|x| (x - 0.2).abs() < 1e-6));
        // Never over full scale.
        let loud = fit(Audio::mono([vec![0.1; 200], vec![0.9; 300]].concat(), 100), &track, &left, 2.0).unwrap();
        assert!(loud.peak() <= CEILING + 1e-6);
    }

    #[test]
    fn a_join_lies_on_a_beat() {
        let mut samples = vec![0.0f32; 160_000];
        for (n, slot) in samples.iter_mut().enumerate().skip(82_000) {
            *slot = 0.5 * (n as f32 * 0.3).sin();
        }
        let track = Audio::mono(samples, 16_000);
        let joined = join_at(&track, 5.0, 1.0).unwrap();
        assert!((joined - 5.125).abs() < 0.03, "{joined}");
        assert_eq!(join_at(&track, 2.0, 1.0).unwrap(), 2.0, "nothing begins there");
    }
}
