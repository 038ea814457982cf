//! The driver's half of a packed ring (VIRTIO 1.4, 2.8 Packed Virtqueues).
//!
//! One ring of descriptors serves both directions. The driver writes chains one behind the other,
//! the device answers in the same slots; the flags AVAIL and USED, compared with a counter that
//! flips with each lap, say whose a descriptor is. A chain is known by its buffer id. A used
//! descriptor gives a whole chain back, in the slot where the oldest chain that was not given back
//! begins; the next one follows after as many slots as the chain had, which is known from the
//! ledger alone: of what the driver has written nothing is read back.
//!
//! `push` writes all of a chain but its flags, which stay in private memory until `publish` stores
//! them, those of the batch's first descriptor last. So what is withdrawn was never available, and
//! no descriptor changes once it is the device's (PACKED-DESC-02). A slot is written again only when
//! the chain that was there, or a whole batch around it, is known to be used (PACKED-DESC-01): until
//! then its descriptors do not count as free.
//!
//! With IN_ORDER buffer ids are given in turn, and one used descriptor can return a batch of chains:
//! it lies where the first of them begins and has the id of the last. The next one follows after
//! all their slots.

mod position;

use std::hint::black_box;
use std::ops::Range;

use shm::{
    Claim, OutOfBounds, PackedBody, PackedDescriptor, PackedDescriptors, PackedUsed, Pin, Records,
    Region, Segment, Words, fence,
};

use crate::error::{Broken, LayoutError, PushError};
use crate::in_order::Turn;
use crate::layout::{DESCRIPTOR_BYTES, PackedLayout};
use crate::ledger::{Chain, Ledger};
use crate::numbers::{FreeList, Numbers};
use crate::ring::{FixedTable, Ring, RingOptions, Used};
use position::{Position, batch_passed};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The words of an event suppression structure.
const EVENT_POSITION: usize = 0;
const EVENT_FLAGS: usize = 1;

