//! A bounds-checked stretch of one mapping, and the typed views of it.

use std::sync::Arc;

use crate::error::OutOfBounds;
#[cfg(not(loom))]
use crate::frames::{FRAME_BYTES, Frames};
use crate::memory::{Memory, PackedDescriptors, Record, Records, Words};

/// `len` bytes of a mapping, which stays mapped as long as this lives.
#[derive(Clone, Debug)]
pub struct Span {
    memory: Arc<Memory>,
    offset: usize,
    length: usize,
}

impl Span {
    /// The caller has checked that the mapping has these bytes.
    pub(crate) fn new(memory: Arc<Memory>, offset: usize, length: usize) -> Self {
        debug_assert!(offset + length <= memory.len());
        Self { memory, offset, length }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where this process sees the first byte.
    pub fn host_address(&self) -> usize {
        self.memory.host_address() + self.offset
    }

    /// `length` bytes of this span from `offset` on.
    pub fn slice(&self, offset: usize, length: usize) -> Result<Self, OutOfBounds> {
        let offset = self.inside(offset, length)?;
        Ok(Self { memory: Arc::clone(&self.memory), offset, length })
    }

    /// The offset in the mapping, if the bytes are inside this span.
    #[inline(always)]
    fn inside(&self, offset: usize, length: usize) -> Result<usize, OutOfBounds> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(OutOfBounds { offset, length, available: self.length });
        }
        Ok(self.offset + offset)
    }

    /// `count` shared 16-bit words.
    pub fn words(&self, offset: usize, count: usize) -> Result<Words, OutOfBounds> {
        Words::new(&self.memory, self.inside(offset, count.saturating_mul(2))?, count)
    }

    /// `count` records.
    pub fn records<R: Record>(
        &self,
        offset: usize,
        count: usize,
    ) -> Result<Records<R>, OutOfBounds> {
        #[cfg(not(loom))]
        let size = size_of::<R::Cells>();
        #[cfg(loom)]
        let size = R::SIZE;
        Records::new(&self.memory, self.inside(offset, count.saturating_mul(size))?, count)
    }

    /// The `count` descriptors of a packed ring.
    pub fn packed_descriptors(
        &self,
        offset: usize,
        count: usize,
    ) -> Result<PackedDescriptors, OutOfBounds> {
        let start = self.inside(offset, count.saturating_mul(16))?;
        PackedDescriptors::new(&self.memory, start, count)
    }

    /// `count` frames.
    #[cfg(not(loom))]
    pub fn frames(&self, offset: usize, count: usize) -> Result<Frames, OutOfBounds> {
        let start = self.inside(offset, count.saturating_mul(FRAME_BYTES))?;
        Frames::new(&self.memory, start, count)
    }

    /// Copy payload out.
    #[inline(always)]
    pub fn read_bytes(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        self.memory.read(self.inside(offset, out.len())?, out)
    }

    /// Copy payload in.
    #[inline(always)]
    pub fn write_bytes(&self, offset: usize, data: &[u8]) -> Result<(), OutOfBounds> {
        self.memory.write(self.inside(offset, data.len())?, data)
    }

    /// Set payload bytes to one value.
    pub fn fill(&self, offset: usize, length: usize, byte: u8) -> Result<(), OutOfBounds> {
        self.memory.fill(self.inside(offset, length)?, length, byte)
    }
}
