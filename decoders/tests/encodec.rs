//! EnCodec: parity with the reference, published names, and the same answer in blocks as on the whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, too

mod musicgen_common;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{Device, Tensor};
use musaic_core::{WeightFormat, weights::Weights};
use musaic_decoders::encodec::{Encodec, EncodecConfig, Encoded, NormType, PadMode};
use musicgen_common::{Checked, golden};
use proptest::prelude::*;

fn load(dir: &Path) -> Encodec {
    let path = dir.join("config.json");
    let json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let config = EncodecConfig::from_json(&path, &json).unwrap();
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights = Weights::from_tensors(tensors, &Device::Cpu, WeightFormat::F32);
    let model = Encodec::load(&config, &weights).unwrap();
    weights.finish().unwrap();
    model
}

fn largest_gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// The 32 kHz form of MusicGen, under both spellings of weight norm.
#[test]
fn musicgen_form() {
    for spelling in ["model", "model_parametrized"] {
        let mut check = Checked::open("musicgen/encodec");
        let model = load(&golden("musicgen/encodec").join(spelling));
        for length in [2501, 3200, 700] {
            let waveform = check.input(&format!("in.waveform_{length}"));
            let mut seen = Vec::new();
            let encoded = model.encode_probed(&waveform, None, None, &mut seen).unwrap();
            let codes = encoded.codes.squeeze(0).unwrap();
            let waveform = model.decode_probed(&codes, &mut seen).unwrap();
            for (name, value) in &seen {
                if name == "latents" {
                    check.see(&format!("mid.latents_{length}"), value);
                } else if length == 2501 {
                    // Layers were kept for the first sample of the batch.
                    let value = if name.contains(".layers.") { value.narrow(0, 0, 1).unwrap() } else { value.clone() };
                    check.see(&format!("mid.{name}"), &value);
                }
            }
            check.see(&format!("out.codes_{length}"), &encoded.codes);
            check.see(&format!("out.decoded_{length}"), &waveform);
        }
        let (waveform, mask) = (check.input("in.waveform_padded"), check.input("in.padding_mask"));
        check.see("out.codes_padded", &model.encode(&waveform, Some(&mask), None).unwrap().codes);
        let codes = check.input("in.random_codes").squeeze(0).unwrap();
        check.see("out.decoded_random_codes", &model.decode_codes(&codes).unwrap());
        check.finish();
    }
}

/// Stereo, loudness, chunks and group norm; causal convolutions; several bit rates and residual layers.
#[test]
fn other_forms() {
    for case in ["musicgen/encodec_48khz_style", "musicgen/encodec_deep"] {
        let mut check = Checked::open(case);
        for form in ["chunked", "causal"] {
            let model = load(&golden(case).join("model").join(form));
            let waveform = check.input(&format!("in.{form}"));
            for &bandwidth in &model.config().target_bandwidths {
                let encoded = model.encode(&waveform, None, Some(bandwidth)).unwrap();
                let name = |what: &str| format!("out.{form}.{what}_bw{bandwidth}");
                check.see(&name("codes"), &encoded.codes);
                if let Some(scales) = &encoded.scales {
                    check.see(&name("scales"), scales);
                }
                let pad = Tensor::new(encoded.last_frame_pad_length as i64, &Device::Cpu).unwrap();
                check.see(&name("last_frame_pad_length"), &pad);
                check.see(&name("decoded"), &model.decode(&encoded, None).unwrap());
                let masked = format!("out.{form}.decoded_masked");
                if check.case.stored(&masked).is_some() && Some(&bandwidth) == model.config().target_bandwidths.last() {
                    let samples = waveform.dim(2).unwrap();
                    check.see(&masked, &model.decode(&encoded, Some(samples)).unwrap());
                }
            }
        }
        check.finish();
    }
}

/// The codec of every published MusicGen, whose folders say the same about it.
fn published() -> EncodecConfig {
    EncodecConfig {
        target_bandwidths: vec![2.2],
        sampling_rate: 32_000,
        num_filters: 64,
        upsampling_ratios: vec![8, 5, 4, 4],
        codebook_size: 2048,
        codebook_dim: Some(128),
        use_causal_conv: false,
        use_conv_shortcut: false,
        ..EncodecConfig::default()
    }
}

#[test]
fn published_names_and_shapes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/published-names");
    let mut tables = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let table = std::fs::read_to_string(&path).unwrap();
        let names: BTreeMap<String, Vec<usize>> = table
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(name, _)| name.starts_with("audio_encoder."))
            .map(|(name, shape)| (name.to_owned(), shape.split(',').map(|size| size.trim().parse().unwrap()).collect()))
            .collect();
        if names.is_empty() {
            continue;
        }
        let weights = Weights::from_names(names);
        let model = Encodec::load(&published(), &weights.pp("audio_encoder")).unwrap();
        weights.finish().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!((model.codebooks(), model.config().hop_length(), model.config().frame_rate()), (4, 640, 50));
        tables += 1;
    }
    assert!(tables >= 1);
}

