//! The components that are measured, and how.

use std::{
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use musaic_core::{
    WeightFormat,
    role::{Conditioning, DecodeOptions},
    weights::{RandomWeights, StoredAs, Weights, write_safetensors},
};
use musaic_decoders::{
    encodec::Encodec,
    musicgen::{LmConfig, Musicgen, MusicgenConfig},
    t5::T5Encoder,
};
use musaic_encoders::{
    mert::{FeatureExtractor, Mert, MertConfig},
    vision::ImageProcessor,
    vit::{Vit, VitConfig},
    vivit::{Vivit, VivitConfig},
};
use serde_json::json;

use super::{Row, llama};
use crate::{
    failure::BadInput,
    pipeline::{preflight, speed::Step},
};

/// Steps of the language model that are timed: the first five seconds of a take.
const STEPS: usize = 250;
/// Tokens of the prompt.
const PROMPT_TOKENS: usize = 32;
/// Seconds of sound for the codec.
const CODEC_S: usize = 10;
/// The best of this many runs counts, for the components that take less than seconds.
const RUNS: usize = 5;
/// And of this many for the encoders that take seconds.
const HEAVY_RUNS: usize = 2;
/// Seconds of music for the music encoder.
const MUSIC_S: usize = 30;

/// Published configurations, by size.
const CONFIGS: [(&str, &str); 3] = [
    ("small", include_str!("../../tests/published-names/facebook__musicgen-small.json")),
    ("medium", include_str!("../../tests/published-names/facebook__musicgen-medium.json")),
    ("large", include_str!("../../tests/published-names/facebook__musicgen-large.json")),
];

/// Published configurations of the encoders.
const MERT_CONFIGS: [(&str, &str); 2] = [
    ("95m", include_str!("../../tests/published-names/m-a-p__MERT-v1-95M.json")),
    ("330m", include_str!("../../tests/published-names/m-a-p__MERT-v1-330M.json")),
];
const VIT_CONFIG: &str = include_str!("../../tests/published-names/google__vit-base-patch16-224-in21k.json");
const VIVIT_CONFIG: &str = include_str!("../../tests/published-names/google__vivit-b-16x2-kinetics400.json");

/// What runs without `--only`.
pub const DEFAULT: [&str; 15] = [
    "lm:small:f32",
    "lm:small:bf16",
    "lm:small:f16",
    "lm:small:q8_0",
    "lm:small:q4_k",
    "lm:medium:bf16",
    "lm:medium:q8_0",
    "encodec:decode",
    "encodec:encode",
    "t5:f32",
    "mert:330m:f32",
    "vit:f32",
    "vivit:f32",
    "load:small:bf16",
    "nano:first-sound",
];

/// Measures one component in this process.
///
/// # Errors
/// The name is unknown, or the component fails.
pub fn measure(name: &str, device: &Device) -> anyhow::Result<Row> {
    let parts: Vec<_> = name.split(':').collect();
    let row = match parts.as_slice() {
        ["lm", size, format] => language_model(size, format.parse()?, device)?,
        ["encodec", "decode"] => codec_decode(device)?,
        ["encodec", "encode"] => codec_encode(device)?,
        ["t5", format] => text_encoder(format.parse()?, device)?,
        ["mert", size, format] => music_encoder(size, format.parse()?, device)?,
        ["vit", format] => picture_encoder(format.parse()?, device)?,
        ["vivit", format] => video_encoder(format.parse()?, device)?,
        ["load", size, format] => load(size, format.parse()?, device)?,
        ["llama", size, format, "prefill"] => llama::prefill(size, format.parse()?, device)?,
        ["llama", size, format, "decode"] => llama::decode(size, format.parse()?, device)?,
        ["nano", "first-sound"] => first_sound()?,
        _ => return Err(unknown(name).into()),
    };
    Ok(Row { component: name.into(), peak_memory_bytes: preflight::peak_memory(), ..row })
}

/// Refuses names that [`measure`] does not know, before anything is measured.
///
/// # Errors
/// The name, its size or its format is unknown.
pub fn check(name: &str) -> anyhow::Result<()> {
    let parts: Vec<_> = name.split(':').collect();
    match parts.as_slice() {
        ["lm" | "load", size, format] => {
            config(size)?;
            format.parse::<WeightFormat>()?;
        }
        ["mert", size, format] => {
            mert_config(size)?;
            format.parse::<WeightFormat>()?;
        }
        ["llama", size, format, "prefill" | "decode"] => {
            llama::config(size)?;
            format.parse::<WeightFormat>()?;
        }
        ["t5" | "vit" | "vivit", format] => {
            format.parse::<WeightFormat>()?;
        }
        ["encodec", "decode" | "encode"] | ["nano", "first-sound"] => {}
        _ => return Err(unknown(name).into()),
    }
    Ok(())
}

fn unknown(name: &str) -> BadInput {
    BadInput::new(format!(
        "component: `{name}`, expected lm:SIZE:FORMAT, encodec:decode, encodec:encode, t5:FORMAT, mert:SIZE:FORMAT, vit:FORMAT, vivit:FORMAT, load:SIZE:FORMAT, llama:SIZE:FORMAT:prefill, llama:SIZE:FORMAT:decode or nano:first-sound"
    ))
    .hint("SIZE is small, medium or large (of mert 95m or 330m, of llama 7b or 135m), and FORMAT one of f32, bf16, f16, q8_0 and q4_k")
}

pub(super) fn row(about: String, value: f64, unit: &str) -> Row {
    Row {
        component: String::new(),
        about,
        value,
        unit: unit.into(),
        bytes_per_unit: None,
        share_of_limit: None,
        peak_memory_bytes: None,
        weight_bytes: None,
    }
}

fn config(size: &str) -> anyhow::Result<MusicgenConfig> {
    let (_, text) = CONFIGS.iter().find(|(name, _)| *name == size).ok_or_else(|| {
        BadInput::new(format!("size: `{size}`, expected one of {}", CONFIGS.map(|(name, _)| name).join(", ")))
    })?;
    Ok(MusicgenConfig::from_json(Path::new(size), &serde_json::from_str(text)?)?)
}

fn language_model(size: &str, format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let config = config(size)?;
    let (model, _) = Musicgen::from_weights(&config, &Weights::random(1, device, format))?;
    let width = config.text_encoder.d_model;
    let states = Tensor::randn(0f32, 1.0, (1, PROMPT_TOKENS, width), device)?;
    let options = DecodeOptions { seed: 1, half_cache: true, ..DecodeOptions::default() };
    let mut generation = model.begin(&Conditioning::States(states), &options, None, STEPS)?;
    let started = Instant::now();
    for _ in 0..STEPS {
        generation.step(&mut ())?;
    }
    let rate = STEPS as f64 / started.elapsed().as_secs_f64();
    let weights = Step::of(&config.decoder).parameters as f64 * format.bits() / 8.0;
    let mut row =
        row(format!("MusicGen {size}, guided step in {format}, mean of the first {STEPS}, f16 cache"), rate, "steps/s");
    row.bytes_per_unit = Some(weights + cache_bytes(&config.decoder));
    row.weight_bytes = Some(weights);
    Ok(row)
}

/// Bytes of keys and values that an average one of the timed steps reads, two rows of f16.
fn cache_bytes(lm: &LmConfig) -> f64 {
    let positions = STEPS as f64 / 2.0 + PROMPT_TOKENS as f64;
    2.0 * 2.0 * 2.0 * (lm.num_hidden_layers * lm.hidden_size) as f64 * positions
}

fn codec_decode(device: &Device) -> anyhow::Result<Row> {
    let config = config("small")?.audio_encoder;
    let codec = Encodec::load(&config, &Weights::random(1, device, WeightFormat::F32))?;
    let frames = CODEC_S * config.frame_rate();
    let codes: Vec<u32> =
        (0..config.num_quantizers() * frames).map(|i| (i * 7919 % config.codebook_size) as u32).collect();
    let codes = Tensor::from_vec(codes, (1, config.num_quantizers(), frames), device)?;
    let seconds = best(|| codec.decode_codes(&codes))?;
    Ok(row(format!("EnCodec 32 kHz, {CODEC_S} s of codes to sound, f32"), CODEC_S as f64 / seconds, "x real time"))
}

fn codec_encode(device: &Device) -> anyhow::Result<Row> {
    let config = config("small")?.audio_encoder;
    let codec = Encodec::load(&config, &Weights::random(1, device, WeightFormat::F32))?;
    let sound = Tensor::randn(0f32, 0.1, (1, 1, CODEC_S * config.sampling_rate as usize), device)?;
    let seconds = best(|| codec.encode_codes(&sound, None))?;
    Ok(row(format!("EnCodec 32 kHz, {CODEC_S} s of sound to codes, f32"), CODEC_S as f64 / seconds, "x real time"))
}

fn text_encoder(format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let config = config("small")?.text_encoder;
    let encoder = T5Encoder::load(&config, &Weights::random(1, device, format))?;
    let ids: Vec<u32> = (0..PROMPT_TOKENS as u32).map(|i| i * 31 % 32_000).collect();
    let ids = Tensor::from_vec(ids, (1, PROMPT_TOKENS), device)?;
    let mask = Tensor::ones((1, PROMPT_TOKENS), DType::F32, device)?;
    let seconds = best(|| Ok(encoder.forward(&ids, &mask, &mut ())?))?;
    Ok(row(format!("T5 base, one prompt of {PROMPT_TOKENS} tokens, {format}"), 1.0 / seconds, "prompts/s"))
}

fn mert_config(size: &str) -> anyhow::Result<MertConfig> {
    let (_, text) = MERT_CONFIGS.iter().find(|(name, _)| *name == size).ok_or_else(|| {
        BadInput::new(format!("size: `{size}`, expected one of {}", MERT_CONFIGS.map(|(name, _)| name).join(", ")))
    })?;
    Ok(MertConfig::from_json(Path::new(size), &serde_json::from_str(text)?)?)
}

fn music_encoder(size: &str, format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let config = mert_config(size)?;
    let extractor = FeatureExtractor::from_json(Path::new("mert"), &json!({"sampling_rate": 24000}))?;
    let model = Mert::new(&config, extractor, &Weights::random(1, device, format))?;
    let samples = Tensor::randn(0f32, 1.0, (1, MUSIC_S * 24_000), &Device::Cpu)?;
    let seconds = best_of(HEAVY_RUNS, || model.forward(&samples, &mut ()))?;
    Ok(row(format!("MERT {size}, {MUSIC_S} s of music to the states of all layers, {format}"), seconds, "s"))
}

fn picture_encoder(format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let config = VitConfig::from_json(Path::new("vit"), &serde_json::from_str(VIT_CONFIG)?)?;
    let processor = ImageProcessor::image_from_json(Path::new("vit"), &json!({}))?;
    let model = Vit::new(&config, processor, &Weights::random(1, device, format))?;
    let pixels = Tensor::randn(0f32, 1.0, (1, 3, config.vision.image_size, config.vision.image_size), &Device::Cpu)?;
    let seconds = best(|| model.forward(&pixels, &mut ()))?;
    Ok(row(format!("ViT base, one picture of 224 x 224, {format}"), seconds, "s"))
}

fn video_encoder(format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let config = VivitConfig::from_json(Path::new("vivit"), &serde_json::from_str(VIVIT_CONFIG)?)?;
    let processor = ImageProcessor::video_from_json(Path::new("vivit"), &json!({}))?;
    let model = Vivit::new(&config, processor, &Weights::random(1, device, format))?;
    let shape = (1, config.num_frames, 3, config.vision.image_size, config.vision.image_size);
    let pixels = Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?;
    let seconds = best_of(HEAVY_RUNS, || model.forward(&pixels, &mut ()))?;
    Ok(row(format!("ViViT base, {} pictures of 224 x 224, {format}", config.num_frames), seconds, "s"))
}

/// Seconds of the best of several runs after one that warms up.
fn best(run: impl FnMut() -> musaic_core::Result<Tensor>) -> anyhow::Result<f64> {
    best_of(RUNS, run)
}

/// As [`best`], of `runs` runs.
fn best_of(runs: usize, mut run: impl FnMut() -> musaic_core::Result<Tensor>) -> anyhow::Result<f64> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let started = Instant::now();
        run()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Writes a checkpoint of the published layout once, then loads it: the load is what the peak memory is about.
fn load(size: &str, format: WeightFormat, device: &Device) -> anyhow::Result<Row> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let config = config(size)?;
    write_random(size, &path)?;
    let started = Instant::now();
    let (_model, report) = Musicgen::from_weights(&config, &Weights::open(&path, device, format)?)?;
    let seconds = started.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&path)?.len() as f64;
    let mut row = row(
        format!(
            "MusicGen {size}, {} tensors of an f32 checkpoint ({:.2} GB) into {format} in {seconds:.2} s, file in the page cache",
            report.applied.len(),
            bytes / 1e9
        ),
        bytes / seconds / 1e9,
        "GB/s read",
    );
    row.weight_bytes = Some(bytes / 32.0 * format.bits());
    Ok(row)
}

