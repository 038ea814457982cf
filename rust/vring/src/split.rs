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

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;
const CHAIN_BYTES_MAX: u64 = 1 << 32;

/// The first two words of either ring.
const FLAGS: usize = 0;
const INDEX: usize = 1;

/// How a ring is to behave, as negotiated.
#[derive(Clone, Copy, Debug, Default)]
pub struct SplitOptions {
    /// EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// A used length beyond the writable part breaks the ring instead of being clamped.
    pub strict: bool,
    /// The memory is zeroed already, and the device may know of it and be live: the used ring,
    /// which is the device's to write, is left alone.
    pub zeroed: bool,
}

/// A chain that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What `push` returned for it.
    pub head: u16,
    /// Bytes that the device says it wrote, at most the chain's writable ones.
    pub written: u32,
}

/// What we remember of the chain whose head a descriptor is.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    /// Descriptors that it occupies in the table; 0: not the head of a chain.
    descriptors: u16,
    writable: u64,
    /// How many chains were pushed before it, ever: it is published once that many and one are.
    number: u64,
}

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

/// The driver's half of a split ring. It is not synchronised: its owner calls it from one thread
/// at a time.
#[derive(Debug)]
pub struct SplitQueue {
    layout: SplitLayout,
    options: SplitOptions,
    /// Both sides write here; nothing read from it is trusted or read twice.
    shared: Shared,
    /// All that follows is ours alone.
    tables_address: u64,
    free: FreeList,
    chains: Vec<Chain>,
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

impl SplitQueue {
    /// Lay a ring out in the claimed region and zero it (but see [`SplitOptions::zeroed`]).
    /// Notifications start enabled.
    pub fn new(
        claim: Claim,
        layout: SplitLayout,
        options: SplitOptions,
    ) -> Result<Self, LayoutError> {
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
            chains: vec![Chain::default(); usize::from(layout.size)],
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

    /// Where the parts lie.
    pub fn layout(&self) -> &SplitLayout {
        &self.layout
    }

    /// Descriptors that are free.
    pub fn free_count(&self) -> u16 {
        self.free.count()
    }

    /// Chains published and not yet reaped.
    pub fn outstanding_count(&self) -> u16 {
        self.outstanding
    }

    /// Completions whose length was larger than the chain's writable part.
    pub fn clamped_count(&self) -> u64 {
        self.clamped
    }

    /// How the device broke the rules, if it did.
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// The available index: where the next chain is made available, in the ring without end.
    #[inline]
    pub fn available_index(&self) -> u16 {
        self.published as u16
    }

    /// Whether the device may look at the ring: something was published since it was made, or
    /// since the last `reclaim`.
    pub fn is_live(&self) -> bool {
        self.published > 0
    }

    /// The head that the next `push` will return, if it succeeds.
    #[inline]
    pub fn next_head(&self) -> u16 {
        self.free.peek()
    }

    fn check(&self) -> Result<(), Broken> {
        self.broken.map_or(Ok(()), Err)
    }

    /// Descriptors of the table that a chain of `segments` takes: one if it goes into its head's
    /// indirect table, which one segment alone would gain nothing from.
    #[inline]
    fn descriptors_needed(&self, segments: u16) -> u16 {
        if (2..=self.layout.indirect_table_size).contains(&segments) { 1 } else { segments }
    }

    /// Whether the chain could be pushed into an empty ring; its segments and writable bytes.
    #[inline]
    pub fn validate(
        &self,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<(u16, u64), PushError> {
        let total = |part: &[Segment]| part.iter().map(|segment| u64::from(segment.len())).sum();
        let (read_bytes, write_bytes): (u64, u64) = (total(readable), total(writable));
        if read_bytes + write_bytes > CHAIN_BYTES_MAX {
            return Err(PushError::TooManyBytes(read_bytes + write_bytes));
        }
        match readable.len() + writable.len() {
            0 => Err(PushError::Empty),
            count if count > usize::from(self.layout.size) => {
                Err(PushError::TooManySegments { count, size: self.layout.size })
            }
            count => Ok((count as u16, write_bytes)),
        }
    }

    /// Write a chain: what the device reads, then what it writes. Returns its head.
    #[inline]
    pub fn push(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, PushError> {
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
            Chain { descriptors: needed, writable: writable_bytes, number: self.pushed };
        let slot = self.pushed as usize & (usize::from(self.layout.size) - 1);
        self.shared.available_ring.store(slot, AvailableElement(head));
        self.unpublished.push(head);
        self.pushed += 1;
        Ok(head)
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

    /// Take back what was pushed since the last publish; calls `each` with the heads, newest
    /// first. The index never covered them, so the device must not look at them.
    pub fn withdraw(&mut self, mut each: impl FnMut(u16)) {
        while let Some(head) = self.unpublished.pop() {
            self.give_back(head);
            self.pushed -= 1;
            each(head);
        }
    }

    /// Make what was pushed visible in one step; whether the device must be notified.
    #[inline]
    pub fn publish(&mut self) -> Result<bool, Broken> {
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

    /// Whether the device has used a chain that was not reaped; a look at one word, no more.
    #[inline]
    pub fn has_used(&self) -> bool {
        self.shared.used.load(INDEX) != self.used_seen
    }

    /// Hand at most `limit` used chains to `each`; how many there were. What the device returned
    /// correctly before it broke a rule is handed out, and the next call tells of the breach.
    #[inline]
    pub fn reap(&mut self, limit: usize, mut each: impl FnMut(Used)) -> Result<usize, Broken> {
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
        let Chain { descriptors, writable, number } = self.chains[usize::from(head)];
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
        Ok(Used { head, written })
    }

    /// Ask for a notification of the next used chain; whether one is waiting already
    /// (VIRTIO 1.4, 2.7.7 Used Buffer Notification Suppression).
    pub fn arm(&mut self) -> Result<bool, Broken> {
        self.check()?;
        if self.options.event_idx {
            self.shared.used_event.store(0, self.used_seen);
        } else {
            self.shared.available.store(FLAGS, 0);
        }
        fence::after_arm();
        Ok(self.has_used())
    }

    /// Hint that no notifications are wanted. With EVENT_IDX the flags stay 0 and the event is
    /// put where the used index arrives last.
    pub fn disarm(&mut self) {
        if self.options.event_idx {
            self.shared.used_event.store(0, self.used_seen.wrapping_sub(1));
        } else {
            self.shared.available.store(FLAGS, NO_INTERRUPT);
        }
    }

    /// After a confirmed reset only: forget all chains and zero the ring; calls `each` with the
    /// heads that the device never gave back (pushed ones included), ascending.
    pub fn reclaim(&mut self, mut each: impl FnMut(u16)) {
        for head in 0..self.layout.size {
            if self.chains[usize::from(head)].descriptors > 0 {
                each(head);
            }
        }
        self.shared.zero();
        self.free = FreeList::new(self.layout.size);
        self.chains.fill(Chain::default());
        self.unpublished.clear();
        (self.pushed, self.published) = (0, 0);
        (self.used_seen, self.outstanding) = (0, 0);
        self.broken = None;
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
