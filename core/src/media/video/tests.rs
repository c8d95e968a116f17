//! Real videos of the parity cases, whose frames carry their number as eight blocks along the top.

use std::path::PathBuf;

use super::decode::decode_from;
use super::*;
use crate::media::tests::golden_folder;
use crate::testing::frame_number;

fn files() -> Option<PathBuf> {
    Some(golden_folder("media/files")?.join("files"))
}

fn numbers(video: &Video<Picture>) -> Vec<Vec<usize>> {
    video.windows().map(|window| window.into_iter().map(frame_number).collect()).collect()
}

const PLAIN: VideoOptions = VideoOptions {
    selection: Selection::Every,
    frames: 32,
    turn: false,
    limits: Limits {
        file_bytes: 1 << 20,
        duration_s: 10.0,
        samples: 0,
        channels: 0,
        pixels: 1 << 14,
        total_pixels: 1 << 20,
        frames: 100,
        memory_bytes: 1 << 28,
        cpu_s: 10,
        wait_s: 10,
    },
};

#[test]
fn every_frame_in_its_place() {
    let Some(files) = files() else { return };
    for (name, count) in [
        ("h264_silent_bframes.mp4", 70),
        ("h264_vfr.mp4", 36),
        ("hevc.mp4", 35),
        ("vp9_odd.webm", 40),
        ("mpeg4.avi", 34),
        ("h264_mkv.mkv", 34),
        ("h264_1frame.mp4", 1),
    ] {
        let video = read_video(files.join(name), &PLAIN).unwrap();
        assert_eq!(numbers(&video), [(0..count).collect::<Vec<_>>()], "{name}");
        assert_eq!(video.facts.frame_count, count, "{name}");
    }
}

#[test]
fn windows_of_frames() {
    let Some(files) = files() else { return };
    let read = |name, options: &VideoOptions| numbers(&read_video(files.join(name), options).unwrap());
    // 70 frames take three windows.
    let found = read("h264_silent_bframes.mp4", &VideoOptions::default());
    let starts: Vec<_> = found.iter().map(|window| window[0]).collect();
    assert_eq!(starts, [0, 19, 38]);
    assert!(found.iter().all(|window| window.len() == 32 && window.windows(2).all(|pair| pair[1] == pair[0] + 1)));
    // Twelve frames over one window; one frame all over it.
    let found = read("h264_12frames.mp4", &VideoOptions::default());
    assert_eq!(found[0], (0..32).map(|k| k * 12 / 32).collect::<Vec<_>>());
    assert_eq!(read("h264_1frame.mp4", &VideoOptions::default()), [vec![0; 32]]);
    // A changing rate: 13 frames at ten a second, 12 at three, 11 at twenty. Even in time, the slow ones fill most.
    let found = read("h264_vfr.mp4", &VideoOptions::default());
    let slow = found.concat().iter().filter(|&&frame| (13..25).contains(&frame)).count();
    assert!(slow * 3 > found.concat().len() * 2, "{found:?}");
    // The reference's window, drawn anew for each seed, the same for the same.
    let drawn = |seed| read("h264_silent_bframes.mp4", &VideoOptions::reference(seed));
    assert_eq!((drawn(3), drawn(3).len(), drawn(3)[0].len()), (drawn(3), 1, 32));
    assert!((0..8).any(|seed| drawn(seed) != drawn(3)));
}

/// Keeps what comes.
#[derive(Default)]
struct Kept {
    facts: Option<ClipFacts>,
    frames: Vec<Picture>,
}

impl Sink for Kept {
    fn take(&mut self, part: Part<'_>) -> Result<()> {
        match part {
            Part::Clip(facts) => (self.facts, self.frames) = (Some(facts), Vec::new()),
            Part::Frame(picture) => self.frames.push(picture),
            _ => {}
        }
        Ok(())
    }
}

