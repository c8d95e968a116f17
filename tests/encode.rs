//! `musaic encode` from files to a file: parity with the stored states, resuming, and what it refuses. `musaic index` of music
//! that it encodes itself.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use candle_core::{Device, Tensor};
use musaic_core::media::{AudioWriter, WriteOptions};
use serde_json::Value;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders").join(case)
}

fn musaic(folder: &Path, args: &[&str], encoder: &str) -> Output {
    run(folder, &[&["encode"], args, &["-o", "f.safetensors"]].concat(), encoder)
}

fn run(folder: &Path, args: &[&str], encoder: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_musaic"))
        .args(args)
        .arg("--encoder")
        .arg(golden(encoder).join("model"))
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .output()
        .unwrap()
}

/// What a run that must succeed printed with `--json`, and the tensors it wrote.
#[track_caller]
fn encoded(folder: &Path, args: &[&str], encoder: &str) -> (Value, BTreeMap<String, Tensor>) {
    let output = musaic(folder, &[args, &["--json"]].concat(), encoder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tensors = candle_core::safetensors::load(folder.join("f.safetensors"), &Device::Cpu).unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), tensors.into_iter().collect())
}

fn off(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn image(name: &str) -> Vec<u8> {
    fs::read(golden("vit-tiny").join("images").join(name)).unwrap()
}

#[test]
fn pictures_become_the_stored_states() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["rgb.png", "gray.png"] {
        fs::write(folder.path().join(name), image(name)).unwrap();
    }
    let (report, tensors) = encoded(folder.path(), &["rgb.png", "gray.png", "--reference"], "vit-tiny");
    let stored = candle_core::safetensors::load(golden("vit-tiny").join("io.safetensors"), &Device::Cpu).unwrap();
    for name in ["rgb", "gray"] {
        assert!(off(&tensors[&format!("{name}.png")], &stored[&format!("out.{name}_png.last_hidden_state")]) < 1e-3);
    }
    assert_eq!(report["encoder"], "vit");
    assert_eq!(report["files"][1]["file"], "gray.png");
    assert_eq!(report["files"][0]["shape"], serde_json::json!([17, 48]));
    let bf16 = ["rgb.png", "gray.png", "--reference", "--force", "--dtype", "bf16"];
    let (_, rounded) = encoded(folder.path(), &bf16, "vit-tiny");
    let apart = off(&rounded["rgb.png"], &tensors["rgb.png"]);
    assert!(apart > 0.0 && apart < 0.5, "{apart}");
}

#[test]
fn a_stopped_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("a.png"), image("rgb.png")).unwrap();
    let whole = image("wide.jpg");
    fs::write(path.join("b.jpg"), &whole[..whole.len() / 8]).unwrap();
    let stopped = musaic(path, &["a.png", "b.jpg"], "vit-tiny");
    let text = String::from_utf8(stopped.stderr).unwrap();
    assert_eq!(stopped.status.code(), Some(2), "{text}");
    assert!(text.contains("error: b.jpg") && text.contains("goes on"), "{text}");
    assert!(!path.join("f.safetensors").exists() && path.join("f.safetensors.parts").is_dir());

    fs::write(path.join("b.jpg"), &whole).unwrap();
    let (report, tensors) = encoded(path, &["a.png", "b.jpg"], "vit-tiny");
    assert_eq!((&report["files"][0]["reused"], &report["files"][1]["reused"]), (&true.into(), &false.into()));
    assert_eq!(tensors.len(), 2);
    assert!(!path.join("f.safetensors.parts").exists());

    // What is there is kept; the same is made again from nothing.
    let again = musaic(path, &["a.png", "b.jpg"], "vit-tiny");
    assert_eq!(again.status.code(), Some(2));
    let bytes = fs::read(path.join("f.safetensors")).unwrap();
    let (fresh, _) = encoded(path, &["a.png", "b.jpg", "--force"], "vit-tiny");
    assert_eq!(fresh["files"][0]["reused"], false);
    // The notes tell apart what was reused; the numbers are the same.
    let tail = |bytes: &[u8]| bytes[bytes.len() - 2 * 17 * 48 * 4..].to_vec();
    assert_eq!(tail(&fs::read(path.join("f.safetensors")).unwrap()), tail(&bytes));
}

fn write_tone(path: &Path, step: f32) {
    let mut writer = AudioWriter::create(path, 12_000, 2, &WriteOptions::default()).unwrap();
    let tone: Vec<f32> = (0..12_000).map(|i| (i as f32 * step).sin() * 0.3).collect();
    writer.write(&[&tone, &vec![0.1; 12_000]]).unwrap();
    writer.finish().unwrap();
}

