//! Real videos of the parity cases, with music under them.

use std::path::PathBuf;

use ffmpeg_next::media::Type;

use super::survey::Survey;
use super::*;
use crate::media::tests::{golden_folder, tone};
use crate::media::{Picture, Selection, Video, VideoOptions, loudness, read_audio, read_video};

fn files() -> Option<PathBuf> {
    Some(golden_folder("media/files")?.join("files"))
}

/// All that is shown, as it lies or upright.
fn pictures(path: &Path, turn: bool) -> Video<Picture> {
    let options = VideoOptions { selection: Selection::Every, turn, ..VideoOptions::default() };
    read_video(path, &options).unwrap()
}

fn shape(path: &Path) -> Shape {
    Survey::take(path, &Limits::default()).unwrap().shape
}

/// The sound of a film, from its first picture on.
fn sound(path: &Path) -> Audio {
    hear(path, &Limits::default(), shape(path), &Cancel::default()).unwrap()
}

fn lay_plain(video: &Path, music: &Audio, options: &FilmOptions, output: &Path) -> Result<FilmReport> {
    lay_under(video, music, options, output, false, &Cancel::default())
}

/// Something like music: a chord whose notes come and go.
fn music(seconds: f64) -> Audio {
    let mut all = tone(220.0, 0.2, seconds, 32_000, 2);
    for (hz, beat) in [(277.2, 0.7), (329.6, 1.1), (1760.0, 2.3)] {
        let other = tone(hz, 0.1, seconds, 32_000, 2);
        for (all, other) in all.channels.iter_mut().zip(other.channels) {
            for (i, (x, y)) in all.iter_mut().zip(other).enumerate() {
                *x += y * (0.6 + 0.4 * (i as f64 * beat / 5000.0).sin()) as f32;
            }
        }
    }
    all
}

/// Seconds that the container and its streams declare: in all, of pictures, of sound.
fn declared(path: &Path) -> (f64, Option<f64>, Option<f64>) {
    let input = crate::media::ffmpeg::open(std::fs::File::open(path).unwrap()).unwrap();
    let of = |kind| {
        let stream = input.streams().best(kind).unwrap();
        (stream.duration() > 0).then(|| stream.duration() as f64 * f64::from(stream.time_base()))
    };
    assert_eq!(input.streams().count(), 2);
    (input.duration() as f64 / 1e6, of(Type::Video), of(Type::Audio))
}

/// Correlation of two stretches of sound.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

/// The share of `b` in `a`, in dB.
fn share_db(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    20.0 * (product(a, b) / product(b, b)).abs().log10()
}

#[test]
fn pictures_stay_and_sound_lasts_as_long() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    for (name, endings) in [
        ("h264_audio.mp4", &["mp4", "mov", "mkv"][..]),
        ("h264_silent_bframes.mp4", &["mp4", "mkv"]),
        ("h264_rotated.mp4", &["mp4", "mov"]),
        ("h264_mkv.mkv", &["mkv", "mp4"]),
        ("vp9_odd.webm", &["webm", "mkv", "mp4"]),
        ("h264_vfr.mp4", &["mp4", "mkv"]),
        ("hevc.mp4", &["mp4", "mkv"]),
        ("h264_odd_444.mp4", &["mov"]),
        ("mpeg4.avi", &["mp4", "mkv"]),
    ] {
        let input = files.join(name);
        let before = pictures(&input, true);
        let length_s = shape(&input).duration_s();
        for ending in endings {
            let output = scratch.path().join(format!("{name}.{ending}"));
            // Too long, and too short by a second.
            let music = music(if *ending == "mkv" { length_s - 1.0 } else { 7.3 });
            let report = lay_plain(&input, &music, &FilmOptions::default(), &output).unwrap();
            let after = pictures(&output, true);
            assert!(after.frames == before.frames, "{name} as {ending}");
            assert!((report.duration_s - length_s).abs() < 1e-9 && report.frames == before.facts.frame_count);
            assert_eq!(report.samples, (length_s * 48_000.0).round() as usize);
            // Matroska counts milliseconds.
            let step = if matches!(*ending, "mkv" | "webm") { 0.0021 } else { 0.0 };
            let (all, shown, heard) = declared(&output);
            let frame_s = 1024.0 / 48_000.0;
            assert!((all - length_s).abs() <= frame_s + step, "{name} as {ending}: {all} s for {length_s} s");
            for stream in [shown, heard].into_iter().flatten() {
                assert!((stream - length_s).abs() <= frame_s + step, "{name} as {ending}: {stream} s for {length_s} s");
            }
            let again = shape(&output);
            let last = before.facts.duration_s / before.facts.frame_count as f64;
            assert!((again.duration_s() - length_s).abs() <= step + if step > 0.0 { last } else { 1e-6 }, "{name}");
            let found = sound(&output);
            assert_eq!((found.sample_rate_hz, found.channels.len()), (48_000, 2));
            assert!((found.duration_s() - again.duration_s()).abs() <= frame_s + step, "{name} as {ending}");
            assert!(found.peak() <= 1.0);
            let lufs = loudness(&found).unwrap().integrated_lufs;
            assert!((lufs + 14.0).abs() < 1.0, "{name} as {ending}: {lufs} LUFS");
            assert!((report.integrated_lufs + 14.0).abs() < 0.2, "{report:?}");
        }
    }
}

