//! Streams stored numbers as f32 in pieces of bounded size; large tensors are read and converted by several threads while
//! the caller takes the pieces in order.

use std::{
    num::NonZero,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
};

use super::{bytes::Bytes, encoding::Encoding};
use crate::Result;

/// Bytes read at once: large enough to make the system call cheap, small enough that the numbers are still in the cache
/// when they are taken.
const PIECE: usize = 1 << 18;
/// From this size on threads pay for themselves.
const LARGE: u64 = 4 << 20;
/// More readers than this gain nothing.
const MOST_READERS: usize = 4;

/// A run of stored numbers.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) bytes: &'a Bytes,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) encoding: Encoding,
}

impl Run<'_> {
    /// Hands over all numbers in order.
    pub(super) fn stream(self, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let readers = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_READERS);
        if self.len < LARGE || readers < 2 { self.alone(sink) } else { self.together(readers, sink) }
    }

    /// Hands over the bytes as they are stored, in whole units.
    pub(super) fn stream_bytes(self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let most = (self.units_in_piece() * self.encoding.unit()) as u64;
        let mut raw = Vec::new();
        for index in 0..self.pieces() {
            let offset = index * most;
            raw.resize((self.len - offset).min(most) as usize, 0);
            self.bytes.read_at(self.start + offset, &mut raw)?;
            sink(&raw)?;
        }
        Ok(())
    }

    fn units_in_piece(&self) -> usize {
        PIECE / self.encoding.unit()
    }

    fn pieces(&self) -> u64 {
        self.len.div_ceil((self.units_in_piece() * self.encoding.unit()) as u64)
    }

    /// Reads and converts piece number `index`.
    fn piece(&self, index: u64, raw: &mut Vec<u8>, out: &mut Vec<f32>) -> Result<()> {
        let first = index * self.units_in_piece() as u64;
        let offset = first * self.encoding.unit() as u64;
        let most = (self.units_in_piece() * self.encoding.unit()) as u64;
        raw.resize((self.len - offset).min(most) as usize, 0);
        self.bytes.read_at(self.start + offset, raw)?;
        self.encoding.decode(first, raw, out);
        Ok(())
    }

    fn alone(&self, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let (mut raw, mut out) = (Vec::new(), Vec::new());
        for index in 0..self.pieces() {
            self.piece(index, &mut raw, &mut out)?;
            sink(&out)?;
        }
        Ok(())
    }

    /// Reader `r` of `n` makes the pieces `r`, `r + n`, ..; each has two buffers that go back and forth.
    fn together(&self, readers: usize, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        thread::scope(|scope| {
            let lanes: Vec<_> = (0..readers)
                .map(|reader| {
                    let (full, taken) = sync_channel(1);
                    let (empty, free) = channel();
                    let _ = empty.send(Vec::new());
                    let _ = empty.send(Vec::new());
                    scope.spawn(move || self.read_lane(reader, readers, &full, &free));
                    (taken, empty)
                })
                .collect();
            for index in 0..self.pieces() {
                let (taken, empty): &(Receiver<Result<Vec<f32>>>, Sender<Vec<f32>>) = &lanes[index as usize % readers];
                // A lane that ended early has said why in its last message.
                let Ok(piece) = taken.recv() else { return Err(self.bytes.broken("reading stopped early")) };
                let piece = piece?;
                sink(&piece)?;
                let _ = empty.send(piece);
            }
            Ok(())
        })
    }

    /// Ends when its pieces are done, at the first error, or when nobody takes pieces any more.
    fn read_lane(&self, reader: usize, readers: usize, full: &SyncSender<Result<Vec<f32>>>, free: &Receiver<Vec<f32>>) {
        let mut raw = Vec::new();
        for index in (reader as u64..self.pieces()).step_by(readers) {
            let Ok(mut out) = free.recv() else { return };
            let made = self.piece(index, &mut raw, &mut out).map(|()| out);
            let failed = made.is_err();
            if full.send(made).is_err() || failed {
                return;
            }
        }
    }
}
