//! The model under test, and a folder in which what it made is kept, so that a run that was stopped goes on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use musaic_core::{
    Error, Result, WeightFormat,
    files::write_atomic,
    media::{AudioWriter, Limits, WriteOptions, read_audio, resample},
    role::{Cancel, Conditioning, DecodeOptions},
};
use musaic_decoders::musicgen::{Musicgen, delay::Codes};

use super::CLIP_S;
use crate::{
    listen::{RATE_HZ, Ranker, hear},
    pipeline::openings::choose,
};

/// A clip as the codec gives it, and the first codebook of its codes.
#[derive(Debug, Clone)]
pub struct Clip {
    /// Mono, at [`RATE_HZ`].
    pub samples: Vec<f32>,
    /// Codes of the first codebook.
    pub codes: Vec<u32>,
}

/// A loaded model with its folder of clips.
pub struct Maker {
    model: Musicgen,
    ranker: Option<Ranker>,
    folder: PathBuf,
}

impl Maker {
    /// Keeps what `model` makes under `folder`; the name of the weights should be part of it.
    pub fn new(model: Musicgen, ranker: Option<Ranker>, folder: PathBuf) -> Self {
        Self { model, ranker, folder }
    }

    /// Samples a second of the codec.
    pub fn rate(&self) -> u32 {
        self.model.codec().config().sampling_rate as u32
    }

    /// [`CLIP_S`] seconds of a piece through the codec.
    ///
    /// # Errors
    /// A file cannot be read or written, or the arithmetic fails.
    pub fn through_codec(&self, split: &str, path: &Path, id: u64, part: Part) -> Result<Clip> {
        let base = self.folder.join(split).join(format!("{id:06}{}", part.suffix()));
        if let Some(clip) = kept(&base)? {
            return Ok(clip);
        }
        let samples = part.of(&self.read(path)?, self.rate());
        self.keep(&base, &self.encode(&samples)?)
    }

    /// A file as mono at the codec's rate.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &Path) -> Result<Vec<f32>> {
        let audio = read_audio(path, &Limits::default())?;
        Ok(resample(&audio, self.rate())?.mixdown())
    }

    /// To codes.
    ///
    /// # Errors
    /// The arithmetic fails.
    pub fn encode(&self, samples: &[f32]) -> Result<Codes> {
        let audio = Tensor::from_slice(samples, (1, 1, samples.len()), &Device::Cpu)?;
        let codes = self.model.codec().encode_codes(&audio, None)?;
        let codebooks = codes.dim(1)?;
        Codes::from_tensor(&codes, codebooks)
    }

    /// From codes to mono at [`RATE_HZ`].
    ///
    /// # Errors
    /// A code is out of range, or the arithmetic fails.
    pub fn decode(&self, codes: &Codes) -> Result<Vec<f32>> {
        hear(self.model.waveform(codes)?.flatten_all()?.to_vec1()?, self.rate())
    }

    /// The clip of these codes, which is written as well.
    fn keep(&self, base: &Path, codes: &Codes) -> Result<Clip> {
        let clip = Clip { samples: self.decode(codes)?, codes: codes.row(0).to_vec() };
        keep(base, &clip)?;
        Ok(clip)
    }

    /// A clip from a prompt; `name` is its place in the folder.
    ///
    /// # Errors
    /// The model refuses the prompt, the arithmetic fails or a file cannot be written.
    pub fn generate(
        &mut self,
        name: &str,
        prompt: &str,
        seed: u64,
        options: &DecodeOptions,
        openings: u32,
    ) -> Result<Clip> {
        let base = self.folder.join("generated").join(name);
        if let Some(clip) = kept(&base)? {
            return Ok(clip);
        }
        let frames = CLIP_S * self.model.codec().config().frame_rate();
        let mut options = DecodeOptions { seed, ..options.clone() };
        let words = Conditioning::Text(prompt.to_owned());
        if let Some(ranker) = &self.ranker {
            options.opening = choose(&mut self.model, ranker, &words, &options, openings, &Cancel::default())?;
        }
        let codes = self.model.begin(&words, &options, None, frames)?.run()?;
        self.keep(&base, &codes)
    }
}

