//! The command line as its users meet it: bad input gets one message, a hint, exit code 2, and leaves no file behind. The words
//! themselves are in `tests/snapshots`: every help text and every message, to be read there as a user would.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output},
};

use clap::CommandFactory;
use musaic::cli::Cli;

/// The texts depend on what is built in and on the system's own messages; snapshots are of this build.
const TEXTS: bool = cfg!(all(
    feature = "mp3",
    feature = "opus",
    feature = "video",
    feature = "hub",
    feature = "knn",
    not(feature = "cuda"),
    target_os = "linux"
));

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

/// Compares with `tests/snapshots/cli__NAME.snap`, where this build is the one that is described there.
fn snapshot(name: &str, text: &str) {
    if TEXTS {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(true);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, text));
    }
}

/// One refused command: exit code, one `error:` line, nothing printed as data and nothing left in the folder. Gives what the
/// user saw.
fn refused<S: AsRef<OsStr>>(folder: &Path, args: &[S]) -> String {
    let shown: Vec<_> = args.iter().map(|arg| show(&arg.as_ref().to_string_lossy())).collect();
    let shown = shown.join(" ");
    let before = names(folder);
    let output = musaic(folder, args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{shown}: {text}");
    assert_eq!(text.matches("error:").count(), 1, "{shown}: {text}");
    assert!(!text.contains(".part"), "{shown} names a file the user never saw: {text}");
    assert!(output.stdout.is_empty(), "{shown} printed data");
    assert_eq!(names(folder), before, "{shown} left a file behind");
    format!("$ musaic {shown}\n{}\n", text.replace(&folder.display().to_string(), "[FOLDER]"))
}

/// An argument as a shell would take it.
fn show(arg: &str) -> String {
    match arg.len() {
        1000.. => format!("'{}...' ({} bytes)", &arg[..8], arg.len()),
        _ if arg.is_empty() || arg.contains(' ') => format!("'{arg}'"),
        _ => arg.into(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What can lie around in a user's folder.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["empty", "broken", "truncated"] {
        fs::create_dir(path.join(name)).unwrap();
    }
    fs::write(path.join("broken/config.json"), "{\"model_type\": \"musicgen\"").unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/musicgen/tiny/model");
    for entry in fs::read_dir(tiny).unwrap() {
        let entry = entry.unwrap();
        fs::write(path.join("truncated").join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    let weights = path.join("truncated/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(weights, &whole[..whole.len() / 2]).unwrap();
    fs::write(path.join("words.wav"), "this is not a sound\n").unwrap();
    fs::write(path.join("words.toml"), "seconds = ten\n").unwrap();
    fs::write(path.join("typo.toml"), "[generate]\nsecond = 10\n").unwrap();
    fs::write(path.join("old.wav"), "old").unwrap();
    write_silence(&path.join("silence.wav"));
    folder
}

/// A sound that this program did not make.
fn write_silence(path: &Path) {
    use musaic_core::media::{AudioWriter, WriteOptions};
    let mut writer = AudioWriter::create(path, 8000, 1, &WriteOptions::default()).unwrap();
    writer.write(&[&[0.0; 800]]).unwrap();
    writer.finish().unwrap();
}

/// Runs `cases` one after another; each begins with the subcommand.
fn refusals(name: &str, cases: &[&[&str]]) {
    let folder = folder();
    let text: String = cases.iter().map(|args| refused(folder.path(), args)).collect();
    assert_eq!(fs::read(folder.path().join("old.wav")).unwrap(), b"old");
    snapshot(name, &text);
}

#[test]
fn a_bad_model_is_refused() {
    let base = ["generate", "calm piano", "--model"];
    let cases: Vec<Vec<&str>> = ["no-such-model", "nobody/nothing", "empty", "broken", "truncated", "words.wav"]
        .map(|m| [&base[..], &[m]].concat())
        .into();
    refusals("refused_model", &cases.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn a_bad_index_is_refused() {
    refusals(
        "refused_index",
        &[
            &["index", "info", "missing.index"],
            &["index", "info", "words.wav"],
            &["index", "search", "empty", "--like", "a.wav"],
            &["index", "build", "empty", "-o", "new.index"],
            &["index", "build", "truncated", "-o", "new.index", "--layout", "tree"],
            &["index", "build", "truncated", "-o", "old.wav"],
            &["index", "build", "broken", "-o", "new.index", "--audio", "first60"],
            &["index", "build", "broken", "-o", "new.index", "--encoder", "missing"],
        ],
    );
}

#[test]
fn bad_values_are_refused() {
    refusals(
        "refused_values",
        &[
            &["generate", "calm piano", "--seconds", "-3"],
            &["generate", "calm piano", "--seconds", "nan"],
            &["generate", "calm piano", "--seconds", "1e9"],
            &["generate", "calm piano", "--seconds", "ten"],
            &["generate", "calm piano", "--takes", "0"],
            &["generate", "calm piano", "--takes", "-1"],
            &["generate", "calm piano", "--seed", "1.5"],
            &["generate", "calm piano", "--openings", "17"],
            &["generate", "calm piano", "--top-p", "2", "--temperature", "-1"],
            &["generate", "calm piano", "--dtype", "f8"],
            &["generate", "calm piano", "--quantize", "q2"],
            &["generate", "calm piano", "--device", "tpu"],
            &["generate", "calm piano", "--device", "cuda:7"],
            &["generate", "calm piano", "--preset", "nope"],
            &["generate", "calm piano", "--normalize", "loud"],
            &["generate", "calm piano", "--config", "missing.toml"],
            &["generate", "calm piano", "--config", "words.toml"],
            &["generate", "calm piano", "--config", "typo.toml"],
            &["generate", &"x".repeat(100_000)],
            &["eval", "nano", "--corpus", "empty", "--openings", "0"],
            &["generate", "--no-such-flag"],
            &["generat", "calm piano"],
        ],
    );
}

#[test]
fn a_bad_output_is_refused() {
    let mut cases: Vec<&[&str]> = vec![
        &["generate", "calm piano", "-o", "a.xyz"],
        &["generate", "calm piano", "-o", "no-extension"],
        &["generate", "calm piano", "-o", "no/such/a.wav"],
        &["generate", "calm piano", "-o", "empty"],
        &["generate", "calm piano", "-o", "old.wav"],
        &["generate", "calm piano", "-o", "-", "--takes", "2"],
        &["generate", "calm piano", "-o", "-", "--normalize", "-14LUFS"],
        &["generate", "calm piano", "-o", "-", "--json"],
        &["spectrogram", "silence.wav", "-o", "a.jpg"],
        &["spectrogram", "silence.wav", "-o", "old.wav"],
        &["convert", "truncated", "-o", "truncated"],
    ];
    if cfg!(target_os = "linux") {
        // The folder is there, and not even root may write to it.
        cases.push(&["generate", "calm piano", "-q", "-o", "/proc/a.wav"]);
    }
    refusals("refused_output", &cases);
}

#[test]
fn bad_files_are_refused() {
    refusals(
        "refused_files",
        &[
            &["generate", "calm piano", "--continue-from", "words.wav"],
            &["generate", "calm piano", "--continue-from", "missing.wav"],
            &["generate", "calm piano", "--continue-from", "empty"],
            &["generate", "calm piano", "--melody", "words.wav"],
            &["generate", "calm piano", "-q", "-o", "a.wav", "--melody", "silence.wav"],
            &["replay", "words.wav"],
            &["replay", "missing.wav"],
            &["replay", "silence.wav"],
            &["spectrogram", "words.wav", "-o", "a.png"],
            &["convert", "words.wav", "-o", "new"],
            &["convert", "truncated", "-o", "new", "--to", "f8"],
            &["convert", "truncated", "-o", "new", "--to", "gguf:q2"],
            &["convert", "words.wav", "-o", "new", "--base", "missing"],
            &["verify", "missing"],
            &["pull", "not-an-id"],
            &["bench", "--only", "nope"],
            &["bench", "load", "new", "--scale", "2"],
            &["train", "lm", "--init", "missing", "--batches", "missing", "-o", "new"],
        ],
    );
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let folder = folder();
    let path = folder.path();
    let model = |case: &str| goldens.join("encoders").join(case).join("model").display().to_string();
    let (mert, vit, vivit) = (model("mert-layernorm-like"), model("vit-tiny"), model("vivit-tiny"));
    let decoder = goldens.join("musicgen/tiny/model").display().to_string();
    fs::write(path.join("old.safetensors"), "old").unwrap();
    let run = |file: &str, output: &str, encoder: &str| {
        let text = refused(path, &["encode", file, "-o", output, "--encoder", encoder]);
        text.replace(&goldens.display().to_string(), "[GOLDENS]")
    };
    let text = [
        run("missing.wav", "f.safetensors", &mert),
        run("words.wav", "f.safetensors", &mert),
        run("empty", "f.safetensors", &mert),
        run("silence.wav", "f.safetensors", &vit),
        run("silence.wav", "f.safetensors", &vivit),
        run("empty", "f.safetensors", &vivit),
        run("silence.wav", "f.npz", &mert),
        run("silence.wav", "old.safetensors", &mert),
        run("silence.wav", "no/such/f.safetensors", &mert),
        run("silence.wav", "f.safetensors", "missing"),
        run("silence.wav", "f.safetensors", "empty"),
        run("silence.wav", "f.safetensors", "broken"),
        run("silence.wav", "f.safetensors", &decoder),
        refused(path, &["encode", "silence.wav", "silence.wav", "-o", "f.safetensors", "--encoder", &mert])
            .replace(&goldens.display().to_string(), "[GOLDENS]"),
        refused(path, &["encode", "silence.wav", "-o", "f.safetensors", "--encoder", "missing", "--audio", "half"]),
        refused(path, &["encode", "-o", "f.safetensors", "--encoder", "missing"]),
    ];
    snapshot("refused_encode", &text.concat());
}

#[cfg(unix)]
#[test]
fn a_prompt_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder();
    let text = refused(folder.path(), &[OsStr::new("generate"), OsStr::from_bytes(b"\xff\xfe")]);
    snapshot("refused_prompt", &text);
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
    fs::write(folder.path().join("c.toml"), &first).unwrap();
    let second = print(&["--config", "c.toml"]);
    let values =
        |text: &str| -> Vec<String> { text.lines().map(|l| l.split('#').next().unwrap().trim().to_owned()).collect() };
    assert_eq!(values(&first), values(&second));
    let preset = print(&["--preset", "musicgen-small", "--takes", "2"]);
    snapshot("print_config", &format!("{first}\n--- from the file above\n{second}\n--- from a preset\n{preset}"));
}

/// The help of the program and of every subcommand, at any depth.
#[test]
fn help_says_what_there_is() {
    let mut cli = Cli::command();
    cli.clone().debug_assert();
    cli.build();
    let mut tell = Vec::new();
    collect(&mut cli, &mut tell);
    assert!(tell.iter().any(|(name, _)| name == "musaic generate"));
    for (name, help) in tell {
        snapshot(&format!("help_{}", name.trim_start_matches("musaic ").replace(' ', "_")), &help);
    }
    // As a user asks for it.
    let folder = tempfile::tempdir().unwrap();
    let output = musaic(folder.path(), &["generate", "--help"]);
    let mut generate = Cli::command();
    generate.build();
    let help = generate.find_subcommand_mut("generate").unwrap().render_help().to_string();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), help);
}

fn collect(command: &mut clap::Command, into: &mut Vec<(String, String)>) {
    let name = command.get_bin_name().unwrap_or("musaic").to_owned();
    into.push((name, command.render_help().to_string()));
    for inner in command.get_subcommands_mut() {
        collect(inner, into);
    }
}

#[test]
fn completions_and_manual_come_from_the_same_definition() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["completions", "bash"], &["man"], &["--version"]] {
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
