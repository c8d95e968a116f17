//! Reads the header of a GGUF file: settings, then names, shapes and places of the tensors.
//!
//! Layout ([specification](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)), versions 2 and 3, little-endian:
//! `GGUF`, version u32, number of tensors u64, number of settings u64; each setting a key, a type and a value; each tensor a
//! name, its dimensions from the fastest, a type and an offset; then the numbers, aligned to `general.alignment`.
//!
//! candle has a reader of these headers too: it allocates what a length in the file claims before it looks whether the file
//! is that long, and hands out whole tensors. This one knows the size of the file, and the numbers are streamed as from any
//! other checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    bytes::{AGAIN, Bytes, broken},
    encoding::Encoding,
    entry::{Entry, Layout, Listing},
    ggml::Blocks,
};
use crate::{Error, Result};

/// Bytes of header that are accepted: a vocabulary of a quarter of a million pieces with its merges takes under 20 MB.
const MOST_HEADER: u64 = 128 << 20;
/// Settings and tensors that are accepted.
const MOST_ENTRIES: u64 = 1 << 16;
/// Dimensions of a tensor.
const MOST_DIMS: u32 = 4;
/// Bytes read at once.
const WINDOW: u64 = 1 << 20;
/// Where numbers begin unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// One setting of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// A whole number, of any width.
    Int(i128),
    /// A fraction.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Whole numbers, or yes and no as 1 and 0.
    Ints(Vec<i64>),
    /// Fractions.
    Floats(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
}

/// The settings of a GGUF file: sizes of the model, its tokenizer, notes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufSettings(BTreeMap<String, GgufValue>);

