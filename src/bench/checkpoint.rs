//! A checkpoint of M2UGen's language core in the published layout, made of random numbers, and what loading it takes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use half::f16;
use musaic_core::{
    WeightFormat,
    weights::{Checkpoint, RandomWeights, Source},
};

use super::Row;
use crate::{
    llm::m2ugen::{Belongs, M2ugen, belongs},
    pipeline::preflight,
};

/// Names and shapes as published, one layer for all.
const PUBLISHED: &str = include_str!("../../tests/goldens/m2ugen/llm-forward/published_shapes.json");
/// Layers of the published model.
const LAYERS: usize = 32;
/// Widths are multiples of this, so that every format has whole blocks.
const UNIT: usize = 256;
/// Places of numbers in the archive.
const ALIGNMENT: u64 = 64;

/// Names and shapes with layers narrower by the root of `scale`; 1 is the published size.
///
/// # Errors
/// The table is damaged.
pub fn shapes(scale: f64) -> anyhow::Result<BTreeMap<String, Vec<usize>>> {
    let table: serde_json::Value = serde_json::from_str(PUBLISHED)?;
    let published: BTreeMap<String, Vec<usize>> = serde_json::from_value(table["musicgen"]["tensors"].clone())?;
    let narrow = |width: usize| {
        let scaled = (width as f64 * scale.sqrt() / UNIT as f64).round().max(1.0) as usize * UNIT;
        if scale >= 1.0 { width } else { scaled.min(width) }
    };
    let dim = |dim: &usize| match *dim {
        4096 | 11_008 => narrow(*dim),
        // LLaMA's vocabulary and the music tokens.
        32_008 => narrow(32_000) + 8,
        other => other,
    };
    let mut all = BTreeMap::new();
    for (name, shape) in &published {
        let shape: Vec<_> = shape.iter().map(dim).collect();
        let layers = if name.starts_with("llama.layers.0.") { LAYERS } else { 1 };
        for i in 0..layers {
            all.insert(name.replacen("layers.0.", &format!("layers.{i}."), 1), shape.clone());
        }
    }
    Ok(all)
}

/// Where the checkpoint of a scale lies in a folder.
pub fn path(folder: &Path, scale: f64) -> PathBuf {
    folder.join(format!("m2ugen-random-{scale}.pth"))
}

/// Bytes that [`write`] needs.
///
/// # Errors
/// As [`shapes`].
pub fn size(scale: f64) -> anyhow::Result<u64> {
    Ok(shapes(scale)?.values().map(|shape| 2 * shape.iter().product::<usize>() as u64 + 1024).sum())
}

/// Writes the checkpoint in half precision, as `torch.save` would: an archive with a pickled table and a storage for every
/// tensor. With `sparse` all numbers are zeros that take no room on the disk.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, scale: f64, sparse: bool) -> anyhow::Result<()> {
    let shapes = shapes(scale)?;
    let part = path.with_extension("part");
    let written = archive(&part, &shapes, sparse).and_then(|()| Ok(fs::rename(&part, path)?));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

fn archive(path: &Path, shapes: &BTreeMap<String, Vec<usize>>, sparse: bool) -> anyhow::Result<()> {
    let mut out =
        Archive { out: BufWriter::with_capacity(1 << 20, File::create(path)?), directory: Vec::new(), count: 0 };
    let table = table(shapes);
    out.entry("m2ugen/data.pkl", table.len() as u64)?;
    out.out.write_all(&table)?;
    let random = RandomWeights::new(1);
    for (number, (name, shape)) in shapes.iter().enumerate() {
        let count: usize = shape.iter().product();
        out.entry(&format!("m2ugen/data/{number}"), 2 * count as u64)?;
        if sparse {
            out.out.seek(SeekFrom::Current(2 * count as i64))?;
            continue;
        }
        random.read_shaped(name, shape, &mut |piece| {
            let bytes: Vec<u8> = piece.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
            out.out.write_all(&bytes).map_err(|e| musaic_core::Error::io(path, e))
        })?;
    }
    out.finish()
}

/// `{"model": {name: tensor, ..}}` as torch pickles it.
fn table(shapes: &BTreeMap<String, Vec<usize>>) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.bytes());
    }
    fn int(out: &mut Vec<u8>, value: usize) {
        out.extend([0x8a, 8]);
        out.extend((value as u64).to_le_bytes());
    }
    let mut out = vec![0x80, 2, b'}', b'('];
    text(&mut out, "model");
    out.extend(b"}(");
    for (number, (name, shape)) in shapes.iter().enumerate() {
        text(&mut out, &format!("module.{name}"));
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nHalfStorage\n");
        text(&mut out, &number.to_string());
        text(&mut out, "cpu");
        int(&mut out, shape.iter().product());
        out.extend(b"tQ");
        int(&mut out, 0);
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product());
        for numbers in [shape.clone(), strides.collect()] {
            out.push(b'(');
            numbers.into_iter().for_each(|value| int(&mut out, value));
            out.push(b't');
        }
        out.push(0x89);
        out.extend(b"ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"uu.");
    out
}

/// A zip archive of plain entries whose sizes are in 64-bit fields.
struct Archive {
    out: BufWriter<File>,
    directory: Vec<u8>,
    count: u64,
}

