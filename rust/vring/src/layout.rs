//! Where the parts of a ring lie in its memory.

use crate::error::LayoutError;

/// Bytes of a descriptor, in either format (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table).
pub const DESCRIPTOR_BYTES: usize = 16;
/// The largest queue size (VIRTIO 1.4, 2.7 Split Virtqueues, 2.8 Packed Virtqueues).
pub const QUEUE_SIZE_MAX: usize = 32768;
/// Driver and device write different parts: on cache lines of their own they do not slow each
/// other. Two lines, as many processors fetch them in pairs.
const CACHE_LINE_PAIR: usize = 128;

/// Offsets in bytes of the parts of a split ring (VIRTIO 1.4, 2.7 Split Virtqueues).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitLayout {
    /// Descriptors in the ring.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: usize,
    /// The available ring: flags, idx, entries, used_event.
    pub available: usize,
    /// The used ring: flags, idx, entries, avail_event.
    pub used: usize,
    /// The indirect tables, one for each head.
    pub indirect: usize,
    /// Descriptors in one indirect table; 0 without indirect descriptors.
    pub indirect_table_size: u16,
    /// Alignment that the device address of the ring needs.
    pub align: usize,
    /// Bytes in all.
    pub length: usize,
}

impl SplitLayout {
    /// `legacy_align`: the used ring's alignment of the legacy interface, in which the ring is one
    /// contiguous area (VIRTIO 1.4, 2.7.2 Legacy Interfaces: A Note on Virtqueue Layout).
    pub fn new(
        size: usize,
        legacy_align: Option<usize>,
        indirect_table_size: usize,
    ) -> Result<Self, LayoutError> {
        if !size.is_power_of_two() || size > QUEUE_SIZE_MAX {
            return Err(LayoutError::QueueSize(size));
        }
        if indirect_table_size > size {
            return Err(LayoutError::IndirectTableSize { table: indirect_table_size, size });
        }
        let line = match legacy_align {
            Some(align) if !align.is_power_of_two() || !(4..=1 << 31).contains(&align) => {
                return Err(LayoutError::LegacyAlign(align));
            }
            Some(_) => 1,
            None => CACHE_LINE_PAIR,
        };
        let available = (DESCRIPTOR_BYTES * size).next_multiple_of(line);
        let used = (available + 6 + 2 * size).next_multiple_of(legacy_align.unwrap_or(line));
        let used_end = (used + 6 + 8 * size).next_multiple_of(legacy_align.unwrap_or(1));
        let tables = DESCRIPTOR_BYTES * indirect_table_size * size;
        let indirect = used_end.next_multiple_of(CACHE_LINE_PAIR);
        Ok(Self {
            size: size as u16,
            descriptors: 0,
            available,
            used,
            indirect,
            indirect_table_size: indirect_table_size as u16,
            align: legacy_align.unwrap_or(DESCRIPTOR_BYTES).max(DESCRIPTOR_BYTES),
            length: if tables == 0 { used_end } else { indirect + tables },
        })
    }
}

/// Offsets in bytes of the parts of a packed ring (VIRTIO 1.4, 2.8 Packed Virtqueues). Each event
/// suppression structure has a cache line of its own: the two sides write one each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    /// Descriptors in the ring; any number, not only powers of two.
    pub size: u16,
    /// The descriptor ring.
    pub descriptors: usize,
    /// The driver event suppression structure: position, flags.
    pub driver_event: usize,
    /// The device event suppression structure.
    pub device_event: usize,
    /// The indirect tables, one for each buffer id.
    pub indirect: usize,
    /// Descriptors in one indirect table; 0 without indirect descriptors.
    pub indirect_table_size: u16,
    /// Bytes in all.
    pub length: usize,
}

impl PackedLayout {
    /// Alignment that the device address of the ring needs.
    pub const ALIGN: usize = DESCRIPTOR_BYTES;

    /// The layout of a ring of `size` descriptors, and of as many tables.
    pub fn new(size: usize, indirect_table_size: usize) -> Result<Self, LayoutError> {
        if !(1..=QUEUE_SIZE_MAX).contains(&size) {
            return Err(LayoutError::PackedQueueSize(size));
        }
        if indirect_table_size > size {
            return Err(LayoutError::IndirectTableSize { table: indirect_table_size, size });
        }
        let driver_event = (DESCRIPTOR_BYTES * size).next_multiple_of(CACHE_LINE_PAIR);
        let device_event = driver_event + CACHE_LINE_PAIR;
        let indirect = device_event + CACHE_LINE_PAIR;
        Ok(Self {
            size: size as u16,
            descriptors: 0,
            driver_event,
            device_event,
            indirect,
            indirect_table_size: indirect_table_size as u16,
            length: indirect + DESCRIPTOR_BYTES * indirect_table_size * size,
        })
    }
}