/// A model, what chooses among its openings, and the hash of its weights.
pub struct Loaded {
    /// The model.
    pub model: Musicgen,
    /// What chooses, if it comes with the model.
    pub ranker: Option<Ranker>,
    /// SHA-256 of its weights.
    pub sha256: String,
}

/// Loads what the configuration names; a model of more than one channel is refused.
///
/// # Errors
/// It cannot be loaded.
pub fn load(name: &str, format: Option<WeightFormat>) -> anyhow::Result<Loaded> {
    let store = crate::pipeline::store::Store::open(&crate::pipeline::models::find(name)?)?;
    let format = format.unwrap_or_else(|| store.preferred_format(&Device::Cpu));
    let model = store.load_musicgen(&Device::Cpu, format)?;
    let channels = model.config().decoder.audio_channels;
    if channels != 1 {
        return Err(Error::argument("model", format!("{channels} channels"), "a mono model").into());
    }
    Ok(Loaded { model, ranker: store.ranker()?, sha256: store.sha256()? })
}

/// Which [`CLIP_S`] seconds of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// From its start.
    First,
    /// Around its middle.
    Middle,
    /// Up to its end.
    Last,
}

impl Part {
    fn suffix(self) -> &'static str {
        match self {
            Self::First => "-first",
            Self::Middle => "",
            Self::Last => "-last",
        }
    }

    fn of(self, samples: &[f32], rate: u32) -> Vec<f32> {
        let length = CLIP_S * rate as usize;
        let spare = samples.len().saturating_sub(length);
        let begin = match self {
            Self::First => 0,
            Self::Middle => spare / 2,
            Self::Last => spare,
        };
        // Whole frames of 20 ms, so that a clip starts on one.
        let frame = rate as usize / 50;
        let first = begin / frame * frame;
        samples[first..samples.len().min(first + length)].to_vec()
    }
}

fn kept(base: &Path) -> Result<Option<Clip>> {
    let (audio, codes) = (base.with_extension("wav"), base.with_extension("codes"));
    if !audio.is_file() || !codes.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&codes).map_err(|e| Error::io(&codes, e))?;
    let ids = text.split_whitespace().map(|id| id.parse::<u32>());
    let ids = ids.collect::<std::result::Result<_, _>>();
    let ids = ids.map_err(|e| Error::format(&codes, "numbers", e.to_string()))?;
    let audio = resample(&read_audio(&audio, &Limits::default())?, RATE_HZ)?;
    Ok(Some(Clip { samples: audio.mixdown(), codes: ids }))
}

/// The codes come last: where they are, the audio is whole.
fn keep(base: &Path, clip: &Clip) -> Result<()> {
    if let Some(folder) = base.parent() {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let path = base.with_extension("wav");
    let options = WriteOptions::default().with_overwrite(true);
    let mut writer = AudioWriter::create(&path, RATE_HZ, 1, &options)?;
    writer.write(&[&clip.samples])?;
    writer.finish()?;
    let ids: Vec<String> = clip.codes.iter().map(u32::to_string).collect();
    let path = base.with_extension("codes");
    write_atomic(&path, ids.join(" ").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_is_at_one_rate_made_or_read_back() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/musicgen/tiny/model");
        let Loaded { model, ranker, .. } = load(&model.display().to_string(), None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut maker = Maker::new(model, ranker, folder.path().to_owned());
        assert_eq!(maker.rate(), 2 * RATE_HZ);
        let options = DecodeOptions::default();
        let mut clip = || maker.generate("a", "calm piano", 1, &options, 1).unwrap();
        let (made, read) = (clip(), clip());
        assert_eq!(made.samples.len(), CLIP_S * RATE_HZ as usize);
        assert_eq!((made.samples.len(), &made.codes), (read.samples.len(), &read.codes));
        // A file holds what is at full scale or below.
        let differences = made.samples.iter().zip(&read.samples).map(|(a, b)| (a.clamp(-1.0, 1.0) - b).abs());
        let difference = differences.fold(0.0, f32::max);
        assert!(difference < 1e-3, "{difference}");
    }
}
