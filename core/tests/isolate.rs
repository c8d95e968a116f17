//! Decoders in processes of their own: what a crash, a loop or a bomb in one of them costs. This test is started as a decoder
//! itself, so its `main` is its own: the name of a file says how the decoder misbehaves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::path::Path;
use std::time::{Duration, Instant};

use musaic_core::media::{
    Audio, AudioWriter, Limits, PictureOptions, SpectrogramOptions, WriteOptions, isolate, read_audio, read_picture,
    spectrogram_png,
};

/// What decoders do here before they decode.
fn misbehave(path: &Path) {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "abort" => std::process::abort(),
        "loop" => loop {
            std::hint::black_box(0);
        },
        "sleep" | "orphan" => std::thread::sleep(Duration::from_secs(600)),
        "allocate" => {
            let mut all = Vec::new();
            loop {
                all.push(vec![1u8; 1 << 20]);
                std::hint::black_box(&all);
            }
        }
        "leave" => std::process::exit(0),
        "babble" => {
            use std::io::Write;
            // The lock is that of the decoder's own pipe, so this goes around it.
            let mut out = std::fs::OpenOptions::new().write(true).open("/dev/stdout").unwrap();
            out.write_all(&[0xff; 4096]).unwrap();
        }
        "write" => std::fs::write(path.with_file_name("written"), b"bytes").unwrap(),
        _ => {}
    }
}

fn limits() -> Limits {
    Limits { memory_bytes: 64 << 20, cpu_s: 1, wait_s: 120, ..Limits::default() }
}

/// A second of a tone in a file of this name.
fn tone(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    let samples = (0..48_000).map(|i| (i as f32 * 0.05).sin() * 0.5).collect();
    let audio = Audio::mono(samples, 48_000);
    let mut writer = AudioWriter::create(&path, 48_000, 1, &WriteOptions::default()).unwrap();
    writer.write(&audio.planes()).unwrap();
    writer.finish().unwrap();
    path
}

