//! Media in, words and music out, with the tiny system of random weights: the whole path from a real mp3, jpeg and mp4 to a text
//! and a wav, as a user runs it. What the parts compute is proved by `musaic verify`; here, that they are put together rightly.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use musaic_core::media::{Audio, Limits, read_audio, read_metadata};
use serde_json::Value;

const MEDIA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/media/files/files");

fn media(name: &str) -> String {
    format!("{MEDIA}/{name}")
}

fn musaic(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_musaic"));
    command.current_dir(folder).env_clear().env("HOME", folder).env("MUSAIC_SYSTEM_CHECKPOINT", "debug");
    command.env("MUSAIC_SYSTEM_MAX_TOKENS", "24");
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    let output = musaic(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sound(path: PathBuf) -> Audio {
    read_audio(path, &Limits::default()).unwrap()
}

/// A tune of plucked tones with a click on every beat, 44.1 kHz stereo, as a file.
fn track(folder: &Path, seconds: f64) -> PathBuf {
    let rate = 44_100;
    let mut channels = vec![Vec::new(); 2];
    for n in 0..(seconds * f64::from(rate)) as usize {
        let t = n as f64 / f64::from(rate);
        let beat = t % 0.5;
        let hz = [220.0, 277.2, 329.6, 440.0][(t / 0.5) as usize % 4];
        let tone = 0.3 * (-4.0 * beat).exp() * (std::f64::consts::TAU * hz * t).sin();
        let click = 0.2 * (-80.0 * beat).exp() * (std::f64::consts::TAU * 2500.0 * beat).sin();
        channels[0].push((tone + click) as f32);
        channels[1].push((0.8 * tone - click) as f32);
    }
    let path = folder.join("track.wav");
    let options = musaic_core::media::WriteOptions::default();
    let mut writer = musaic_core::media::AudioWriter::create(&path, rate, 2, &options).unwrap();
    writer.write(&[&channels[0], &channels[1]]).unwrap();
    writer.finish().unwrap();
    path
}

/// A picture of another content than the one in the goldens.
fn picture(folder: &Path) -> String {
    run(folder, &["spectrogram", &media("mp3_stereo.mp3"), "-o", "other.png"]);
    folder.join("other.png").display().to_string()
}

#[test]
#[cfg(feature = "video")]
fn a_track_a_picture_and_a_video_become_a_text_and_a_wav() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (mp3, jpeg, mp4) = (media("mp3_stereo.mp3"), media("png_named.jpg"), media("h264_33.mp4"));
    let args =
        ["generate", "calm", "--audio", &mp3, "--image", &jpeg, "--video", &mp4, "--seed", "4", "--json", "--explain"];
    let report = json(&run(path, &[&args[..], &["-o", "a.wav"]].concat()));

    // As long as the video, and it says what it was made from.
    let options = musaic_core::media::VideoOptions::default();
    let video_s = musaic_core::media::read_video(&mp4, &options).unwrap().facts.duration_s;
    let audio = sound(path.join("a.wav"));
    assert!((audio.duration_s() - video_s).abs() < 1e-3, "{} {video_s}", audio.duration_s());
    assert!(audio.peak() > 1e-3);
    // Beside it the video, as long as it was, with the music under it.
    let film = path.join("a.mp4");
    let facts = musaic_core::media::read_video(&film, &options).unwrap().facts;
    assert!((facts.duration_s - video_s).abs() < 0.03, "{} {video_s}", facts.duration_s);
    assert!((sound(film).duration_s() - video_s).abs() < 0.03);
    let request: Value = serde_json::from_str(&read_metadata(path.join("a.wav")).unwrap()).unwrap();
    let kinds: Vec<_> = request["composed"]["inputs"].as_array().unwrap().iter().map(|i| i["kind"].clone()).collect();
    assert_eq!(kinds, ["track", "picture", "video"]);
    assert!(!request["composed"]["answer"].as_str().unwrap().is_empty());
    assert_eq!(request["composed"]["inputs"][0]["sha256"].as_str().unwrap().len(), 64);

    // Every input moves the answer and the music, since the gates of this system are open.
    let moved = report["explain"].as_array().unwrap();
    assert_eq!(moved.len(), 4);
    for moved in moved {
        assert!(moved["nats_per_token"].as_f64().unwrap() > 1e-4, "{moved}");
        assert!(moved["conditioning"].as_f64().unwrap() > 1e-4, "{moved}");
    }

    // It can be made again, and leaving out or changing one input makes another piece.
    let replayed = run(path, &["replay", "a.wav", "-q"]);
    assert_eq!(String::from_utf8_lossy(&replayed.stdout), "the same bytes\n");
    let seconds = format!("{video_s}");
    let other = picture(path);
    for (name, args) in [
        ("b.wav", vec!["--audio", &mp3, "--image", &other, "--video", &mp4]),
        ("c.wav", vec!["--image", &jpeg, "--video", &mp4]),
        ("d.wav", vec!["--audio", &mp3, "--image", &jpeg]),
    ] {
        let common = ["generate", "calm", "--seed", "4", "-q", "-o", name, "--seconds", &seconds];
        run(path, &[&common[..], &args].concat());
        assert_ne!(sound(path.join(name)), audio, "{name}");
    }
}

#[test]
fn words_of_the_answer_condition_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let jpeg = media("png_named.jpg");
    let args = ["generate", "--image", &jpeg, "--seed", "4", "--seconds", "1", "-q"];
    run(path, &[&args[..], &["-o", "p.wav"]].concat());
    run(path, &[&args[..], &["-o", "c.wav", "--conditioning", "caption"]].concat());
    assert_ne!(sound(path.join("p.wav")), sound(path.join("c.wav")));
    let request = |name: &str| -> Value { serde_json::from_str(&read_metadata(path.join(name)).unwrap()).unwrap() };
    assert_eq!(request("p.wav")["composed"]["answer"], request("c.wav")["composed"]["answer"]);
    // Played from the caption alone, by the same decoder, it is the same piece.
    let answer = request("c.wav")["composed"]["answer"].as_str().unwrap().to_owned();
    let plain = ["generate", &answer, "--seed", "4", "--seconds", "1", "-q", "--openings", "1", "-o", "w.wav"];
    let output = musaic(path).env_remove("MUSAIC_SYSTEM_CHECKPOINT").args(plain).output().unwrap();
    assert!(output.status.success());
    assert_eq!(sound(path.join("w.wav")), sound(path.join("c.wav")));
}

