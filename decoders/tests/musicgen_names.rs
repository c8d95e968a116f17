//! The published checkpoints fit the models built from their configurations: every name and shape, none missing, none left.
#![allow(clippy::unwrap_used, clippy::panic)]

mod musicgen_common;

use std::{collections::BTreeMap, fs, path::PathBuf};

use musaic_core::weights::Weights;
use musaic_decoders::musicgen::{Musicgen, MusicgenConfig};

fn tables() -> PathBuf {
    let here = std::env::current_dir().unwrap();
    let workspace = here.ancestors().find(|dir| dir.join("tests/published-names").is_dir()).unwrap();
    workspace.join("tests/published-names")
}

fn published(model: &str) -> (MusicgenConfig, BTreeMap<String, Vec<usize>>) {
    let config = MusicgenConfig::open(&tables().join(format!("facebook__{model}.json"))).unwrap();
    let table = fs::read_to_string(tables().join(format!("facebook__{model}.tsv"))).unwrap();
    let names = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (name, shape) = line.split_once('\t').unwrap();
        let shape = shape.split(',').filter(|size| !size.is_empty()).map(|size| size.parse().unwrap()).collect();
        (name.to_owned(), shape)
    });
    (config, names.collect())
}

#[test]
fn every_published_name_and_shape_is_matched() {
    let models = [
        ("musicgen-small", 611, 419_584_000),
        ("musicgen-medium", 995, 1_837_556_736),
        ("musicgen-large", 995, 3_255_382_016),
        ("musicgen-stereo-small", 619, 436_365_312),
        ("musicgen-stereo-medium", 1003, 1_862_728_704),
        ("musicgen-stereo-large", 1003, 3_288_944_640),
        ("musicgen-melody", 709, 0),
        ("musicgen-melody-large", 709, 0),
    ];
    for (model, count, decoder_parameters) in models {
        let (config, names) = published(model);
        assert_eq!(names.len(), count, "{model}");
        let in_decoder: usize = names
            .iter()
            .filter(|(name, _)| name.starts_with("decoder."))
            .map(|(_, s)| s.iter().product::<usize>())
            .sum();
        if decoder_parameters > 0 {
            assert_eq!(in_decoder, decoder_parameters, "{model}");
        }
        let (built, report) = Musicgen::from_weights(&config, &Weights::from_names(names)).unwrap();
        assert!(report.is_clean(), "{model}: {report}");
        let spec = built.config().audio_encoder.sampling_rate;
        assert_eq!(spec, 32_000);
    }
}

/// The model is built without allocating it: all eight, 21 GB in f32, in the memory of a test.
#[test]
#[cfg(target_os = "linux")]
fn matching_names_takes_no_memory() {
    let (config, names) = published("musicgen-large");
    let _model = Musicgen::from_weights(&config, &Weights::from_names(names)).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let peak_kb: usize = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak_kb < 500_000, "{peak}");
}

#[test]
fn a_changed_shape_or_name_is_told() {
    let (config, mut names) = published("musicgen-small");
    names.remove("decoder.lm_heads.3.weight");
    names.insert("decoder.lm_heads.4.weight".into(), vec![2048, 1024]);
    names.insert("enc_to_dec_proj.bias".into(), vec![768]);
    let Err(error) = Musicgen::from_weights(&config, &Weights::from_names(names)) else { panic!("accepted") };
    let text = error.to_string();
    for part in ["decoder.lm_heads.3.weight", "decoder.lm_heads.4.weight", "enc_to_dec_proj.bias"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