impl GgufSettings {
    /// A setting.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.0.get(key)
    }

    /// All settings, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A text.
    ///
    /// # Errors
    /// It is something else; so with all that follow.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.pick(key, "a text", |value| match value {
            GgufValue::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A whole number from 0 on; a list of the same number everywhere counts as that number.
    ///
    /// # Errors
    /// It is something else.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.pick(key, "a whole number from 0 on", |value| match value {
            GgufValue::Int(value) => usize::try_from(*value).ok(),
            GgufValue::Ints(values) => {
                let (first, rest) = values.split_first()?;
                rest.iter().all(|value| value == first).then(|| usize::try_from(*first).ok()).flatten()
            }
            _ => None,
        })
    }

    /// A number.
    ///
    /// # Errors
    /// It is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.pick(key, "a number", |value| match value {
            GgufValue::Float(value) => Some(*value),
            GgufValue::Int(value) => Some(*value as f64),
            _ => None,
        })
    }

    /// Yes or no.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.pick(key, "yes or no", |value| match value {
            GgufValue::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A list of texts.
    ///
    /// # Errors
    /// It is something else.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.pick(key, "a list of texts", |value| match value {
            GgufValue::Texts(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// A list of fractions.
    ///
    /// # Errors
    /// It is something else.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.pick(key, "a list of fractions", |value| match value {
            GgufValue::Floats(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// It is something else.
    pub fn ints(&self, key: &str) -> Result<Option<&[i64]>> {
        self.pick(key, "a list of whole numbers", |value| match value {
            GgufValue::Ints(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    fn pick<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        pick: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let found = || Error::argument(key, value.summary(), expected);
        pick(value).map(Some).ok_or_else(found)
    }

    pub(super) fn extend(&mut self, other: Self) {
        for (key, value) in other.0 {
            self.0.entry(key).or_insert(value);
        }
    }
}

impl IntoIterator for GgufSettings {
    type Item = (String, GgufValue);
    type IntoIter = std::collections::btree_map::IntoIter<String, GgufValue>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, GgufValue)> for GgufSettings {
    fn from_iter<I: IntoIterator<Item = (String, GgufValue)>>(settings: I) -> Self {
        Self(settings.into_iter().collect())
    }
}

impl GgufValue {
    /// For messages: the value, or of a list its length.
    fn summary(&self) -> String {
        match self {
            Self::Int(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => format!("`{}`", text.chars().take(40).collect::<String>()),
            Self::Ints(values) => format!("a list of {} whole numbers", values.len()),
            Self::Floats(values) => format!("a list of {} fractions", values.len()),
            Self::Texts(values) => format!("a list of {} texts", values.len()),
        }
    }
}

/// Types of values by their number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unsigned(usize),
    Signed(usize),
    F32,
    F64,
    Bool,
    Text,
    List,
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Text,
            9 => Self::List,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes that one value takes at least.
    fn least(self) -> u64 {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) => bytes as u64,
            Self::F32 => 4,
            Self::F64 | Self::Text => 8,
            Self::Bool => 1,
            Self::List => 12,
        }
    }
}

/// Reads on from a place in the file.
struct Cursor<'a> {
    bytes: &'a Bytes,
    at: u64,
    /// What was read ahead, and where it begins.
    window: Vec<u8>,
    start: u64,
}

impl Cursor<'_> {
    fn take(&mut self, count: u64) -> Result<&[u8]> {
        let end = self.at.saturating_add(count);
        if end > MOST_HEADER.min(self.bytes.len()) {
            return Err(self.broken(format!("the header goes on beyond byte {end} of {}", self.bytes.len())));
        }
        if self.at < self.start || end > self.start + self.window.len() as u64 {
            self.window = self.bytes.take(self.at, count.max(WINDOW).min(self.bytes.len() - self.at))?;
            self.start = self.at;
        }
        let from = (self.at - self.start) as usize;
        self.at = end;
        Ok(&self.window[from..from + count as usize])
    }

    fn broken(&self, found: String) -> Error {
        broken(self.bytes.path(), format!("the GGUF header is damaged: {found}"), AGAIN)
    }

    fn unsigned(&mut self, width: usize) -> Result<u64> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.take(width as u64)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.unsigned(4)? as u32)
    }

    fn signed(&mut self, width: usize) -> Result<i64> {
        let unused = 64 - 8 * width as u32;
        Ok(self.unsigned(width)?.cast_signed() << unused >> unused)
    }

    fn f32(&mut self) -> Result<f32> {
        Ok(f32::from_bits(self.u32()?))
    }

    fn text(&mut self) -> Result<String> {
        let len = self.unsigned(8)?;
        let text = std::str::from_utf8(self.take(len)?).map(str::to_owned);
        text.map_err(|_| self.broken("a text that is not UTF-8".into()))
    }

    fn kind(&mut self) -> Result<Kind> {
        let number = self.u32()?;
        Kind::of(number).ok_or_else(|| self.broken(format!("a value of type {number}")))
    }

    fn value(&mut self) -> Result<GgufValue> {
        Ok(match self.kind()? {
            Kind::Unsigned(width) => GgufValue::Int(self.unsigned(width)?.into()),
            Kind::Signed(width) => GgufValue::Int(self.signed(width)?.into()),
            Kind::F32 => GgufValue::Float(self.f32()?.into()),
            Kind::F64 => GgufValue::Float(f64::from_bits(self.unsigned(8)?)),
            Kind::Bool => GgufValue::Bool(self.unsigned(1)? != 0),
            Kind::Text => GgufValue::Text(self.text()?),
            Kind::List => self.list()?,
        })
    }

    fn list(&mut self) -> Result<GgufValue> {
        let kind = self.kind()?;
        let count = self.unsigned(8)?;
        let left = MOST_HEADER.min(self.bytes.len()).saturating_sub(self.at);
        if count.saturating_mul(kind.least()) > left {
            return Err(self.broken(format!("a list of {count} values in {left} bytes")));
        }
        let all = 0..count;
        Ok(match kind {
            Kind::Unsigned(width) => {
                let whole = |value| i64::try_from(value).unwrap_or(i64::MAX);
                GgufValue::Ints(all.map(|_| self.unsigned(width).map(whole)).collect::<Result<_>>()?)
            }
            Kind::Bool => GgufValue::Ints(all.map(|_| Ok(i64::from(self.unsigned(1)? != 0))).collect::<Result<_>>()?),
            Kind::Signed(width) => GgufValue::Ints(all.map(|_| self.signed(width)).collect::<Result<_>>()?),
            Kind::F32 => GgufValue::Floats(all.map(|_| self.f32()).collect::<Result<_>>()?),
            Kind::F64 => {
                GgufValue::Floats(all.map(|_| Ok(f64::from_bits(self.unsigned(8)?) as f32)).collect::<Result<_>>()?)
            }
            Kind::Text => GgufValue::Texts(all.map(|_| self.text()).collect::<Result<_>>()?),
            Kind::List => return Err(self.broken("a list of lists".into())),
        })
    }
}

