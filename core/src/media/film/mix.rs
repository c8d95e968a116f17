//! The sound of a film: music of the right length and loudness, and what else is to be heard with it.

use super::{FilmOptions, FilmReport, OwnSound};
use crate::media::{Audio, Limiter, decibels, loudness, normalize, resample};
use crate::role::Cancel;
use crate::{Error, Result};

/// Rate of the sound of films.
pub(super) const RATE_HZ: u32 = 48_000;
/// Highest sample, in dBFS: what a lossy codec adds to a peak finds room above it.
const CEILING_DBFS: f64 = -1.0;
/// How far the music is below sound that is kept.
const BELOW_DB: f64 = 8.0;
/// How far the music steps back for sound.
const DUCK_DB: f64 = 12.0;
/// However quiet the sound that is kept, the music is at most so far below its own loudness.
const MOST_BELOW_DB: f64 = 24.0;
/// Sound of a lower loudness in LUFS is taken as silence.
const SILENT_LUFS: f64 = -50.0;
/// Sound this far below its own loudness is not heard; 6 dB more, and it is.
const HEARD_DB: f64 = -20.0;
const KNEE_DB: f64 = 6.0;
/// Step of the gain that ducks.
const HOP: usize = RATE_HZ as usize / 100;
/// The music steps back this long before sound, with this time constant.
const AHEAD_S: f64 = 0.2;
const ATTACK_S: f64 = 0.06;
/// It stays back this long, and returns with this time constant.
const HOLD_S: f64 = 0.3;
const RELEASE_S: f64 = 0.4;

/// The sound of a film, and what is to be told of it.
pub(super) struct Mixed {
    pub audio: Audio,
    /// Without what only the video knows.
    pub report: FilmReport,
}

/// Mixes `samples` samples of music and the video's own sound, if there is one to be kept.
pub(super) fn mix(
    music: &Audio,
    own: Option<&Audio>,
    channels: usize,
    samples: usize,
    options: &FilmOptions,
    cancel: &Cancel,
) -> Result<Mixed> {
    if music.is_empty() || music.sample_rate_hz == 0 {
        return Err(Error::argument("music", "no sample", "music to lay under the video"));
    }
    let duration_s = samples as f64 / f64::from(RATE_HZ);
    let (mut laid, heard) = fit(music, channels, samples)?;
    fade(&mut laid, heard, options);
    cancel.check()?;
    let own = own.map(|own| fit(own, channels, samples)).transpose()?.map(|(own, _)| own);
    let own_lufs = match &own {
        Some(own) => Some(loudness(own)?.integrated_lufs).filter(|&lufs| lufs > SILENT_LUFS),
        None => None,
    };
    let target = target_lufs(own_lufs, options);
    let normalized = normalize(&mut laid, target, CEILING_DBFS)?;
    cancel.check()?;
    let mut limited_db = normalized.limited_db;
    let mut after = normalized.after;
    if let Some(own) = own {
        if let (OwnSound::Duck, Some(lufs)) = (options.own_sound, own_lufs) {
            duck(&mut laid, &own, lufs);
        }
        for (laid, own) in laid.channels.iter_mut().zip(&own.channels) {
            laid.iter_mut().zip(own).for_each(|(x, own)| *x += own);
        }
        drop(own);
        cancel.check()?;
        let mut limiter = Limiter::new(RATE_HZ, channels, CEILING_DBFS)?;
        let mut limited = limiter.process(&laid.planes())?;
        limited.iter_mut().zip(limiter.finish()).for_each(|(channel, rest)| channel.extend(rest));
        laid.channels = limited;
        limited_db = limited_db.max(limiter.max_reduction_db());
        after = loudness(&laid)?;
    }
    let report = FilmReport {
        duration_s,
        frames: 0,
        samples,
        channels,
        own_sound: false,
        music_lufs: normalized.after.integrated_lufs,
        integrated_lufs: after.integrated_lufs,
        // Not minus zero.
        limited_db: limited_db + 0.0,
        music_cut_s: (music.duration_s() - duration_s).max(0.0),
        music_lacking_s: (duration_s - music.duration_s()).max(0.0),
    };
    Ok(Mixed { audio: laid, report })
}

