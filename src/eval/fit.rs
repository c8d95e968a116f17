//! Training the detectors on training pieces that went through the codec.

use musaic_core::Result;

use super::pieces::Piece;
use crate::listen::{
    Detectors, FAMILIES, Features, Stored,
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

/// Trains all detectors; `small` ones have two fifths of the hidden units, to ship beside a model.
///
/// # Errors
/// The networks do not survive packing, which would be a fault of this program.
pub fn fit(all: &[Measured], small: bool) -> Result<Stored> {
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
    let drums = classes(&|p| p.attributes.drums.to_string(), &["false", "true"]);
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