#[test]
fn how_it_is_turned_is_kept() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    for ending in ["mp4", "mov"] {
        let output = scratch.path().join("turned").with_extension(ending);
        lay_plain(&files.join("h264_rotated.mp4"), &music(1.0), &FilmOptions::default(), &output).unwrap();
        let (lying, upright) = (pictures(&output, false), pictures(&output, true));
        assert_eq!((lying.facts.width, lying.facts.height), (64, 48), "{ending}");
        assert_eq!((upright.facts.width, upright.facts.height), (48, 64), "{ending}");
    }
}

/// A click is heard where it was put: the encoder's delay is told and taken back.
#[test]
fn sound_is_in_time() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut clicks = Audio::mono(vec![0.0; 4 * 48_000], 48_000);
    for at in [24_000, 72_000, 120_000] {
        clicks.channels[0][at..at + 8].fill(0.5);
    }
    let options = FilmOptions { fade_in_s: 0.0, fade_out_s: 0.0, music_lufs: -30.0, ..FilmOptions::default() };
    for (name, ending) in
        [("h264_33.mp4", "mp4"), ("h264_33.mp4", "mov"), ("h264_33.mp4", "mkv"), ("vp9_odd.webm", "webm")]
    {
        let output = scratch.path().join("clicks").with_extension(ending);
        lay_plain(&files.join(name), &clicks, &options, &output).unwrap();
        let found = sound(&output);
        for at in [24_000usize, 72_000, 120_000] {
            let around = &found.channels[0][at - 4800..at + 4800];
            let loudest = (0..around.len()).max_by(|&a, &b| around[a].abs().total_cmp(&around[b].abs())).unwrap();
            let off = loudest as i64 - 4800 - 4;
            // Time stamps of Matroska are milliseconds.
            let tolerance = if matches!(ending, "mkv" | "webm") { 48 } else { 6 };
            assert!(off.abs() <= tolerance, "{ending}: {off} samples off at {at}");
        }
    }
}

#[test]
fn own_sound_is_kept() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let input = files.join("h264_audio.mp4");
    let own = sound(&input);
    assert!((own.duration_s() - 4.0).abs() < 0.07, "{} s", own.duration_s());
    let own = crate::media::resample(&own, 48_000).unwrap();
    let laid = |own_sound, name: &str| {
        let options = FilmOptions { own_sound, ..FilmOptions::default() };
        let output = scratch.path().join(name);
        let report = lay_plain(&input, &music(4.0), &options, &output).unwrap();
        assert_eq!(report.own_sound, own_sound != OwnSound::Replace);
        (report, sound(&output))
    };
    let (_, replaced) = laid(OwnSound::Replace, "replaced.mp4");
    let (kept, heard) = laid(OwnSound::Keep, "kept.mp4");
    let len = own.len().min(heard.len());
    let (own, heard) = (&own.channels[0][..len], &heard.channels[0][..len]);
    let alike = correlation(heard, own);
    assert!(alike > 0.85, "{alike}");
    assert!(correlation(&replaced.channels[0][..len], own).abs() < 0.2);
    // As loud as it was, and the music 8 LU below.
    assert!(share_db(heard, own).abs() < 1.0, "{}", share_db(heard, own));
    let own_lufs =
        loudness(&Audio { channels: vec![own.to_vec(); 2], sample_rate_hz: 48_000 }).unwrap().integrated_lufs;
    let expected = (own_lufs - 8.0).clamp(-38.0, -14.0);
    assert!((kept.music_lufs - expected).abs() < 0.5, "{} under {own_lufs}", kept.music_lufs);
}

