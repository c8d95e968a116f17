//! Bytes of a pickle, read through a small window and counted.

use super::{super::bytes::Bytes, MOST_BYTES, MOST_STRING};
use crate::{Error, Result};

/// Bytes read ahead.
const WINDOW: u64 = 1 << 16;

/// A range of a file, read from front to back.
pub(crate) struct Input<'a> {
    bytes: &'a Bytes,
    window: Vec<u8>,
    at: usize,
    /// Offset in the file of the end of the window.
    next: u64,
    end: u64,
    left: u64,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a Bytes, start: u64, end: u64) -> Self {
        Self { bytes, window: Vec::new(), at: 0, next: start, end, left: MOST_BYTES }
    }

    /// Offset in the file of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.next - (self.window.len() - self.at) as u64
    }

    pub(super) fn error(&self, what: impl std::fmt::Display) -> Error {
        self.bytes.broken(format!("byte {} of the pickled table: {what}", self.position()))
    }

    pub(super) fn bytes(&self) -> &'a Bytes {
        self.bytes
    }

    fn refill(&mut self) -> Result<()> {
        let len = WINDOW.min(self.end.saturating_sub(self.next)).min(self.left);
        if len == 0 {
            return Err(self.error(if self.left == 0 {
                "it is longer than a table of tensors can be"
            } else {
                "it ends early"
            }));
        }
        self.window = self.bytes.take(self.next, len)?;
        self.at = 0;
        self.next += len;
        self.left -= len;
        Ok(())
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        if self.at == self.window.len() {
            self.refill()?;
        }
        let byte = self.window[self.at];
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        for byte in &mut out {
            *byte = self.byte()?;
        }
        Ok(out)
    }

    /// `len` bytes, refused before they are allocated where the file is shorter.
    pub(super) fn string(&mut self, len: u64) -> Result<Vec<u8>> {
        if len > MOST_STRING || len > self.end.saturating_sub(self.position()) {
            return Err(self.error(format!("a string of {len} bytes")));
        }
        let mut out = Vec::with_capacity(len as usize);
        while (out.len() as u64) < len {
            if self.at == self.window.len() {
                self.refill()?;
            }
            let from = &self.window[self.at..];
            let count = from.len().min(len as usize - out.len());
            out.extend_from_slice(&from[..count]);
            self.at += count;
        }
        Ok(out)
    }

    /// A line without its end.
    pub(super) fn line(&mut self) -> Result<String> {
        let mut out = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                _ if out.len() >= 4096 => return Err(self.error("a line that does not end")),
                byte => out.push(byte),
            }
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}
