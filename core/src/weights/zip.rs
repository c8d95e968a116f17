//! The directory of a zip archive, as far as torch writes it: plain entries, zip64 where sizes need it.

use super::bytes::{Bytes, broken};
use crate::Result;

/// Bytes of directory that are accepted; a published model needs some hundred kilobytes.
const MOST_DIRECTORY: u64 = 64 << 20;
/// Entries that are accepted.
const MOST_ENTRIES: u64 = 1 << 19;
/// End record with the longest comment, and the locator of the 64-bit end record before it.
const TAIL: u64 = 22 + 65_535 + 20;

/// One entry of the directory.
#[derive(Debug)]
pub(super) struct ZipEntry {
    pub(super) name: String,
    method: u16,
    flags: u16,
    stored: u64,
    size: u64,
    header: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(wide))
}

/// Where the directory lies: offset, length, number of entries.
fn locate(bytes: &Bytes) -> Result<Option<(u64, u64, u64)>> {
    let start = bytes.len().saturating_sub(TAIL);
    let tail = bytes.take(start, bytes.len() - start)?;
    let Some(end) = (0..tail.len().saturating_sub(21)).rev().find(|&at| tail[at..].starts_with(b"PK\x05\x06")) else {
        return Ok(None);
    };
    let short = || {
        let record = &tail[end..];
        Some((number::<4>(record, 16)?, number::<4>(record, 12)?, number::<2>(record, 10)?))
    };
    let wide = end.checked_sub(20).filter(|&at| tail[at..].starts_with(b"PK\x06\x07"));
    let Some(wide) = wide.and_then(|at| number::<8>(&tail, at + 8)) else { return Ok(short()) };
    let record = bytes.take(wide, 56)?;
    if !record.starts_with(b"PK\x06\x06") {
        return Ok(None);
    }
    Ok((|| Some((number::<8>(&record, 48)?, number::<8>(&record, 40)?, number::<8>(&record, 32)?)))())
}

/// Reads the directory.
pub(super) fn entries(bytes: &Bytes) -> Result<Vec<ZipEntry>> {
    let Some((offset, len, count)) = locate(bytes)? else {
        return Err(bytes.broken("the zip archive has no directory at its end: the file is cut off"));
    };
    if len > MOST_DIRECTORY || count > MOST_ENTRIES || count.saturating_mul(46) > len {
        return Err(bytes.broken(format!("the zip directory claims {count} entries in {len} bytes")));
    }
    let directory = bytes.take(offset, len)?;
    let mut found = Vec::with_capacity(count as usize);
    let mut at = 0;
    for _ in 0..count {
        let (entry, next) = entry(&directory, at).ok_or_else(|| bytes.broken("the zip directory is damaged"))?;
        found.push(entry);
        at = next;
    }
    Ok(found)
}

fn entry(directory: &[u8], at: usize) -> Option<(ZipEntry, usize)> {
    let fixed = directory.get(at..at + 46).filter(|f| f.starts_with(b"PK\x01\x02"))?;
    let [name, extra, comment] = [28, 30, 32].map(|field| number::<2>(fixed, field).unwrap_or(0) as usize);
    let name_end = at + 46 + name;
    let next = name_end + extra + comment;
    let mut sizes = [number::<4>(fixed, 24)?, number::<4>(fixed, 20)?, number::<4>(fixed, 42)?];
    let text = String::from_utf8_lossy(directory.get(at + 46..name_end)?).into_owned();
    let extra = directory.get(name_end..name_end + extra)?;
    let mut field = 0;
    while let (Some(id), Some(len)) = (number::<2>(extra, field), number::<2>(extra, field + 2)) {
        if id == 1 {
            // The 64-bit sizes are there only for those that did not fit, in this order.
            let mut wide = field + 4;
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                *size = number::<8>(extra.get(..field + 4 + len as usize)?, wide)?;
                wide += 8;
            }
        }
        field += 4 + len as usize;
    }
    let [size, stored, header] = sizes;
    let (method, flags) = (number::<2>(fixed, 10)? as u16, number::<2>(fixed, 8)? as u16);
    (next <= directory.len()).then_some((ZipEntry { name: text, method, flags, stored, size, header }, next))
}

impl ZipEntry {
    /// Where the bytes of this entry lie in the file: offset and length.
    pub(super) fn range(&self, bytes: &Bytes) -> Result<(u64, u64)> {
        if self.method != 0 || self.flags & 1 != 0 || self.stored != self.size {
            let found = format!(
                "entry `{}` of the archive is compressed or encrypted; torch stores entries plainly",
                self.name
            );
            return Err(broken(bytes.path(), found, "save the checkpoint again with torch.save, or as safetensors"));
        }
        let local = bytes.take(self.header, 30)?;
        let damaged = || bytes.broken(format!("entry `{}` of the archive is not where the directory says", self.name));
        if !local.starts_with(b"PK\x03\x04") {
            return Err(damaged());
        }
        let skip = number::<2>(&local, 26).zip(number::<2>(&local, 28)).map(|(name, extra)| 30 + name + extra);
        let start = skip.and_then(|skip| self.header.checked_add(skip)).ok_or_else(damaged)?;
        let end = start.checked_add(self.size).ok_or_else(damaged)?;
        if end > bytes.len() {
            return Err(
                bytes.broken(format!("entry `{}` of the archive reaches beyond the end of the file", self.name))
            );
        }
        Ok((start, self.size))
    }
}