/// How loud the music is to be beside sound of that loudness.
fn target_lufs(own_lufs: Option<f64>, options: &FilmOptions) -> f64 {
    let alone = options.music_lufs;
    let beside = match (options.own_sound, own_lufs) {
        (OwnSound::Keep, Some(own)) => own - BELOW_DB,
        (OwnSound::Duck, Some(own)) => own,
        _ => alone,
    };
    beside.min(alone).max(alone - MOST_BELOW_DB).max(-70.0)
}

/// Audio at [`RATE_HZ`], in one channel or two, cut or followed by silence; and how many samples of it are not that silence.
fn fit(audio: &Audio, channels: usize, samples: usize) -> Result<(Audio, usize)> {
    // What is cut need not be resampled; a second more is more than the kernel sees.
    let seconds = samples as f64 / f64::from(RATE_HZ) + 1.0;
    let most = ((seconds * f64::from(audio.sample_rate_hz)).ceil() as usize).min(audio.len());
    let planes: Vec<&[f32]> = audio.channels.iter().map(|channel| &channel[..most]).collect();
    let folded = Audio { channels: fold(&planes, channels), sample_rate_hz: audio.sample_rate_hz };
    let mut fitted = resample(&folded, RATE_HZ)?;
    let heard = fitted.len().min(samples);
    fitted.channels.iter_mut().for_each(|channel| channel.resize(samples, 0.0));
    Ok((fitted, heard))
}

/// One channel or two of any number: left and right from the first two, the others to both 3 dB lower, without the low
/// frequency effects of six or eight channels (as ITU-R BS.775 has it), and no louder than full scale.
fn fold(planes: &[&[f32]], channels: usize) -> Vec<Vec<f32>> {
    const LOW_FREQUENCY: usize = 3;
    match (planes, channels) {
        ([one], _) => vec![one.to_vec(); channels],
        ([left, right], 2) => vec![left.to_vec(), right.to_vec()],
        ([left, right], _) => vec![left.iter().zip(*right).map(|(l, r)| 0.5 * (l + r)).collect()],
        (many, _) => {
            let heard = |i: usize| !(matches!(many.len(), 6 | 8) && i == LOW_FREQUENCY);
            let others: Vec<&[f32]> = (2..many.len()).filter(|&i| heard(i)).map(|i| many[i]).collect();
            let side = std::f32::consts::FRAC_1_SQRT_2;
            let scale = 1.0 / (1.0 + side * others.len() as f32);
            let folded = |first: &[f32]| {
                let rest = |i: usize| others.iter().map(|other| other[i]).sum::<f32>();
                first.iter().enumerate().map(|(i, x)| (x + side * rest(i)) * scale).collect::<Vec<f32>>()
            };
            let both: Vec<_> = many.iter().take(2).map(|first| folded(first)).collect();
            if channels == 2 { both } else { fold(&[&both[0], &both[1]], channels) }
        }
    }
}

/// Brings the first `heard` samples in and out along half a cosine.
fn fade(audio: &mut Audio, heard: usize, options: &FilmOptions) {
    let len = |seconds: f64| ((seconds * f64::from(RATE_HZ)).round() as usize).min(heard / 4);
    let gain = |i: usize, len: usize| (0.5 - 0.5 * (std::f64::consts::PI * i as f64 / len as f64).cos()) as f32;
    let (fade_in, fade_out) = (len(options.fade_in_s), len(options.fade_out_s));
    for channel in &mut audio.channels {
        channel[..fade_in].iter_mut().enumerate().for_each(|(i, x)| *x *= gain(i, fade_in));
        let end = &mut channel[heard - fade_out..heard];
        end.iter_mut().rev().enumerate().for_each(|(i, x)| *x *= gain(i, fade_out));
    }
}

