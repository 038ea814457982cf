//! The driver's half of a packed ring (VIRTIO 1.4, 2.8 Packed Virtqueues).
//!
//! One ring of descriptors serves both directions. The driver writes chains one behind the other,
//! the device answers in the same slots; the flags AVAIL and USED, compared with a counter that
//! flips with each lap, say whose a descriptor is. A chain is known by its buffer id. A used
//! descriptor gives a whole chain back, in the slot where the oldest chain that was not given back
//! begins; the next one follows after as many slots as the chain had.
//!
//! `push` writes all of a chain but its flags, which stay in private memory until `publish` stores
//! them, those of the batch's first descriptor last. So what is withdrawn was never available, and
//! no descriptor changes once it is the device's (PACKED-DESC-02).

use shm::{
    Claim, PackedBody, PackedDescriptor, PackedDescriptors, PackedUsed, Records, Region, Segment,
    Words, fence,
};

use crate::error::{Broken, LayoutError, PushError};
use crate::event::event_passed;
use crate::free_list::FreeList;
use crate::layout::{DESCRIPTOR_BYTES, PackedLayout};
use crate::ring::{ChainRecord, Ring, RingOptions, Used};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The words of an event suppression structure.
const EVENT_POSITION: usize = 0;
const EVENT_FLAGS: usize = 1;

/// What its flags ask for, in the bits of `EVENT_FLAGS_MASK`.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_DESCRIPTOR: u16 = 2;
const EVENT_FLAGS_MASK: u16 = 3;

const WRAP: u16 = 1 << 15;

/// A place in the ring, and in which lap (VIRTIO 1.4, 2.8.1 Driver and Device Ring Wrap Counters).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    offset: u16,
    wrap: bool,
}

impl Position {
    const START: Self = Self { offset: 0, wrap: true };

    #[inline]
    fn slot(self) -> usize {
        usize::from(self.offset)
    }

    /// AVAIL and USED of a descriptor that becomes available here.
    #[inline]
    fn available(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// AVAIL and USED of a descriptor that the device has used here.
    #[inline]
    fn used(self) -> u16 {
        if self.wrap { AVAIL | USED } else { 0 }
    }

    /// As an event suppression structure, or a notification, says it.
    #[inline]
    fn word(self) -> u16 {
        if self.wrap { self.offset | WRAP } else { self.offset }
    }

    /// `count` slots further on, at most one lap.
    #[inline]
    fn after(self, count: u16, size: u16) -> Self {
        let offset = self.offset + count;
        if offset < size {
            Self { offset, ..self }
        } else {
            Self { offset: offset - size, wrap: !self.wrap }
        }
    }
}

/// Whether a batch of `count` descriptors, after which `next` is the next position, passed the
/// position that `event` names: one of the other lap lies `size` slots back.
/// VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression, for a batch.
#[inline]
fn batch_passed(next: Position, count: u16, size: u16, event: u16) -> bool {
    let offset = event & !WRAP;
    let this_lap = (event & WRAP != 0) == next.wrap;
    let event = if this_lap { offset } else { offset.wrapping_sub(size) };
    event_passed(next.offset.wrapping_sub(count), next.offset, event)
}

/// The words that driver and device share.
#[derive(Debug)]
struct Shared {
    descriptors: PackedDescriptors,
    tables: Records<PackedDescriptor>,
    /// Ours to write: what we want to be notified of.
    driver_event: Words,
    /// The device's to write.
    device_event: Words,
}

impl Shared {
    fn new(region: &Region, layout: &PackedLayout) -> Result<Self, LayoutError> {
        let too_short =
            |_| LayoutError::RegionLength { needed: layout.length, available: region.len() };
        let span = region.span().slice(0, layout.length).map_err(too_short)?;
        let size = usize::from(layout.size);
        let tables = size * usize::from(layout.indirect_table_size);
        let descriptors = span.packed_descriptors(layout.descriptors, size).map_err(too_short)?;
        Ok(Self {
            descriptors,
            tables: span.records(layout.indirect, tables).map_err(too_short)?,
            driver_event: span.words(layout.driver_event, 2).map_err(too_short)?,
            device_event: span.words(layout.device_event, 2).map_err(too_short)?,
        })
    }

    fn zero(&self) {
        for slot in 0..self.descriptors.count() {
            self.descriptors.store_body(slot, PackedBody::default());
            self.descriptors.store_flags(slot, 0);
        }
        for index in 0..self.tables.count() {
            self.tables.store(index, PackedDescriptor::default());
        }
        for event in [&self.driver_event, &self.device_event] {
            event.store(EVENT_POSITION, 0);
            event.store(EVENT_FLAGS, 0);
        }
    }