/// Where the video has sound, the music is quieter by 12 dB.
#[test]
fn music_steps_back() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    // A film whose own sound is a tone in its second half.
    let mut half = tone(1000.0, 0.3, 5.0, 48_000, 1);
    half.channels[0][..120_000].fill(0.0);
    let first = scratch.path().join("first.mp4");
    let plain = FilmOptions { fade_in_s: 0.0, fade_out_s: 0.0, ..FilmOptions::default() };
    lay_plain(&files.join("h264_vfr.mp4"), &half, &plain, &first).unwrap();
    let low = tone(150.0, 0.3, 6.0, 48_000, 1);
    let second = scratch.path().join("second.mp4");
    lay_plain(&first, &low, &FilmOptions { own_sound: OwnSound::Duck, ..plain }, &second).unwrap();
    let found = &sound(&second).channels[0];
    // The music alone, by its quadrature.
    let level = |from: usize, to: usize| {
        let (mut re, mut im) = (0f64, 0f64);
        for (i, &x) in found[from..to].iter().enumerate() {
            let phase = std::f64::consts::TAU * 150.0 * i as f64 / 48_000.0;
            (re, im) = (re + f64::from(x) * phase.cos(), im + f64::from(x) * phase.sin());
        }
        10.0 * ((re * re + im * im) / ((to - from) as f64).powi(2)).log10()
    };
    let down = level(132_000, 228_000) - level(9_600, 105_600);
    assert!((down + 12.0).abs() < 1.0, "{down} dB");
}

#[test]
fn broken_inputs_leave_nothing_behind() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("film.mp4");
    let lay = |name: &str| lay_plain(&files.join(name), &music(1.0), &FilmOptions::default(), &output);
    for name in ["truncated_no_index.mp4", "empty.mp4", "text.mp4", "audio_only.mp4", "random.flac", "nothing.mp4"] {
        let error = lay(name).unwrap_err().to_string();
        assert!(error.contains(name) && error.lines().count() == 1, "{error}");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "{name}");
    }
    // What is whole of it, as readers have it.
    let name = "truncated_faststart.mp4";
    let report = lay(name).unwrap();
    assert!(report.frames >= 19 && report.duration_s < 4.5, "{report:?}");
    assert!(pictures(&output, true).frames == pictures(&files.join(name), true).frames);
}

