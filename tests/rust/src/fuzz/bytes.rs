//! Shared memory as plain little-endian bytes: the views of the judges, not those of the rings.

use std::ops::Range;

use shm::Span;

/// A stretch of memory. A place outside it is a mistake of the judge.
#[derive(Clone, Debug)]
pub(super) struct Bytes(Span);

impl Bytes {
    pub(super) fn new(span: Span) -> Self {
        Self(span)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read_into(at, &mut bytes);
        bytes
    }

    pub(super) fn read_into(&self, at: usize, out: &mut [u8]) {
        assert!(self.0.read_bytes(at, out).is_ok(), "{} bytes at {at:#x}", out.len());
    }

    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(self.0.write_bytes(at, bytes).is_ok(), "{} bytes at {at:#x}", bytes.len());
    }

    pub(super) fn fill(&self, range: Range<usize>, byte: u8) {
        assert!(self.0.fill(range.start, range.len(), byte).is_ok(), "{range:?}");
    }

    pub(super) fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.read(at))
    }

    pub(super) fn double(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.read(at))
    }

    pub(super) fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.read(at))
    }

    pub(super) fn set_word(&self, at: usize, value: u16) {
        self.write(at, &value.to_le_bytes());
    }

    pub(super) fn set_double(&self, at: usize, value: u32) {
        self.write(at, &value.to_le_bytes());
    }

    pub(super) fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        self.read_into(range.start, &mut bytes);
        bytes
    }
}

/// Watches that a call changes nothing but what it may. Its copies are used again and again.
#[derive(Debug)]
pub(super) struct Watch {
    memory: Bytes,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Watch {
    pub(super) fn new(memory: Bytes) -> Self {
        let copy = vec![0; memory.len()];
        Self { memory, before: copy.clone(), after: copy }
    }

    /// Remember how things stand.
    pub(super) fn begin(&mut self) {
        self.memory.read_into(0, &mut self.before);
    }

    /// Nothing has changed since, but in `allowed`.
    pub(super) fn check(&mut self, allowed: &[Range<usize>], by: &str) {
        let (before, after) = (&mut self.before, &mut self.after);
        self.memory.read_into(0, after);
        for range in allowed {
            before[range.clone()].copy_from_slice(&after[range.clone()]);
        }
        if before == after {
            return;
        }
        if let Some(at) = (0..after.len()).find(|&at| before[at] != after[at]) {
            panic!("{by} wrote to {at:#x}: {:#x}, not {:#x}", after[at], before[at]);
        }
    }
}
