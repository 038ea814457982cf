//! The device's own parse of a split ring (VIRTIO 1.4, 2.7 Split Virtqueues).
//!
//! Everything that the driver can write is read once and checked before use.

#[cfg(not(loom))]
pub(crate) mod either;
pub mod packed;

use std::fmt;

use shm::{AvailableElement, Descriptor, OutOfBounds, Records, UsedElement, Words, fence};

use crate::address_map::{AddressMap, Segment};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR_BYTES: usize = 16;

/// The first two words of either ring.
const FLAGS: usize = 0;
const INDEX: usize = 1;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// A chain describes at most 2^32 bytes (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor Table).
const CHAIN_BYTES_MAX: u64 = 1 << 32;

/// Largest queue size (VIRTIO 1.4, 2.7 Split Virtqueues).
pub const SIZE_MAX: u16 = 32768;

/// Where a ring lies, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptors: on a split ring a power of two.
    pub size: u16,
    /// Of the descriptor table, or ring: a multiple of 16.
    pub descriptors: u64,
    /// Of the driver area: the available ring, a multiple of 2, or the driver event suppression
    /// structure, a multiple of 4.
    pub available: u64,
    /// Of the device area, a multiple of 4: the used ring, or the device event suppression
    /// structure.
    pub used: u64,
}

/// The negotiated features that shape a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
}

/// How a driver broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Display says what each means
pub enum Violation {
    AvailableIndexAhead { waiting: u16, size: u16 },
    IndexOutOfRange { index: u16, count: usize },
    ChainTooLong { size: u16 },
    ZeroLength { index: u16 },
    NotMapped { address: u64, length: u32 },
    ReadableAfterWritable { index: u16 },
    TooManyBytes,
    IndirectNotNegotiated,
    IndirectWithNext,
    IndirectNested,
    IndirectTableLength { length: u32 },
    ListNotAvailable { slot: u16 },
    TableEntryFlags { index: u16, flags: u16 },
    NoStatusByte,
    HeaderTooShort { length: u64 },
    Memory(OutOfBounds),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AvailableIndexAhead { waiting, size } => {
                write!(f, "the available index claims {waiting} chains in a ring of {size}")
            }
            Self::IndexOutOfRange { index, count } => {
                write!(f, "descriptor {index} was named, but there are {count}")
            }
            Self::ChainTooLong { size } => {
                write!(f, "a chain loops or has more descriptors than the queue size, {size}")
            }
            Self::ZeroLength { index } => write!(f, "descriptor {index} describes no bytes"),
            Self::NotMapped { address, length } => {
                write!(f, "{length} bytes at {address:#x} are not memory of this device")
            }
            Self::ReadableAfterWritable { index } => {
                write!(f, "descriptor {index} is readable, but a writable one comes before it")
            }
            Self::TooManyBytes => f.write_str("a chain describes more than 2^32 bytes"),
            Self::IndirectNotNegotiated => {
                f.write_str("an indirect table was used without INDIRECT_DESC")
            }
            Self::IndirectWithNext => f.write_str("a descriptor has both INDIRECT and NEXT"),
            Self::IndirectNested => f.write_str("an indirect table names another one"),
            Self::IndirectTableLength { length } => {
                write!(f, "an indirect table of {length} bytes is not a number of descriptors")
            }
            Self::ListNotAvailable { slot } => {
                write!(f, "descriptor {slot} is not available, but those before it of its list are")
            }
            Self::TableEntryFlags { index, flags } => {
                write!(f, "entry {index} of an indirect table has flags {flags:#x}")
            }
            Self::NoStatusByte => f.write_str("a request has no writable byte for its status"),
            Self::HeaderTooShort { length } => {
                write!(f, "a request has {length} readable bytes, less than its header")
            }
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl From<OutOfBounds> for Violation {
    fn from(error: OutOfBounds) -> Self {
        Self::Memory(error)
    }
}

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
    fn clear(&mut self, head: u16) {
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
    #[inline]
    fn append(
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
        if self.readable_bytes + self.writable_bytes > CHAIN_BYTES_MAX {
            return Err(Violation::TooManyBytes);
        }
        Ok(())
    }
}

/// An indirect table: typed records where its alignment allows that, else bytes. The
/// specification asks for no alignment.
enum Table {
    Records(Records<Descriptor>),
    Bytes(Segment),
}

impl Table {
    fn open(segment: Segment, count: usize, map: &AddressMap) -> Self {
        map.records(&segment, count).map_or(Self::Bytes(segment), Self::Records)
    }