#[test]
fn questions_are_answered_and_files_described() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (mp3, jpeg) = (media("mp3_stereo.mp3"), media("png_named.jpg"));
    let ask = |words: &str, files: &[&str]| {
        let args = [&["ask"], files, &[words, "--seed", "3", "--json", "-q"]].concat();
        json(&run(path, &args))
    };
    let one = ask("what is this", &[&mp3, &jpeg]);
    assert_eq!(one["answer"], ask("what is this", &[&jpeg, &mp3])["answer"], "whatever the order");
    assert_ne!(one["answer"], ask("what is this", &[&jpeg])["answer"]);
    assert_eq!(one["inputs"].as_array().unwrap().len(), 2);

    let captions = json(&run(path, &["caption", &mp3, &jpeg, "--seed", "3", "--json", "-q"]));
    let captions = captions.as_array().unwrap();
    assert!(captions[0]["question"].as_str().unwrap().contains("music"));
    assert!(captions[1]["question"].as_str().unwrap().contains("image"));
    // Streamed text is the answer itself.
    let shown = run(path, &["ask", &mp3, &jpeg, "what is this", "--seed", "3", "-q"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), one["answer"].as_str().unwrap());
}

#[test]
fn a_batch_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::copy(media("mp3_stereo.mp3"), path.join("a.mp3")).unwrap();
    std::fs::write(path.join("rows.csv"), "audio,question\na.mp3,what is this\na.mp3,who plays\n").unwrap();
    run(path, &["ask", "--batch", "rows.csv", "-o", "out.jsonl", "-q"]);
    let first = std::fs::read_to_string(path.join("out.jsonl")).unwrap();
    assert_eq!(first.lines().count(), 2);
    // One result is lost, and half a line is there: only that row is done again.
    let kept = first.lines().next().unwrap();
    std::fs::write(path.join("out.jsonl"), format!("{kept}\n{{\"row\"")).unwrap();
    run(path, &["ask", "--batch", "rows.csv", "-o", "out.jsonl", "-q"]);
    let again = std::fs::read_to_string(path.join("out.jsonl")).unwrap();
    // The wall time in it shows that the kept line was not made once more.
    assert_eq!(again.lines().next(), Some(kept));
    let answers = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["answer"].clone()).collect()
    };
    assert_eq!(answers(&first), answers(&again));
    run(path, &["ask", "--batch", "rows.csv", "-o", "out.jsonl", "-q"]);
    assert_eq!(std::fs::read_to_string(path.join("out.jsonl")).unwrap(), again);
    // Other settings are other results.
    run(path, &["ask", "--batch", "rows.csv", "-o", "out.jsonl", "-q", "--text-temperature", "1"]);
    assert_eq!(std::fs::read_to_string(path.join("out.jsonl")).unwrap().lines().count(), 4);
}