/// What its flags ask for, in the bits of `EVENT_FLAGS_MASK`.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_DESCRIPTOR: u16 = 2;
const EVENT_FLAGS_MASK: u16 = 3;

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

    /// The flags of the descriptor at `position`, if the device has used it.
    #[inline]
    fn flags_if_used(&self, position: Position) -> Option<u16> {
        let flags = self.descriptors.load_flags(position.slot());
        position.is_used(flags).then_some(flags)
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
    /// Of chains: the buffer ids. There are as many as descriptors, so where a descriptor is free
    /// an id is.
    numbers: Numbers,
    ledger: Ledger,
    /// Where the next chain will be written.
    next: Position,
    /// Where the first chain that was not published begins.
    published_to: Position,
    /// Where the device will use next.
    used: Position,
    /// By slot, the flags that the ring has yet to get: of the descriptors from `published_to` on.
    held_back: Box<[u16]>,
    /// How many they are.
    held_back_count: u16,
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
        Ok(Self {
            shared,
            options,
            tables_address: address + layout.indirect as u64,
            numbers: Numbers::new(layout.size, options.in_order),
            ledger: Ledger::new(layout.size, options.strict),
            next: Position::START,
            published_to: Position::START,
            used: Position::START,
            held_back: vec![0; layout.size.into()].into(),
            held_back_count: 0,
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
        self.published_to.word()
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
        let id = self.numbers.first();
        self.numbers.take_through(id);
        if needed < segments {
            self.write_table(id, segments, readable, writable);
        } else {
            self.write_list(id, segments, readable, writable);
        }
        self.held_back_count += needed;
        self.ledger.add(id, needed, writable_bytes);
        Ok(id)
    }

    fn write_fixed_table(
        memory: &Pin,
        offset: usize,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<FixedTable, OutOfBounds> {
        let count = readable.len() + writable.len();
        let tables = memory.region().span().records(offset, count)?;
        list_table(&tables, 0, readable, writable);
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
        let id = self.numbers.first();
        self.numbers.take_through(id);
        self.point_to(id, table);
        self.held_back_count += 1;
        self.ledger.add(id, 1, table.writable);
        Ok(id)
    }

    fn withdraw(&mut self, mut each: impl FnMut(u16)) {
        while let Some((id, _)) = self.ledger.withdraw() {
            self.numbers.untake(id, 1);
            each(id);
        }
        self.held_back_count = 0;
        self.next = self.published_to;
    }

    #[inline]
    fn publish(&mut self) -> Result<bool, Broken> {
        self.ledger.check()?;
        let (first, count) = (self.published_to, self.held_back_count);
        if count == 0 {
            return Ok(false);
        }
        let (from, end) = (first.slot() + 1, first.slot() + usize::from(count));
        let size = usize::from(self.layout.size);
        self.show(from..end.min(size));
        self.show(0..end.saturating_sub(size));
        fence::before_publish();
        // The device takes descriptors in order: until it sees this one it sees none of them.
        self.show(first.slot()..from);
        self.held_back_count = 0;
        self.ledger.publish();
        self.published_to = self.next;
        fence::before_notify_check();
        Ok(self.kick_needed(count))
    }

    #[inline]
    fn has_used(&self) -> bool {
        self.numbers.is_amid_batch() || self.shared.flags_if_used(self.used).is_some()
    }

    #[inline]
    fn reap(&mut self, limit: usize, mut each: impl FnMut(Used)) -> Result<usize, Broken> {
        self.ledger.check()?;
        let Self { layout, shared, numbers, ledger, used, .. } = self;
        match numbers {
            Numbers::LastFreedFirst(list) => {
                reap_each(limit, layout.size, shared, ledger, list, used, each)
            }
            Numbers::InTurn(turn) => {
                reap_batches(limit, layout.size, shared, ledger, turn, used, &mut each)
            }
        }
    }

    #[inline]
    fn has_used_many(&self, count: u16) -> bool {
        // The next place as well: without it there is nothing to reap, whatever a device that breaks
        // the order writes further ahead, and who waits would look again and again.
        let is_used = |position| self.shared.flags_if_used(position).is_some();
        self.numbers.is_amid_batch() || is_used(self.used) && is_used(self.used_position(count))
    }

    fn arm_ahead(&mut self, count: u16) -> Result<bool, Broken> {
        self.ledger.check()?;
        let mut count = count;
        // The device may see the one word without the other. Then it has used its chain before
        // the fence below, and the look after it finds the chain.
        if self.options.event_idx {
            self.shared.driver_event.store(EVENT_POSITION, self.used_position(count).word());
            self.shared.driver_event.store(EVENT_FLAGS, AT_DESCRIPTOR);
        } else {
            count = 1;
            self.shared.driver_event.store(EVENT_FLAGS, ENABLE);
        }
        fence::after_arm();
        Ok(self.has_used_many(count))
    }

    fn disarm(&mut self) {
        self.shared.driver_event.store(EVENT_FLAGS, DISABLE);
    }

    fn reclaim(&mut self, each: impl FnMut(u16)) {
        self.ledger.reclaim(each);
        self.shared.zero();
        self.numbers = Numbers::new(self.layout.size, self.options.in_order);
        (self.next, self.published_to, self.used) =
            (Position::START, Position::START, Position::START);
        self.held_back_count = 0;
    }
}

/// Take back at most `limit` chains, each by a used descriptor of its own.
#[inline]
fn reap_each(
    limit: usize,
    size: u16,
    shared: &Shared,
    ledger: &mut Ledger,
    list: &mut FreeList,
    used: &mut Position,
    mut each: impl FnMut(Used),
) -> Result<usize, Broken> {
    let (mut count, mut descriptors, mut position, mut step) = (0, 0, *used, 1);
    let outstanding = usize::from(ledger.outstanding());
    let outcome = loop {
        if count == limit {
            break Ok(count);
        }
        let guess = position.after(step, size);
        match next_used(shared, ledger, position, outstanding - count) {
            Ok(None) => break Ok(count),
            Ok(Some((id, chain, length))) => {
                ledger.take(id);
                list.give_back(id, 1);
                // Where to look next depends on the id that was found here, but most chains are as
                // long as the one before. A processor goes on with that guess and need not wait;
                // a compiler that knew what the branch is about would take it out.
                if chain.descriptors == step {
                    position = guess;
                } else {
                    step = black_box(chain.descriptors);
                    position = position.after(step, size);
                }
                descriptors += step;
                count += 1;
                each(ledger.clamp(chain, length).of(id));
            }
            Err(broken) => break ledger.breach(broken, count),
        }
    };
    *used = position;
    ledger.settle(count, descriptors);
    outcome
}

/// Take back at most `limit` chains, by a used descriptor for each batch, which is where its first
/// chain begins.
#[inline]
fn reap_batches(
    limit: usize,
    size: u16,
    shared: &Shared,
    ledger: &mut Ledger,
    turn: &mut Turn,
    used: &mut Position,
    each: &mut impl FnMut(Used),
) -> Result<usize, Broken> {
    let mut count = 0;
    loop {
        let (chains, descriptors) = turn.hand_out(limit - count, ledger, |_| 1, each);
        count += chains;
        *used = used.after(descriptors, size);
        if count == limit {
            return Ok(count);
        }
        match next_used(shared, ledger, *used, ledger.outstanding().into()) {
            Ok(None) => return Ok(count),
            Ok(Some((_, chain, length))) => {
                turn.begin(ledger.batch_through(chain), ledger.clamp(chain, length));
            }
            Err(broken) => return ledger.breach(broken, count),
        }
    }
}

/// The chain that is used at `position`, if one is; its length, if the device says it.
#[inline]
fn next_used(
    shared: &Shared,
    ledger: &Ledger,
    position: Position,
    outstanding: usize,
) -> Result<Option<(u16, Chain, Option<u32>)>, Broken> {
    let Some(flags) = shared.flags_if_used(position) else { return Ok(None) };
    if outstanding == 0 {
        return Err(Broken::UsedNotAvailable { slot: position.offset });
    }
    fence::after_used_index();
    let PackedUsed { id, len } = shared.descriptors.load_used(position.slot());
    let (id, chain) = ledger.find(id.into())?;
    // Without WRITE the length means nothing (2.8.4 Element Address and Length).
    let length = (flags & WRITE != 0).then_some(len);
    ledger.check_length(id, chain, length.unwrap_or(0))?;
    Ok(Some((id, chain, length)))
}

/// Write a table, whose entries stand one behind the other.
#[inline]
fn list_table(
    tables: &Records<PackedDescriptor>,
    first: usize,
    readable: &[Segment],
    writable: &[Segment],
) {
    let mut index = first;
    for (part, flags) in [(readable, 0), (writable, WRITE)] {
        for segment in part {
            let (addr, len) = (segment.addr(), segment.len());
            tables.store(index, PackedDescriptor { addr, len, id: 0, flags });
            index += 1;
        }
    }
}

impl PackedQueue {
    /// Where the device will have written when it has used `count` more chains. That is known of as
    /// many as it will use one by one, in a slot each; else it is the next place.
    #[inline]
    fn used_position(&self, count: u16) -> Position {
        let taken = self.layout.size - self.ledger.free() - self.held_back_count;
        let one_by_one = !self.options.in_order && taken == self.ledger.outstanding();
        let further = if one_by_one && count <= taken { count.saturating_sub(1) } else { 0 };
        self.used.after(further, self.layout.size)
    }

    /// Let the device see the flags of these descriptors.
    #[inline]
    fn show(&self, slots: Range<usize>) {
        for slot in slots {
            self.shared.descriptors.store_flags(slot, self.held_back[slot]);
        }
    }

    /// Write a descriptor; its flags are held back.
    #[inline]
    fn write(&mut self, position: Position, body: PackedBody, flags: u16) {
        self.shared.descriptors.store_body(position.slot(), body);
        self.held_back[position.slot()] = flags | position.available();
    }

    /// Descriptors in a row (VIRTIO 1.4, 2.8.6 Next Flag: Descriptor Chaining). The id counts in
    /// the last one; all have it.
    #[inline(always)]
    fn write_list(&mut self, id: u16, count: u16, readable: &[Segment], writable: &[Segment]) {
        let (mut position, mut left) = (self.next, count);
        for (part, write) in [(readable, 0), (writable, WRITE)] {
            for segment in part {
                left -= 1;
                let next = if left > 0 { NEXT } else { 0 };
                let body = PackedBody { addr: segment.addr(), len: segment.len(), id };
                self.write(position, body, write | next);
                position = position.after(1, self.layout.size);
            }
        }
        self.next = position;
    }

    /// The id's own table, and one descriptor that points to it (VIRTIO 1.4, 2.8.7 Indirect Flag:
    /// Scatter-Gather Support).
    #[inline(always)]
    fn write_table(&mut self, id: u16, count: u16, readable: &[Segment], writable: &[Segment]) {
        let first = usize::from(id) * usize::from(self.layout.indirect_table_size);
        list_table(&self.shared.tables, first, readable, writable);
        let address = self.tables_address + (first * DESCRIPTOR_BYTES) as u64;
        let length = u32::from(count) * DESCRIPTOR_BYTES as u32;
        self.point_to(id, &FixedTable { address, length, writable: 0 });
    }

    /// The next descriptor points to a table.
    #[inline(always)]
    fn point_to(&mut self, id: u16, table: &FixedTable) {
        let FixedTable { address: addr, length: len, .. } = *table;
        self.write(self.next, PackedBody { addr, len, id }, INDIRECT);
        self.next = self.next.after(1, self.layout.size);
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
}

impl Drop for PackedQueue {
    fn drop(&mut self) {
        // Without a confirmed reset the device may go on writing to the ring.
        if self.is_live() {
            self.claim.pin().abandon();
        }
    }
}
