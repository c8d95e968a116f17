//! Tensors in files written by `torch.save`: the zip archive of today, and the plain sequence of pickles before torch 1.6.

use std::{collections::HashMap, rc::Rc};

use super::{
    bytes::{Bytes, broken},
    encoding::Encoding,
    entry::{Entry, Layout, Listing},
    pickle::{Heap, Input, Node, Stored, Value, load},
    zip,
};
use crate::Result;

/// How every file of the old format begins: a pickle of torch's magic number.
pub(super) const OLD_MAGIC: [u8; 15] =
    [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// Containers within each other.
const MOST_DEPTH: usize = 32;
/// Values looked at while tensors are collected; shared containers count each time.
const MOST_VISITS: usize = 4 << 20;
/// Bytes that names on the way may take together, beyond 16 times the file.
const FREE_NAME_BYTES: u64 = 1 << 20;
/// The same, however large the file is.
const MOST_NAME_BYTES: u64 = 128 << 20;
/// Elements that a tensor may have beyond those of its storage (an expanded scalar, say).
const MOST_EXPANDED: u64 = 1 << 20;

fn encoding(class: &str) -> Option<Encoding> {
    Some(match class.strip_prefix("torch.")? {
        "DoubleStorage" | "float64" => Encoding::F64,
        "FloatStorage" | "float32" => Encoding::F32,
        "HalfStorage" | "float16" => Encoding::F16,
        "BFloat16Storage" | "bfloat16" => Encoding::Bf16,
        "LongStorage" | "int64" => Encoding::I64,
        "IntStorage" | "int32" => Encoding::I32,
        "ShortStorage" | "int16" => Encoding::I16,
        "CharStorage" | "int8" => Encoding::I8,
        "ByteStorage" | "uint8" => Encoding::U8,
        "BoolStorage" | "bool" => Encoding::Bool,
        "uint64" => Encoding::U64,
        "uint32" => Encoding::U32,
        "uint16" => Encoding::U16,
        _ => return None,
    })
}

/// Lists a zip archive.
pub(super) fn read_archive(bytes: &Bytes, file: usize) -> Result<Listing> {
    let entries = zip::entries(bytes)?;
    let table = entries.iter().find(|e| e.name == "data.pkl" || e.name.ends_with("/data.pkl"));
    let Some(table) = table else {
        let hint = "a checkpoint of torch.save holds an entry `data.pkl`; unpack other archives first";
        return Err(broken(bytes.path(), "a zip archive, but not one written by torch", hint));
    };
    let prefix = table.name.trim_end_matches("data.pkl");
    let mut by_name = HashMap::with_capacity(entries.len());
    for entry in &entries {
        if by_name.insert(entry.name.as_str(), entry).is_some() {
            return Err(bytes.broken(format!("the archive has two entries `{}`", entry.name)));
        }
    }
    if let Some(order) = by_name.get(format!("{prefix}byteorder").as_str()) {
        let (start, len) = order.range(bytes)?;
        if bytes.take(start, len.min(16))? != b"little" {
            let hint = "load and save it once on a little-endian machine";
            return Err(broken(bytes.path(), "the numbers are stored in big-endian order", hint));
        }
    }
    let (start, len) = table.range(bytes)?;
    let (heap, root) = load(&mut Input::new(bytes, start, start + len))?;
    let mut places: HashMap<Rc<str>, (u64, u64)> = HashMap::new();
    let mut place = |key: &Rc<str>| -> Result<(u64, u64)> {
        if let Some(&known) = places.get(key) {
            return Ok(known);
        }
        let entry = by_name.get(format!("{prefix}data/{key}").as_str());
        let entry = entry.ok_or_else(|| bytes.broken(format!("the archive lacks the numbers `{prefix}data/{key}`")))?;
        let range = entry.range(bytes)?;
        places.insert(key.clone(), range);
        Ok(range)
    };
    collect(bytes, file, &heap, &root, &mut place)
}

/// Lists a file of the old format: magic, protocol, system, table, names of the storages, then each with its length.
pub(super) fn read_old(bytes: &Bytes, file: usize) -> Result<Listing> {
    let mut input = Input::new(bytes, OLD_MAGIC.len() as u64, bytes.len());
    load(&mut input)?;
    load(&mut input)?;
    let (heap, root) = load(&mut input)?;
    let (keys_heap, keys) = load(&mut input)?;
    let Some(Node::List(keys)) = keys_heap.node(&keys) else {
        return Err(bytes.broken("the list of storages is missing"));
    };
    let mut tensors = Vec::new();
    let mut listing = Listing { inert: heap.inert.clone(), ..Listing::default() };
    flatten(bytes, &heap, &root, &mut tensors)?;
    let widths: HashMap<_, _> = tensors
        .iter()
        .map(|(_, stored)| (stored.storage.key.clone(), encoding(&stored.storage.class).map_or(1, Encoding::unit)))
        .collect();
    let mut places = HashMap::new();
    let mut at = input.position();
    for key in keys {
        let Value::Text(key) = key else { return Err(bytes.broken("a storage without a name")) };
        // Storages that no tensor uses have no known width; what follows them cannot be found.
        let Some(&width) = widths.get(key) else { break };
        let count = bytes.take(at, 8)?.try_into().map_or(0, u64::from_le_bytes);
        let len = count.checked_mul(width as u64).filter(|&len| len <= bytes.len() - at - 8);
        let len = len.ok_or_else(|| bytes.broken(format!("storage `{key}` claims {count} elements")))?;
        places.insert(key.clone(), (at + 8, len));
        at += 8 + len;
    }
    for (name, stored) in tensors {
        let place = places.get(&stored.storage.key).copied();
        let place = place.ok_or_else(|| bytes.broken(format!("the numbers of `{name}` are not in the file")))?;
        listing.tensors.push(entry(bytes, file, name, &stored, place)?);
    }
    Ok(listing)
}

/// Where a storage's numbers begin, and how many bytes they take.
type Place<'a> = dyn FnMut(&Rc<str>) -> Result<(u64, u64)> + 'a;

fn collect(bytes: &Bytes, file: usize, heap: &Heap, root: &Value, place: &mut Place<'_>) -> Result<Listing> {
    let mut tensors = Vec::new();
    flatten(bytes, heap, root, &mut tensors)?;
    let mut listing = Listing { inert: heap.inert.clone(), ..Listing::default() };
    for (name, stored) in tensors {
        let place = place(&stored.storage.key)?;
        listing.tensors.push(entry(bytes, file, name, &stored, place)?);
    }
    Ok(listing)
}

/// Checks a view against the bytes of its storage.
fn entry(
    bytes: &Bytes,
    file: usize,
    name: String,
    stored: &Stored,
    (start, len): (u64, u64),
) -> Result<(String, Vec<usize>, Entry)> {
    let class = stored.dtype.as_ref().unwrap_or(&stored.storage.class);
    let wrong = || {
        bytes.broken(format!(
            "`{name}` {:?} (offset {}, strides {:?}) does not fit in its {len} bytes",
            stored.shape, stored.offset, stored.strides
        ))
    };
    let count = stored.shape.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim as u64)).ok_or_else(wrong)?;
    let Some(encoding) = encoding(class) else {
        // Of an unknown width, but no number takes less than a bit.
        if count > len.saturating_mul(8).max(MOST_EXPANDED) {
            return Err(wrong());
        }
        let dtype = class.trim_start_matches("torch.").to_owned();
        let entry = Entry { file, start, len, dtype, encoding: None, layout: Layout::Plain };
        return Ok((name, stored.shape.clone(), entry));
    };
    let unit = encoding.unit() as u64;
    let storage = &stored.storage;
    let claimed = storage.len.checked_mul(self::encoding(&storage.class).map_or(1, Encoding::unit) as u64);
    if claimed.is_none_or(|claimed| claimed > len) {
        let found = format!("the numbers of `{name}` are cut off: {len} bytes for {} elements", storage.len);
        return Err(bytes.broken(found));
    }
    let here = len / unit;
    // Elements from the first to the last one, both included.
    let extent =
        if count == 0 {
            Some(0)
        } else {
            stored.shape.iter().zip(&stored.strides).try_fold(1u64, |extent, (&dim, &stride)| {
                extent.checked_add((dim as u64 - 1).checked_mul(stride as u64)?)
            })
        };
    let extent = extent.filter(|extent| stored.offset.checked_add(*extent).is_some_and(|end| end <= here));
    let extent = extent.filter(|_| count <= here.max(MOST_EXPANDED)).ok_or_else(wrong)?;
    let mut packed = 1;
    let plain = stored.shape.iter().zip(&stored.strides).rev().all(|(&dim, &stride)| {
        let fits = dim == 1 || stride == packed;
        packed = packed.saturating_mul(dim);
        fits
    });
    let layout = if plain || count == 0 { Layout::Plain } else { Layout::Strided(stored.strides.clone()) };
    let entry = Entry {
        file,
        start: start + stored.offset * unit,
        len: extent * unit,
        dtype: encoding.name().to_owned(),
        encoding: Some(encoding),
        layout,
    };
    Ok((name, stored.shape.clone(), entry))
}