#[test]
fn one_bad_file_does_not_stop_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::copy(media("mp3_stereo.mp3"), path.join("a.mp3")).unwrap();
    std::fs::write(path.join("bad.mp3"), "no sound").unwrap();
    std::fs::write(path.join("rows.csv"), "file\nbad.mp3\nnone.mp3\na.mp3\n").unwrap();
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(path.join("out.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for verb in ["caption", "tag"] {
        let _ = std::fs::remove_file(path.join("out.jsonl"));
        let args = [verb, "--batch", "rows.csv", "-o", "out.jsonl", "-q", "--keep-going"];
        let code = || musaic(path).args(args).output().unwrap().status.code();
        assert_eq!(code(), Some(2));
        let errors = |lines: &[Value]| lines.iter().filter(|line| line["error"].is_string()).count();
        assert_eq!((lines().len(), errors(&lines())), (3, 2), "{verb}");
        assert!(lines().iter().any(|line| line["error"].to_string().contains("bad.mp3")));
        // Those that failed are tried again, and nothing else.
        assert_eq!(code(), Some(2));
        assert_eq!((lines().len(), errors(&lines())), (5, 4), "{verb}");
    }
    let output = musaic(path).args(["caption", "bad.mp3", "a.mp3", "--keep-going", "--json"]).output().unwrap();
    assert_eq!((output.status.code(), json(&output).as_array().unwrap().len()), (Some(2), 1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("seed "), "the drawn seed is told");
}

#[test]
fn rows_of_edits_are_made_with_everything_loaded_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    track(path, 4.0);
    let rows = "track,instruction,output,from,to\ntrack.wav,add drums,a.wav,,\ntrack.wav,a trumpet,b.wav,1s,2s\n";
    std::fs::write(path.join("rows.csv"), rows).unwrap();
    let args = ["edit", "--batch", "rows.csv", "--takes", "1", "-q"];
    let output = run(path, &[&args[..], &["--json"]].concat());
    let lines: Vec<Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["chosen_take"], 0);
    // The same bytes as by itself, and nothing is made twice.
    run(path, &["edit", "track.wav", "add drums", "--seed", "0", "-q", "-o", "c.wav"]);
    assert_eq!(sound(path.join("a.wav")), sound(path.join("c.wav")));
    let made = std::fs::metadata(path.join("b.wav")).unwrap().modified().unwrap();
    run(path, &args);
    assert_eq!(std::fs::metadata(path.join("b.wav")).unwrap().modified().unwrap(), made);
    for (row, expected) in [
        ("track.wav,x,d.wav,1s,", "line 2: `from` without `to`"),
        ("track.wav,x,d.wav,3s,9s", "within the track"),
        ("track.wav,,d.wav,,", "line 2: no `instruction`"),
    ] {
        std::fs::write(path.join("bad.csv"), format!("track,instruction,output,from,to\n{row}\n")).unwrap();
        let output = musaic(path).args(["edit", "--batch", "bad.csv", "-q"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(expected), "{row}: {text}");
    }
}

#[test]
fn an_edited_track_keeps_its_length_and_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    track(path, 7.0);
    let report = json(&run(path, &["edit", "track.wav", "add drums", "--seed", "5", "--json", "-q", "-o", "e.wav"]));
    let edited = sound(path.join("e.wav"));
    assert_eq!(edited.len(), 7 * 16_000);
    assert_eq!(report["take"]["request"]["keep"], "start");
    let likeness = report["likeness"]["chroma"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&likeness));
    let replayed = run(path, &["replay", "e.wav", "-q"]);
    assert_eq!(String::from_utf8_lossy(&replayed.stdout), "the same bytes\n");
    run(path, &["edit", "track.wav", "add drums", "--seed", "5", "-q", "-o", "n.wav", "--keep", "none"]);
    assert_eq!(sound(path.join("n.wav")).len(), edited.len());
    assert_ne!(sound(path.join("n.wav")), edited);
}

#[test]
fn outside_a_span_every_sample_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let before = sound(track(path, 8.0));
    let args = [
        "edit",
        "track.wav",
        "a trumpet",
        "--from",
        "3s",
        "--to",
        "0:05",
        "--takes",
        "2",
        "--seed",
        "5",
        "-o",
        "s.wav",
    ];
    let report = json(&run(path, &[&args[..], &["--json", "-q"]].concat()));
    let after = sound(path.join("s.wav"));
    assert_eq!((after.len(), after.channels.len(), after.sample_rate_hz), (before.len(), 2, 44_100));
    assert!(report["joined_s"].as_f64().unwrap() <= 5.0);
    // The fade on the left is before the span, of the track with itself.
    let (from, to) = (3 * 44_100 - 1400, 5 * 44_100);
    for (old, new) in before.channels.iter().zip(&after.channels) {
        let same = |range: std::ops::Range<usize>| old[range.clone()] == new[range];
        assert!(same(0..from) && same(to..old.len()));
        assert!(!same(from..to));
        // No click: no step that is larger than those of the track itself.
        let step = |x: &[f32]| x.windows(2).map(|p| (p[1] - p[0]).abs()).fold(0.0, f32::max);
        assert!(step(&new[from..to + 2]) < 1.5 * step(old).max(step(&new[from + 3000..to - 15_000])));
    }
    let replayed = run(path, &["replay", "s.wav", "-q"]);
    assert_eq!(String::from_utf8_lossy(&replayed.stdout), "the same bytes\n");
}

