//! The driver's half of a split ring (VIRTIO 1.4, 2.7 Split Virtqueues).
//!
//! Each side writes memory of its own. The driver describes a chain in the descriptor table, linked
//! from slot to slot, names its head in the available ring, and moves the available index over all
//! that it has pushed. The device answers in the used ring, with the head and how much it wrote, and
//! moves the used index. Both indices count from 0 on and never go back; an entry lies where its
//! index is, modulo the queue size.
//!
//! A long chain goes into an indirect table, of which each head has one; one descriptor points to
//! it. Which descriptors are free, which heads are outstanding and how long their chains are is our
//! own copy (`ledger`, `numbers`): the table's links, which a device could change, are never read.
//!
//! With IN_ORDER the chains take the slots of the table one behind the other, and one used entry can
//! return a batch of chains: it lies where that of the first would, and the index moves by all of
//! them. So `reap` steps over the entries that were left out, and a batch cannot have more chains
//! than the index was moved by.

use shm::{
    AvailableElement, Claim, Descriptor, OutOfBounds, Pin, Records, Region, Segment, UsedElement,
    Words, fence,
};

use crate::error::{Broken, LayoutError, PushError};
use crate::event::event_passed;
use crate::in_order::Turn;
use crate::layout::{DESCRIPTOR_BYTES, SplitLayout};
use crate::ledger::Ledger;
use crate::numbers::Numbers;
use crate::ring::{FixedTable, Ring, RingOptions, Used};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The first two words of either ring.
const FLAGS: usize = 0;
const INDEX: usize = 1;

/// The words that driver and device share.
#[derive(Debug)]
struct Shared {
    descriptors: Records<Descriptor>,
    tables: Records<Descriptor>,
    available: Words,
    available_ring: Records<AvailableElement>,
    used_event: Words,
    used: Words,
    used_ring: Records<UsedElement>,
    avail_event: Words,
}

impl Shared {
    fn new(region: &Region, layout: &SplitLayout) -> Result<Self, LayoutError> {
        let too_short =
            |_| LayoutError::RegionLength { needed: layout.length, available: region.len() };
        let span = region.span().slice(0, layout.length).map_err(too_short)?;
        let size = usize::from(layout.size);
        let tables = size * usize::from(layout.indirect_table_size);
        let tables_offset = if tables == 0 { 0 } else { layout.indirect };
        Ok(Self {
            descriptors: span.records(layout.descriptors, size).map_err(too_short)?,
            tables: span.records(tables_offset, tables).map_err(too_short)?,
            available: span.words(layout.available, 2).map_err(too_short)?,
            available_ring: span.records(layout.available + 4, size).map_err(too_short)?,
            used_event: span.words(layout.available + 4 + 2 * size, 1).map_err(too_short)?,
            used: span.words(layout.used, 2).map_err(too_short)?,
            used_ring: span.records(layout.used + 4, size).map_err(too_short)?,
            avail_event: span.words(layout.used + 4 + 8 * size, 1).map_err(too_short)?,
        })
    }

    fn zero(&self) {
        for index in 0..self.descriptors.count() {
            self.descriptors.store(index, Descriptor::default());
            self.available_ring.store(index, AvailableElement::default());
            self.used_ring.store(index, UsedElement::default());
        }
        for index in 0..self.tables.count() {
            self.tables.store(index, Descriptor::default());
        }
        for words in [&self.available, &self.used] {
            words.store(FLAGS, 0);
            words.store(INDEX, 0);
        }
        self.used_event.store(0, 0);
        self.avail_event.store(0, 0);
    }
}

/// The driver's half of a split ring; [`Ring`] says what it does.
#[derive(Debug)]
pub struct SplitQueue {
    layout: SplitLayout,
    options: RingOptions,
    /// Both sides write here; nothing read from it is trusted or read twice.
    shared: Shared,
    /// All that follows is ours alone.
    tables_address: u64,
    /// Of descriptors.
    numbers: Numbers,
    ledger: Ledger,
    /// The ring's memory stays ours while the device may look at it.
    claim: Claim,
}

impl Ring for SplitQueue {
    type Layout = SplitLayout;

    fn new(claim: Claim, layout: SplitLayout, options: RingOptions) -> Result<Self, LayoutError> {
        let address = claim.pin().region().device_address();
        if !address.is_multiple_of(layout.align as u64) {
            return Err(LayoutError::RegionAlign { address, align: layout.align });
        }
        let shared = Shared::new(claim.pin().region(), &layout)?;
        if !options.zeroed {
            shared.zero();
        } else if shared.used.load(INDEX) != 0 || shared.available.load(INDEX) != 0 {
            return Err(LayoutError::NotZeroed);
        }
        Ok(Self {
            shared,
            options,
            tables_address: address + layout.indirect as u64,
            numbers: Numbers::new(layout.size, options.in_order),
            ledger: Ledger::new(layout.size, options.strict),
            layout,
            claim,
        })
    }