/// Turns the music down where `own`, of that loudness, is heard.
fn duck(music: &mut Audio, own: &Audio, own_lufs: f64) {
    let gains = duck_db(&levels_db(own), own_lufs);
    let amplitude: Vec<f64> = gains.iter().map(|db| 10f64.powf(db / 20.0)).collect();
    let at = |hop: usize| amplitude[hop.min(amplitude.len() - 1)];
    for channel in &mut music.channels {
        for (hop, block) in channel.chunks_mut(HOP).enumerate() {
            let (from, to) = (at(hop), at(hop + 1));
            for (i, x) in block.iter_mut().enumerate() {
                *x *= (from + (to - from) * i as f64 / HOP as f64) as f32;
            }
        }
    }
}

/// Level of each hop over all channels, in dBFS.
fn levels_db(audio: &Audio) -> Vec<f64> {
    let hops = audio.len().div_ceil(HOP);
    let mut power = vec![0f64; hops];
    for channel in &audio.channels {
        for (power, block) in power.iter_mut().zip(channel.chunks(HOP)) {
            *power += block.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / block.len() as f64;
        }
    }
    power.iter().map(|power| 0.5 * decibels(power / audio.channels.len() as f64)).collect()
}

/// Gain in dB at the start of each hop: down ahead of sound, up again after a while.
fn duck_db(levels: &[f64], own_lufs: f64) -> Vec<f64> {
    let hops = |seconds: f64| (seconds * f64::from(RATE_HZ)) as usize / HOP;
    let share = |seconds: f64| 1.0 - (-(HOP as f64) / (seconds * f64::from(RATE_HZ))).exp();
    let wanted: Vec<f64> =
        levels.iter().map(|level| -DUCK_DB * ((level - own_lufs - HEARD_DB) / KNEE_DB).clamp(0.0, 1.0)).collect();
    let (attack, release) = (share(ATTACK_S), share(RELEASE_S));
    let mut gain = None;
    let smoothed = (0..wanted.len()).map(|i| {
        let around = i.saturating_sub(hops(HOLD_S))..(i + hops(AHEAD_S) + 1).min(wanted.len());
        let least = wanted[around].iter().fold(0f64, |least, &db| least.min(db));
        // It begins where it is wanted.
        let old = gain.unwrap_or(least);
        let new = old + (least - old) * if least < old { attack } else { release };
        gain = Some(new);
        new
    });
    smoothed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::tone;

    fn mixed(music: &Audio, own: Option<&Audio>, channels: usize, samples: usize, options: &FilmOptions) -> Mixed {
        mix(music, own, channels, samples, options, &Cancel::default()).unwrap()
    }

    fn rms_db(audio: &Audio, from_s: f64, to_s: f64) -> f64 {
        let at = |s: f64| (s * f64::from(RATE_HZ)) as usize;
        let part = &audio.channels[0][at(from_s)..at(to_s)];
        0.5 * decibels(part.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / part.len() as f64)
    }

    #[test]
    fn alone_it_has_the_length_and_the_loudness() {
        for (seconds, rate, lufs) in [(2.0, 32_000, -14.0), (9.0, 44_100, -23.0), (5.0, 48_000, -14.0)] {
            let music = tone(440.0, 0.1, seconds, rate, 2);
            let options = FilmOptions { music_lufs: lufs, ..FilmOptions::default() };
            let made = mixed(&music, None, 2, 240_001, &options);
            assert_eq!((made.audio.len(), made.audio.channels.len()), (240_001, 2));
            assert!((made.report.integrated_lufs - lufs).abs() < 0.1, "{:?}", made.report);
            assert!((made.report.music_cut_s - (seconds - 240_001.0 / 48_000.0).max(0.0)).abs() < 1e-9);
            // In and out, wherever its end is.
            let end = ((seconds * 48_000.0) as usize).min(240_001);
            let channel = &made.audio.channels[0];
            assert!(channel[0] == 0.0 && channel[end - 1].abs() < 1e-4 && channel[end..].iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn kept_sound_stays_as_it_is_above_the_music() {
        let own = tone(1000.0, 0.1, 4.0, 16_000, 1);
        let options = FilmOptions { own_sound: OwnSound::Keep, ..FilmOptions::default() };
        let made = mixed(&tone(100.0, 0.5, 4.0, 32_000, 1), Some(&own), 1, 192_000, &options);
        let own_lufs = loudness(&own).unwrap().integrated_lufs;
        assert!((made.report.music_lufs - (own_lufs - 8.0)).abs() < 0.1, "{:?}", made.report);
        // Silence is no sound to be below of.
        let silent = Audio::mono(vec![0.0; 64_000], 16_000);
        let made = mixed(&tone(100.0, 0.5, 4.0, 32_000, 1), Some(&silent), 1, 192_000, &options);
        assert!((made.report.integrated_lufs + 14.0).abs() < 0.1, "{:?}", made.report);
    }

    #[test]
    fn ducked_where_there_is_sound() {
        let mut own = tone(1000.0, 0.1, 12.0, 48_000, 1);
        own.channels[0][..4 * 48_000].fill(0.0);
        own.channels[0][8 * 48_000..].fill(0.0);
        let lufs = loudness(&own).unwrap().integrated_lufs;
        let mut music = tone(100.0, 0.1, 12.0, 48_000, 1);
        let before = rms_db(&music, 1.0, 3.0);
        duck(&mut music, &own, lufs);
        for (from, to, down) in [(0.0, 3.7, 0.0), (4.0, 8.0, -12.0), (10.5, 12.0, 0.0)] {
            let found = rms_db(&music, from, to) - before;
            assert!((found - down).abs() < 0.5, "{found} dB from {from} to {to} s");
        }
        // No step is heard: 10 ms change it by less than 2 dB.
        let gains = duck_db(&levels_db(&own), lufs);
        assert!(gains.windows(2).all(|pair| (pair[1] - pair[0]).abs() < 2.0));
    }

    #[test]
    fn loud_sound_is_limited() {
        let own = tone(1000.0, 1.0, 2.0, 48_000, 1);
        for own_sound in [OwnSound::Keep, OwnSound::Duck] {
            let options = FilmOptions { own_sound, music_lufs: 0.0, ..FilmOptions::default() };
            let made = mixed(&tone(100.0, 0.9, 2.0, 48_000, 2), Some(&own), 2, 96_000, &options);
            assert!(made.audio.peak() <= 0.8913 && made.report.limited_db > 0.5, "{:?}", made.report);
        }
    }

    #[test]
    fn many_channels_become_two_or_one() {
        let planes: Vec<Vec<f32>> = (0..6).map(|i| vec![if i == 3 { 1.0 } else { 0.0 }; 4]).collect();
        let planes: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
        assert_eq!(fold(&planes, 2), vec![vec![0.0; 4]; 2], "low frequency effects");
        let ones = [1f32; 4];
        for count in 1..9 {
            for channels in 1..3 {
                let folded = fold(&vec![&ones[..]; count], channels);
                assert_eq!(folded.len(), channels);
                assert!(folded.iter().flatten().all(|x| (x - 1.0).abs() < 1e-6), "{count} to {channels}: {folded:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_laid() {
        let empty = Audio::mono(Vec::new(), 48_000);
        let refused = mix(&empty, None, 1, 10, &FilmOptions::default(), &Cancel::default());
        assert!(matches!(refused, Err(Error::Argument { .. })));
        let cancel = Cancel::default();
        cancel.cancel();
        let refused = mix(&tone(100.0, 0.9, 2.0, 48_000, 2), None, 1, 10, &FilmOptions::default(), &cancel);
        assert!(matches!(refused, Err(Error::Cancelled)));
    }
}
