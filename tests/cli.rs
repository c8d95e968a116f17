//! The command line as its users meet it: bad input gets one message, a hint, exit code 2, and leaves no file behind.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Output},
};

/// Runs the program with nothing of the caller's configuration.
fn musaic<S: AsRef<OsStr>>(folder: &Path, args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_musaic"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// One refused command: exit code, one `error:` line, the words it must contain, and nothing left in the folder.
fn refused(folder: &Path, args: &[&str], words: &[&str]) {
    let before = names(folder);
    let output = musaic(folder, args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert_eq!(text.matches("error:").count(), 1, "{args:?}: {text}");
    assert!(!text.contains(".part"), "{args:?} names a file the user never saw: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: `{word}` is not in: {text}");
    }
    assert!(output.stdout.is_empty(), "{args:?} printed data");
    assert_eq!(names(folder), before, "{args:?} left a file behind");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn bad_input_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("empty")).unwrap();
    std::fs::create_dir(path.join("broken")).unwrap();
    std::fs::write(path.join("broken/config.json"), "{\"model_type\": \"musicgen\"").unwrap();
    std::fs::write(path.join("words.wav"), "this is not a sound\n").unwrap();
    std::fs::write(path.join("old.wav"), "old").unwrap();
    let long = "x".repeat(100_000);
    let generate = |rest: &[&'static str]| [&["generate", "calm piano"][..], rest].concat();

    for (args, words) in [
        (generate(&["--model", "no-such-model"]), &["no-such-model", "hint:"][..]),
        (generate(&["--model", "nobody/nothing"]), &["local cache", "musaic pull nobody/nothing"]),
        (generate(&["--model", "empty"]), &["no config.json"]),
        (generate(&["--model", "broken"]), &["config.json"]),
        (generate(&["--model", "words.wav"]), &["a file"]),
        (generate(&["--seconds", "-3"]), &["seconds", "-3", "above 0"]),
        (generate(&["--seconds", "nan"]), &["seconds"]),
        (generate(&["--seconds", "1e9"]), &["seconds", "3600"]),
        (generate(&["--takes", "0"]), &["takes"]),
        (generate(&["--top-p", "2"]), &["top_p"]),
        (generate(&["--dtype", "f8"]), &["f8", "bf16"]),
        (generate(&["--quantize", "q2"]), &["q2", "q8_0"]),
        (generate(&["--device", "tpu"]), &["tpu", "cuda"]),
        (generate(&["--device", "cuda:7"]), &["cuda"]),
        (generate(&["--preset", "nope"]), &["nope", "musicgen-small"]),
        (generate(&["--normalize", "loud"]), &["loud", "-14LUFS"]),
        (generate(&["-o", "a.xyz"]), &["xyz", "wav"]),
        (generate(&["-o", "no/such/a.wav"]), &["no such folder"]),
        (generate(&["-o", "empty"]), &["empty"]),
        #[cfg(target_os = "linux")]
        (generate(&["-o", "/proc/a.wav"]), &["/proc/a.wav"]),
        (generate(&["-o", "old.wav"]), &["exists already", "--force"]),
        (generate(&["-o", "-", "--takes", "2"]), &["takes"]),
        (generate(&["-o", "-", "--normalize", "-14LUFS"]), &["normalize"]),
        (generate(&["--continue-from", "words.wav"]), &["words.wav"]),
        (generate(&["--continue-from", "missing.wav"]), &["missing.wav"]),
        (generate(&["--melody", "words.wav"]), &["words.wav"]),
        (generate(&["--config", "words.wav"]), &["words.wav"]),
        (vec!["generate", &long], &["prompt", "100000"]),
        (vec!["replay", "words.wav"], &["words.wav"]),
        (vec!["replay", "missing.wav"], &["missing.wav"]),
        (vec!["spectrogram", "words.wav", "-o", "a.png"], &["words.wav"]),
        (vec!["spectrogram", "words.wav", "-o", "a.jpg"], &[".png"]),
        (vec!["generate", "--no-such-flag"], &["--no-such-flag"]),
    ] {
        refused(path, &args, words);
    }
    assert_eq!(std::fs::read(path.join("old.wav")).unwrap(), b"old");
}

#[cfg(unix)]
#[test]
fn a_prompt_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let output = musaic(folder.path(), &[OsStr::new("generate"), OsStr::from_bytes(b"\xff\xfe")]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("UTF-8"));
}

#[test]
fn the_printed_configuration_can_be_fed_back() {
    let folder = tempfile::tempdir().unwrap();
    let print = |args: &[&str]| {
        let output = musaic(folder.path(), &[&["generate", "--print-config"], args].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let first = print(&["--seconds", "7", "--guidance", "2.5"]);
    assert!(first.contains("seconds = 7.0") && first.contains("# flag"), "{first}");
    std::fs::write(folder.path().join("c.toml"), &first).unwrap();
    let second = print(&["--config", "c.toml"]);
    let values =
        |text: &str| -> Vec<String> { text.lines().map(|l| l.split('#').next().unwrap().trim().to_owned()).collect() };
    assert_eq!(values(&first), values(&second));
}

#[test]
fn help_completions_and_manual_come_from_one_definition() {
    use clap::CommandFactory;
    musaic::cli::Cli::command().debug_assert();
    let folder = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["generate", "--help"], &["completions", "bash"], &["man"], &["--version"]] {
        let output = musaic(folder.path(), args);
        assert!(output.status.success() && !output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_closed_pipe_is_a_quiet_success() {
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_musaic"))
        .arg("man")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stderr.is_empty());
}
