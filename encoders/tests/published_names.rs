//! The published checkpoints fit the models built from their configurations: every name and shape, none missing, and left over
//! only what is on the list here.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use musaic_core::weights::{LoadReport, Weights};
use musaic_encoders::{
    mert::{FeatureExtractor, Mert, MertConfig},
    vision::ImageProcessor,
    vit::{Vit, VitConfig},
    vivit::{Vivit, VivitConfig},
};
use serde_json::json;

type Names = BTreeMap<String, Vec<usize>>;

fn tables() -> PathBuf {
    let here = std::env::current_dir().unwrap();
    let workspace = here.ancestors().find(|dir| dir.join("tests/published-names").is_dir()).unwrap();
    workspace.join("tests/published-names")
}

fn names(model: &str) -> Names {
    let table = fs::read_to_string(tables().join(format!("{model}.tsv"))).unwrap();
    let rows = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|line| {
        let (name, shape) = line.split_once('\t').unwrap();
        (name.to_owned(), shape.split(',').map(|size| size.parse().unwrap()).collect())
    })
    .collect()
}

fn config(model: &str) -> PathBuf {
    tables().join(format!("{model}.json"))
}

fn mert(model: &str, weights: &Weights) -> Mert {
    let extractor = FeatureExtractor::from_json(&config(model), &json!({"sampling_rate": 24000})).unwrap();
    Mert::new(&MertConfig::open(&config(model)).unwrap(), extractor, weights).unwrap()
}

fn vit(model: &str, weights: &Weights) -> Vit {
    let processor = ImageProcessor::image_from_json(&config(model), &json!({"size": 224})).unwrap();
    Vit::new(&VitConfig::open(&config(model)).unwrap(), processor, weights).unwrap()
}

fn vivit(model: &str, weights: &Weights) -> Vivit {
    let processor = ImageProcessor::video_from_json(&config(model), &json!({})).unwrap();
    Vivit::new(&VivitConfig::open(&config(model)).unwrap(), processor, weights).unwrap()
}

const MERT: [&str; 2] = ["m-a-p__MERT-v1-95M", "m-a-p__MERT-v1-330M"];
const VIT: &str = "google__vit-base-patch16-224-in21k";
const VIVIT: &str = "google__vivit-b-16x2-kinetics400";

/// Nothing missing, misshaped or unknown, and of the names exactly `left` not used.
#[track_caller]
fn check(names: usize, report: &LoadReport, left: &[&str]) {
    assert!(report.is_clean(), "{report}");
    let ignored: Vec<_> = report.ignored.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(ignored, left);
    assert_eq!(report.applied.len() + left.len(), names);
}

#[test]
fn every_published_name_and_shape_is_matched() {
    for (model, count, layers, width) in [(MERT[0], 211, 12, 768), (MERT[1], 403, 24, 1024)] {
        let names = names(model);
        assert_eq!(names.len(), count);
        let weights = Weights::from_names(names);
        let spec = mert(model, &weights).config().spec();
        assert_eq!((spec.positions, spec.dim), (layers + 1, width));
        check(count, &weights.finish().unwrap(), &["masked_spec_embed"]);
    }
    let weights = Weights::from_names(names(VIT));
    let spec = vit(VIT, &weights).config().spec();
    assert_eq!((spec.positions, spec.dim), (197, 768));
    check(200, &weights.finish().unwrap(), &[]);
    let weights = Weights::from_names(names(VIVIT));
    let spec = vivit(VIVIT, &weights).config().spec();
    assert_eq!((spec.positions, spec.dim, spec.frames), (3137, 768, Some(32)));
    check(200, &weights.finish().unwrap(), &["classifier.bias", "classifier.weight"]);
}

/// The other spellings that published files have, and the place they have within one file of everything.
#[test]
fn other_spellings_and_places_are_accepted() {
    let mut bare = names(VIT);
    bare.retain(|name, _| !name.starts_with("pooler."));
    let weights = Weights::from_names(bare);
    vit(VIT, &weights);
    check(198, &weights.finish().unwrap(), &[]);

    let mut all: Names = names(MERT[1])
        .into_iter()
        .map(|(name, shape)| {
            let name = name.replace("weight_g", "parametrizations.weight.original0");
            (format!("mert_model.{}", name.replace("weight_v", "parametrizations.weight.original1")), shape)
        })
        .collect();
    all.extend(names(VIT).into_iter().map(|(name, shape)| (format!("vit_model.{name}"), shape)));
    let bare =
        names(VIVIT).into_iter().filter_map(|(name, shape)| Some((name.strip_prefix("vivit.")?.to_owned(), shape)));
    all.extend(bare.map(|(name, shape)| (format!("vivit_model.{name}"), shape)));
    all.insert("vivit_model.pooler.dense.weight".into(), vec![768, 768]);
    all.insert("vivit_model.pooler.dense.bias".into(), vec![768]);
    let count = all.len();
    let weights = Weights::from_names(all);
    mert(MERT[1], &weights.pp("mert_model"));
    vit(VIT, &weights.pp("vit_model"));
    vivit(VIVIT, &weights.pp("vivit_model"));
    let left = ["mert_model.masked_spec_embed", "vivit_model.pooler.dense.bias", "vivit_model.pooler.dense.weight"];
    check(count, &weights.finish().unwrap(), &left);
}

#[test]
fn a_changed_shape_or_name_is_told() {
    let mut names = names(MERT[0]);
    names.remove("encoder.layers.3.attention.k_proj.weight");
    names.insert("encoder.layers.3.attention.k_proj.weights".into(), vec![768, 768]);
    names.insert("feature_projection.projection.bias".into(), vec![767]);
    let weights = Weights::from_names(names);
    mert(MERT[0], &weights);
    let text = weights.finish().unwrap_err().to_string();
    for part in ["layers.3.attention.k_proj.weight", "k_proj.weights", "feature_projection.projection.bias"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The models are built without allocating them: 1.9 GB in f32, in the memory of a test.
#[test]
#[cfg(target_os = "linux")]
fn matching_names_takes_no_memory() {
    mert(MERT[1], &Weights::from_names(names(MERT[1])));
    vivit(VIVIT, &Weights::from_names(names(VIVIT)));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let peak_kb: usize = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak_kb < 250_000, "{peak}");
}
