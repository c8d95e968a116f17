//! Real files of the parity cases, good and broken, and files made hostile.

use serde_json::Value;

use super::*;
use crate::media::measure::{relative_error_at_best_lag, rms};
use crate::media::tests::golden_folder;

#[test]
fn goldens_good_files() {
    let Some(folder) = golden_folder("media/files") else { return };
    let case: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(folder.join("io.safetensors"), &candle_core::Device::Cpu).unwrap();
    let mut compared = 0;
    for (name, facts) in case["audio"].as_object().unwrap() {
        let opus = facts["codec"] == "opus";
        let got = match read_audio(folder.join("files").join(name), &Limits::default()) {
            Err(Error::MissingFeature { feature: "opus", .. }) if opus && !cfg!(feature = "opus") => continue,
            got => got.unwrap_or_else(|error| panic!("{name}: {error}")),
        };
        assert_eq!(u64::from(got.sample_rate_hz), facts["rate"].as_u64().unwrap(), "{name}");
        assert_eq!(got.channels.len() as u64, facts["channels"].as_u64().unwrap(), "{name}");
        let plain = format!("out.{}.mono", name.replace('.', "_"));
        let key = facts["tensor"].as_str().unwrap_or(&plain);
        let want: Vec<f32> = tensors[key].to_vec1().unwrap();
        let got = got.mixdown();
        compared += 1;
        if facts["lossy"] == false {
            assert_eq!(got.len(), want.len(), "{name}");
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-6, "{name}: {worst}");
            continue;
        }
        if name == "opus_mono_24k.ogg" {
            // Its frames are hybrid (SILK below, CELT above). The decoder behind the golden departs there from
            // libopus, the normative one, by 0.47 at every lag, so only length and level can be compared.
            assert_eq!(got.len(), want.len(), "{name}");
            assert!((rms(&got) / rms(&want) - 1.0).abs() < 0.1, "{name}");
            continue;
        }
        let limit = if opus { 2e-3 } else { 1e-4 };
        let best = relative_error_at_best_lag(&got, &want, 2200);
        assert!(best <= limit, "{name}: {best}, {} samples for {}", got.len(), want.len());
    }
    assert!(compared >= 20, "only {compared} files");
}

#[test]
fn goldens_broken_files() {
    let Some(folder) = golden_folder("media/files") else { return };
    let case: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
    for (name, facts) in case["broken"].as_object().unwrap() {
        let read = read_audio(folder.join("files").join(name), &Limits::default());
        match (&read, facts["ffmpeg_audio"]["samples"].as_u64()) {
            (Ok(audio), Some(most)) => {
                // An aac decoder may keep the encoder's delay.
                assert!(audio.len() as u64 <= most + 2200, "{name}: {}", audio.len());
            }
            (Ok(_), None) => assert!(name.starts_with("truncated"), "{name} was read"),
            (Err(error), _) => assert!(error.to_string().contains(name.as_str()), "{error}"),
        }
    }
    let partial = read_audio(folder.join("files/promises_more.wav"), &Limits::default()).unwrap();
    assert_eq!(partial.len(), 250);
    assert!(read_audio(folder.join("files/nan.wav"), &Limits::default()).is_err());
}

#[test]
fn bad_input_gets_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8]); 3] =
        [("words.wav", b"this is a text file, not audio"), ("empty.wav", b""), ("riff.wav", b"RIFF\x24\0\0\0WAVEfmt ")];
    for (name, bytes) in cases {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = read_audio(&path, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("expected"), "{error}");
    }
    assert!(matches!(read_audio(folder.path(), &Limits::default()), Err(Error::Format { .. })));
    assert!(matches!(read_audio(folder.path().join("none.wav"), &Limits::default()), Err(Error::Io { .. })));
}

#[test]
fn limits_hold_while_decoding() {
    let Some(folder) = golden_folder("media/files") else { return };
    let file = folder.join("files/flac16_stereo.flac");
    for limits in [
        Limits { samples: 8000, ..Limits::default() },
        Limits { duration_s: 0.1, ..Limits::default() },
        Limits { channels: 1, ..Limits::default() },
        Limits { file_bytes: 1000, ..Limits::default() },
    ] {
        let error = read_audio(&file, &limits).unwrap_err();
        assert!(error.to_string().contains("at most"), "{error}");
    }
}

/// Small files with bytes changed, cut or doubled: an error or audio, never a panic, never anything not finite.
#[test]
fn hostile_files_never_panic() {
    let Some(folder) = golden_folder("media/files") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let limits = Limits { samples: 1 << 20, ..Limits::default() };
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % below.max(1)
    };
    for name in [
        "pcm24_mono.wav",
        "flac24_mono.flac",
        "mp3_vbr_mono_22k.mp3",
        "aac_stereo.m4a",
        "vorbis_stereo.ogg",
        "aiff16.aiff",
    ] {
        let whole = std::fs::read(folder.join("files").join(name)).unwrap();
        for round in 0..24 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(draw(whole.len()).max(1)),
                1 => (0..8).for_each(|_| bytes[draw(256.min(whole.len()))] = draw(256) as u8),
                _ => (0..32).for_each(|_| bytes[draw(whole.len())] = draw(256) as u8),
            }
            let path = scratch.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(audio) = read_audio(&path, &limits) {
                assert!(audio.channels.iter().flatten().all(|x| x.is_finite()), "{name}");
            }
        }
    }
}
