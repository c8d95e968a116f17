//! Reads the header of a safetensors file; the numbers are read later, by position.

use safetensors::tensor::{Dtype, Metadata};

use super::{
    bytes::{Bytes, broken},
    encoding::Encoding,
    entry::{Entry, Layout, Listing},
    packed,
};
use crate::Result;

/// Bytes of header that are accepted, as in the reference reader.
const MOST_HEADER: u64 = 100_000_000;

fn encoding(dtype: Dtype) -> Option<Encoding> {
    Some(match dtype {
        Dtype::F64 => Encoding::F64,
        Dtype::F32 => Encoding::F32,
        Dtype::F16 => Encoding::F16,
        Dtype::BF16 => Encoding::Bf16,
        Dtype::I64 => Encoding::I64,
        Dtype::U64 => Encoding::U64,
        Dtype::I32 => Encoding::I32,
        Dtype::U32 => Encoding::U32,
        Dtype::I16 => Encoding::I16,
        Dtype::U16 => Encoding::U16,
        Dtype::I8 => Encoding::I8,
        Dtype::U8 => Encoding::U8,
        Dtype::BOOL => Encoding::Bool,
        _ => return None,
    })
}

pub(super) fn read(bytes: &Bytes, file: usize) -> Result<Listing> {
    let len = bytes.take(0, 8)?.try_into().map_or(0, u64::from_le_bytes);
    if len > MOST_HEADER {
        let hint = "a header is at most 100 MB; this is not a safetensors file, or a damaged one";
        return Err(broken(bytes.path(), format!("the safetensors header claims {len} bytes"), hint));
    }
    let header = bytes.take(8, len)?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|e| bytes.broken(format!("the safetensors header is damaged: {e}")))?;
    let start = 8 + len;
    let expected = start.saturating_add(header.data_len() as u64);
    if expected != bytes.len() {
        let found = format!("the file has {} bytes, its safetensors header describes {expected}", bytes.len());
        return Err(bytes.broken(found));
    }
    let mut listing = Listing { data: Some(start), ..Listing::default() };
    let mut packed = packed::Table::new();
    for (key, value) in header.metadata().iter().flatten() {
        if key == packed::KEY {
            packed = serde_json::from_str(value)
                .map_err(|e| bytes.broken(format!("the table `{}` of the header is damaged: {e}", packed::KEY)))?;
        } else {
            listing.metadata.push((key.clone(), value.clone()));
        }
    }
    for (name, info) in header.tensors() {
        let (from, to) = info.data_offsets;
        let (mut shape, mut encoding) = (info.shape.clone(), encoding(info.dtype));
        if let Some(packed) = packed.remove(&name) {
            let resolved = packed.resolve(&shape).filter(|_| info.dtype == Dtype::U8);
            let resolved = resolved
                .ok_or_else(|| bytes.broken(format!("the packed tensor `{name}` has a shape that does not fit")))?;
            (shape, encoding) = (resolved.0, Some(resolved.1));
        }
        let dtype = encoding.map_or_else(|| info.dtype.to_string(), |e| e.name().to_owned());
        let (start, len) = (start + from as u64, (to - from) as u64);
        listing.tensors.push((name, shape, Entry { file, start, len, dtype, encoding, layout: Layout::Plain }));
    }
    if let Some(name) = packed.keys().next() {
        return Err(bytes.broken(format!("the header calls `{name}` packed, and there is no such tensor")));
    }
    Ok(listing)
}
