//! What a checkpoint of M2UGen holds, and what its media can do: read from its listing and a few small tensors, in seconds.

use std::{collections::BTreeMap, path::Path};

use musaic_adapters::bridge::BridgeKind;
use musaic_core::{
    Error, Result,
    weights::{Checkpoint, Source},
};
use serde::Serialize;

use super::{DECODER_PART, debug, media::name_of, part_of};
use crate::llm::m2ugen;

/// Gates of one layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerGates {
    /// Number of the layer.
    pub layer: usize,
    /// What its prefix is; nothing where the layer has none.
    pub medium: Option<&'static str>,
    /// `tanh` of the stored gates, one a head, -1 to 1; 0 is closed.
    pub open: Vec<f32>,
}

/// One part of a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Number of values.
    pub parameters: u64,
    /// Number of tensors.
    pub tensors: usize,
}

/// How far something trained is from where training begins.
#[derive(Debug, Clone, Serialize)]
pub struct Trained {
    /// What it is.
    pub name: &'static str,
    /// Tensors there are.
    pub tensors: usize,
    /// Tensors that are no longer all zero.
    pub moved: usize,
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// 1; a field that goes or changes its meaning raises it.
    pub schema_version: u32,
    /// The file.
    pub checkpoint: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// Values by stored type.
    pub dtypes: BTreeMap<String, u64>,
    /// Parts, largest first.
    pub parts: Vec<Part>,
    /// What begins at zero, and whether training has moved it.
    pub trained: Vec<Trained>,
    /// Tokens and width of the projector's output, where there is one.
    pub projector: Option<(usize, usize)>,
    /// Gates of all layers.
    pub gates: Vec<LayerGates>,
    /// What follows from it, in words.
    pub words: Vec<String>,
}

/// Looks at a checkpoint (`debug` is the tiny system).
///
/// # Errors
/// The file cannot be read, is damaged, or is no M2UGen checkpoint.
pub fn inspect(path: &Path) -> Result<Inspection> {
    if path == Path::new(super::DEBUG) {
        let source = debug::checkpoint();
        let values = source.tensors().values().map(|shape| shape.iter().product::<usize>() as u64).sum();
        return look(&source, 0, [("f32".to_owned(), values)].into());
    }
    let path =
        if path.is_dir() && path.join("checkpoint.pth").is_file() { path.join("checkpoint.pth") } else { path.into() };
    let file = Checkpoint::open(&path)?;
    let summary = file.summary();
    look(&m2ugen::named(file)?, summary.bytes, summary.dtypes)
}

fn look(source: &dyn Source, bytes: u64, dtypes: BTreeMap<String, u64>) -> Result<Inspection> {
    let tensors = source.tensors();
    let rows = tensors.get("prefix_query.weight").and_then(|shape| shape.first().copied()).unwrap_or(0);
    let layers = (0..).take_while(|i| tensors.contains_key(&format!("llama.layers.{i}.attention.gate"))).count();
    let has_llama = tensors.keys().any(|name| name.starts_with("llama."));
    let has_bridge = BridgeKind::ALL.iter().any(|kind| tensors.keys().any(|name| name.starts_with(kind.prefix())));
    if !has_llama && !has_bridge {
        let found = "no tensor `llama.*`, no bridge";
        return Err(Error::format(source.label(), "a checkpoint of M2UGen", found));
    }
    let mut gates = Vec::with_capacity(layers);
    for layer in 0..layers {
        let stored = values(source, &format!("llama.layers.{layer}.attention.gate"))?;
        let row = (layer + rows).checked_sub(layers);
        let group = rows / BridgeKind::ALL.len();
        let medium = row.and_then(|row| BridgeKind::ALL.get(row.checked_div(group)?)).map(|kind| name_of(*kind));
        gates.push(LayerGates { layer, medium, open: stored.iter().map(|gate| gate.tanh()).collect() });
    }
    let trained = [("LoRA (second matrices)", "_l2.weight"), ("biases of LLaMA", ".bias")]
        .into_iter()
        .map(|(name, ending)| moved(source, name, ending))
        .collect::<Result<Vec<_>>>()?;
    let shape = |name: &str| tensors.get(&format!("output_projector.{name}")).map(Vec::as_slice);
    let projector = match (shape("query_embs"), shape("model.weight")) {
        (Some(&[_, tokens, _]), Some(&[width, _])) => Some((tokens, width)),
        _ => None,
    };
    let words = words(&gates, &trained, projector, tensors);
    Ok(Inspection {
        schema_version: 1,
        checkpoint: source.label(),
        bytes,
        dtypes,
        parts: parts(tensors),
        trained,
        projector,
        gates,
        words,
    })
}

