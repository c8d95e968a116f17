//! Chroma of MusicGen-melody against the reference.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests, too

mod musicgen_common;

use musaic_decoders::musicgen::chroma::{ChromaConfig, ChromaExtractor};
use musicgen_common::{Checked, golden};

#[test]
fn melody_chroma() {
    let mut check = Checked::open("musicgen/melody");
    let path = golden("musicgen/melody/model").join("preprocessor_config.json");
    let json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let extractor = ChromaExtractor::new(&ChromaConfig::from_json(&path, &json).unwrap()).unwrap();
    let clips: Vec<Vec<f32>> =
        ["in.clip_0", "in.clip_1"].iter().map(|name| check.input(name).to_vec1::<f32>().unwrap()).collect();
    let clips: Vec<&[f32]> = clips.iter().map(Vec::as_slice).collect();
    check.see("mid.chroma_filters", &extractor.filters().unwrap());
    check.see("mid.raw_chroma", &extractor.energies(&clips).unwrap());
    check.see("out.chroma", &extractor.extract(&clips).unwrap());
}