#[test]
fn from_key_frames_as_from_the_first() {
    let Some(files) = files() else { return };
    for name in ["h264_silent_bframes.mp4", "h264_vfr.mp4", "hevc.mp4", "vp9_odd.webm", "mpeg4.avi", "h264_mkv.mkv"] {
        let options = VideoOptions { selection: Selection::Spread { windows: 3 }, frames: 5, ..PLAIN };
        let kept = |seek_from| {
            let mut kept = Kept::default();
            decode_from(&files.join(name), &options, seek_from, &mut kept).unwrap();
            kept
        };
        let (sought, counted) = (kept(0), kept(usize::MAX));
        assert_eq!(sought.facts, counted.facts, "{name}");
        assert!(sought.frames == counted.frames, "{name}");
        assert_eq!(sought.frames.iter().map(frame_number).collect::<Vec<_>>(), sought.facts.unwrap().numbers, "{name}");
    }
}

#[test]
fn turned_as_the_file_says() {
    let Some(files) = files() else { return };
    let lying = read_video(files.join("h264_rotated.mp4"), &PLAIN).unwrap();
    let upright = read_video(files.join("h264_rotated.mp4"), &VideoOptions { turn: true, ..PLAIN }).unwrap();
    assert_eq!((lying.facts.width, lying.facts.height), (64, 48));
    assert_eq!((upright.facts.width, upright.facts.height), (48, 64));
    assert_eq!(frame_number(&lying.frames[21]), 21);
    assert_ne!(frame_number(&upright.frames[21]), 21);
}

#[test]
fn what_is_made_of_each_frame() {
    let Some(files) = files() else { return };
    let video = read_video_with(files.join("h264_33.mp4"), &PLAIN, |picture| Ok(frame_number(&picture))).unwrap();
    assert_eq!(video.frames, (0..33).collect::<Vec<_>>());
    let refused = read_video_with(files.join("h264_33.mp4"), &PLAIN, |_| -> Result<()> { Err(Error::Cancelled) });
    assert!(matches!(refused, Err(Error::Cancelled)));
}

#[test]
fn limits_hold_while_decoding() {
    let Some(files) = files() else { return };
    for limits in [
        Limits { file_bytes: 1000, ..PLAIN.limits },
        Limits { duration_s: 2.0, ..PLAIN.limits },
        Limits { pixels: 1000, ..PLAIN.limits },
        Limits { total_pixels: 64 * 48 * 32, ..PLAIN.limits },
        Limits { frames: 32, ..PLAIN.limits },
    ] {
        let error = read_video(files.join("h264_33.mp4"), &VideoOptions { limits, ..PLAIN }).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("h264_33.mp4") && (text.contains("at most") || text.contains("1 to 1000")), "{text}");
    }
    let none = VideoOptions { frames: 0, ..PLAIN };
    assert!(matches!(read_video(files.join("h264_33.mp4"), &none), Err(Error::Argument { .. })));
}

#[test]
fn broken_videos() {
    let Some(files) = files() else { return };
    for name in ["truncated_no_index.mp4", "empty.mp4", "text.mp4", "audio_only.mp4", "random.flac", "text.png"] {
        let error = read_video(files.join(name), &PLAIN).unwrap_err();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(name), "{error}");
    }
    // What is whole of it.
    let video = read_video(files.join("truncated_faststart.mp4"), &PLAIN).unwrap();
    let found = numbers(&video).concat();
    assert!(found.len() >= 19 && found == (0..found.len()).collect::<Vec<_>>(), "{found:?}");
}

/// Videos with bytes changed, cut or doubled: an error or frames, never a panic.
#[test]
fn hostile_files_never_panic() {
    let Some(files) = files() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % below.max(1)
    };
    for name in ["h264_33.mp4", "vp9_odd.webm", "mpeg4.avi", "animated.gif", "h264_mkv.mkv"] {
        let whole = std::fs::read(files.join(name)).unwrap();
        for round in 0..12 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(draw(whole.len()).max(1)),
                1 => (0..8).for_each(|_| bytes[draw(512.min(whole.len()))] = draw(256) as u8),
                _ => (0..32).for_each(|_| bytes[draw(whole.len())] = draw(256) as u8),
            }
            let path = scratch.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(video) = read_video(&path, &PLAIN) {
                assert_eq!(video.frames.len(), video.facts.numbers.len(), "{name}");
            }
        }
    }
}