#[test]
fn unknown_mathematics_is_refused() {
    let read = |json: serde_json::Value| EncodecConfig::from_json(Path::new("config.json"), &json);
    assert!(read(serde_json::json!({"architectures": ["EncodecModel"], "transformers_version": "4"})).is_ok());
    for (json, named) in [
        (serde_json::json!({"norm_type": "layer_norm"}), "layer_norm"),
        (serde_json::json!({"pad_mode": "circular"}), "circular"),
        (serde_json::json!({"model_type": "dac"}), "model_type"),
        (serde_json::json!({"use_causal_conv": false, "trim_right_ratio": 0.5}), "trim_right_ratio"),
        (serde_json::json!({"codebook_dim": 64}), "codebook_dim"),
        (serde_json::json!({"chunk_length_s": 1.0}), "overlap"),
        (serde_json::json!({"num_filters": 1_u64 << 40}), "num_filters"),
        (serde_json::json!({"upsampling_ratios": [0, 4]}), "upsampling_ratios"),
        (serde_json::json!({"upsampling_ratios": vec![2; 90]}), "upsampling_ratios"),
        (serde_json::json!({"target_bandwidths": []}), "target_bandwidths"),
        (serde_json::json!({"dilation_growth_rate": 1_u64 << 60, "num_residual_layers": 3}), "dilation_growth_rate"),
    ] {
        let message = read(json).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn wrong_input_is_refused() {
    let model = random(&small(), 1);
    let silence = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(model.encode(&silence(&[1, 2, 100]), None, None).is_err());
    assert!(model.encode(&silence(&[1, 1, 0]), None, None).is_err());
    assert!(model.encode(&silence(&[1, 1, 100]), None, Some(77.0)).is_err());
    let codes = Tensor::full(32_u32, (1, 3, 5), &Device::Cpu).unwrap();
    assert!(model.decode_codes(&codes).is_err());
    let chunked = EncodecConfig { chunk_length_s: Some(1.0), overlap: Some(0.5), ..small() };
    assert!(random(&chunked, 1).stream().is_err());
}

fn small() -> EncodecConfig {
    EncodecConfig {
        sampling_rate: 1600,
        target_bandwidths: vec![2.0, 3.0],
        num_filters: 4,
        hidden_size: 8,
        codebook_size: 32,
        upsampling_ratios: vec![4, 2],
        ..EncodecConfig::default()
    }
}

/// A model of this form with seeded weights.
fn random(config: &EncodecConfig, seed: u64) -> Encodec {
    let nothing = Weights::from_names(BTreeMap::new());
    Encodec::load(config, &nothing).unwrap();
    let mut state = seed;
    let mut tensors = HashMap::new();
    for wanted in nothing.report().missing {
        let count: usize = wanted.shape.iter().product();
        let scale = if wanted.name.ends_with("embed") { 1.0 } else { 0.6 };
        let values: Vec<f32> = (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect();
        tensors.insert(wanted.name, Tensor::from_vec(values, wanted.shape, &Device::Cpu).unwrap());
    }
    let weights = Weights::from_tensors(tensors, &Device::Cpu, WeightFormat::F32);
    let model = Encodec::load(config, &weights).unwrap();
    weights.finish().unwrap();
    model
}

fn random_codes(config: &EncodecConfig, batch: usize, frames: usize, seed: usize) -> Tensor {
    let books = config.num_quantizers();
    let codes: Vec<u32> = (0..batch * books * frames)
        .map(|i| ((i * 7919 + seed * 104_729 + i * i * 31) % config.codebook_size) as u32)
        .collect();
    Tensor::from_vec(codes, (batch, books, frames), &Device::Cpu).unwrap()
}

fn wave(batch: usize, channels: usize, samples: usize) -> Tensor {
    let values: Vec<f32> = (0..batch * channels * samples)
        .map(|i| {
            let t = i as f32;
            0.4 * (t * 0.031).sin() + 0.3 * (t * 0.17 + (t * 0.001).cos()).sin()
        })
        .collect();
    Tensor::from_vec(values, (batch, channels, samples), &Device::Cpu).unwrap()
}

fn form() -> impl Strategy<Value = EncodecConfig> {
    (
        (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_usize, 1..3_usize),
        prop::collection::vec(1..6_usize, 1..4),
        (1..8_usize, 1..8_usize, 1..5_usize, 1..3_usize, prop::sample::select(vec![0.0, 0.3, 1.0])),
    )
        .prop_map(|((causal, constant, shortcut, residual, lstm), ratios, (first, last, taps, growth, trim))| {
            EncodecConfig {
                use_causal_conv: causal,
                pad_mode: if constant { PadMode::Constant } else { PadMode::Reflect },
                use_conv_shortcut: shortcut,
                num_residual_layers: residual,
                num_lstm_layers: lstm,
                upsampling_ratios: ratios,
                kernel_size: first,
                last_kernel_size: last,
                residual_kernel_size: taps,
                dilation_growth_rate: growth,
                trim_right_ratio: if causal { trim } else { 1.0 },
                sampling_rate: 4000,
                target_bandwidths: vec![60.0],
                ..small()
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Codes in blocks of any size give the samples of all codes at once, for any architecture that can stream.
    #[test]
    fn streamed_is_whole(config in form(), frames in 1..40_usize, blocks in prop::collection::vec(0..7_usize, 0..40)) {
        let config = EncodecConfig { target_bandwidths: vec![config.frame_rate() as f64 * 5.0 * 2.0 / 1000.0], ..config };
        let model = random(&config, 7);
        let codes = random_codes(&config, 2, frames, frames);
        let whole = model.decode_probed(&codes, &mut ()).unwrap();
        prop_assert_eq!(whole.dims(), &[2, 1, frames * config.hop_length()]);

        let mut stream = model.stream().unwrap();
        let mut parts = Vec::new();
        let mut at = 0;
        for block in blocks.into_iter().chain([frames]) {
            let count = block.min(frames - at);
            parts.extend(stream.push(&codes.narrow(2, at, count).unwrap()).unwrap());
            at += count;
        }
        parts.extend(stream.finish().unwrap());
        let gap = largest_gap(&Tensor::cat(&parts, 2).unwrap(), &whole);
        prop_assert!(gap <= 1e-6, "{gap}");
    }

    /// Long signals are run in blocks without anybody noticing.
    #[test]
    fn long_is_whole(config in form(), frames in 60..150_usize, short in 0..5_usize) {
        let config = EncodecConfig { target_bandwidths: vec![config.frame_rate() as f64 * 5.0 * 2.0 / 1000.0], ..config };
        let model = random(&config, 11);
        let waveform = wave(1, 1, frames * config.hop_length() - short.min(config.hop_length() - 1));
        let blocks = model.encode(&waveform, None, None).unwrap();
        let mut seen = Vec::new();
        let whole = model.encode_probed(&waveform, None, None, &mut seen).unwrap();
        prop_assert_eq!(blocks.codes.flatten_all().unwrap().to_vec1::<u32>().unwrap(), whole.codes.flatten_all().unwrap().to_vec1::<u32>().unwrap());
        let codes = whole.codes.squeeze(0).unwrap();
        let gap = largest_gap(&model.decode_codes(&codes).unwrap(), &model.decode_probed(&codes, &mut ()).unwrap());
        prop_assert!(gap <= 1e-6, "{gap}");
    }
}

/// What is heard first comes early: a few frames after the first code, and every frame then brings a frame of sound.
#[test]
fn streaming_lags_by_few_frames() {
    let config = EncodecConfig { upsampling_ratios: vec![8, 5, 4, 4], sampling_rate: 32_000, ..published_small() };
    let model = random(&config, 3);
    let codes = random_codes(&config, 1, 30, 5);
    let mut stream = model.stream().unwrap();
    let mut heard = 0;
    for frame in 0..30 {
        let part = stream.push(&codes.narrow(2, frame, 1).unwrap()).unwrap();
        heard += part.map_or(0, |part| part.dim(2).unwrap());
        let lag = (frame + 1) * 640 - heard;
        assert!(lag <= 5 * 640, "{lag} samples after frame {frame}");
    }
    assert!(stream.finish().unwrap().is_some());
}

fn published_small() -> EncodecConfig {
    EncodecConfig { num_filters: 2, hidden_size: 8, codebook_size: 32, codebook_dim: Some(8), ..published() }
}

/// A batch of two is two batches of one, and decoding is the inverse layout of encoding.
#[test]
fn batch_is_singles() {
    for norm_type in [NormType::WeightNorm, NormType::TimeGroupNorm] {
        let config =
            EncodecConfig { norm_type, normalize: true, chunk_length_s: Some(0.1), overlap: Some(0.1), ..small() };
        let model = random(&config, 5);
        let waveform = wave(2, 1, 500);
        let both = model.encode(&waveform, None, Some(3.0)).unwrap();
        let sound = model.decode(&both, Some(500)).unwrap();
        assert_eq!(sound.dims(), [2, 1, 500]);
        for i in 0..2 {
            let one = model.encode(&waveform.narrow(0, i, 1).unwrap(), None, Some(3.0)).unwrap();
            let want = both.codes.narrow(1, i, 1).unwrap().flatten_all().unwrap().to_vec1::<u32>().unwrap();
            assert_eq!(one.codes.flatten_all().unwrap().to_vec1::<u32>().unwrap(), want);
            let one: Encoded = one;
            let gap = largest_gap(&model.decode(&one, Some(500)).unwrap(), &sound.narrow(0, i, 1).unwrap());
            assert!(gap <= 1e-5, "{gap}");
        }
    }
}