fn values(source: &dyn Source, name: &str) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    source.read(name, &mut |piece| {
        all.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(all)
}

/// How many of LLaMA's tensors with this ending are no longer zero.
fn moved(source: &dyn Source, name: &'static str, ending: &str) -> Result<Trained> {
    let ours = |tensor: &&String| tensor.starts_with("llama.layers.") && tensor.ends_with(ending);
    let (mut tensors, mut moved) = (0, 0);
    for tensor in source.tensors().keys().filter(ours) {
        let mut any = false;
        source.read(tensor, &mut |piece| {
            any |= piece.iter().any(|value| *value != 0.0);
            Ok(())
        })?;
        tensors += 1;
        moved += usize::from(any);
    }
    Ok(Trained { name, tensors, moved })
}

fn parts(tensors: &BTreeMap<String, Vec<usize>>) -> Vec<Part> {
    let mut parts: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (name, shape) in tensors {
        let part = match name.split(['.', '_']).next().unwrap_or_default() {
            "mu" => "bridge of music",
            "iu" if name.starts_with(BridgeKind::Video.prefix()) => "bridge of video",
            "iu" => "bridge of pictures",
            "prefix" => "prefix_query",
            "output" => "output_projector",
            "mert" => part_of(BridgeKind::Music),
            "vit" => part_of(BridgeKind::Image),
            "vivit" => part_of(BridgeKind::Video),
            "generation" => DECODER_PART,
            "llama" if name.contains("lora_") => "LoRA",
            "llama" => "llama",
            _ => "others",
        };
        let entry = parts.entry(part).or_default();
        entry.0 += shape.iter().product::<usize>() as u64;
        entry.1 += 1;
    }
    let mut parts: Vec<_> = parts
        .into_iter()
        .map(|(name, (parameters, tensors))| Part { name: name.to_owned(), parameters, tensors })
        .collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.parameters));
    parts
}

fn words(
    gates: &[LayerGates],
    trained: &[Trained],
    projector: Option<(usize, usize)>,
    tensors: &BTreeMap<String, Vec<usize>>,
) -> Vec<String> {
    let mut words = Vec::new();
    for kind in BridgeKind::ALL {
        let name = name_of(kind);
        let ours: Vec<_> = gates.iter().filter(|gates| gates.medium == Some(name)).collect();
        let open = || ours.iter().flat_map(|gates| &gates.open);
        let bridge = tensors.keys().any(|tensor| tensor.starts_with(kind.prefix()));
        words.push(if ours.is_empty() {
            format!("{name}: no layer looks at it")
        } else if !bridge {
            format!("{name}: there is no bridge, so it cannot be given")
        } else if open().all(|gate| *gate == 0.0) {
            format!("{name}: all gates are closed, so a {name} has no effect whatsoever on the answer")
        } else {
            let largest = open().fold(0f32, |largest, gate| largest.max(gate.abs()));
            let count = open().filter(|gate| **gate != 0.0).count();
            format!("{name}: {count} of {} gates are open, the widest {largest:.4}", open().count())
        });
    }
    for part in trained {
        words.push(match (part.tensors, part.moved) {
            (0, _) => format!("{}: none", part.name),
            (all, 0) => format!("{}: all {all} are zero, as before training", part.name),
            (all, moved) => format!("{}: {moved} of {all} were trained", part.name),
        });
    }
    words.push(match projector {
        None => "no output projector: it can answer, but its music tokens condition nothing".into(),
        Some((1, width)) => format!("output projector of AudioLDM 2 ({width} numbers)"),
        Some((tokens, width)) => format!("output projector of MusicGen: {tokens} states of width {width}"),
    });
    words
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use musaic_core::weights::InMemory;

    use super::*;

    /// The gates of the debug system, multiplied.
    fn gated(by: f64) -> Inspection {
        let debug = debug::checkpoint();
        let mut tensors = std::collections::HashMap::new();
        for (name, shape) in debug.tensors() {
            let values = values(&debug, name).unwrap();
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap();
            let tensor = if name.ends_with(".gate") { (tensor * by).unwrap() } else { tensor };
            tensors.insert(name.clone(), tensor);
        }
        look(&InMemory::new(tensors), 0, BTreeMap::new()).unwrap()
    }

    #[test]
    fn closed_gates_are_said_in_words() {
        let open = gated(1.0);
        assert_eq!((open.gates.len(), open.projector), (7, Some((16, 192))));
        assert_eq!(open.gates[0].medium, None);
        assert_eq!([1, 3, 5].map(|i| open.gates[i].medium), [Some("track"), Some("picture"), Some("video")]);
        assert!(open.words[0].contains("8 of 8 gates are open"), "{:?}", open.words);
        let closed = gated(0.0);
        for (words, name) in closed.words.iter().zip(["track", "picture", "video"]) {
            assert!(words.contains(&format!("a {name} has no effect")), "{words}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let tensor = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(look(&InMemory::new([("x".to_owned(), tensor)].into()), 0, BTreeMap::new()).is_err());
    }
}