    fn load(&self, index: u16, map: &AddressMap) -> Result<Descriptor, Violation> {
        match self {
            Self::Records(records) => Ok(records.load(usize::from(index))),
            Self::Bytes(segment) => {
                let mut raw = [0; DESCRIPTOR_BYTES];
                map.read(segment, usize::from(index) * DESCRIPTOR_BYTES, &mut raw)?;
                Ok(parse_descriptor(&raw))
            }
        }
    }
}

fn parse_descriptor(raw: &[u8; DESCRIPTOR_BYTES]) -> Descriptor {
    let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = *raw;
    Descriptor {
        addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        len: u32::from_le_bytes([l0, l1, l2, l3]),
        flags: u16::from_le_bytes([f0, f1]),
        next: u16::from_le_bytes([n0, n1]),
    }
}

/// Whether the step of an index from `old` to `new` passed `event`.
/// VIRTIO 1.4, 2.7.7.1 and 2.7.10.1 (the event index), with 16-bit wrap.
#[inline]
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The device's half of one split ring.
#[derive(Debug)]
pub struct DeviceRing {
    size: u16,
    features: RingFeatures,
    descriptors: Records<Descriptor>,
    available: Words,
    entries: Records<AvailableElement>,
    used_event: Words,
    used_words: Words,
    used: Records<UsedElement>,
    avail_event: Words,
    /// Chains taken so far.
    next_available: u16,
    /// The available index when it was last looked at.
    seen_available: u16,
    /// Used elements written so far, published or not.
    next_used: u16,
    /// The used index when the last notification was decided on.
    judged_used: u16,
    /// Whether the driver has been asked for kicks.
    armed: bool,
}

impl DeviceRing {
    /// A ring that the driver has just set up, zeroed.
    pub fn new(
        addresses: &RingAddresses,
        features: RingFeatures,
        map: &mut AddressMap,
    ) -> Result<Self, Violation> {
        let count = usize::from(addresses.size);
        let mut part = |address: u64, length: usize| {
            let segment = map.resolve(address, length);
            let segment = segment.ok_or(Violation::NotMapped { address, length: length as u32 })?;
            Ok::<_, Violation>(map.span(&segment)?)
        };
        let descriptors = part(addresses.descriptors, count * DESCRIPTOR_BYTES)?;
        let available = part(addresses.available, 6 + 2 * count)?;
        let used = part(addresses.used, 6 + 8 * count)?;
        Ok(Self {
            size: addresses.size,
            features,
            descriptors: descriptors.records(0, count)?,
            available: available.words(0, 2)?,
            entries: available.records(4, count)?,
            used_event: available.words(4 + 2 * count, 1)?,
            used_words: used.words(0, 2)?,
            used: used.records(4, count)?,
            avail_event: used.words(4 + 8 * count, 1)?,
            next_available: 0,
            seen_available: 0,
            next_used: 0,
            judged_used: 0,
            // A zeroed used ring asks for kicks: no flag, and an event of 0.
            armed: true,
        })
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Look at the available index: how many chains it brought that were not there before.
    #[inline]
    pub fn poll(&mut self) -> Result<u16, Violation> {
        let available = self.available.load(INDEX);
        let fresh = available.wrapping_sub(self.seen_available);
        if fresh == 0 {
            return Ok(0);
        }
        let waiting = available.wrapping_sub(self.next_available);
        if waiting > self.size || fresh > waiting {
            return Err(Violation::AvailableIndexAhead { waiting, size: self.size });
        }
        fence::device_after_available_index();
        self.seen_available = available;
        Ok(fresh)
    }

    /// Chains seen and not yet taken.
    #[inline]
    pub fn waiting(&self) -> u16 {
        self.seen_available.wrapping_sub(self.next_available)
    }

    /// Chains seen and not yet used.
    pub fn outstanding(&self) -> u16 {
        self.seen_available.wrapping_sub(self.next_used)
    }

    /// Take the next of the waiting chains into `chain`; false if there is none.
    #[inline]
    pub fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> Result<bool, Violation> {
        if self.waiting() == 0 {
            return Ok(false);
        }
        let head = self.entry(self.next_available);
        self.next_available = self.next_available.wrapping_add(1);
        chain.clear(head);
        self.walk(head, map, chain)?;
        Ok(true)
    }

    #[inline]
    fn entry(&self, available_index: u16) -> u16 {
        self.entries.load(usize::from(available_index & (self.size - 1))).0
    }

    #[inline]
    fn walk(&self, head: u16, map: &mut AddressMap, chain: &mut Chain) -> Result<(), Violation> {
        let mut index = head;
        loop {
            if index >= self.size {
                return Err(Violation::IndexOutOfRange { index, count: self.size.into() });
            }
            let descriptor = self.descriptors.load(usize::from(index));
            if descriptor.flags & INDIRECT != 0 {
                return self.walk_table(&descriptor, map, chain);
            }
            let Descriptor { addr, len, flags, .. } = descriptor;
            chain.append(index, addr, len, flags & WRITE != 0, self.size, map)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// The rest of a chain stands in an indirect table; WRITE on `pointer` means nothing.
    /// VIRTIO 1.4, 2.7.5.3 Indirect Descriptors.
    fn walk_table(
        &self,
        pointer: &Descriptor,
        map: &mut AddressMap,
        chain: &mut Chain,
    ) -> Result<(), Violation> {
        let Descriptor { addr: address, len: length, flags, .. } = *pointer;
        let bytes = length as usize;
        if !self.features.indirect {
            return Err(Violation::IndirectNotNegotiated);
        }
        if flags & NEXT != 0 {
            return Err(Violation::IndirectWithNext);
        }
        if bytes == 0 || !bytes.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err(Violation::IndirectTableLength { length });
        }
        let count = bytes / DESCRIPTOR_BYTES;
        let segment =
            map.resolve(address, bytes).ok_or(Violation::NotMapped { address, length })?;
        let table = Table::open(segment, count, map);
        chain.indirect = true;
        let mut index = 0;
        loop {
            if usize::from(index) >= count {
                return Err(Violation::IndexOutOfRange { index, count });
            }
            let descriptor = table.load(index, map)?;
            if descriptor.flags & INDIRECT != 0 {
                return Err(Violation::IndirectNested);
            }
            let Descriptor { addr, len, flags, .. } = descriptor;
            chain.append(index, addr, len, flags & WRITE != 0, self.size, map)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Write a used element; the driver sees it with the next `publish`.
    #[inline]
    pub fn put_used(&mut self, element: UsedElement) {
        self.used.store(usize::from(self.next_used & (self.size - 1)), element);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Whether used elements were put that the driver cannot see yet.
    #[inline]
    pub fn has_unpublished(&self) -> bool {
        self.next_used != self.judged_used
    }

    /// Show the driver everything that was put.
    #[inline]
    pub fn publish(&mut self) {
        fence::device_before_used_index();
        self.used_words.store(INDEX, self.next_used);
    }

    /// Whether the driver wants to be notified of what was published since this was last asked.
    /// VIRTIO 1.4, 2.7.7 Used Buffer Notification Suppression.
    #[inline]
    pub fn wants_interrupt(&mut self) -> bool {
        fence::device_before_interrupt_check();
        let old = std::mem::replace(&mut self.judged_used, self.next_used);
        if self.features.event_idx {
            passes(self.used_event.load(0), old, self.next_used)
        } else {
            old != self.next_used && self.available.load(FLAGS) & NO_INTERRUPT == 0
        }
    }

    /// Ask for a kick; whether chains are there already.
    /// VIRTIO 1.4, 2.7.10 Available Buffer Notification Suppression.
    pub fn arm(&mut self) -> bool {
        self.armed = true;
        if self.features.event_idx {
            self.avail_event.store(0, self.seen_available);
        } else {
            self.used_words.store(FLAGS, 0);
        }
        fence::device_after_arm();
        self.pending()
    }

    /// Whether the available index has moved since `poll`, without taking note of it.
    #[inline]
    pub fn pending(&self) -> bool {
        self.available.load(INDEX) != self.seen_available
    }

    /// The available index, without taking note of it.
    pub fn available_index(&self) -> u16 {
        self.available.load(INDEX)
    }

    /// Whether the driver has been asked for a kick.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Hint that no kick is wanted. With EVENT_IDX the event that has passed says so already.
    #[inline]
    pub fn disarm(&mut self) {
        if self.armed && !self.features.event_idx {
            self.used_words.store(FLAGS, NO_NOTIFY);
        }
        self.armed = false;
    }

    /// Let the used index run ahead of what was used: a fault.
    pub(crate) fn skip_used(&mut self, count: u16) {
        self.next_used = self.next_used.wrapping_add(count);
    }

    /// A descriptor that is the head of no chain that the driver could have outstanding, given
    /// that the device holds `held` besides what waits in the ring.
    pub(crate) fn not_outstanding(&self, held: &[u16]) -> Option<u16> {
        let waiting = (0..self.waiting()).map(|n| self.entry(self.next_available.wrapping_add(n)));
        let taken: Vec<u16> = waiting.chain(held.iter().copied()).collect();
        (0..self.size).rev().find(|index| !taken.contains(index))
    }
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn an_event_is_passed_by_the_step_over_it_alone() {
        assert!(passes(4, 4, 5));
        assert!(!passes(5, 4, 5));
        assert!(!passes(3, 4, 5));
        assert!(passes(6, 4, 8));
        assert!(!passes(8, 4, 8));
    }

    #[test]
    fn an_event_is_passed_over_the_wrap_of_the_index() {
        assert!(passes(u16::MAX, u16::MAX, 0));
        assert!(passes(0, u16::MAX, 2));
        assert!(!passes(2, u16::MAX, 2));
    }
}
