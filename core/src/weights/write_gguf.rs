//! Writes GGUF files (version 3): streamed, atomic, the same bytes every time.

use std::{
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use half::{bf16, f16};
use sha2::{Digest, Sha256};

use super::{
    GgufSettings, GgufValue, Source,
    write::{DATA_SHA256, Hashing, UNKNOWN},
};
use crate::{
    Error, Result, WeightFormat, files,
    nn::{format_for, pack_rows},
};

/// Where tensors begin.
const ALIGNMENT: usize = 32;

struct Planned<'a> {
    name: &'a str,
    shape: &'a [usize],
    format: WeightFormat,
    bytes: usize,
}

/// Writes all tensors of `source`, matrices in the format that `choose(name, shape)` gives (or the next wider one whose blocks
/// their rows divide into), all others in f32. Tensors that the source holds in blocks of that format are copied. The sha256 of
/// the numbers is noted as `musaic.data_sha256`. Returns the size in bytes.
///
/// # Errors
/// Reading or writing fails, or a value does not fit its type.
pub fn write_gguf(
    path: impl AsRef<Path>,
    source: &dyn Source,
    settings: &GgufSettings,
    choose: &dyn Fn(&str, &[usize]) -> WeightFormat,
) -> Result<u64> {
    let path = path.as_ref();
    let huge = |name: &str, shape| Error::format(path, "shapes that fit in memory", format!("`{name}` {shape:?}"));
    let mut plan = Vec::new();
    for (name, shape) in source.tensors() {
        let cols = shape.last().copied().unwrap_or(1);
        let format = if shape.len() < 2 { WeightFormat::F32 } else { format_for(choose(name, shape), cols) };
        let count = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let bytes = count.and_then(|n| n.checked_mul(4)).map(|_| bytes(format, count.unwrap_or(0)));
        plan.push(Planned { name, shape, format, bytes: bytes.ok_or_else(|| huge(name, shape))? });
    }
    let (header, hash_at) = header(&plan, settings);
    let fail = |e| Error::io(path, e);
    let partial = files::partial(path).map_err(fail)?;
    let mut out = BufWriter::with_capacity(1 << 20, partial.as_file());
    out.write_all(&header).map_err(fail)?;
    let mut out = Hashing { out, hasher: Sha256::new() };
    let mut size = header.len();
    for tensor in &plan {
        write_tensor(path, source, tensor, &mut out)?;
        let padded = tensor.bytes.next_multiple_of(ALIGNMENT);
        out.write_all(&[0; ALIGNMENT][..padded - tensor.bytes]).map_err(fail)?;
        size += padded;
    }
    let hash = out.finish().map_err(fail)?;
    partial.as_file().write_all_at(hash.as_bytes(), hash_at as u64).map_err(fail)?;
    files::commit(partial, path, true).map_err(fail)?;
    Ok(size as u64)
}

/// Bytes of this many values.
fn bytes(format: WeightFormat, count: usize) -> usize {
    match format {
        WeightFormat::F32 => count * 4,
        WeightFormat::F16 | WeightFormat::Bf16 => count * 2,
        WeightFormat::Q8_0 => count / 32 * 34,
        WeightFormat::Q4K => count / 256 * 144,
    }
}

/// Number of the type in the file.
fn kind(format: WeightFormat) -> u32 {
    match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q8_0 => 8,
        WeightFormat::Q4K => 12,
        WeightFormat::Bf16 => 30,
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.bytes());
}

