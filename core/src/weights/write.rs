//! Writes safetensors files: streamed, atomic, the same bytes every time; large ones in shards.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Source, encoding, packed};
use crate::{Error, Result, files};

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredAs {
    /// 32-bit float.
    F32,
    /// IEEE half precision.
    F16,
    /// 16-bit float with the exponent of f32.
    Bf16,
    /// Blocks of 32 bytes with one f16 scale; for tensors of two dimensions and more.
    Q8_0,
}

impl StoredAs {
    fn dtype(self) -> (&'static str, usize) {
        match self {
            Self::F32 => ("F32", 4),
            Self::F16 => ("F16", 2),
            Self::Bf16 => ("BF16", 2),
            Self::Q8_0 => ("U8", 1),
        }
    }

    /// Largest magnitude that can be stored.
    fn limit(self) -> f32 {
        match self {
            Self::F32 | Self::Bf16 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::Q8_0 => f16::MAX.to_f32() * 127.0,
        }
    }
}

struct Planned<'a> {
    name: &'a str,
    stored: StoredAs,
    shape: Vec<usize>,
    bytes: usize,
    cols: usize,
}

/// Writes all tensors of `source` for which `choose(name, shape)` gives a type, and leaves out the others. Tensors with
/// fewer than two dimensions are never packed: `Q8_0` stores them as `F32`. The file appears under its name only when it
/// is complete, and the same tensors and notes always give the same bytes. Returns the size in bytes.
///
/// # Errors
/// Reading or writing fails, or a value does not fit its type.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    source: &dyn Source,
    metadata: &BTreeMap<String, String>,
    choose: &dyn Fn(&str, &[usize]) -> Option<StoredAs>,
) -> Result<u64> {
    write_file(path.as_ref(), source, metadata, choose, false)
}

/// As [`write_safetensors`] into `folder`, in files of at most `most` bytes of numbers (or one tensor): `{stem}.safetensors`, or
/// `{stem}-00001-of-00003.safetensors` and so on with their index. Each file notes the sha256 of its numbers under
/// [`DATA_SHA256`], which [`Checkpoint::check_data`] compares. Returns the files and the size of all.
///
/// # Errors
/// As [`write_safetensors`].
///
/// [`Checkpoint::check_data`]: super::Checkpoint::check_data
pub fn write_shards(
    folder: &Path,
    stem: &str,
    source: &dyn Source,
    metadata: &BTreeMap<String, String>,
    choose: &dyn Fn(&str, &[usize]) -> Option<StoredAs>,
    most: u64,
) -> Result<(Vec<PathBuf>, u64)> {
    let mut shards: Vec<Vec<&str>> = vec![Vec::new()];
    let (mut filled, mut total) = (0u64, 0u64);
    for (name, shape) in source.tensors() {
        let Some(stored) = choose(name, shape) else { continue };
        let bytes = planned(folder, name, shape, stored, &mut packed::Table::new())?.bytes as u64;
        if filled > 0 && filled.saturating_add(bytes) > most {
            shards.push(Vec::new());
            filled = 0;
        }
        filled = filled.saturating_add(bytes);
        total = total.saturating_add(bytes);
        if let Some(last) = shards.last_mut() {
            last.push(name);
        }
    }
    let count = shards.len();
    let (mut files, mut size, mut map) = (Vec::new(), 0, BTreeMap::new());
    for (i, names) in shards.iter().enumerate() {
        let file = if count == 1 {
            format!("{stem}.safetensors")
        } else {
            format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1)
        };
        let path = folder.join(&file);
        let here = |name: &str, shape: &[usize]| names.binary_search(&name).ok().and_then(|_| choose(name, shape));
        size += write_file(&path, source, metadata, &here, true)?;
        map.extend(names.iter().map(|name| ((*name).to_owned(), file.clone())));
        files.push(path);
    }
    let index = folder.join(format!("{stem}.safetensors.index.json"));
    if count > 1 {
        let text = format!("{:#}\n", json!({ "metadata": { "total_size": total }, "weight_map": map }));
        files::write_atomic(&index, text.as_bytes())?;
    }
    Ok((files, size))
}

/// Note in a file's header: sha256 of all bytes behind the header.
pub const DATA_SHA256: &str = "data_sha256";
/// What stands there until it is known.
pub(super) const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn write_file(
    path: &Path,
    source: &dyn Source,
    metadata: &BTreeMap<String, String>,
    choose: &dyn Fn(&str, &[usize]) -> Option<StoredAs>,
    hashed: bool,
) -> Result<u64> {
    let mut metadata = metadata.clone();
    if hashed {
        metadata.insert(DATA_SHA256.to_owned(), UNKNOWN.to_owned());
    }
    let mut table = packed::Table::new();
    let mut plan = Vec::new();
    for (name, shape) in source.tensors() {
        let Some(stored) = choose(name, shape) else { continue };
        plan.push(planned(path, name, shape, stored, &mut table)?);
    }
    // Wider types first, so that every tensor is aligned to its type.
    plan.sort_by(|a, b| b.stored.dtype().1.cmp(&a.stored.dtype().1).then_with(|| a.name.cmp(b.name)));
    let header = header(path, &plan, &table, &metadata)?;
    if path.file_name().is_none() {
        return Err(Error::format(path, "the name of a file", "a path without one"));
    }
    let fail = |e| Error::io(path, e);
    let partial = files::partial(path).map_err(fail)?;
    let mut out = BufWriter::with_capacity(1 << 20, partial.as_file());
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(fail)?;
    out.write_all(&header).map_err(fail)?;
    let mut size = 8 + header.len() as u64;
    let mut out = Hashing { out, hasher: Sha256::new() };
    for tensor in &plan {
        write_tensor(path, source, tensor, &mut out)?;
        size += tensor.bytes as u64;
    }
    let hash = out.finish().map_err(fail)?;
    let note = format!("\"{DATA_SHA256}\":\"{UNKNOWN}");
    if hashed && let Some(at) = header.windows(note.len()).position(|bytes| bytes == note.as_bytes()) {
        let place = 8 + (at + note.len() - UNKNOWN.len()) as u64;
        partial.as_file().write_all_at(hash.as_bytes(), place).map_err(fail)?;
    }
    files::commit(partial, path, true).map_err(fail)?;
    Ok(size)
}

