//! Reading audio files: wav, flac, mp3, ogg, m4a, aac, aiff, caf, mkv through symphonia, opus through libopus.
//!
//! Files are hostile input. Sizes are bounded while decoding, a panic of a decoder becomes an error, and nothing that is
//! not a finite number leaves this module. Integers divide by `2^(bits - 1)`; 8-bit wav is unsigned with offset 128.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error as Fault;
use symphonia::core::formats::{FormatOptions, TrackType, probe::Hint};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;

use super::Audio;
use crate::{Error, Result};

/// What a good file is, for messages.
pub(super) const EXPECTED: &str = "a whole audio file (wav, flac, mp3, ogg, opus, m4a, aac or aiff)";

/// Packets in a row that may fail before a file counts as broken.
const MAX_BAD_PACKETS: usize = 64;

/// How much a file may hold before it is refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Seconds of sound.
    pub duration_s: f64,
    /// Decoded samples over all channels; each takes 4 bytes.
    pub samples: usize,
    /// Channels.
    pub channels: usize,
}

impl Default for Limits {
    /// 2 GiB of file, one hour, 2^28 samples (1 GiB in memory), 32 channels.
    fn default() -> Self {
        Self { file_bytes: 2 << 30, duration_s: 3600.0, samples: 1 << 28, channels: 32 }
    }
}

/// Decoded samples on their way into an [`Audio`], checked as they come.
pub(super) struct Collector<'a> {
    path: &'a Path,
    limits: &'a Limits,
    channels: Vec<Vec<f32>>,
    sample_rate_hz: u32,
}

impl<'a> Collector<'a> {
    pub(super) fn new(path: &'a Path, limits: &'a Limits) -> Self {
        Self { path, limits, channels: Vec::new(), sample_rate_hz: 0 }
    }

    /// Appends a planar block.
    pub(super) fn push(&mut self, block: &[Vec<f32>], sample_rate_hz: u32) -> Result<()> {
        let broken = |found: String| Err(Error::format(self.path, EXPECTED, found));
        if block.is_empty() || sample_rate_hz == 0 || sample_rate_hz > super::MAX_SAMPLE_RATE_HZ {
            return broken(format!("{} channels at {sample_rate_hz} Hz", block.len()));
        }
        if self.channels.is_empty() {
            self.channels = vec![Vec::new(); block.len()];
            self.sample_rate_hz = sample_rate_hz;
        }
        if (self.channels.len(), self.sample_rate_hz) != (block.len(), sample_rate_hz) {
            return broken("a stream whose rate or channels change".into());
        }
        let len = self.channels[0].len() + block[0].len();
        self.check(block.len(), len)?;
        for (channel, samples) in self.channels.iter_mut().zip(block) {
            if let Some(at) = samples.iter().position(|x| !x.is_finite()) {
                return Err(Error::format(
                    self.path,
                    "samples that are finite numbers",
                    format!("{} as sample {}", samples[at], channel.len() + at),
                ));
            }
            channel.extend_from_slice(samples);
        }
        Ok(())
    }

    /// Whether `len` samples of `channels` channels are within the limits.
    fn check(&self, channels: usize, len: usize) -> Result<()> {
        let seconds = len as f64 / f64::from(self.sample_rate_hz);
        let limits = self.limits;
        if channels > limits.channels {
            let most = format!("at most {} channels", limits.channels);
            return Err(Error::format(self.path, most, format!("{channels} channels")));
        }
        if seconds > limits.duration_s || len.saturating_mul(channels) > limits.samples {
            let most = format!("at most {} s and {} samples", limits.duration_s, limits.samples);
            return Err(Error::format(self.path, most, format!("audio of {seconds:.1} s and more")));
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.channels.first().map_or(0, Vec::len)
    }

    /// Drops all but the first `len` samples of each channel.
    #[cfg(feature = "opus")]
    pub(super) fn truncate(&mut self, len: usize) {
        self.channels.iter_mut().for_each(|channel| channel.truncate(len));
    }

    pub(super) fn finish(self) -> Result<Audio> {
        if self.len() == 0 {
            return Err(Error::format(self.path, EXPECTED, "no sample of audio"));
        }
        Ok(Audio { channels: self.channels, sample_rate_hz: self.sample_rate_hz })
    }
}

/// Reads a whole audio file at its own rate. A wav or aiff that ends early gives what it holds, with a warning.
///
/// # Errors
/// The file cannot be opened, is no audio, is broken, or exceeds the limits.
pub fn read_audio(path: impl AsRef<Path>, limits: &Limits) -> Result<Audio> {
    let path = path.as_ref();
    let meta = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
    if !meta.is_file() {
        // Opening a pipe could wait for ever, and decoders seek.
        return Err(Error::format(path, EXPECTED, if meta.is_dir() { "a folder" } else { "a device or pipe" }));
    }
    if meta.len() == 0 {
        return Err(Error::format(path, EXPECTED, "an empty file"));
    }
    if meta.len() > limits.file_bytes {
        let found = format!("{} bytes", meta.len());
        return Err(Error::format(path, format!("at most {} bytes", limits.file_bytes), found));
    }
    // Decoders of foreign bytes still panic on some of them: that must not take the program down.
    catch_unwind(AssertUnwindSafe(|| if is_opus(path)? { decode_opus(path, limits) } else { decode(path, limits) }))
        .unwrap_or_else(|_| Err(Error::format(path, EXPECTED, "data that its decoder cannot cope with")))
}

/// Whether the first page of an Ogg file opens an Opus stream.
fn is_opus(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    file.take(36).read_to_end(&mut head).map_err(|source| Error::io(path, source))?;
    Ok(head.starts_with(b"OggS") && head.ends_with(b"OpusHead"))
}

#[cfg(feature = "opus")]
use super::opus::decode as decode_opus;

#[cfg(not(feature = "opus"))]
fn decode_opus(path: &Path, _: &Limits) -> Result<Audio> {
    Err(Error::MissingFeature { feature: "opus", what: format!("reading {}", path.display()) })
}

/// A file, with the outer size of a wav file shown as open (`0xFFFFFFFF`): recorders that were stopped leave a size
/// there that the chunks within exceed, and the demuxer would refuse the whole file for it.
struct Source {
    file: File,
    position: u64,
    wave: bool,
}

impl Source {
    fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        (&mut file).take(12).read_to_end(&mut head)?;
        file.rewind()?;
        Ok(Self { file, position: 0, wave: head.starts_with(b"RIFF") && head.ends_with(b"WAVE") })
    }
}

