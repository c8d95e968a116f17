use proptest::prelude::*;

use super::*;
use crate::media::tests::tone;
use crate::media::{Audio, Limits, read_audio, read_metadata};

const RECIPE: &str = r#"{"prompt":"größer — \"quoted\"","seed":7}"#;

fn tags() -> Tags {
    Tags {
        recipe: Some(RECIPE.into()),
        title: Some("A title".into()),
        comment: Some("made by a test".into()),
        software: Some("musaic 0".into()),
    }
}

/// Writes in blocks of `block` samples.
fn write(path: &Path, audio: &Audio, options: &WriteOptions, block: usize) -> Result<Written> {
    let mut writer = AudioWriter::create(path, audio.sample_rate_hz, audio.channels.len(), options)?;
    for start in (0..audio.len()).step_by(block) {
        let end = (start + block).min(audio.len());
        writer.write(&audio.channels.iter().map(|channel| &channel[start..end]).collect::<Vec<_>>())?;
    }
    writer.finish()
}

fn available() -> impl Iterator<Item = (AudioFormat, &'static str)> {
    AudioFormat::ALL.into_iter().filter(|(format, _)| format.missing_feature().is_none())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// What is written is read back: floats bit for bit, integers within half a step.
    #[test]
    fn lossless_round_trip(
        samples in proptest::collection::vec(-1f32..0.999, 1..600), channels in 1usize..3, block in 1usize..300,
        sample_format in prop_oneof![Just(SampleFormat::Pcm16), Just(SampleFormat::Pcm24), Just(SampleFormat::Float32)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let second: Vec<f32> = samples.iter().rev().copied().collect();
        let audio = Audio { channels: [samples, second][..channels].to_vec(), sample_rate_hz: 32_000 };
        for name in ["x.wav", "x.flac"] {
            let step = match (sample_format, name) {
                (SampleFormat::Pcm16, _) => 1.0 / 32768.0,
                (SampleFormat::Float32, "x.wav") => 0.0,
                _ => 1.0 / 8_388_608.0,
            };
            let path = folder.path().join(name);
            write(&path, &audio, &WriteOptions::default().with_sample_format(sample_format), block).unwrap();
            let back = read_audio(&path, &Limits::default()).unwrap();
            prop_assert_eq!(back.sample_rate_hz, 32_000);
            prop_assert_eq!(back.channels.len(), channels);
            prop_assert_eq!(back.len(), audio.len());
            for (got, want) in back.channels.iter().flatten().zip(audio.channels.iter().flatten()) {
                prop_assert!((got - want).abs() <= 0.5001 * step, "{}: {got} for {want}", name);
            }
        }
    }
}

#[test]
fn sixteen_bit_integers_survive_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let samples: Vec<f32> = (-32768..32768).step_by(7).map(|i| i as f32 / 32768.0).collect();
    let audio = Audio::mono(samples, 44_100);
    for name in ["x.wav", "x.flac"] {
        let path = folder.path().join(name);
        write(&path, &audio, &WriteOptions::default(), 5000).unwrap();
        assert_eq!(read_audio(&path, &Limits::default()).unwrap(), audio, "{name}");
    }
}

#[test]
fn every_format_keeps_length_sound_and_recipe() {
    let folder = tempfile::tempdir().unwrap();
    for (format, extension) in available() {
        for (rate, channels, seconds) in [(32_000, 1, 1.0), (44_100, 2, 0.5), (16_000, 1, 0.01), (48_000, 2, 1.2345)] {
            let audio = tone(440.0, 0.5, seconds, rate, channels);
            let path = folder.path().join(format!("{rate}.{extension}"));
            let options = WriteOptions::default().with_tags(tags());
            let written = write(&path, &audio, &options, 1000).unwrap();
            assert_eq!((written.samples, written.clipped), (audio.len() as u64, 0));
            assert_eq!(read_metadata(&path).as_deref(), Some(RECIPE), "{extension}");
            let back = read_audio(&path, &Limits::default()).unwrap_or_else(|error| panic!("{rate}: {error}"));
            let mut want = audio.clone();
            if format == AudioFormat::Opus {
                want = crate::media::resample(&audio, 48_000).unwrap();
            }
            assert_eq!((back.sample_rate_hz, back.len()), (want.sample_rate_hz, want.len()), "{extension} {rate}");
            let rms = |audio: &Audio| crate::media::measure::rms(&audio.channels[0]);
            assert!((rms(&back) / rms(&want) - 1.0).abs() < 0.15, "{extension} {rate}: {} {}", rms(&back), rms(&want));
            if seconds > 0.4 {
                let (got, want) = (&back.channels[0][4000..10_000], &want.channels[0][4000..10_000]);
                let wrong: f64 = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let all: f64 = want.iter().map(|x| f64::from(*x).powi(2)).sum();
                assert!(wrong / all < 0.01, "{extension} {rate}: {}", wrong / all);
            }
        }
    }
}

#[test]
fn same_samples_same_bytes_whatever_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let audio = tone(440.0, 0.5, 0.7, 32_000, 2);
    for (_, extension) in available() {
        let bytes = |name: &str, block| {
            let path = folder.path().join(format!("{name}.{extension}"));
            write(&path, &audio, &WriteOptions::default().with_tags(tags()), block).unwrap();
            std::fs::read(path).unwrap()
        };
        assert!(bytes("a", 313) == bytes("b", 20_000), "{extension}");
    }
}