#[test]
fn sounds_and_frames_are_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_tone(&path.join("tone.wav"), 0.2);
    let (report, tensors) = encoded(path, &["tone.wav"], "mert-layernorm-like");
    assert_eq!((&report["audio"], tensors["tone.wav"].dims()), (&"whole".into(), &[4, 48][..]));
    let (report, first) = encoded(path, &["tone.wav", "--force", "--reference"], "mert-layernorm-like");
    assert_eq!(report["audio"], "first60");
    assert_eq!(off(&tensors["tone.wav"], &first["tone.wav"]), 0.0);

    fs::create_dir(path.join("frames")).unwrap();
    for i in 0..5 {
        let name = ["rgb.png", "tiny.png", "exact.png", "gray.png", "palette.png"][i];
        fs::write(path.join(format!("frames/f{i}.png")), image(name)).unwrap();
    }
    let (_, tensors) = encoded(path, &["frames", "--force"], "vivit-tiny");
    assert_eq!(tensors["frames"].dims(), [65, 32]);
}

#[cfg(feature = "video")]
#[test]
fn videos_are_looked_at_in_windows() {
    let folder = tempfile::tempdir().unwrap();
    let clip = golden("../media/files/files/h264_silent_bframes.mp4");
    fs::copy(clip, folder.path().join("clip.mp4")).unwrap();
    let run = |args: &[&str]| {
        let (report, mut tensors) = encoded(folder.path(), &[&["clip.mp4", "--force"], args].concat(), "vivit-tiny");
        (report["video"].clone(), tensors.remove("clip.mp4").unwrap())
    };
    let (said, usual) = run(&[]);
    assert_eq!((said, usual.dims()), ("spread:4".into(), &[65, 32][..]));
    let (said, one) = run(&["--video-windows", "1"]);
    assert_eq!(said, "spread:1");
    assert!(off(&usual, &one) > 0.0);
    let (said, drawn) = run(&["--reference"]);
    assert_eq!((said, off(&drawn, &run(&["--reference", "--seed", "0"]).1)), ("drawn:0".into(), 0.0));
    assert!((1..4).any(|seed| off(&drawn, &run(&["--reference", "--seed", &seed.to_string()]).1) > 0.0));
}

#[cfg(feature = "knn")]
#[test]
fn music_is_encoded_on_its_way_into_an_index() {
    const MERT: &str = "mert-layernorm-like";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir_all(path.join("music/album")).unwrap();
    fs::write(path.join("music/cover.jpg"), "no sound").unwrap();
    write_tone(&path.join("music/low.wav"), 0.1);
    fs::write(path.join("music/z.wav"), "broken").unwrap();
    let build = ["index", "build", "music", "-o", "new.index"];
    let stopped = run(path, &build, MERT);
    let text = String::from_utf8(stopped.stderr).unwrap();
    assert_eq!(stopped.status.code(), Some(2), "{text}");
    assert!(text.contains("error: music/z.wav") && text.contains("goes on"), "{text}");
    assert!(!path.join("new.index").exists() && path.join("new.index.parts").is_dir());

    fs::remove_file(path.join("music/z.wav")).unwrap();
    write_tone(&path.join("music/album/high.wav"), 0.6);
    let succeeded = |args: &[&str]| {
        let output = run(path, args, MERT);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    succeeded(&build);
    assert!(path.join("new.index").is_file() && !path.join("new.index.parts").exists());
    // As from features.
    let files = ["music/album/high.wav", "music/low.wav"];
    encoded(path, &files, MERT);
    let plain = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_musaic"));
        assert!(command.args(args).current_dir(path).output().unwrap().status.success());
    };
    plain(&["index", "build", "f.safetensors", "-o", "old.index"]);
    assert_eq!(fs::read(path.join("new.index")).unwrap(), fs::read(path.join("old.index")).unwrap());
    assert_eq!(fs::read(path.join("new.index.json")).unwrap(), fs::read(path.join("old.index.json")).unwrap());

    // More of it, and pieces from elsewhere to search by.
    write_tone(&path.join("mid.wav"), 0.3);
    succeeded(&["index", "add", "new.index", "mid.wav"]);
    fs::rename(path.join("music/low.wav"), path.join("low-copy.wav")).unwrap();
    let search = ["index", "search", "new.index", "--like", "low-copy.wav", "--json"];
    let found: Value = serde_json::from_str(&succeeded(&search)).unwrap();
    assert_eq!((found.as_array().unwrap().len(), &found[0]["piece"]), (3, &"music/low.wav".into()));
    assert!(found[0]["similarity"].as_f64().unwrap() > 0.9999);
    let search = ["index", "search", "new.index", "--like", "music/low.wav", "--not", "mid.wav", "--json"];
    let found: Value = serde_json::from_str(&succeeded(&search)).unwrap();
    assert_eq!(found[0]["piece"], "music/album/high.wav");

    // Pictures are no music, and another encoder's features mean other things.
    let refused = |args: &[&str], encoder| String::from_utf8(run(path, args, encoder).stderr).unwrap();
    let text = refused(&["index", "add", "new.index", "music"], "vit-tiny");
    assert!(text.contains("error: encoder: vit, expected an encoder of sound"), "{text}");
    let text = refused(&["index", "build", "music/album/none", "-o", "b.index"], MERT);
    assert!(text.contains("music/album/none"), "{text}");
}
