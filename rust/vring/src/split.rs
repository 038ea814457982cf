//! The driver's half of a split ring (VIRTIO 1.4, 2.7 Split Virtqueues).
//!
//! `push` writes descriptors and an available entry, `publish` moves the available index over all
//! that was pushed, `reap` takes back what the device has used. What the driver relies on (free
//! list, lengths, which heads are outstanding) is its own copy, which the device cannot reach.

use shm::{
    AvailableElement, Claim, Descriptor, Records, Region, Segment, UsedElement, Words, fence,
};

use crate::error::{Broken, LayoutError, PushError};
use crate::event::event_passed;
use crate::free_list::FreeList;
use crate::layout::{DESCRIPTOR_BYTES, SplitLayout};
use crate::ring::{ChainRecord, Ring, RingOptions, Used};

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
    free: FreeList,
    chains: Vec<ChainRecord>,
    /// Chains pushed and published so far; their low 16 bits are the available index.
    pushed: u64,
    published: u64,
    /// Heads pushed since the last publish, in order.
    unpublished: Vec<u16>,
    used_seen: u16,
    outstanding: u16,
    clamped: u64,
    broken: Option<Broken>,
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
            free: FreeList::new(layout.size),
            chains: vec![ChainRecord::default(); usize::from(layout.size)],
            pushed: 0,
            published: 0,
            unpublished: Vec::with_capacity(usize::from(layout.size)),
            used_seen: 0,
            outstanding: 0,
            clamped: 0,
            broken: None,
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

    fn free_count(&self) -> u16 {
        self.free.count()
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
        self.published as u16
    }

    fn is_live(&self) -> bool {
        self.published > 0
    }

    #[inline]
    fn next_head(&self) -> u16 {
        self.free.peek()
    }

    #[inline]
    fn push(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, PushError> {
        self.check().map_err(PushError::Broken)?;
        let (segments, writable_bytes) = self.validate(readable, writable)?;
        let needed = self.descriptors_needed(segments);
        if needed > self.free.count() {
            return Err(PushError::Full { needed, free: self.free.count() });
        }
        let parts = readable.iter().map(|&segment| (segment, 0));
        let parts = parts.chain(writable.iter().map(|&segment| (segment, WRITE)));
        let head = self.free.peek();
        let last = if needed < segments {
            self.write_table(head, segments, parts);
            head
        } else {
            self.write_direct(head, segments, parts)
        };
        self.free.take_through(last, needed);
        self.chains[usize::from(head)] =
            ChainRecord { descriptors: needed, writable: writable_bytes, number: self.pushed };
        let slot = self.pushed as usize & (usize::from(self.layout.size) - 1);
        self.shared.available_ring.store(slot, AvailableElement(head));
        self.unpublished.push(head);
        self.pushed += 1;
        Ok(head)
    }

    fn withdraw(&mut self, mut each: impl FnMut(u16)) {
        while let Some(head) = self.unpublished.pop() {
            self.give_back(head);
            self.pushed -= 1;
            each(head);
        }
    }

    #[inline]
    fn publish(&mut self) -> Result<bool, Broken> {
        self.check()?;
        if self.unpublished.is_empty() {
            return Ok(false);
        }
        let (old, new) = (self.published as u16, self.pushed as u16);
        self.outstanding += self.unpublished.len() as u16;
        self.unpublished.clear();
        self.published = self.pushed;
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
        self.shared.used.load(INDEX) != self.used_seen
    }

    #[inline]
    fn reap(&mut self, limit: usize, mut each: impl FnMut(Used)) -> Result<usize, Broken> {
        self.check()?;
        let ready = self.count_used()?;
        let mut count = 0;
        while count < limit.min(usize::from(ready)) {
            match self.take_used() {
                Ok(used) => each(used),
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
        if self.options.event_idx {
            self.shared.used_event.store(0, self.used_seen);
        } else {
            self.shared.available.store(FLAGS, 0);
        }
        fence::after_arm();
        Ok(self.has_used())
    }

    fn disarm(&mut self) {
        // With EVENT_IDX the flags stay 0, and the event is put where the index arrives last.
        if self.options.event_idx {
            self.shared.used_event.store(0, self.used_seen.wrapping_sub(1));
        } else {
            self.shared.available.store(FLAGS, NO_INTERRUPT);
        }
    }

    fn reclaim(&mut self, mut each: impl FnMut(u16)) {
        for head in 0..self.layout.size {
            if self.chains[usize::from(head)].descriptors > 0 {
                each(head);
            }
        }
        self.shared.zero();
        self.free = FreeList::new(self.layout.size);
        self.chains.fill(ChainRecord::default());
        self.unpublished.clear();
        (self.pushed, self.published) = (0, 0);
        (self.used_seen, self.outstanding) = (0, 0);
        self.broken = None;
    }
}

impl SplitQueue {
    fn check(&self) -> Result<(), Broken> {
        self.broken.map_or(Ok(()), Err)
    }

    /// Descriptors linked in the table (VIRTIO 1.4, 2.7.5). Returns the last one.
    #[inline]
    fn write_direct(
        &self,
        head: u16,
        count: u16,
        parts: impl Iterator<Item = (Segment, u16)>,
    ) -> u16 {
        let mut index = head;
        for (position, (segment, write)) in (1..).zip(parts) {
            let more = position < count;
            let next = self.free.next(index);
            self.shared.descriptors.store(
                usize::from(index),
                Descriptor {
                    addr: segment.addr(),
                    len: segment.len(),
                    flags: write | if more { NEXT } else { 0 },
                    next: if more { next } else { 0 },
                },
            );
            if more {
                index = next;
            }
        }
        index
    }

    /// The head's own table, and one descriptor that points to it (VIRTIO 1.4, 2.7.5.3).
    #[inline]
    fn write_table(&self, head: u16, count: u16, parts: impl Iterator<Item = (Segment, u16)>) {
        let first = usize::from(head) * usize::from(self.layout.indirect_table_size);
        for (position, (segment, write)) in (0..).zip(parts) {
            let more = position + 1 < count;
            self.shared.tables.store(
                first + usize::from(position),
                Descriptor {
                    addr: segment.addr(),
                    len: segment.len(),
                    flags: write | if more { NEXT } else { 0 },
                    next: if more { position + 1 } else { 0 },
                },
            );
        }
        self.shared.descriptors.store(
            usize::from(head),
            Descriptor {
                addr: self.tables_address + (first * DESCRIPTOR_BYTES) as u64,
                len: u32::from(count) * DESCRIPTOR_BYTES as u32,
                flags: INDIRECT,
                next: 0,
            },
        );
    }

    fn give_back(&mut self, head: u16) {
        let chain = std::mem::take(&mut self.chains[usize::from(head)]);
        self.free.give_back(head, chain.descriptors);
    }

    #[inline]
    fn count_used(&mut self) -> Result<u16, Broken> {
        let index = self.shared.used.load(INDEX);
        fence::after_used_index();
        let ready = index.wrapping_sub(self.used_seen);
        if ready > self.outstanding {
            let (ahead, outstanding) = (ready - self.outstanding, self.outstanding);
            let broken = Broken::UsedIndexAhead { index, ahead, outstanding };
            self.broken = Some(broken);
            return Err(broken);
        }
        Ok(ready)
    }

    #[inline]
    fn take_used(&mut self) -> Result<Used, Broken> {
        let size = self.layout.size;
        let UsedElement { id, len: length } =
            self.shared.used_ring.load(usize::from(self.used_seen & (size - 1)));
        if id >= u32::from(size) {
            return Err(Broken::IdOutOfRange { id, size });
        }
        let head = id as u16;
        let ChainRecord { descriptors, writable, number } = self.chains[usize::from(head)];
        if descriptors == 0 || number >= self.published {
            return Err(Broken::IdNotOutstanding { id });
        }
        let mut written = length;
        if u64::from(length) > writable {
            if self.options.strict {
                return Err(Broken::LengthTooLarge { length, writable, head });
            }
            self.clamped += 1;
            written = writable as u32;
        }
        self.give_back(head);
        self.outstanding -= 1;
        self.used_seen = self.used_seen.wrapping_add(1);
        Ok(Used { head, written, written_given: true })
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