    /// Whether nothing is available or used, as far as the driver writes it.
    fn is_zeroed(&self) -> bool {
        let mut slots = 0..self.descriptors.count();
        slots.all(|slot| self.descriptors.load_flags(slot) == 0)
            && self.driver_event.load(EVENT_FLAGS) == 0
    }
}

/// The driver's half of a packed ring; [`Ring`] says what it does.
#[derive(Debug)]
pub struct PackedQueue {
    layout: PackedLayout,
    options: RingOptions,
    /// Both sides write here; nothing read from it is trusted or read twice.
    shared: Shared,
    /// All that follows is ours alone.
    tables_address: u64,
    /// Buffer ids that no chain has.
    ids: FreeList,
    /// By buffer id.
    chains: Vec<ChainRecord>,
    /// Descriptors that are free: as many, from `next` on.
    free: u16,
    /// Where the next chain will be written.
    next: Position,
    /// Where the first chain that was not published begins.
    published_to: Position,
    /// Where the device will use next.
    used: Position,
    /// Flags of the descriptors from `published_to` to `next`, which the ring has yet to get.
    held_back: Vec<u16>,
    /// Buffer ids pushed since the last publish, in order.
    unpublished: Vec<u16>,
    /// Chains pushed and published so far.
    pushed: u64,
    published: u64,
    outstanding: u16,
    clamped: u64,
    broken: Option<Broken>,
    /// The ring's memory stays ours while the device may look at it.
    claim: Claim,
}

impl Ring for PackedQueue {
    type Layout = PackedLayout;

    fn new(claim: Claim, layout: PackedLayout, options: RingOptions) -> Result<Self, LayoutError> {
        let address = claim.pin().region().device_address();
        if !address.is_multiple_of(PackedLayout::ALIGN as u64) {
            return Err(LayoutError::RegionAlign { address, align: PackedLayout::ALIGN });
        }
        let shared = Shared::new(claim.pin().region(), &layout)?;
        if !options.zeroed {
            shared.zero();
        } else if !shared.is_zeroed() {
            return Err(LayoutError::NotZeroed);
        }
        let size = usize::from(layout.size);
        Ok(Self {
            shared,
            options,
            tables_address: address + layout.indirect as u64,
            ids: FreeList::new(layout.size),
            chains: vec![ChainRecord::default(); size],
            free: layout.size,
            next: Position::START,
            published_to: Position::START,
            used: Position::START,
            held_back: Vec::with_capacity(size),
            unpublished: Vec::with_capacity(size),
            pushed: 0,
            published: 0,
            outstanding: 0,
            clamped: 0,
            broken: None,
            layout,
            claim,
        })
    }

    fn layout(&self) -> &PackedLayout {
        &self.layout
    }

    #[inline]
    fn size(&self) -> u16 {
        self.layout.size
    }

    #[inline]
    fn indirect_table_size(&self) -> u16 {
        self.layout.indirect_table_size
    }

    #[inline]
    fn free_count(&self) -> u16 {
        self.free
    }

    fn outstanding_count(&self) -> u16 {
        self.outstanding
    }

    fn clamped_count(&self) -> u64 {
        self.clamped
    }

    fn broken(&self) -> Option<Broken> {
        self.broken
    }

    #[inline]
    fn next_available(&self) -> u16 {
        self.published_to.word()
    }

    fn is_live(&self) -> bool {
        self.published > 0
    }

    #[inline]
    fn next_head(&self) -> u16 {
        self.ids.peek()
    }