/// Texts put in late give the bytes of a file that had them from the start.
#[test]
fn texts_can_be_replaced_while_a_file_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let audio = tone(440.0, 0.5, 0.7, 32_000, 2);
    let with = |seed: &str| Tags { recipe: Some(RECIPE.replace('7', seed)), ..tags() };
    for (_, extension) in available() {
        let path = |name: &str| folder.path().join(format!("{name}.{extension}"));
        write(&path("first"), &audio, &WriteOptions::default().with_tags(with("8")), 1000).unwrap();

        let options = WriteOptions::default().with_tags(tags());
        let mut writer = AudioWriter::create(path("late"), audio.sample_rate_hz, 2, &options).unwrap();
        writer.write(&audio.channels.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        assert!(writer.retag(&with("longer")).is_err(), "{extension}");
        writer.retag(&with("8")).unwrap();
        writer.finish().unwrap();
        assert!(std::fs::read(path("first")).unwrap() == std::fs::read(path("late")).unwrap(), "{extension}");
    }
    let mut stream = AudioWriter::stream(Box::new(Shared::default()), 32_000, 1, &WriteOptions::default()).unwrap();
    assert!(stream.retag(&Tags::default()).is_err());
}

#[test]
fn nothing_stays_behind_without_finish() {
    let folder = tempfile::tempdir().unwrap();
    for (_, extension) in available() {
        let path = folder.path().join(format!("x.{extension}"));
        let mut writer = AudioWriter::create(&path, 32_000, 1, &WriteOptions::default()).unwrap();
        writer.write(&[&[0.1; 5000]]).unwrap();
        drop(writer);
        let mut writer = AudioWriter::create(&path, 32_000, 1, &WriteOptions::default()).unwrap();
        assert!(writer.write(&[&[f32::NAN]]).is_err());
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{extension}");
    }
}

#[test]
fn a_file_is_replaced_only_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wav");
    let audio = Audio::mono(vec![0.5; 10], 8000);
    write(&path, &audio, &WriteOptions::default(), 10).unwrap();
    assert!(matches!(write(&path, &audio, &WriteOptions::default(), 10), Err(Error::Io { .. })));
    // Also one that appears in between.
    let late = folder.path().join("late.wav");
    let writer = AudioWriter::create(&late, 8000, 1, &WriteOptions::default()).unwrap();
    std::fs::write(&late, b"mine").unwrap();
    assert!(writer.finish().is_err());
    assert_eq!(std::fs::read(&late).unwrap(), b"mine");
    write(&late, &audio, &WriteOptions::default().with_overwrite(true), 10).unwrap();
    assert_eq!(read_audio(&late, &Limits::default()).unwrap(), audio);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_cannot_be_written_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x.xyz", "x"] {
        let error = AudioFormat::of_path(folder.path().join(name)).unwrap_err().to_string();
        assert!(error.contains(".wav") && error.contains(".flac") && error.contains(".opus"), "{error}");
        assert_eq!(error.contains("feature `mp3`"), cfg!(not(feature = "mp3")), "{error}");
    }
    for (format, extension) in AudioFormat::ALL {
        if let Some(missing) = format.missing_feature() {
            let error = AudioFormat::of_path(format!("x.{extension}")).unwrap_err();
            assert!(matches!(error, Error::MissingFeature { feature, .. } if feature == missing), "{error}");
        }
    }
    assert_eq!(AudioFormat::of_path("X.WAV").unwrap(), AudioFormat::Wav);
    let create = |name: &str, rate, channels| {
        AudioWriter::create(folder.path().join(name), rate, channels, &WriteOptions::default()).map(|_| ())
    };
    assert!(create("no/folder/x.wav", 8000, 1).is_err());
    assert!(create("x.wav", 0, 1).is_err());
    assert!(create("x.wav", 8000, 0).is_err());
    assert!(create("x.flac", 8000, 9).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn flac_frames_of_any_length() {
    let folder = tempfile::tempdir().unwrap();
    for len in [0, 1, 15, 16, 33, 4095, 4096, 4097, 8192] {
        let audio = Audio::mono((0..len).map(|i| (i % 100) as f32 / 128.0).collect(), 32_000);
        let path = folder.path().join(format!("{len}.flac"));
        write(&path, &audio, &WriteOptions::default(), 1000).unwrap();
        match read_audio(&path, &Limits::default()) {
            Ok(back) => assert_eq!(back, audio, "{len}"),
            Err(error) => assert!(len == 0, "{len}: {error}"),
        }
    }
}

#[derive(Clone, Default)]
struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_goes_out_as_it_comes() {
    let pipe = Shared::default();
    let options = WriteOptions::default().with_tags(tags());
    let mut writer = AudioWriter::stream(Box::new(pipe.clone()), 32_000, 1, &options).unwrap();
    let head = pipe.0.lock().unwrap().len();
    writer.write(&[&[0.25; 100]]).unwrap();
    assert_eq!(pipe.0.lock().unwrap().len(), head + 200);
    writer.finish().unwrap();
    let bytes = pipe.0.lock().unwrap().clone();
    assert_eq!(bytes[4..8], [0xff; 4]);
    assert_eq!(bytes[head - 4..head], [0xff; 4]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("piped.wav");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(read_audio(&path, &Limits::default()).unwrap(), Audio::mono(vec![0.25; 100], 32_000));
    assert_eq!(read_metadata(&path).as_deref(), Some(RECIPE));
}