    fn layout(&self) -> &SplitLayout {
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
        self.ledger.free()
    }

    fn outstanding_count(&self) -> u16 {
        self.ledger.outstanding()
    }

    fn clamped_count(&self) -> u64 {
        self.ledger.clamped()
    }

    fn broken(&self) -> Option<Broken> {
        self.ledger.broken()
    }

    #[inline]
    fn next_available(&self) -> u16 {
        self.ledger.published() as u16
    }

    fn is_live(&self) -> bool {
        self.ledger.published() > 0
    }

    #[inline]
    fn next_head(&self) -> u16 {
        self.numbers.first()
    }

    // For the lengths of slices that a caller knows.
    #[inline(always)]
    fn push(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, PushError> {
        self.ledger.check().map_err(PushError::Broken)?;
        let (segments, writable_bytes) = self.validate(readable, writable)?;
        let needed = self.descriptors_needed(segments);
        self.ledger.check_room(needed)?;
        let head = self.numbers.first();
        let last = if needed < segments {
            self.write_table(head, segments, readable, writable);
            head
        } else {
            self.write_direct(head, segments, readable, writable)
        };
        self.numbers.take_through(last);
        self.add(head, needed, writable_bytes);
        Ok(head)
    }

    fn can_reserve(&self) -> bool {
        matches!(self.numbers, Numbers::LastFreedFirst(_))
    }

    fn reserved_count(&self) -> u16 {
        self.ledger.reserved()
    }

    fn reserve(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, PushError> {
        let (segments, _) = self.validate(readable, writable)?;
        self.check_reservable(segments)?;
        let head = self.numbers.first();
        let last = self.write_direct(head, segments, readable, writable);
        self.numbers.take_through(last);
        self.ledger.reserve(segments);
        Ok(head)
    }

    fn reserve_table(&mut self, table: &FixedTable) -> Result<u16, PushError> {
        self.check_reservable(1)?;
        let head = self.numbers.first();
        self.point_to(head, table);
        self.numbers.take_through(head);
        self.ledger.reserve(1);
        Ok(head)
    }

    fn release(&mut self, head: u16, count: u16) {
        self.numbers.untake(head, count);
        self.ledger.release(count);
    }

    #[inline]
    fn push_reserved(&mut self, head: u16, writable: u32) {
        self.add(head, 0, writable.into());
    }

    fn write_fixed_table(
        memory: &Pin,
        offset: usize,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<FixedTable, OutOfBounds> {
        let count = readable.len() + writable.len();
        let tables = memory.region().span().records(offset, count)?;
        link_table(&tables, 0, count as u16, readable, writable);
        Ok(FixedTable {
            address: memory.region().device_address() + offset as u64,
            length: (count * DESCRIPTOR_BYTES) as u32,
            writable: writable.iter().map(|segment| u64::from(segment.len())).sum(),
        })
    }

    #[inline]
    fn push_table(&mut self, table: &FixedTable) -> Result<u16, PushError> {
        self.ledger.check().map_err(PushError::Broken)?;
        self.ledger.check_room(1)?;
        let head = self.numbers.first();
        self.point_to(head, table);
        self.numbers.take_through(head);
        self.add(head, 1, table.writable);
        Ok(head)
    }

    fn withdraw(&mut self, mut each: impl FnMut(u16)) {
        while let Some((head, chain)) = self.ledger.withdraw() {
            self.numbers.untake(head, chain.descriptors);
            each(head);
        }
    }

    #[inline]
    fn publish(&mut self) -> Result<bool, Broken> {
        self.ledger.check()?;
        let (old, new) = (self.ledger.published(), self.ledger.pushed());
        if old == new {
            return Ok(false);
        }
        let (old, new) = (old as u16, new as u16);
        self.ledger.publish();
        fence::before_publish();
        self.shared.available.store(INDEX, new);
        fence::before_notify_check();
        Ok(if self.options.event_idx {
            event_passed(old, new, self.shared.avail_event.load(0))
        } else {
            self.shared.used.load(FLAGS) & NO_NOTIFY == 0
        })
    }

    #[inline]
    fn has_used(&self) -> bool {
        self.numbers.is_amid_batch() || self.shared.used.load(INDEX) != self.used_seen()
    }

    #[inline]
    fn reap(&mut self, limit: usize, mut each: impl FnMut(Used)) -> Result<usize, Broken> {
        self.ledger.check()?;
        let ready = self.count_used()?;
        let Self { layout, shared, numbers, ledger, .. } = self;
        let mask = u64::from(layout.size) - 1;
        let element = |reaped: u64| shared.used_ring.load((reaped & mask) as usize);
        let fetch = |head: u16| shared.descriptors.prefetch_for_write(head.into());
        match numbers {
            Numbers::LastFreedFirst(list) => {
                // What is freed now is taken next, and the device has read it meanwhile.
                let free = |head, count| {
                    list.give_back(head, count);
                    fetch(head);
                };
                reap_each(limit.min(ready.into()), ledger, free, element, each)
            }
            Numbers::InTurn(turn) => {
                // The same in order, where little else is free.
                let is_taken_soon = ledger.free() < layout.size / 2;
                let mut each = |used: Used| {
                    if is_taken_soon {
                        fetch(used.head);
                    }
                    each(used);
                };
                reap_batches(limit, ready, ledger, turn, element, &mut each)
            }
        }
    }

    #[inline]
    fn has_used_many(&self, count: u16) -> bool {
        let ready = self.shared.used.load(INDEX).wrapping_sub(self.used_seen());
        self.numbers.is_amid_batch() || ready >= count.max(1)
    }

    fn arm_ahead(&mut self, count: u16) -> Result<bool, Broken> {
        self.ledger.check()?;
        let mut count = count.max(1);
        if self.options.event_idx {
            self.shared.used_event.store(0, self.used_seen().wrapping_add(count - 1));
        } else {
            count = 1;
            self.shared.available.store(FLAGS, 0);
        }
        fence::after_arm();
        Ok(self.has_used_many(count))
    }

    fn disarm(&mut self) {
        // With EVENT_IDX the flags stay 0, and the event is put where the index arrives last.
        if self.options.event_idx {
            self.shared.used_event.store(0, self.used_seen().wrapping_sub(1));
        } else {
            self.shared.available.store(FLAGS, NO_INTERRUPT);
        }
    }

    fn reclaim(&mut self, each: impl FnMut(u16)) {
        self.ledger.reclaim(each);
        self.shared.zero();
        self.numbers = Numbers::new(self.layout.size, self.options.in_order);
    }
}

/// Take back `count` chains, each by a used element of its own. Reserved ones keep their
/// descriptors; `free` gets those of the others.
#[inline]
fn reap_each(
    count: usize,
    ledger: &mut Ledger,
    mut free: impl FnMut(u16, u16),
    element: impl Fn(u64) -> UsedElement,
    mut each: impl FnMut(Used),
) -> Result<usize, Broken> {
    let (first, mut done, mut descriptors) = (ledger.reaped(), 0, 0);
    let outcome = loop {
        if done == count {
            break Ok(count);
        }
        let UsedElement { id, len } = element(first + done as u64);
        let found = ledger.find(id).and_then(|(head, chain)| {
            ledger.check_length(head, chain, len)?;
            Ok((head, chain))
        });
        let (head, chain) = match found {
            Ok(found) => found,
            Err(broken) => break ledger.breach(broken, done),
        };
        ledger.take(head);
        if chain.descriptors > 0 {
            free(head, chain.descriptors);
            descriptors += chain.descriptors;
        }
        done += 1;
        each(ledger.clamp(chain, Some(len)).of(head));
    };
    ledger.settle(done, descriptors);
    outcome
}

/// Take back at most `limit` chains of the `ready` ones, by a used element for each batch, which is
/// where that of its first chain would be.
#[inline]
fn reap_batches(
    limit: usize,
    ready: u16,
    ledger: &mut Ledger,
    turn: &mut Turn,
    element: impl Fn(u64) -> UsedElement,
    each: &mut impl FnMut(Used),
) -> Result<usize, Broken> {
    let ready_to = ledger.reaped() + u64::from(ready);
    let mut count = 0;
    loop {
        count += turn.hand_out(limit - count, ledger, |chain| chain.descriptors, each).0;
        // More than is ready is left of a batch whose index was moved back.
        if count == limit || ledger.reaped() >= ready_to {
            return Ok(count);
        }
        let UsedElement { id, len } = element(ledger.reaped());
        let found = ledger.find(id).and_then(|(head, chain)| {
            ledger.check_length(head, chain, len)?;
            let batch = ledger.batch_through(chain);
            let ready = (ready_to - ledger.reaped()) as u16;
            if batch > ready {
                Err(Broken::BatchTooLong { head, batch, ready })
            } else {
                Ok((chain, batch))
            }
        });
        match found {
            Ok((chain, batch)) => turn.begin(batch, ledger.clamp(chain, Some(len))),
            Err(broken) => return ledger.breach(broken, count),
        }
    }
}

/// Write a table, whose entries are linked one to the next.
#[inline]
fn link_table(
    tables: &Records<Descriptor>,
    first: usize,
    count: u16,
    readable: &[Segment],
    writable: &[Segment],
) {
    let mut index = 0;
    for (part, write) in [(readable, 0), (writable, WRITE)] {
        for segment in part {
            let (more, next) = if index + 1 < count { (NEXT, index + 1) } else { (0, 0) };
            tables.store(first + usize::from(index), describe(segment, write | more, next));
            index += 1;
        }
    }
}

#[inline]
fn describe(segment: &Segment, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr: segment.addr(), len: segment.len(), flags, next }
}

impl SplitQueue {
    /// Where in the rings the chain of this number has its entry.
    #[inline]
    fn slot(&self, number: u64) -> usize {
        number as usize & (usize::from(self.layout.size) - 1)
    }

    /// The used index of a device that has used nothing which was not reaped.
    #[inline]
    fn used_seen(&self) -> u16 {
        self.ledger.reaped() as u16
    }

    /// Descriptors linked in the table (VIRTIO 1.4, 2.7.5). Returns the last one.
    #[inline(always)]
    fn write_direct(
        &self,
        head: u16,
        count: u16,
        readable: &[Segment],
        writable: &[Segment],
    ) -> u16 {
        let (mut index, mut last, mut left) = (head, head, count);
        for (part, write) in [(readable, 0), (writable, WRITE)] {
            for segment in part {
                left -= 1;
                last = index;
                let (more, next) =
                    if left > 0 { (NEXT, self.numbers.after(index)) } else { (0, 0) };
                let descriptor = describe(segment, write | more, next);
                self.shared.descriptors.store(usize::from(index), descriptor);
                index = next;
            }
        }
        last
    }

    /// The head's own table, and one descriptor that points to it (VIRTIO 1.4, 2.7.5.3).
    #[inline(always)]
    fn write_table(&self, head: u16, count: u16, readable: &[Segment], writable: &[Segment]) {
        let first = usize::from(head) * usize::from(self.layout.indirect_table_size);
        link_table(&self.shared.tables, first, count, readable, writable);
        let address = self.tables_address + (first * DESCRIPTOR_BYTES) as u64;
        let length = u32::from(count) * DESCRIPTOR_BYTES as u32;
        self.point_to(head, &FixedTable { address, length, writable: 0 });
    }

    /// A descriptor that points to a table (VIRTIO 1.4, 2.7.5.3 Indirect Descriptors).
    #[inline(always)]
    fn point_to(&self, head: u16, table: &FixedTable) {
        let FixedTable { address: addr, length: len, .. } = *table;
        let descriptor = Descriptor { addr, len, flags: INDIRECT, next: 0 };
        self.shared.descriptors.store(usize::from(head), descriptor);
    }

    /// Name the chain that was written in the available ring.
    #[inline(always)]
    fn add(&mut self, head: u16, descriptors: u16, writable: u64) {
        let slot = self.slot(self.ledger.pushed());
        self.shared.available_ring.store(slot, AvailableElement(head));
        self.ledger.add(head, descriptors, writable);
    }

    fn check_reservable(&self, needed: u16) -> Result<(), PushError> {
        self.ledger.check().map_err(PushError::Broken)?;
        if !self.can_reserve() {
            return Err(PushError::Full { needed, free: 0 });
        }
        self.ledger.check_room(needed)
    }

    #[inline]
    fn count_used(&mut self) -> Result<u16, Broken> {
        let index = self.shared.used.load(INDEX);
        fence::after_used_index();
        let (ready, outstanding) =
            (index.wrapping_sub(self.used_seen()), self.ledger.outstanding());
        if ready > outstanding {
            let ahead = ready - outstanding;
            self.ledger.breach(Broken::UsedIndexAhead { index, ahead, outstanding }, 0)?;
        }
        Ok(ready)
    }
}

impl Drop for SplitQueue {
    fn drop(&mut self) {
        // Without a confirmed reset the device may go on writing to the ring.
        if self.is_live() {
            self.claim.pin().abandon();
        }
    }
}