/// How a stored type is read: its name, and its encoding where there is one.
fn stored(number: u32, cols: usize) -> (String, Option<Encoding>) {
    let encoding = match number {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Blocks(Blocks::Q4_0),
        3 => Encoding::Blocks(Blocks::Q4_1),
        6 => Encoding::Blocks(Blocks::Q5_0),
        7 => Encoding::Blocks(Blocks::Q5_1),
        8 => Encoding::Q8_0 { cols },
        10 => Encoding::Blocks(Blocks::Q2K),
        11 => Encoding::Blocks(Blocks::Q3K),
        12 => Encoding::Blocks(Blocks::Q4K),
        13 => Encoding::Blocks(Blocks::Q5K),
        14 => Encoding::Blocks(Blocks::Q6K),
        24 => Encoding::I8,
        25 => Encoding::I16,
        26 => Encoding::I32,
        27 => Encoding::I64,
        28 => Encoding::F64,
        30 => Encoding::Bf16,
        other => return (format!("type {other} of ggml"), None),
    };
    (encoding.name().to_owned(), Some(encoding))
}

/// A tensor as the header has it.
struct Described {
    name: String,
    shape: Vec<usize>,
    offset: u64,
    len: u64,
    dtype: String,
    encoding: Option<Encoding>,
}

fn tensor(cursor: &mut Cursor<'_>) -> Result<Described> {
    let name = cursor.text()?;
    let dims = cursor.u32()?;
    if dims > MOST_DIMS {
        return Err(cursor.broken(format!("tensor `{name}` has {dims} dimensions")));
    }
    let shape = (0..dims).map(|_| cursor.unsigned(8)).collect::<Result<Vec<_>>>()?;
    let (number, offset) = (cursor.u32()?, cursor.unsigned(8)?);
    let cols = shape.first().copied().unwrap_or(1);
    let (dtype, encoding) = stored(number, usize::try_from(cols).unwrap_or(usize::MAX));
    let (unit, values) = encoding.map_or((0, 1), Encoding::block);
    let count = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
    let len = count.and_then(|n| (n / values as u64).checked_mul(unit as u64));
    let fits = shape.iter().all(|&dim| usize::try_from(dim).is_ok()) && cols.is_multiple_of(values as u64);
    let Some(len) = len.filter(|_| fits) else {
        return Err(cursor.broken(format!("tensor `{name}` {shape:?} of {dtype} does not fit its type")));
    };
    // Ours count from the slowest dimension.
    let shape = shape.into_iter().rev().map(|dim| dim as usize).collect();
    Ok(Described { name, shape, offset, len, dtype, encoding })
}

pub(super) fn read(bytes: &Bytes, file: usize) -> Result<Listing> {
    let mut cursor = Cursor { bytes, at: 4, window: Vec::new(), start: 0 };
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        let found = match version {
            1 => "this is a GGUF file of version 1".to_owned(),
            _ if version.swap_bytes() <= 3 => "this is a big-endian GGUF file".to_owned(),
            other => format!("this is a GGUF file of version {other}"),
        };
        return Err(broken(bytes.path(), found, "versions 2 and 3 are read, little-endian; make the file again"));
    }
    let (tensors, settings) = (cursor.unsigned(8)?, cursor.unsigned(8)?);
    if tensors > MOST_ENTRIES || settings > MOST_ENTRIES {
        return Err(cursor.broken(format!("it claims {tensors} tensors and {settings} settings")));
    }
    let mut listing = Listing::default();
    let mut alignment = ALIGNMENT;
    let mut known = BTreeMap::new();
    for _ in 0..settings {
        let key = cursor.text()?;
        let value = cursor.value()?;
        if let ("general.alignment", GgufValue::Int(wanted)) = (key.as_str(), &value) {
            let wanted = u64::try_from(*wanted).ok().filter(|n| n.is_power_of_two() && *n <= WINDOW);
            alignment = wanted.ok_or_else(|| cursor.broken(format!("general.alignment = {}", value.summary())))?;
        }
        if let GgufValue::Text(text) = &value {
            listing.metadata.push((key.clone(), text.clone()));
        }
        known.insert(key, value);
    }
    listing.settings = Some(GgufSettings(known));
    let described = (0..tensors).map(|_| tensor(&mut cursor)).collect::<Result<Vec<_>>>()?;
    let data = cursor.at.next_multiple_of(alignment);
    listing.data = Some(data);
    let mut names = BTreeSet::new();
    for Described { name, shape, offset, len, dtype, encoding } in described {
        let start = data.checked_add(offset);
        let Some(start) = start.filter(|start| start.checked_add(len).is_some_and(|end| end <= bytes.len())) else {
            return Err(bytes.broken(format!("tensor `{name}` reaches beyond the end of the file")));
        };
        if !names.insert(name.clone()) {
            return Err(cursor.broken(format!("two tensors `{name}`")));
        }
        listing.tensors.push((name, shape, Entry { file, start, len, dtype, encoding, layout: Layout::Plain }));
    }
    Ok(listing)
}