impl Read for Source {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let len = self.file.read(bytes)?;
        for (at, byte) in (self.position..).zip(&mut bytes[..len]).take(8) {
            if self.wave && (4..8).contains(&at) {
                *byte = u8::MAX;
            }
        }
        self.position += len as u64;
        Ok(len)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.position = self.file.seek(to)?;
        Ok(self.position)
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        self.file.metadata().ok().map(|meta| meta.len())
    }
}

fn decode(path: &Path, limits: &Limits) -> Result<Audio> {
    let broken = |fault: Fault| match fault {
        Fault::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => Error::io(path, source),
        Fault::IoError(_) => Error::format(path, EXPECTED, "a file that is not audio, or ends too early"),
        Fault::Unsupported(what) => {
            tracing::debug!(path = %path.display(), what, "unsupported");
            Error::format(path, EXPECTED, "a file that is not audio, or of a kind that is not known")
        }
        other => Error::format(path, EXPECTED, other.to_string()),
    };
    let file = Source::open(path).map_err(|source| Error::io(path, source))?;
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|extension| extension.to_str()) {
        hint.with_extension(extension);
    }
    let stream = MediaSourceStream::new(Box::new(file), Default::default());
    let mut format = symphonia::default::get_probe()
        .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(broken)?;
    let none = || Error::format(path, EXPECTED, "no audio track that can be decoded");
    let track = format.default_track(TrackType::Audio).ok_or_else(none)?;
    let track_id = track.id;
    let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio()).ok_or_else(none)?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(broken)?;
    // These containers are often left unfinished by recorders; what is there is whole.
    let plain = matches!(format.format_info().short_name, "wave" | "aiff");

    let mut collected = Collector::new(path, limits);
    let mut block = Vec::new();
    let mut bad = 0;
    loop {
        let packet = match format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(Fault::IoError(source)) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                if plain && collected.len() > 0 {
                    tracing::warn!(path = %path.display(), samples = collected.len(), "the file ends early");
                    break;
                }
                let found = format!("a file that ends early, after {} samples", collected.len());
                return Err(Error::format(path, EXPECTED, found));
            }
            Err(fault) => return Err(broken(fault)),
        };
        if packet.track_id != track_id {
            continue;
        }
        match decoder.decode(&packet) {
            Ok(decoded) => {
                bad = 0;
                planar(&decoded, &mut block);
                collected.push(&block, decoded.spec().rate())?;
            }
            // The first packets of an mp3 may lack the bits they borrow from packets cut away.
            Err(fault @ (Fault::DecodeError(_) | Fault::IoError(_))) => {
                bad += 1;
                if bad > MAX_BAD_PACKETS {
                    return Err(broken(fault));
                }
                tracing::debug!(path = %path.display(), %fault, "a packet was skipped");
            }
            Err(fault) => return Err(broken(fault)),
        }
    }
    collected.finish()
}

fn planar(decoded: &GenericAudioBufferRef<'_>, block: &mut Vec<Vec<f32>>) {
    decoded.copy_to_vecs_planar(block);
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::media::tests::golden_folder;

    fn relative_error(got: &[f32], want: &[f32]) -> f64 {
        let (mut wrong, mut all) = (0.0, 0.0);
        for (got, want) in got.iter().zip(want) {
            wrong += f64::from(got - want).powi(2);
            all += f64::from(*want).powi(2);
        }
        (wrong / all).sqrt()
    }

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
                let rms = crate::media::measure::rms;
                assert_eq!(got.len(), want.len(), "{name}");
                assert!((rms(&got) / rms(&want) - 1.0).abs() < 0.1, "{name}");
                continue;
            }
            let limit = if opus { 2e-3 } else { 1e-4 };
            let best = (-2200i64..=2200)
                .filter_map(|lag| {
                    let (a, b) = if lag >= 0 { (lag as usize, 0) } else { (0, -lag as usize) };
                    let (got, want) = (got.get(a..)?, want.get(b..)?);
                    let len = got.len().min(want.len());
                    (len * 5 >= (want.len() + b) * 4).then(|| relative_error(&got[..len], &want[..len]))
                })
                .fold(f64::INFINITY, f64::min);
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
        let cases: [(&str, &[u8]); 3] = [
            ("words.wav", b"this is a text file, not audio"),
            ("empty.wav", b""),
            ("riff.wav", b"RIFF\x24\0\0\0WAVEfmt "),
        ];
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
}