struct Flattener<'a> {
    bytes: &'a Bytes,
    heap: &'a Heap,
    visits: usize,
    name_bytes: u64,
    out: &'a mut Vec<(String, Rc<Stored>)>,
}

/// Collects all tensors below `root`, named by the way to them: `model.layers.0.weight`.
fn flatten(bytes: &Bytes, heap: &Heap, root: &Value, out: &mut Vec<(String, Rc<Stored>)>) -> Result<()> {
    Flattener { bytes, heap, visits: 0, name_bytes: 0, out }.visit("", root, 0)
}

impl Flattener<'_> {
    fn visit(&mut self, name: &str, value: &Value, depth: usize) -> Result<()> {
        self.visits += 1;
        self.name_bytes += name.len() as u64 + 32;
        let most = FREE_NAME_BYTES.saturating_add(self.bytes.len().saturating_mul(16)).min(MOST_NAME_BYTES);
        if self.visits > MOST_VISITS || self.name_bytes > most || depth > MOST_DEPTH {
            return Err(self.bytes.broken("the pickled table is nested without end"));
        }
        match self.heap.node(value) {
            Some(Node::Tensor(stored)) => {
                self.out.push((name.to_owned(), stored.clone()));
                Ok(())
            }
            Some(Node::Dict(items)) => self.items(name, items, depth),
            Some(Node::List(items)) => self.list(name, items, depth),
            Some(Node::Tuple(items)) => self.list(name, items, depth),
            Some(Node::Object { state, items }) => {
                self.items(name, items, depth)?;
                state.as_ref().map_or(Ok(()), |state| self.object(name, state, depth))
            }
            _ => Ok(()),
        }
    }

    fn list(&mut self, name: &str, items: &[Value], depth: usize) -> Result<()> {
        for (index, item) in items.iter().enumerate() {
            if matches!(item, Value::Node(_)) {
                self.visit(&below(name, &index.to_string()), item, depth + 1)?;
            }
        }
        Ok(())
    }

    fn items(&mut self, name: &str, items: &[(Value, Value)], depth: usize) -> Result<()> {
        for (key, value) in items {
            let key = match key {
                _ if !matches!(value, Value::Node(_)) => continue,
                Value::Text(key) => below(name, key),
                Value::Int(key) => below(name, &key.to_string()),
                _ => continue,
            };
            self.visit(&key, value, depth + 1)?;
        }
        Ok(())
    }

    /// A module saved whole keeps its tensors in three dictionaries that are no part of their names.
    fn object(&mut self, name: &str, state: &Value, depth: usize) -> Result<()> {
        let Some(Node::Dict(items)) = self.heap.node(state) else { return self.visit(name, state, depth + 1) };
        let part = |wanted: &str| {
            items.iter().find(|(key, _)| matches!(key, Value::Text(key) if &**key == wanted)).map(|(_, value)| value)
        };
        if part("_modules").is_none() {
            return self.visit(name, state, depth + 1);
        }
        for part in ["_parameters", "_buffers", "_modules"].map(part).into_iter().flatten() {
            self.visit(name, part, depth + 1)?;
        }
        Ok(())
    }
}

fn below(name: &str, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") }
}
