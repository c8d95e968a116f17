//! From a prompt to a file with the built-in model, as a user runs it: exact length, same seed same bytes, nothing clipped,
//! every format, replay, continuation, streaming and stopping.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

use musaic_core::media::{Audio, Limits, read_audio, read_metadata};

fn musaic(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_musaic"));
    command.current_dir(folder).env_clear().env("HOME", folder);
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    let output = musaic(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn generate(folder: &Path, file: &str, args: &[&str]) -> Audio {
    run(folder, &[&["generate", "calm piano melody", "--seed", "7", "-q", "-o", file], args].concat());
    read_audio(folder.join(file), &Limits::default()).unwrap()
}

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let audio = generate(path, "a.wav", &["--seconds", "1.5"]);
    assert_eq!((audio.len(), audio.sample_rate_hz), (24_000, 16_000));
    assert!(audio.peak() > 0.0 && audio.peak() <= 1.0);

    generate(path, "b.wav", &["--seconds", "1.5"]);
    assert_eq!(bytes(path, "a.wav"), bytes(path, "b.wav"));

    // Whatever the number of threads.
    let args = ["generate", "calm piano melody", "--seed", "7", "-q", "-o", "c.wav", "--seconds", "1.5"];
    assert!(musaic(path).args(args).env("MUSAIC_THREADS", "1").status().unwrap().success());
    assert_eq!(bytes(path, "a.wav"), bytes(path, "c.wav"));

    // Whatever the number of takes; and takes differ.
    generate_takes(path);
    let first = read_audio(path.join("t-1.wav"), &Limits::default()).unwrap();
    let second = read_audio(path.join("t-2.wav"), &Limits::default()).unwrap();
    assert_eq!(first, audio);
    assert_ne!(second, audio);

    // Another seed is another piece.
    run(path, &["generate", "calm piano melody", "--seed", "8", "-q", "-o", "d.wav", "--seconds", "1.5"]);
    assert_ne!(read_audio(path.join("d.wav"), &Limits::default()).unwrap(), audio);
}

fn generate_takes(path: &Path) {
    run(
        path,
        &["generate", "calm piano melody", "--seed", "7", "-q", "-o", "t.wav", "--seconds", "1.5", "--takes", "2"],
    );
}

#[test]
fn a_file_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    generate(path, "a.wav", &["--seconds", "1", "--guidance", "2", "--top-k", "50"]);
    let request: serde_json::Value = serde_json::from_str(&read_metadata(path.join("a.wav")).unwrap()).unwrap();
    assert_eq!(request["prompt"], "calm piano melody");
    assert_eq!((&request["seed"], &request["guidance"]), (&7.into(), &2.0.into()));
    assert_eq!(request["model_sha256"].as_str().unwrap().len(), 64);

    let output = run(path, &["replay", "a.wav", "-q"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "the same bytes\n");

    // One changed byte of sound is noticed.
    let mut changed = bytes(path, "a.wav");
    let last = changed.len() / 2;
    changed[last] ^= 1;
    std::fs::write(path.join("changed.wav"), changed).unwrap();
    let output = musaic(path).args(["replay", "changed.wav", "-q"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("changed after it was made"));
}

#[test]
fn every_format_has_the_exact_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut files = vec!["a.wav", "a.flac"];
    if cfg!(feature = "mp3") {
        files.push("a.mp3");
    }
    if cfg!(feature = "opus") {
        files.push("a.opus");
    }
    for file in files {
        let audio = generate(path, file, &["--seconds", "1.23"]);
        assert!((audio.duration_s() - 1.23).abs() < 1e-3, "{file}: {} s", audio.duration_s());
        assert!(read_metadata(path.join(file)).unwrap().contains("calm piano melody"), "{file}");
    }
}

#[test]
fn sound_is_streamed_while_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = musaic(folder.path())
        .args(["generate", "calm piano melody", "--seed", "7", "-q", "-o", "-", "--seconds", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut sound = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut sound).unwrap();
    assert!(child.wait().unwrap().success());
    // The samples are those of the file.
    generate(folder.path(), "a.wav", &["--seconds", "2"]);
    let file = bytes(folder.path(), "a.wav");
    let data = |wav: &[u8]| {
        let at = wav.windows(4).position(|w| w == b"data").unwrap() + 8;
        wav[at..at + 2 * 32_000].to_vec()
    };
    assert!(sound.starts_with(b"RIFF"));
    assert_eq!(data(&sound), data(&file));
}

#[test]
fn a_longer_piece_begins_with_the_shorter_one() {
    let folder = tempfile::tempdir().unwrap();
    let short = generate(folder.path(), "a.wav", &["--seconds", "1"]);
    let long = generate(folder.path(), "b.wav", &["--seconds", "3"]);
    // The end of the short one has no right context for the codec's last layers.
    let same = short.len() - 4000;
    let worst = short.channels[0][..same].iter().zip(&long.channels[0]).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst <= 2.0 / 32768.0, "{worst}");
}

