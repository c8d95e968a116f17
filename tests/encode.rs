//! `musaic encode` from files to a file: parity with the stored states, resuming, and what it refuses.
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
    Command::new(env!("CARGO_BIN_EXE_musaic"))
        .arg("encode")
        .args(args)
        .args(["-o", "f.safetensors", "--encoder"])
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

#[test]
fn sounds_and_frames_are_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut writer = AudioWriter::create(path.join("tone.wav"), 12_000, 2, &WriteOptions::default()).unwrap();
    let tone: Vec<f32> = (0..12_000).map(|i| (i as f32 * 0.2).sin() * 0.3).collect();
    writer.write(&[&tone, &vec![0.1; 12_000]]).unwrap();
    writer.finish().unwrap();
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