impl Archive {
    /// Begins an entry of `size` bytes, which the caller writes.
    fn entry(&mut self, name: &str, size: u64) -> anyhow::Result<()> {
        let at = self.out.stream_position()?;
        let wide = u32::MAX.to_le_bytes();
        let mut common = vec![45, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend([wide, wide].concat());
        common.extend((name.len() as u16).to_le_bytes());
        let sizes = [[1, 0, 16, 0].to_vec(), size.to_le_bytes().repeat(2)].concat();
        // Filled up, so that the numbers are aligned.
        let head = at + 30 + (name.len() + sizes.len() + 4) as u64;
        let padding = head.next_multiple_of(ALIGNMENT) - head;
        let mut local = [b"PK\x03\x04".to_vec(), common.clone()].concat();
        local.extend((sizes.len() as u16 + 4 + padding as u16).to_le_bytes());
        local.extend(name.bytes());
        local.extend(sizes);
        local.extend(*b"FB");
        local.extend((padding as u16).to_le_bytes());
        local.resize(local.len() + padding as usize, b'Z');
        self.out.write_all(&local)?;
        self.directory.extend(b"PK\x01\x02\x00\x00");
        self.directory.extend(common);
        self.directory.extend(28u16.to_le_bytes());
        self.directory.extend([0; 10]);
        self.directory.extend(wide);
        self.directory.extend(name.bytes());
        self.directory.extend([1, 0, 24, 0]);
        self.directory.extend([size, size, at].map(u64::to_le_bytes).concat());
        self.count += 1;
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let at = self.out.stream_position()?;
        let mut end = self.directory;
        let len = end.len() as u64;
        end.extend(b"PK\x06\x06");
        end.extend(44u64.to_le_bytes());
        end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        end.extend([self.count, self.count, len, at].map(u64::to_le_bytes).concat());
        end.extend(b"PK\x06\x07\x00\x00\x00\x00");
        end.extend((at + len).to_le_bytes());
        end.extend(1u32.to_le_bytes());
        end.extend(b"PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00");
        self.out.write_all(&end)?;
        self.out.flush()?;
        Ok(())
    }
}

/// Most memory that loading may take for weights that take so many bytes as they are held.
pub fn allowed(weights: f64) -> f64 {
    1.1 * weights + 300e6
}

/// Bytes of the weights as a model holds them: adapters are not quantised, the table of embeddings not below eight bits.
fn held(checkpoint: &Checkpoint, format: WeightFormat) -> f64 {
    let bits = |name: &str, shape: &[usize]| {
        let name = name.strip_prefix("model.module.").unwrap_or(name);
        match belongs(name) {
            _ if shape.len() < 2 => WeightFormat::F32,
            Belongs::Llama if name.ends_with("tok_embeddings.weight") => format.no_coarser_than(WeightFormat::Q8_0),
            Belongs::Llama => format,
            _ => format.no_coarser_than(WeightFormat::Bf16),
        }
        .bits()
    };
    let bytes =
        |(name, shape): (&String, &Vec<usize>)| bits(name, shape) / 8.0 * shape.iter().product::<usize>() as f64;
    checkpoint.tensors().iter().map(bytes).sum()
}

/// Loads the checkpoint in this process.
///
/// # Errors
/// It cannot be loaded.
pub fn load(path: &Path, format: WeightFormat) -> anyhow::Result<Row> {
    let weights = held(&Checkpoint::open(path)?, format);
    let bytes = fs::metadata(path)?.len() as f64;
    let started = Instant::now();
    let model = M2ugen::load(Some(path), None, &candle_core::Device::Cpu, format)?;
    let seconds = started.elapsed().as_secs_f64();
    drop(model);
    let about =
        format!("M2UGen's language core, f16 checkpoint of {:.2} GB into {format} in {seconds:.1} s", bytes / 1e9);
    Ok(Row {
        component: format!("load:m2ugen:{format}"),
        weight_bytes: Some(weights),
        peak_memory_bytes: preflight::peak_memory(),
        ..super::components::row(about, bytes / seconds / 1e9, "GB/s read")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written loads as M2UGen, narrow or sparse, and its numbers are those that were meant.
    #[test]
    fn a_small_one_loads() {
        let folder = tempfile::tempdir().unwrap();
        let names = shapes(1.0).unwrap();
        assert_eq!(names.len(), 1109);
        assert_eq!(names.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>(), 7_275_138_594);
        let path = path(folder.path(), 0.001);
        for sparse in [true, false] {
            write(&path, 0.001, sparse).unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= size(0.001).unwrap());
            let row = load(&path, WeightFormat::Q8_0).unwrap();
            assert!(row.weight_bytes.unwrap() > 1e6 && row.peak_memory_bytes.is_some());
        }
        let file = Checkpoint::open(&path).unwrap();
        let mut first = None;
        let name = "llama.layers.3.attention.wq.weight";
        file.read(&format!("model.module.{name}"), &mut |piece| {
            first = first.or(piece.first().copied());
            Ok(())
        })
        .unwrap();
        let mut wanted = None;
        RandomWeights::new(1)
            .read_shaped(name, &shapes(0.001).unwrap()[name], &mut |piece| {
                wanted = wanted.or(piece.first().map(|v| f16::from_f32(*v).to_f32()));
                Ok(())
            })
            .unwrap();
        assert!(first.is_some() && first == wanted);
    }
}