#[test]
fn a_track_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    generate(path, "a.wav", &["--seconds", "2"]);
    let audio = generate(path, "b.wav", &["--seconds", "1", "--continue-from", "a.wav"]);
    assert!((audio.duration_s() - 3.0).abs() < 0.021, "{} s", audio.duration_s());
    assert!(read_metadata(path.join("b.wav")).unwrap().contains("continue_from"));
}

#[test]
fn loudness_is_set_without_clipping() {
    let folder = tempfile::tempdir().unwrap();
    let audio = generate(folder.path(), "a.wav", &["--seconds", "2", "--normalize", "-16LUFS"]);
    let loudness = musaic_core::media::loudness(&audio).unwrap();
    assert!((loudness.integrated_lufs + 16.0).abs() < 1.0, "{loudness:?}");
    assert!(audio.peak() < 1.0);
}

#[test]
fn no_prompt_plays_freely_and_json_tells_all() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["generate", "--seed", "3", "--seconds", "0.5", "--json", "-q", "-o", "a.wav"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["takes"][0]["seconds"], 0.5);
    assert_eq!(report["takes"][0]["path"], "a.wav");
}

/// Starts a piece of 3000 s, stops it once a second of it or more is written, and gives what was said.
#[cfg(unix)]
fn stopped(path: &Path, file: &str) -> String {
    use std::{thread::sleep, time::Duration};
    let mut child = musaic(path)
        .args(["generate", "calm piano melody", "--seed", "7", "-o", file, "--seconds", "3000"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = || {
        let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        files
            .filter(|f| f.file_name().to_string_lossy().ends_with(".part"))
            .map(|f| f.metadata().unwrap().len())
            .sum::<u64>()
    };
    // What is written goes out in pieces of 64 KiB.
    while written() < 64 << 10 {
        assert!(child.try_wait().unwrap().is_none(), "{file}: ended by itself");
        sleep(Duration::from_millis(20));
    }
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_finished_and_replay_makes_it_again() {
    // One with texts that are put in their place, one whose pages carry checksums; the crate of the writers has the others.
    for file in if cfg!(feature = "opus") { &["a.wav", "a.opus"][..] } else { &["a.wav"] } {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let talk = stopped(path, file);
        assert!(talk.contains("stopped; 1 of 1 files were written"), "{file}: {talk}");
        let left: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [*file]);
        let seconds = read_audio(path.join(file), &Limits::default()).unwrap().duration_s();
        assert!((0.5..3000.0).contains(&seconds), "{file}: {seconds} s");

        let request: serde_json::Value = serde_json::from_str(&read_metadata(path.join(file)).unwrap()).unwrap();
        assert_eq!(request["seconds"], 3000.0);
        let told = request["stopped"]["seconds"].as_f64().unwrap();
        assert!((told - seconds).abs() < 1e-3, "{file}: {told} s told, {seconds} s there");
        // As many frames as were finished, and those that were begun.
        let steps = request["stopped"]["steps"].as_f64().unwrap();
        assert!((50.0 * seconds..50.0 * seconds + 8.0).contains(&steps), "{file}: {steps} steps for {seconds} s");

        let output = run(path, &["replay", file, "-q"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "the same bytes\n", "{file}");
    }
}