#[test]
fn a_conversation_remembers_its_last_track() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = musaic(folder.path())
        .args(["chat", "--json", "-q", "--seed", "1", "--seconds", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "/play calm piano\nwhat is this\n/new\nwhat is this\n/quit\n";
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let turns: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(turns.len(), 3, "{text}");
    assert_eq!(turns[0]["track"], "./chat-1.wav");
    assert_eq!(sound(folder.path().join("chat-1.wav")).len(), 16_000);
    assert_eq!(turns[1]["inputs"], serde_json::json!(["./chat-1.wav"]));
    assert_eq!(turns[2]["inputs"], serde_json::json!([]));
}

#[test]
fn tags_come_as_table_json_and_csv() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    track(path, 12.0);
    let tags = json(&run(path, &["tag", "track.wav", "--json", "-q"]));
    let tempo = tags[0]["tempo_bpm"].as_f64().unwrap();
    assert!(musaic::listen::tempo::agrees(tempo, 120.0), "{tempo}");
    assert!(!tags[0]["said"]["genre"]["words"].as_str().unwrap().is_empty());
    let csv = run(path, &["tag", "track.wav", "--csv", "-q"]);
    assert_eq!(String::from_utf8_lossy(&csv.stdout).lines().count(), 2);
    // Without a language model the sound alone tells.
    let output = musaic(path).env_remove("MUSAIC_SYSTEM_CHECKPOINT").args(["tag", "track.wav"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("beats a minute"));
    // A file that cannot be read is told, and the others are done.
    std::fs::write(path.join("bad.wav"), "no sound").unwrap();
    let output = musaic(path).args(["tag", "bad.wav", "track.wav", "--keep-going", "--json", "-q"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(json(&output).as_array().unwrap().len(), 1);
}

#[test]
fn a_checkpoint_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let text = String::from_utf8(run(folder.path(), &["inspect", "debug"]).stdout).unwrap();
    assert!(text.contains("8 of 8 gates are open") && text.contains("16 states of width 192"), "{text}");
    let golden = format!("{}/tests/goldens/m2ugen/generate/model/ckpts", env!("CARGO_MANIFEST_DIR"));
    let found = json(&run(folder.path(), &["inspect", &golden, "--json"]));
    let words = found["words"].to_string();
    for part in ["gates are open", "biases of LLaMA", "LoRA"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(!found["gates"].as_array().unwrap().is_empty());
}

#[test]
fn bad_input_is_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let track = track(path, 2.0).display().to_string();
    std::fs::write(path.join("text.txt"), "words").unwrap();
    let refused = |args: &[&str], expected: &str| {
        let output = musaic(path).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(expected) && text.matches("error:").count() == 1, "{args:?}: {text}");
    };
    refused(&["ask", &track, &track], "the last argument");
    refused(&["ask", &track, &track, "what"], "at most one of each kind");
    refused(&["ask", "nowhere.wav", "what"], "nowhere.wav");
    refused(&["ask", "text.txt", "what"], "text.txt");
    refused(&["generate", "--image", &track, "-o", "x.wav"], "track.wav");
    refused(&["edit", &track, "x", "--from", "1", "--to", "9", "-o", "x.wav"], "within the track");
    refused(&["edit", &track, "x", "--keep", "melody", "-o", "x.wav"], "follows no tune");
    refused(&["edit", &track, "x", "-o", "-"], "expected a file");
    refused(&["edit", &track, "x", "--takes", "2", "-o", "x.wav"], "takes");
    refused(&["ask", &track, "what", "-o", "x.jsonl"], "without --batch");
    refused(&["tag", &track, "-o", "x.jsonl"], "without --batch");
    std::fs::write(path.join("rows.jsonl"), "{\"prompt\": \"x\", \"output\": \"x.wav\", \"second\": 1}\n").unwrap();
    refused(&["generate", "--batch", "rows.jsonl"], "rows.jsonl, line 1: `second`");
    std::fs::write(path.join("rows.jsonl"), "{\"output\": \"x.wav\"}\n{\"output\": \"./x.wav\"}\n").unwrap();
    refused(&["generate", "--batch", "rows.jsonl"], "line 2: output");
    let plain = ["edit", &track, "x", "--image", &track, "-o", "x.wav"];
    let output = musaic(path).env_remove("MUSAIC_SYSTEM_CHECKPOINT").args(plain).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no language model to look at it"));
    refused(&["inspect", &track], "track.wav");
    refused(&["ask", &track, &"long ".repeat(4000)], "room for an answer");
    assert!(!path.join("x.wav").exists());
}
