//! Rendering through a real sound font; needs one, so it runs on request only.

use std::path::Path;

use musaic_corpus::attributes::{Attributes, Split};
use musaic_corpus::compose::compose;
use musaic_corpus::render::{DEFAULT_SOUND_FONT, Mix, Renderer};

#[test]
#[ignore = "needs the sound font of the distribution package fluid-soundfont-gm"]
fn pieces_sound_from_the_start_and_do_not_clip() {
    let renderer = Renderer::open(Path::new(DEFAULT_SOUND_FONT), 16_000).unwrap();
    for id in 0..12 {
        let attributes = Attributes::draw(Split::Train.seed(id));
        let (score, mix) = (compose(&attributes), Mix::draw(&attributes));
        let samples = renderer.render(&score, &mix).unwrap();
        assert_eq!(samples, renderer.render(&score, &mix).unwrap(), "piece {id} is not repeatable");
        assert!(samples.iter().all(|x| x.abs() < 0.9), "piece {id} clips");
        let start = samples.iter().position(|x| x.abs() > 0.003).unwrap_or(samples.len());
        assert!(start < 8_000, "piece {id} begins after {start} samples");
        assert!((16.0..25.0).contains(&(samples.len() as f64 / 16_000.0)));
    }
}

#[test]
fn a_missing_or_foreign_sound_font_is_named() {
    let error = Renderer::open(Path::new("no-such.sf2"), 16_000).err().unwrap().to_string();
    assert!(error.contains("no-such.sf2"), "{error}");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let error = Renderer::open(Path::new(manifest), 16_000).err().unwrap().to_string();
    assert!(error.contains("Cargo.toml") && error.contains("hint"), "{error}");
    assert!(Renderer::open(Path::new(manifest), 44_100).err().unwrap().to_string().contains("16000 or 32000"));
}
