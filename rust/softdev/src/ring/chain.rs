//! A chain as the device takes it, and as it gives it back.

use shm::UsedElement;

use super::Violation;
use crate::address_map::{AddressMap, Segment};

/// A chain describes at most 2^32 bytes (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table).
const CHAIN_BYTES_MAX: u64 = 1 << 32;

/// A chain that was taken from a ring. Reused from one chain to the next.
#[derive(Debug, Default)]
pub struct Chain {
    /// Index of its first descriptor, by which it is returned.
    pub head: u16,
    /// Descriptors that described buffers, those of an indirect table included.
    pub descriptor_count: u32,
    /// Slots of a packed ring that it takes.
    pub slots: u16,
    /// Whether it used an indirect table.
    pub indirect: bool,
    /// What the device reads, in order.
    pub readable: Vec<Segment>,
    /// What the device writes, in order.
    pub writable: Vec<Segment>,
    /// Bytes in `readable`.
    pub readable_bytes: u64,
    /// Bytes in `writable`.
    pub writable_bytes: u64,
}

impl Chain {
    pub(super) fn clear(&mut self, head: u16) {
        self.head = head;
        self.descriptor_count = 0;
        self.slots = 0;
        self.indirect = false;
        self.readable.clear();
        self.writable.clear();
        self.readable_bytes = 0;
        self.writable_bytes = 0;
    }

    /// Append what descriptor `index` describes. `size` bounds the chain, which also ends loops.
    #[inline(always)] // A call, and its result in memory, cost as much as the work.
    pub(super) fn append(
        &mut self,
        index: u16,
        address: u64,
        length: u32,
        device_writes: bool,
        size: u16,
        map: &mut AddressMap,
    ) -> Result<(), Violation> {
        if self.descriptor_count == u32::from(size) {
            return Err(Violation::ChainTooLong { size });
        }
        self.descriptor_count += 1;
        if length == 0 {
            return Err(Violation::ZeroLength { index });
        }
        let segment = map
            .resolve(address, length as usize)
            .ok_or(Violation::NotMapped { address, length })?;
        if device_writes {
            self.writable.push(segment);
            self.writable_bytes += u64::from(length);
        } else if self.writable.is_empty() {
            self.readable.push(segment);
            self.readable_bytes += u64::from(length);
        } else {
            return Err(Violation::ReadableAfterWritable { index });
        }
        Ok(())
    }

    /// Once it is whole; 32768 descriptors do not make the sum overflow.
    #[inline]
    pub(super) fn check_length(&self) -> Result<(), Violation> {
        let bytes = self.readable_bytes + self.writable_bytes;
        if bytes > CHAIN_BYTES_MAX { Err(Violation::TooManyBytes) } else { Ok(()) }
    }
}

/// A chain that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// What the driver is told.
    pub(crate) element: UsedElement,
    /// Slots that the chain takes of a packed ring.
    pub(crate) slots: u16,
    /// Whether all that is writable was written: with IN_ORDER, a driver takes that for granted of
    /// a chain that it is not told of by itself.
    pub(crate) whole: bool,
}

impl Completion {
    #[inline]
    pub(crate) fn new(chain: &Chain, written: u32) -> Self {
        Self {
            element: UsedElement { id: chain.head.into(), len: written },
            slots: chain.slots,
            whole: u64::from(written) == chain.writable_bytes,
        }
    }
}
