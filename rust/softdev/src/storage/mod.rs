//! Where the sectors of a disk live.

mod claim;
mod file;
mod memory;
mod write_cache;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

pub use file::FileStorage;
pub use memory::MemoryStorage;
pub use write_cache::WriteCache;

/// Bytes that a read found.
#[derive(Debug)]
pub enum Found<'a> {
    /// Written before.
    Bytes(&'a [u8]),
    /// This many that read as zero, which nobody stored.
    Zeroes(usize),
}

/// Takes what a read finds, piece by piece, in order.
pub type Sink<'a> = dyn FnMut(Found<'_>) -> io::Result<()> + 'a;

/// Fills each piece that a write offers, in order.
pub type Source<'a> = dyn FnMut(&mut [u8]) -> io::Result<()> + 'a;

/// When a change of the disk must survive a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the next flush.
    Cached,
    /// When the call returns.
    Stable,
}

/// What the system last refused a disk, kept for whoever asks why a request failed. Clones are
/// one and the same.
#[derive(Clone, Debug, Default)]
pub struct LastError(Arc<Mutex<Option<String>>>);

impl LastError {
    /// The last error, with what it befell; None if there was none yet.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

/// The bytes of a disk. The caller keeps offsets and lengths within the capacity.
pub trait Storage: Send {
    /// Bytes that the disk has.
    fn capacity_bytes(&self) -> u64;

    /// Hand `length` bytes from `offset` on to `sink`.
    fn read(&mut self, offset: u64, length: usize, sink: &mut Sink<'_>) -> io::Result<()>;

    /// Store `length` bytes from `offset` on, as `source` fills them in.
    fn write(
        &mut self,
        offset: u64,
        length: usize,
        durability: Durability,
        source: &mut Source<'_>,
    ) -> io::Result<()>;

    /// Make `length` bytes from `offset` on read as zero.
    fn zero(&mut self, offset: u64, length: u64, durability: Durability) -> io::Result<()>;

    /// The driver does not need these bytes any more. They read as zero or as before.
    fn discard(&mut self, offset: u64, length: u64, durability: Durability) -> io::Result<()>;

    /// Make every change so far survive a loss of power.
    fn flush(&mut self) -> io::Result<()>;

    /// Lose power and get it back: changes that no flush made stable may be gone.
    fn power_loss(&mut self) {}

    /// Give the disk another size. New bytes read as zero.
    fn resize(&mut self, capacity_bytes: u64) -> io::Result<()>;

    /// Whether zeroing gives memory back.
    fn can_deallocate(&self) -> bool;

    /// Where the errors of what is below are kept, if it can have any.
    fn last_error(&self) -> Option<LastError> {
        None
    }

    /// Make every change stable, and let go of what is below even if that fails. The last call.
    fn close(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Read into a slice.
pub(crate) fn read_into(storage: &mut dyn Storage, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let mut rest = &mut *out;
    let length = rest.len();
    storage.read(offset, length, &mut |found| {
        let count = match &found {
            Found::Bytes(bytes) => bytes.len(),
            Found::Zeroes(count) => *count,
        };
        let (piece, after) = std::mem::take(&mut rest)
            .split_at_mut_checked(count)
            .ok_or_else(|| io::Error::other("a disk returned more bytes than were asked for"))?;
        match found {
            Found::Bytes(bytes) => piece.copy_from_slice(bytes),
            Found::Zeroes(_) => piece.fill(0),
        }
        rest = after;
        Ok(())
    })
}

/// Write a slice.
pub(crate) fn write_from(
    storage: &mut dyn Storage,
    offset: u64,
    data: &[u8],
    durability: Durability,
) -> io::Result<()> {
    let mut rest = data;
    storage.write(offset, data.len(), durability, &mut |piece| {
        let (bytes, after) = rest
            .split_at_checked(piece.len())
            .ok_or_else(|| io::Error::other("a disk took more bytes than were given"))?;
        piece.copy_from_slice(bytes);
        rest = after;
        Ok(())
    })
}

/// Cut `length` bytes from `offset` on at the multiples of `unit`: (index of the unit, offset in
/// it, bytes).
pub(crate) fn units(
    offset: u64,
    length: u64,
    unit: u64,
) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset.saturating_add(length);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let within = at % unit;
        let count = (unit - within).min(end - at);
        let found = (at / unit, within as usize, count as usize);
        at += count;
        Some(found)
    })
}