    #[inline]
    fn push(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, PushError> {
        self.check().map_err(PushError::Broken)?;
        let (segments, writable_bytes) = self.validate(readable, writable)?;
        let needed = self.descriptors_needed(segments);
        if needed > self.free {
            return Err(PushError::Full { needed, free: self.free });
        }
        // There are as many ids as descriptors, so where a descriptor is free an id is.
        let id = self.ids.peek();
        self.ids.take_through(id, 1);
        let parts = readable.iter().map(|&segment| (segment, 0));
        let parts = parts.chain(writable.iter().map(|&segment| (segment, WRITE)));
        if needed < segments {
            self.write_table(id, segments, parts);
        } else {
            self.write_list(id, segments, parts);
        }
        self.free -= needed;
        self.chains[usize::from(id)] =
            ChainRecord { descriptors: needed, writable: writable_bytes, number: self.pushed };
        self.unpublished.push(id);
        self.pushed += 1;
        Ok(id)
    }

    fn withdraw(&mut self, mut each: impl FnMut(u16)) {
        while let Some(id) = self.unpublished.pop() {
            self.give_back(id);
            self.pushed -= 1;
            each(id);
        }
        self.held_back.clear();
        self.next = self.published_to;
    }

    #[inline]
    fn publish(&mut self) -> Result<bool, Broken> {
        self.check()?;
        let Some((&first_flags, later_flags)) = self.held_back.split_first() else {
            return Ok(false);
        };
        let (first, size) = (self.published_to, self.layout.size);
        let mut slot = first.slot();
        for &flags in later_flags {
            slot += 1;
            if slot == usize::from(size) {
                slot = 0;
            }
            self.shared.descriptors.store_flags(slot, flags);
        }
        fence::before_publish();
        // The device takes descriptors in order: until it sees this one it sees none of them.
        self.shared.descriptors.store_flags(first.slot(), first_flags);
        let count = self.held_back.len() as u16;
        self.held_back.clear();
        self.outstanding += self.unpublished.len() as u16;
        self.unpublished.clear();
        self.published = self.pushed;
        self.published_to = self.next;
        fence::before_notify_check();
        Ok(self.kick_needed(count))
    }

    #[inline]
    fn has_used(&self) -> bool {
        let flags = self.shared.descriptors.load_flags(self.used.slot());
        flags & (AVAIL | USED) == self.used.used()
    }

    #[inline]
    fn reap(&mut self, limit: usize, mut each: impl FnMut(Used)) -> Result<usize, Broken> {
        self.check()?;
        let mut count = 0;
        while count < limit {
            match self.take_used() {
                Ok(None) => break,
                Ok(Some(used)) => each(used),
                Err(broken) => {
                    self.broken = Some(broken);
                    return if count == 0 { Err(broken) } else { Ok(count) };
                }
            }
            count += 1;
        }
        Ok(count)
    }

    fn arm(&mut self) -> Result<bool, Broken> {
        self.check()?;
        // The device may see the one word without the other. Then it has used its chain before
        // the fence below, and the look after it finds the chain.
        if self.options.event_idx {
            self.shared.driver_event.store(EVENT_POSITION, self.used.word());
            self.shared.driver_event.store(EVENT_FLAGS, AT_DESCRIPTOR);
        } else {
            self.shared.driver_event.store(EVENT_FLAGS, ENABLE);
        }
        fence::after_arm();
        Ok(self.has_used())
    }

    fn disarm(&mut self) {
        self.shared.driver_event.store(EVENT_FLAGS, DISABLE);
    }

    fn reclaim(&mut self, mut each: impl FnMut(u16)) {
        for id in 0..self.layout.size {
            if self.chains[usize::from(id)].descriptors > 0 {
                each(id);
            }
        }
        self.shared.zero();
        self.ids = FreeList::new(self.layout.size);
        self.chains.fill(ChainRecord::default());
        self.held_back.clear();
        self.unpublished.clear();
        self.free = self.layout.size;
        (self.next, self.published_to, self.used) =
            (Position::START, Position::START, Position::START);
        (self.pushed, self.published, self.outstanding) = (0, 0, 0);
        self.broken = None;
    }
}

impl PackedQueue {
    fn check(&self) -> Result<(), Broken> {
        self.broken.map_or(Ok(()), Err)
    }

    /// Write the next descriptor; its flags are held back.
    #[inline]
    fn write(&mut self, body: PackedBody, flags: u16) {
        self.shared.descriptors.store_body(self.next.slot(), body);
        self.held_back.push(flags | self.next.available());
        self.next = self.next.after(1, self.layout.size);
    }

    /// Descriptors in a row (VIRTIO 1.4, 2.8.6 Next Flag: Descriptor Chaining). The id counts in
    /// the last one; all have it.
    #[inline]
    fn write_list(&mut self, id: u16, count: u16, parts: impl Iterator<Item = (Segment, u16)>) {
        for (position, (segment, write)) in (1..).zip(parts) {
            let next = if position < count { NEXT } else { 0 };
            let body = PackedBody { addr: segment.addr(), len: segment.len(), id };
            self.write(body, write | next);
        }
    }

    /// The id's own table, and one descriptor that points to it (VIRTIO 1.4, 2.8.7 Indirect Flag:
    /// Scatter-Gather Support).
    #[inline]
    fn write_table(&mut self, id: u16, count: u16, parts: impl Iterator<Item = (Segment, u16)>) {
        let first = usize::from(id) * usize::from(self.layout.indirect_table_size);
        for (index, (segment, write)) in (first..).zip(parts) {
            self.shared.tables.store(
                index,
                PackedDescriptor { addr: segment.addr(), len: segment.len(), id: 0, flags: write },
            );
        }
        let addr = self.tables_address + (first * DESCRIPTOR_BYTES) as u64;
        let len = u32::from(count) * DESCRIPTOR_BYTES as u32;
        self.write(PackedBody { addr, len, id }, INDIRECT);
    }

