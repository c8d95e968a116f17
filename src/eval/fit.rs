//! Training the detectors on training pieces that went through the codec.

use musaic_core::Result;

use super::pieces::Piece;
use crate::listen::{
    Detectors, FAMILIES, Features, RATE_HZ, Stored,
    net::{Example, Net, Norm, Training},
    tempo,
};

/// A piece with what was measured of it.
pub struct Measured {
    /// The truth.
    pub piece: Piece,
    /// The measures.
    pub features: Features,
}

/// Held chords of plain tones. No piece of the corpus is so pure, and without them the drums are heard in such sounds.
fn plain_tones(length: usize) -> Vec<Vec<f32>> {
    let chord = |(root, third, partials): (i32, i32, usize)| -> Vec<f32> {
        let tone = |key: i32, t: f64| -> f64 {
            let turn = std::f64::consts::TAU * 440.0 * 2f64.powf(f64::from(key - 69) / 12.0) * t;
            (1..=partials).map(|n| (turn * n as f64).sin() / (n * n) as f64).sum()
        };
        // A chord lasts from 1.3 to 2.1 s.
        let hold = 1.3 + 0.1 * f64::from(root % 9);
        let sample = |i: usize| {
            let t = i as f64 / f64::from(RATE_HZ);
            let shift = [0, 7, 9, 5][(t / hold) as usize % 4];
            [-12, 0, third, 7].iter().map(|step| tone(root + shift + step, t)).sum::<f64>() as f32 * 0.1
        };
        (0..length).map(sample).collect()
    };
    let roots = (46..76).step_by(3);
    roots.flat_map(|root| [(root, 3, 1), (root, 4, 1), (root, 4, 4)]).map(chord).collect()
}

/// Trains all detectors on clips of `length` samples; `small` ones have two fifths of the hidden units, to ship beside a model.
///
/// # Errors
/// The networks do not survive packing, which would be a fault of this program.
pub fn fit(all: &[Measured], length: usize, small: bool) -> Result<Stored> {
    let tempo_norm = Norm::fit(all.iter().flat_map(|m| &m.features.tempo));
    let key_norm = Norm::fit(all.iter().flat_map(|m| &m.features.key));
    let sound_norm = Norm::fit(all.iter().map(|m| &m.features.sound));

    let rows = |norm: &Norm, rows: &[Vec<f32>]| -> Vec<Vec<f32>> { rows.iter().map(|row| norm.apply(row)).collect() };
    let near = 1.035f64.log2();
    let tempi: Vec<Example> = all
        .iter()
        .map(|m| Example {
            candidates: rows(&tempo_norm, &m.features.tempo),
            right: (0..tempo::CANDIDATES)
                .map(|c| tempo::distance(tempo::bpm(c), m.piece.attributes.tempo_bpm) < near)
                .collect(),
        })
        .collect();
    let keys: Vec<Example> = all
        .iter()
        .map(|m| {
            let a = &m.piece.attributes;
            let right = (0..24).map(|i| i / 2 == a.tonic % 12 && (i % 2 == 1) == (a.mode == "minor")).collect();
            Example { candidates: rows(&key_norm, &m.features.key), right }
        })
        .collect();
    // Pieces whose value is not among `values` (neutral, medium) teach nothing about the two ends.
    let classes = |value: &dyn Fn(&Piece) -> String, values: &[&str]| -> Vec<Example> {
        all.iter()
            .filter(|m| values.contains(&value(&m.piece).as_str()))
            .map(|m| Example {
                candidates: vec![sound_norm.apply(&m.features.sound)],
                right: values.iter().map(|v| *v == value(&m.piece)).collect(),
            })
            .collect()
    };
    let mut drums = classes(&|p| p.attributes.drums.to_string(), &["false", "true"]);
    drums.extend(plain_tones(length).into_iter().map(|samples| Example {
        candidates: vec![sound_norm.apply(&Features::of(&samples).sound)],
        right: vec![true, false],
    }));
    let family = classes(&|p| p.family.clone(), &FAMILIES);
    let brightness = classes(&|p| p.attributes.brightness.clone(), &["dark", "bright"]);
    let density = classes(&|p| p.attributes.density.clone(), &["sparse", "dense"]);

    let train = |examples: &[Example], hidden, outputs, epochs, decay, dropout| {
        let hidden = if small { hidden * 2 / 5 } else { hidden };
        Net::train(examples, &Training { hidden, outputs, epochs, decay, dropout }).pack()
    };
    let stored = Stored {
        about: format!("musaic eval fit, {} clips of training pieces through the codec", all.len()),
        tempo: train(&tempi, 24, 1, 40, 0.01, 0.1),
        key: train(&keys, 32, 2, 25, 0.1, 0.4),
        drums: train(&drums, 16, 2, 40, 0.3, 0.3),
        family: train(&family, 40, FAMILIES.len(), 40, 0.3, 0.4),
        brightness: train(&brightness, 0, 2, 30, 0.3, 0.0),
        density: train(&density, 16, 2, 30, 0.3, 0.3),
        tempo_norm,
        key_norm,
        sound_norm,
    };
    Detectors::new(stored.clone()).map_err(|what| musaic_core::Error::config("detectors", what))?;
    Ok(stored)
}