/// Type and value, in the widths that readers of the format expect: 32 bits where they suffice.
fn value(out: &mut Vec<u8>, value: &GgufValue) {
    let head = |out: &mut Vec<u8>, kinds: &[u32]| out.extend(kinds.iter().flat_map(|kind| kind.to_le_bytes()));
    let list = |out: &mut Vec<u8>, kind: u32, len: usize| {
        head(out, &[9, kind]);
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        GgufValue::Int(int) => match (u32::try_from(*int), i64::try_from(*int)) {
            (Ok(small), _) => head(out, &[4, small]),
            (_, Ok(wide)) => {
                head(out, &[11]);
                out.extend(wide.to_le_bytes());
            }
            _ => {
                head(out, &[10]);
                out.extend(u64::try_from(*int).unwrap_or(u64::MAX).to_le_bytes());
            }
        },
        GgufValue::Float(float) => head(out, &[6, (*float as f32).to_bits()]),
        GgufValue::Bool(flag) => {
            head(out, &[7]);
            out.push(u8::from(*flag));
        }
        GgufValue::Text(string) => {
            head(out, &[8]);
            text(out, string);
        }
        GgufValue::Ints(ints) => match ints.iter().map(|int| i32::try_from(*int)).collect::<Result<Vec<_>, _>>() {
            Ok(small) => {
                list(out, 5, ints.len());
                out.extend(small.iter().flat_map(|int| int.to_le_bytes()));
            }
            Err(_) => {
                list(out, 11, ints.len());
                out.extend(ints.iter().flat_map(|int| int.to_le_bytes()));
            }
        },
        GgufValue::Floats(floats) => {
            list(out, 6, floats.len());
            out.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
        }
        GgufValue::Texts(texts) => {
            list(out, 8, texts.len());
            texts.iter().for_each(|string| text(out, string));
        }
    }
}

/// The header up to the first number, and where the hash belongs.
fn header(plan: &[Planned<'_>], settings: &GgufSettings) -> (Vec<u8>, usize) {
    let hash = format!("musaic.{DATA_SHA256}");
    // Our own alignment is the default one.
    let kept: Vec<_> = settings.iter().filter(|(key, _)| *key != hash && *key != "general.alignment").collect();
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((plan.len() as u64).to_le_bytes());
    out.extend((kept.len() as u64 + 1).to_le_bytes());
    for (key, setting) in kept {
        text(&mut out, key);
        value(&mut out, setting);
    }
    text(&mut out, &hash);
    value(&mut out, &GgufValue::Text(UNKNOWN.to_owned()));
    let hash_at = out.len() - UNKNOWN.len();
    let mut at = 0u64;
    for tensor in plan {
        text(&mut out, tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // From the fastest dimension.
        out.extend(tensor.shape.iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
        out.extend(kind(tensor.format).to_le_bytes());
        out.extend(at.to_le_bytes());
        at += tensor.bytes.next_multiple_of(ALIGNMENT) as u64;
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    (out, hash_at)
}

fn write_tensor(path: &Path, source: &dyn Source, tensor: &Planned<'_>, out: &mut impl Write) -> Result<()> {
    let mut written = 0;
    let mut put = |bytes: &[u8]| {
        written += bytes.len();
        out.write_all(bytes).map_err(|e| Error::io(path, e))
    };
    if source.packed_as(tensor.name) == Some(tensor.format) {
        source.read_packed(tensor.name, &mut put)?;
    } else {
        let (cols, limit) = (tensor.shape.last().copied().unwrap_or(1).max(1), f16::MAX.to_f32());
        let (mut rows, mut bytes) = (Vec::new(), Vec::new());
        source.read(tensor.name, &mut |piece| {
            let fits = |v: &f32| match tensor.format {
                WeightFormat::F32 | WeightFormat::Bf16 => true,
                WeightFormat::F16 => !v.is_finite() || v.abs() <= limit,
                WeightFormat::Q8_0 | WeightFormat::Q4K => v.abs() <= limit,
            };
            if let Some(bad) = piece.iter().find(|v| !fits(v)) {
                let expected = format!("values that {} holds", tensor.format);
                return Err(Error::format(path, expected, format!("tensor `{}` holds {bad}", tensor.name)));
            }
            bytes.clear();
            match tensor.format {
                WeightFormat::F32 => bytes.extend(piece.iter().flat_map(|v| v.to_le_bytes())),
                WeightFormat::F16 => bytes.extend(piece.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
                WeightFormat::Bf16 => bytes.extend(piece.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
                quantised => {
                    rows.extend_from_slice(piece);
                    let whole = rows.len() / cols * cols;
                    if whole > 0 {
                        pack_rows(quantised, cols, &rows[..whole], &mut bytes)?;
                        rows.drain(..whole);
                    }
                }
            }
            put(&bytes)
        })?;
    }
    if written == tensor.bytes {
        return Ok(());
    }
    let expected = format!("{} bytes for tensor `{}`", tensor.bytes, tensor.name);
    Err(Error::format(path, expected, format!("{} gave {written}", source.label())))
}
