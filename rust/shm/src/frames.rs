//! Records of 64 bytes each, whose fields are accessed one at a time, without a search for where
//! they lie.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::error::OutOfBounds;
use crate::memory::{AtomicCells, Memory};

/// Bytes of a frame: a cache line, so that two frames in use do not slow each other.
pub const FRAME_BYTES: usize = 64;

/// An array of frames, whose fields are relaxed atomics.
#[derive(Debug)]
pub struct Frames {
    first: NonNull<u8>,
    count: usize,
    _memory: Arc<Memory>,
}

// SAFETY: a pointer to bytes that `_memory` keeps mapped.
unsafe impl Send for Frames {}
// SAFETY: as above; all access is atomic.
unsafe impl Sync for Frames {}

impl Frames {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        offset: usize,
        count: usize,
    ) -> Result<Self, OutOfBounds> {
        let length = count.saturating_mul(FRAME_BYTES);
        let first = memory.at(offset, length, align_of::<AtomicU64>())?;
        Ok(Self { first, count, _memory: Arc::clone(memory) })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The field at offset `AT` of a frame, which is always accessed in this width.
    #[inline(always)]
    fn field<const AT: usize, T: AtomicCells>(&self, index: usize) -> &T {
        const { assert!(AT + size_of::<T>() <= FRAME_BYTES && AT.is_multiple_of(align_of::<T>())) };
        // Slots are checked where they come from, so this can only fire for a mistake of ours.
        assert!(index < self.count, "frame {index} of {}", self.count);
        // SAFETY: index < count, and AT is inside a frame: the field is in the array that `new` has
        // checked to be in the mapping, which `_memory` keeps. It is aligned, as mapping, array and
        // AT are, and an atomic is valid for every bit pattern. Rust code of this process accesses
        // it as this atomic, or by `copy` (assembly, whose bytes are indivisible) when it is the
        // device; what Python, C and other processes do is outside the language, and can make a
        // value wrong, but no reference to plain data exists that it could invalidate.
        unsafe { self.first.add(index * FRAME_BYTES + AT).cast().as_ref() }
    }

    /// Write the eight bytes at offset `AT` of a frame, little-endian.
    #[inline(always)]
    pub fn write_long<const AT: usize>(&self, index: usize, value: u64) {
        self.field::<AT, AtomicU64>(index).store(value.to_le(), Relaxed);
    }

    /// Write the byte at offset `AT` of a frame.
    #[inline(always)]
    pub fn write_byte<const AT: usize>(&self, index: usize, value: u8) {
        self.field::<AT, AtomicU8>(index).store(value, Relaxed);
    }

    /// Read the byte at offset `AT` of a frame, once.
    #[inline(always)]
    pub fn read_byte<const AT: usize>(&self, index: usize) -> u8 {
        self.field::<AT, AtomicU8>(index).load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SpaceError;
    use crate::space::DmaSpace;

    #[test]
    fn a_field_is_where_its_frame_is_and_touches_no_other_byte() -> Result<(), SpaceError> {
        let space = DmaSpace::new();
        space.map(1 << 16, 0)?;
        let region = space.alloc(4 * FRAME_BYTES, 64)?;
        let frames = region.span().frames(FRAME_BYTES, 3);
        let Ok(frames) = frames else { panic!("the frames are inside") };
        frames.write_long::<8>(1, 0x0807_0605_0403_0201);
        frames.write_byte::<32>(2, 0xff);
        assert_eq!(frames.read_byte::<32>(2), 0xff);
        let mut bytes = [0; 4 * FRAME_BYTES];
        assert!(region.span().read_bytes(0, &mut bytes).is_ok());
        let set: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
        let mut expected: Vec<_> = (2 * FRAME_BYTES + 8..2 * FRAME_BYTES + 16).collect();
        expected.push(3 * FRAME_BYTES + 32);
        assert_eq!(set, expected);
        Ok(())
    }

    #[test]
    fn frames_that_are_not_inside_their_region_are_refused() -> Result<(), SpaceError> {
        let space = DmaSpace::new();
        space.map(1 << 16, 0)?;
        let region = space.alloc(4 * FRAME_BYTES, 64)?;
        for (offset, count) in [(0, 5), (1, 4), (4 * FRAME_BYTES, 1), (0, usize::MAX)] {
            assert!(region.span().frames(offset, count).is_err(), "{count} at {offset}");
        }
        Ok(())
    }

    #[test]
    #[should_panic(expected = "frame 2 of 2")]
    fn a_frame_that_is_not_there_is_not_touched() {
        let space = DmaSpace::new();
        let region = space.map(1 << 16, 0).and_then(|_| space.alloc(4 * FRAME_BYTES, 64));
        let Ok(region) = region else { return };
        let Ok(frames) = region.span().frames(0, 2) else { return };
        frames.write_byte::<0>(2, 1);
    }
}