#[test]
fn what_is_refused() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let video = files.join("h264_33.mp4");
    let lay = |options: &FilmOptions, name: &str| lay_plain(&video, &music(1.0), options, &scratch.path().join(name));
    let plain = FilmOptions::default();
    for (options, name, expected) in [
        (plain.clone(), "film.avi", ".mp4, .mov, .mkv, .webm"),
        (plain.clone(), "film.webm", "webm can hold"),
        (FilmOptions { fade_out_s: -1.0, ..plain.clone() }, "film.mp4", "fade out"),
        (FilmOptions { fade_in_s: f64::NAN, ..plain.clone() }, "film.mp4", "fade in"),
        (FilmOptions { music_lufs: 1.0, ..plain.clone() }, "film.mp4", "-70 to 0 LUFS"),
        (
            FilmOptions { limits: Limits { duration_s: 2.0, ..Limits::default() }, ..plain.clone() },
            "film.mp4",
            "at most",
        ),
        (FilmOptions { limits: Limits { frames: 20, ..Limits::default() }, ..plain.clone() }, "film.mp4", "at most"),
        (FilmOptions { limits: Limits { samples: 20, ..Limits::default() }, ..plain.clone() }, "film.mp4", "samples"),
        (FilmOptions { limits: Limits { file_bytes: 20, ..Limits::default() }, ..plain.clone() }, "film.mp4", "bytes"),
        (FilmOptions { tags: Tags { title: Some("a\0b".into()), ..Tags::default() }, ..plain.clone() }, "a.mp4", "NUL"),
    ] {
        let error = lay(&options, name).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let turned = files.join("h264_rotated.mp4");
    let error = lay_plain(&turned, &music(1.0), &plain, &scratch.path().join("a.mkv")).unwrap_err().to_string();
    assert!(error.contains("mp4 and mov keep how they are turned"), "{error}");
    // An animation is a video to readers, but mp4 has no place for it.
    let error = lay_plain(&files.join("animated.gif"), &music(1.0), &plain, &scratch.path().join("a.mp4")).unwrap_err();
    assert!(error.to_string().contains("mp4 can hold"), "{error}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);

    // A file that exists stays, unless it may be replaced.
    let output = scratch.path().join("film.mp4");
    std::fs::write(&output, b"mine").unwrap();
    assert!(matches!(lay(&plain, "film.mp4"), Err(Error::Io { .. })));
    assert_eq!(std::fs::read(&output).unwrap(), b"mine");
    let cancel = Cancel::default();
    cancel.cancel();
    let stopped = lay_under(&video, &music(1.0), &plain, &output, true, &cancel);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(std::fs::read(&output).unwrap(), b"mine");
    lay_under(&video, &music(1.0), &plain, &output, true, &Cancel::default()).unwrap();
    assert!(std::fs::metadata(&output).unwrap().len() > 1000);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
}

/// Stopped while bytes come, nothing is left either.
#[test]
fn stopped_while_it_writes() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("film.mp4");
    let cancel = Cancel::default();
    let target = Target::create(&output, false).unwrap();
    let mut writer = Writer { output: &output, target, len: 0, most: 100, cancel: &cancel };
    writer.take(Part::Bytes { at: 0, bytes: &[1; 60] }).unwrap();
    writer.take(Part::Bytes { at: 20, bytes: &[2; 50] }).unwrap();
    assert!(writer.take(Part::Bytes { at: 71, bytes: &[3; 1] }).is_err(), "a hole");
    assert!(writer.take(Part::Bytes { at: 70, bytes: &[3; 31] }).is_err(), "too much");
    cancel.cancel();
    assert!(matches!(writer.take(Part::Bytes { at: 70, bytes: &[3; 1] }), Err(Error::Cancelled)));
    drop(writer);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn texts_and_bytes() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let tags = Tags {
        recipe: Some(r#"{"seed": 7}"#.into()),
        title: Some("A title".into()),
        comment: Some("For people".into()),
        software: Some("musaic".into()),
    };
    let options = FilmOptions { tags, ..FilmOptions::default() };
    for (name, ending) in
        [("h264_33.mp4", "mp4"), ("h264_33.mp4", "mov"), ("h264_33.mp4", "mkv"), ("vp9_odd.webm", "webm")]
    {
        let made = |output: &str| {
            let output = scratch.path().join(output).with_extension(ending);
            lay_plain(&files.join(name), &music(1.0), &options, &output).unwrap();
            output
        };
        let (one, two) = (made("one"), made("two"));
        assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(), "the same bytes again: {ending}");
        let input = crate::media::ffmpeg::open(std::fs::File::open(&one).unwrap()).unwrap();
        let texts: Vec<(String, String)> =
            input.metadata().iter().map(|(name, text)| (name.to_lowercase(), text.to_owned())).collect();
        let has = |name: &str, text: &str| texts.iter().any(|(n, t)| n == name && t == text);
        let recipe = if matches!(ending, "mkv" | "webm") { "musaic" } else { "comment" };
        assert!(has("title", "A title") && has(recipe, r#"{"seed": 7}"#), "{ending}: {texts:?}");
        // The index is before the packets.
        if let "mp4" | "mov" = ending {
            let bytes = std::fs::read(&one).unwrap();
            let at = |what: &[u8]| bytes.windows(4).position(|four| four == what).unwrap();
            assert!(at(b"moov") < at(b"mdat"), "{ending}");
        }
    }
    // Sound can be read by the decoders of audio files too.
    let read = read_audio(scratch.path().join("one.mp4"), &Limits::default()).unwrap();
    assert!((read.duration_s() - 3.3).abs() < 0.1, "{} s", read.duration_s());
}

/// Videos with bytes changed, cut or doubled: an error or a film, never a panic or a file left behind.
#[test]
fn hostile_files_never_panic() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (inputs, outputs) = (scratch.path().join("in"), scratch.path().join("out"));
    std::fs::create_dir(&inputs).unwrap();
    std::fs::create_dir(&outputs).unwrap();
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % below.max(1)
    };
    let limits = Limits { file_bytes: 1 << 20, duration_s: 20.0, ..Limits::default() };
    let music = music(1.0);
    for (name, ending) in
        [("h264_audio.mp4", "mp4"), ("vp9_odd.webm", "webm"), ("mpeg4.avi", "mov"), ("h264_mkv.mkv", "mkv")]
    {
        let whole = std::fs::read(files.join(name)).unwrap();
        for round in 0..18 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(draw(whole.len()).max(1)),
                1 => (0..8).for_each(|_| bytes[draw(512.min(whole.len()))] = draw(256) as u8),
                _ => (0..32).for_each(|_| bytes[draw(whole.len())] = draw(256) as u8),
            }
            let (path, output) = (inputs.join(name), outputs.join("film").with_extension(ending));
            std::fs::write(&path, &bytes).unwrap();
            let own_sound = [OwnSound::Replace, OwnSound::Keep, OwnSound::Duck][round % 2 * (1 + round % 2)];
            let options = FilmOptions { own_sound, limits, ..FilmOptions::default() };
            let laid = lay_under(&path, &music, &options, &output, true, &Cancel::default());
            let left = std::fs::read_dir(&outputs).unwrap().count();
            assert_eq!(left, usize::from(laid.is_ok()), "{name}, round {round}: {laid:?}");
            let _ = std::fs::remove_file(&output);
        }
    }
}