/// Writes, and hashes what it writes.
pub(super) struct Hashing<W: Write> {
    pub(super) out: W,
    pub(super) hasher: Sha256,
}

impl<W: Write> Hashing<W> {
    /// The hash in hexadecimal, once everything has left.
    pub(super) fn finish(mut self) -> io::Result<String> {
        self.out.flush()?;
        Ok(self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn planned<'a>(
    path: &Path,
    name: &'a str,
    shape: &[usize],
    stored: StoredAs,
    table: &mut packed::Table,
) -> Result<Planned<'a>> {
    let huge = || Error::format(path, "shapes that fit in memory", format!("tensor `{name}` {shape:?}"));
    let count = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    if stored == StoredAs::Q8_0 && shape.len() >= 2 && count(shape).is_some_and(|n| n > 0) {
        let entry = packed::Packed::q8_0(shape);
        let shape = entry.stored_shape().ok_or_else(huge)?;
        let (bytes, cols) = (count(&shape).ok_or_else(huge)?, entry.cols());
        table.insert(name.to_owned(), entry);
        return Ok(Planned { name, stored, shape, bytes, cols });
    }
    let stored = if stored == StoredAs::Q8_0 { StoredAs::F32 } else { stored };
    let bytes = count(shape).and_then(|n| n.checked_mul(stored.dtype().1)).ok_or_else(huge)?;
    Ok(Planned { name, stored, shape: shape.to_vec(), bytes, cols: 1 })
}

fn header(
    path: &Path,
    plan: &[Planned<'_>],
    table: &packed::Table,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let fail = |e: serde_json::Error| Error::io(path, e.into());
    let mut notes = metadata.clone();
    if !table.is_empty() {
        notes.insert(packed::KEY.to_owned(), serde_json::to_string(table).map_err(fail)?);
    }
    let mut header = String::from("{");
    if !notes.is_empty() {
        header += &format!("\"__metadata__\":{}", serde_json::to_string(&notes).map_err(fail)?);
    }
    let mut at = 0;
    for tensor in plan {
        let info =
            json!({"data_offsets": [at, at + tensor.bytes], "dtype": tensor.stored.dtype().0, "shape": tensor.shape});
        let comma = if header.len() > 1 { "," } else { "" };
        header += &format!("{comma}{}:{info}", json!(tensor.name));
        at += tensor.bytes;
    }
    header.push('}');
    let mut header = header.into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn write_tensor(path: &Path, source: &dyn Source, tensor: &Planned<'_>, out: &mut impl Write) -> Result<()> {
    let mut bytes = Vec::new();
    let mut written = 0;
    // Values of an unfinished row, which blocks do not cross.
    let mut row = Vec::new();
    let limit = tensor.stored.limit();
    source.read(tensor.name, &mut |piece| {
        let bad = |v: &&f32| v.is_finite() && v.abs() > limit || tensor.stored == StoredAs::Q8_0 && !v.is_finite();
        if let Some(value) = piece.iter().find(bad) {
            let expected = format!("values of {} for this type", tensor.stored.dtype().0);
            return Err(Error::format(path, expected, format!("tensor `{}` holds {value}", tensor.name)));
        }
        bytes.clear();
        match tensor.stored {
            StoredAs::F32 => bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes())),
            StoredAs::F16 => {
                let mut halves = vec![f16::ZERO; piece.len()];
                halves.convert_from_f32_slice(piece);
                bytes.extend(halves.iter().flat_map(|v| v.to_le_bytes()));
            }
            StoredAs::Bf16 => bytes.extend(piece.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            StoredAs::Q8_0 => {
                row.extend_from_slice(piece);
                let whole = row.len() / tensor.cols * tensor.cols;
                encoding::pack(tensor.cols, &row[..whole], &mut bytes);
                row.drain(..whole);
            }
        }
        written += bytes.len();
        out.write_all(&bytes).map_err(|e| Error::io(path, e))
    })?;
    if written == tensor.bytes {
        return Ok(());
    }
    let expected = format!("{} bytes for tensor `{}`", tensor.bytes, tensor.name);
    Err(Error::format(path, expected, format!("{} gave {written}", source.label())))
}