fn main() {
    isolate::enter_with(misbehave);
    // The test runner asks each test program for its list.
    if std::env::args().any(|argument| argument == "--list") {
        println!("isolate: test");
        return;
    }
    if let Some(path) = std::env::var_os("MUSAIC_ORPHAN") {
        let limits = Limits { cpu_s: 600, wait_s: 600, ..limits() };
        panic!("{:?}", read_audio(path, &limits));
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();

    let good = read_audio(tone(folder, "good.wav"), &limits()).unwrap();
    assert_eq!((good.len(), good.sample_rate_hz), (48_000, 48_000));
    assert!((good.channels[0][100] - (5f32).sin() * 0.5).abs() < 1e-4);

    for (name, expected) in [
        ("abort.wav", "its decoder crashed (signal 6)"),
        ("loop.wav", "its decoder took more than 1 s of processor time"),
        ("sleep.wav", "its decoder took longer than 2 s and was stopped"),
        ("allocate.wav", "its decoder wanted more than 64 MiB of memory"),
        ("leave.wav", "its decoder ended without a word"),
        #[cfg(target_os = "linux")]
        ("babble.wav", "its decoder went astray"),
    ] {
        let begun = Instant::now();
        // Waiting is for the one that does nothing; on a busy machine a second of a processor can take long.
        let budget = Limits { wait_s: if name == "sleep.wav" { 2 } else { 120 }, ..limits() };
        let error = read_audio(tone(folder, name), &budget).unwrap_err().to_string();
        println!("{error} ({:.1} s)", begun.elapsed().as_secs_f64());
        assert!(error.contains(name) && error.contains(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(100), "{name}");
        // The parent is as it was.
        assert_eq!(read_audio(folder.join("good.wav"), &limits()).unwrap(), good, "after {name}");
    }

    // Pictures go the same way.
    let picture = folder.join("good.png");
    spectrogram_png(&good, &picture, &SpectrogramOptions::default()).unwrap();
    let read = read_picture(&picture, &PictureOptions::default()).unwrap();
    assert!(read.width > 8 && read.height > 8 && read.rgb.len() == read.width * read.height * 3);
    std::fs::copy(&picture, folder.join("abort.png")).unwrap();
    let error = read_picture(folder.join("abort.png"), &PictureOptions::default()).unwrap_err().to_string();
    assert!(error.contains("abort.png: its decoder crashed"), "{error}");

    // Limits hold in the parent, whatever the decoder sends; its own errors come through in their own words.
    let few = Limits { samples: 100, ..limits() };
    assert!(read_audio(folder.join("good.wav"), &few).unwrap_err().to_string().contains("at most"));
    std::fs::write(folder.join("words.wav"), b"no audio at all").unwrap();
    let error = read_audio(folder.join("words.wav"), &limits()).unwrap_err().to_string();
    assert!(error.contains("words.wav") && !error.contains("decoder"), "{error}");

    // No byte gets into a file.
    #[cfg(unix)]
    {
        let error = read_audio(tone(folder, "write.wav"), &limits()).unwrap_err().to_string();
        assert!(error.contains("its decoder tried to write a file"), "{error}");
        assert_eq!(std::fs::metadata(folder.join("written")).map_or(0, |meta| meta.len()), 0);
    }
    #[cfg(feature = "video")]
    films(folder);
    #[cfg(target_os = "linux")]
    no_decoder_is_left(folder);
    println!("isolate: all passed");
}

/// Music under a video: the other process gets sound and gives bytes, and makes no file. Whatever happens to it, none is left.
#[cfg(feature = "video")]
fn films(folder: &Path) {
    use musaic_core::media::{FilmOptions, OwnSound, lay_under};
    use musaic_core::role::Cancel;

    let video = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/media/files/files/h264_audio.mp4");
    let scratch = folder.join("films");
    std::fs::create_dir(&scratch).unwrap();
    let count = || std::fs::read_dir(&scratch).unwrap().count();
    let music = read_audio(folder.join("good.wav"), &limits()).unwrap();
    // Time for slow machines; the memory is that of the others.
    let limits = Limits { cpu_s: 60, memory_bytes: 256 << 20, ..limits() };
    for (own_sound, name) in [(OwnSound::Replace, "film.mp4"), (OwnSound::Duck, "film.mkv")] {
        let options = FilmOptions { own_sound, limits, ..FilmOptions::default() };
        let report = lay_under(&video, &music, &options, scratch.join(name), false, &Cancel::default()).unwrap();
        assert_eq!((report.samples, report.frames), (192_000, 40));
        let heard = read_audio(scratch.join(name), &limits).unwrap();
        assert!((heard.duration_s() - 4.0).abs() < 0.1, "{} s", heard.duration_s());
        std::fs::remove_file(scratch.join(name)).unwrap();
    }
    for (name, expected) in [("abort.mp4", "its decoder crashed"), ("write.mp4", "its decoder tried to write a file")] {
        let path = folder.join(name);
        std::fs::copy(&video, &path).unwrap();
        let options = FilmOptions { limits, ..FilmOptions::default() };
        let error =
            lay_under(&path, &music, &options, scratch.join("film.mp4"), false, &Cancel::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(count(), 0, "{name}");
    }
    // Somebody stops it while it waits.
    let path = folder.join("sleep.mp4");
    std::fs::copy(&video, &path).unwrap();
    let cancel = Cancel::default();
    let (options, output) = (FilmOptions { limits, ..FilmOptions::default() }, scratch.join("film.mp4"));
    let stopper = cancel.clone();
    let begun = Instant::now();
    let waiting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        stopper.cancel();
    });
    let error = lay_under(&path, &music, &options, &output, false, &cancel).unwrap_err();
    waiting.join().unwrap();
    assert!(matches!(error, musaic_core::Error::Cancelled) && begun.elapsed() < Duration::from_secs(20), "{error}");
    assert_eq!(count(), 0);
}

/// A decoder ends with its parent, even one that was killed: this program is started once more, and killed while its decoder
/// sleeps.
#[cfg(target_os = "linux")]
fn no_decoder_is_left(folder: &Path) {
    let ours = || {
        let mine = std::env::current_exe().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|entry| std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == mine))
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| line.windows(10).any(|part| part == b"orphan.wav"))
            .count()
    };
    let path = tone(folder, "orphan.wav");
    let mut parent =
        std::process::Command::new(std::env::current_exe().unwrap()).env("MUSAIC_ORPHAN", &path).spawn().unwrap();
    let begun = Instant::now();
    while ours() == 0 && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ours(), 1, "the decoder of the second program");
    parent.kill().unwrap();
    parent.wait().unwrap();
    while ours() > 0 && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ours(), 0, "decoders that outlived their parent");
}
