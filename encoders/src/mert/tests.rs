use musaic_core::{media::Audio, role::Cancel};
use serde_json::{Value, json};

use super::*;

fn config(changes: Value) -> Result<MertConfig> {
    let mut json = json!({
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_act": "gelu",
        "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2], "feat_extract_norm": "group",
        "feat_extract_activation": "gelu", "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
    });
    for (name, value) in changes.as_object().unwrap() {
        json[name] = value.clone();
    }
    MertConfig::from_json(Path::new("config.json"), &json)
}

/// A model that hears 100 samples a second, so that a minute is short.
fn model(changes: Value) -> Mert {
    let extractor = json!({"sampling_rate": 100, "do_normalize": true});
    let extractor = FeatureExtractor::from_json(Path::new("p"), &extractor).unwrap();
    Mert::new(&config(changes).unwrap(), extractor, &Weights::random(9, &Device::Cpu, WeightFormat::F32)).unwrap()
}

fn clip(samples: usize) -> Audio {
    Audio::mono((0..samples).map(|i| (i as f32 * 0.3).sin() * (i as f32 * 0.001).cos()).collect(), 100)
}

fn features(model: &Mert, audio: &Audio, span: AudioSpan) -> Tensor {
    model.features(Media::Audio(audio), span, &Cancel::default(), &mut |_, _| {}).unwrap()
}

fn off(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn frames_and_samples_belong_together() {
    let config = config(json!({})).unwrap();
    assert_eq!((config.min_samples(), config.frames(20), config.frames(19)), (20, 1, 0));
    for frames in 1..40 {
        let least = config.samples_of(0, frames).1;
        assert_eq!((config.frames(least), config.frames(least - 1)), (frames, frames - 1));
    }
    assert_eq!(config.samples_of(3, 5), (30, 60));
}

#[test]
fn features_are_the_means_of_all_states() {
    for changes in [json!({}), json!({"do_stable_layer_norm": true}), json!({"deepnorm": true})] {
        let model = model(changes);
        let input = model.prepare(Media::Audio(&clip(700)), AudioSpan::Whole).unwrap().remove(0);
        let mut seen: Vec<(String, Tensor)> = Vec::new();
        let features = model.forward(&input, &mut seen).unwrap();
        assert_eq!(features.dims(), [1, 3, 32]);
        for i in 0..3 {
            let state = &seen.iter().find(|(name, _)| *name == format!("hidden_state_{i}")).unwrap().1;
            assert_eq!(state.dims(), [1, model.config().frames(700), 32]);
            assert!(off(&state.mean(1).unwrap(), &features.narrow(1, i, 1).unwrap().squeeze(1).unwrap()) < 1e-5);
        }
    }
}

#[test]
fn long_sounds_are_heard_whole_or_only_their_beginning() {
    let model = model(json!({}));
    // 100 s: two halves, or the first minute.
    let long = clip(10_000);
    let part = |from: usize, to: usize| Audio::mono(long.channels[0][from..to].to_vec(), 100);
    let whole = features(&model, &long, AudioSpan::Whole);
    let (a, b) =
        (features(&model, &part(0, 5000), AudioSpan::Whole), features(&model, &part(5000, 10_000), AudioSpan::Whole));
    assert!(off(&whole, &((a + b).unwrap() / 2.0).unwrap()) < 1e-6);
    let first = features(&model, &part(0, 6000), AudioSpan::Whole);
    assert_eq!(off(&features(&model, &long, AudioSpan::First60), &first), 0.0);
    assert!(off(&whole, &first) > 1e-4);
}

#[test]
fn channels_are_averaged_and_rates_converted() {
    let model = model(json!({}));
    let mono = clip(600);
    let stereo = Audio { channels: vec![vec![0.0; 600], mono.channels[0].iter().map(|x| 2.0 * x).collect()], ..mono };
    assert!(off(&features(&model, &stereo, AudioSpan::Whole), &features(&model, &clip(600), AudioSpan::Whole)) < 1e-5);
    let fast = Audio { sample_rate_hz: 200, ..clip(600) };
    let input = model.prepare(Media::Audio(&fast), AudioSpan::Whole).unwrap();
    assert_eq!(input[0].dims(), [1, 300]);
}

#[test]
fn what_cannot_be_heard_is_refused() {
    let model = model(json!({}));
    let error = model.prepare(Media::Audio(&clip(19)), AudioSpan::Whole).unwrap_err().to_string();
    assert!(error.contains("19 samples at 100 Hz") && error.contains("at least 20"), "{error}");
    assert!(model.prepare(Media::Audio(&Audio::mono(Vec::new(), 100)), AudioSpan::Whole).is_err());
    let mut bad = clip(100);
    bad.channels[0][50] = f32::NAN;
    assert!(model.prepare(Media::Audio(&bad), AudioSpan::Whole).is_err());
    let both = Tensor::zeros((2, 100), DType::F32, &Device::Cpu).unwrap();
    assert!(model.forward(&both, &mut ()).is_err());
}

#[test]
fn settings_that_change_the_mathematics_are_not_skipped() {
    for changes in [
        json!({"feature_extractor_cqt": true}),
        json!({"conv_pos_batch_norm": true}),
        json!({"deepnorm": true, "do_stable_layer_norm": true}),
        json!({"feat_extract_norm": "batch"}),
        json!({"hidden_act": "mish"}),
        json!({"num_attention_heads": 5}),
        json!({"conv_stride": [5]}),
        json!({"conv_kernel": [0, 3]}),
    ] {
        assert!(config(changes.clone()).is_err(), "{changes}");
    }
}