/// Every published name and shape, with random values, streamed to a file.
fn write_random(size: &str, path: &Path) -> anyhow::Result<()> {
    let table = match size {
        "small" => include_str!("../../tests/published-names/facebook__musicgen-small.tsv"),
        "medium" => include_str!("../../tests/published-names/facebook__musicgen-medium.tsv"),
        _ => include_str!("../../tests/published-names/facebook__musicgen-large.tsv"),
    };
    let names = table
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, shape)| {
            let dims = shape.trim_matches(['[', ']']).split(',').map(|d| d.trim().parse());
            Ok((name.to_owned(), dims.collect::<Result<Vec<usize>, _>>().with_context(|| format!("shape {shape}"))?))
        })
        .collect::<anyhow::Result<_>>()?;
    let source = RandomWeights::new(1).with_names(names);
    write_safetensors(path, &source, &std::collections::BTreeMap::new(), &|_, _| Some(StoredAs::F32))?;
    Ok(())
}

/// From starting the program to the first sample of ten seconds of music on its standard output, loading included.
fn first_sound() -> anyhow::Result<Row> {
    let mut fastest = f64::INFINITY;
    let mut whole = f64::INFINITY;
    for _ in 0..RUNS {
        let started = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["generate", "calm piano melody", "--seed", "1", "--quiet", "-o", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut out = child.stdout.take().context("a pipe")?;
        // The header comes at once; these bytes are sound.
        let mut first = [0; 4096];
        out.read_exact(&mut first)?;
        fastest = fastest.min(started.elapsed().as_secs_f64());
        out.read_to_end(&mut Vec::new())?;
        child.wait()?;
        whole = whole.min(started.elapsed().as_secs_f64());
    }
    Ok(row(format!("nano, from start to first sound, loading included (10 s whole: {whole:.2} s)"), fastest, "s"))
}