    fn give_back(&mut self, id: u16) -> u16 {
        let chain = std::mem::take(&mut self.chains[usize::from(id)]);
        self.ids.give_back(id, 1);
        self.free += chain.descriptors;
        chain.descriptors
    }

    /// Whether the device wants to hear of the `count` descriptors just published. What its
    /// structure cannot mean (a reserved value, a position without EVENT_IDX) is no reason to keep
    /// silent.
    #[inline]
    fn kick_needed(&self, count: u16) -> bool {
        match self.shared.device_event.load(EVENT_FLAGS) & EVENT_FLAGS_MASK {
            DISABLE => false,
            AT_DESCRIPTOR if self.options.event_idx => {
                let event = self.shared.device_event.load(EVENT_POSITION);
                batch_passed(self.next, count, self.layout.size, event)
            }
            _ => true,
        }
    }

    #[inline]
    fn take_used(&mut self) -> Result<Option<Used>, Broken> {
        let size = self.layout.size;
        let flags = self.shared.descriptors.load_flags(self.used.slot());
        if flags & (AVAIL | USED) != self.used.used() {
            return Ok(None);
        }
        if self.outstanding == 0 {
            return Err(Broken::UsedNotAvailable { slot: self.used.offset });
        }
        fence::after_used_index();
        let PackedUsed { id, len } = self.shared.descriptors.load_used(self.used.slot());
        if id >= size {
            return Err(Broken::IdOutOfRange { id: id.into(), size });
        }
        let ChainRecord { descriptors, writable, number } = self.chains[usize::from(id)];
        if descriptors == 0 || number >= self.published {
            return Err(Broken::IdNotOutstanding { id: id.into() });
        }
        // Without WRITE the length means nothing (2.8.4 Element Address and Length).
        let written_given = flags & WRITE != 0;
        let mut written = if written_given { len } else { 0 };
        if u64::from(written) > writable {
            if self.options.strict {
                return Err(Broken::LengthTooLarge { length: written, writable, head: id });
            }
            self.clamped += 1;
            written = writable as u32;
        }
        let slots = self.give_back(id);
        self.used = self.used.after(slots, size);
        self.outstanding -= 1;
        Ok(Some(Used { head: id, written, written_given }))
    }
}

impl Drop for PackedQueue {
    fn drop(&mut self) {
        // Without a confirmed reset the device may go on writing to the ring.
        if self.is_live() {
            self.claim.pin().abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Position, batch_passed};

    #[test]
    fn the_wrap_counter_flips_behind_the_last_slot_of_any_ring() {
        for size in [1, 2, 3, 7, 256, 32_767, 32_768] {
            let mut position = Position::START;
            for lap in 0..3 {
                for offset in 0..size {
                    assert_eq!(position, Position { offset, wrap: lap % 2 == 0 });
                    assert_eq!(position.after(size, size), Position { offset, wrap: lap % 2 != 0 });
                    position = position.after(1, size);
                }
            }
        }
    }

    /// Position `number` slots after the start.
    fn at(number: u32, size: u16) -> Position {
        let (lap, offset) = (number / u32::from(size), (number % u32::from(size)) as u16);
        Position { offset, wrap: lap.is_multiple_of(2) }
    }

    #[test]
    fn exactly_the_descriptors_of_a_batch_pass_an_event_within_a_lap_of_it() {
        for size in [1_u16, 2, 3, 8, 13] {
            for start in 0..4 * u32::from(size) {
                for count in 1..=size {
                    let next = start + u32::from(count);
                    for event in next.saturating_sub(u32::from(size))..next + u32::from(size) {
                        let passed =
                            batch_passed(at(next, size), count, size, at(event, size).word());
                        let expected = (start..next).contains(&event);
                        assert_eq!(passed, expected, "{size}: {start}..{next}, {event}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_event_test_holds_in_the_largest_ring() {
        let size = 32_768;
        let passed = |next, count, event| batch_passed(at(next, size), count, size, event);
        for next in [40_000, 65_536, 65_537, 98_304] {
            let event = |number| at(number, size).word();
            assert!(passed(next, size, event(next - 1)));
            assert!(passed(next, size, event(next - u32::from(size))));
            assert!(passed(next, 1, event(next - 1)));
            assert!(!passed(next, 1, event(next - 2)));
            assert!(!passed(next, 1, event(next)));
        }
    }
}
