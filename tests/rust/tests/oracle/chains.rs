//! Chains of every shape on rings of every size, over the wrap of the indices.

use std::collections::VecDeque;

use shm::{DmaSpace, Pin, Segment};
use vioblk_tests::clause;
use vring::{PushError, Ring, RingOptions, SplitLayout, SplitQueue, Used};

use crate::device::{Device, Part, Random, links_of, parts_of};

/// Where the device sees the memory: beyond 32 bits.
const BASE: u64 = 5 << 32;
const DATA_BYTES: usize = 1 << 20;
const SEGMENTS_MAX: usize = 16;
/// Chains that are published at once.
const BATCH_MAX: usize = 32;
const SEGMENT_BYTES_MAX: usize = 64 << 10;
/// Chains of all lengths in one run.
const CHAINS: u64 = 2500;
/// The number of the first chain after both indices have gone from 65535 to 0.
const WRAP: u64 = 1 << 16;

/// What the driver asked for and has not got back.
struct Asked {
    head: u16,
    parts: Vec<Part>,
}

impl Asked {
    fn writable_bytes(&self) -> usize {
        self.parts.iter().filter(|part| part.writable).map(|part| part.length as usize).sum()
    }
}

/// A ring, the device on it, and what the two must agree on, by plain counting.
struct Run {
    ring: SplitQueue,
    device: Device,
    data: Pin,
    event_idx: bool,
    in_order: bool,
    /// With IN_ORDER, where the next chain begins in the descriptor table.
    next_slot: u16,
    random: Random,
    /// Chains before this one are short, so that the wrap is reached soon.
    short_until: u64,
    /// Pushed, and not visible yet.
    pushed: Vec<Asked>,
    /// Visible, and not taken by the device.
    available: VecDeque<Asked>,
    /// With the device.
    held: Vec<Asked>,
    /// Completed, and not reaped: head, length, and descriptors that become free with it.
    used: VecDeque<(u16, u32, u16)>,
    /// Descriptors of the ring that are free.
    free: u16,
    published_count: u64,
    completed_count: u64,
    reaped_count: u64,
    /// With EVENT_IDX, which publication the device wants to hear of; `None`: of none. Without, any
    /// number stands for all.
    device_event: Option<u16>,
    /// Of which completion the driver wants to hear, in the same way.
    driver_event: Option<u16>,
    kick_count: u64,
    interrupt_count: u64,
}

impl Run {
    fn new(size: usize, tables: usize, event_idx: bool, in_order: bool) -> Self {
        let space = DmaSpace::new();
        let layout = SplitLayout::new(size, None, tables).unwrap();
        let ring_bytes = layout.length.next_multiple_of(4096);
        // Two mappings, so that ring and data are in different ones.
        space.map(ring_bytes, BASE).unwrap();
        space.map(DATA_BYTES, BASE + (1 << 33)).unwrap();
        let region = space.alloc(ring_bytes, 4096).unwrap();
        let data = space.alloc(DATA_BYTES, 4096).unwrap().pin().unwrap();
        let options = RingOptions { event_idx, in_order, ..RingOptions::default() };
        let ring = SplitQueue::new(region.claim().unwrap(), layout, options).unwrap();
        let device = Device::new(&space, region.device_address(), &layout, event_idx);
        let seed = (size << 8 | tables << 1 | usize::from(event_idx)) as u64;
        Self {
            ring,
            device,
            data,
            event_idx,
            in_order,
            next_slot: 0,
            random: Random::new(seed),
            short_until: 0,
            pushed: Vec::new(),
            available: VecDeque::new(),
            held: Vec::new(),
            used: VecDeque::new(),
            free: layout.size,
            published_count: 0,
            completed_count: 0,
            reaped_count: 0,
            device_event: Some(0),
            driver_event: Some(0),
            kick_count: 0,
            interrupt_count: 0,
        }
    }

    fn descriptors_of(&self, segments: usize) -> u16 {
        let indirect = segments >= 2 && segments <= usize::from(self.ring.indirect_table_size());
        if indirect { 1 } else { segments as u16 }
    }

    fn segment(&mut self) -> Segment {
        // Mostly short ones; any alignment.
        let longest = if self.random.once_in(4) { SEGMENT_BYTES_MAX } else { 64 };
        let length = 1 + self.random.below(longest);
        let offset = self.random.up_to(DATA_BYTES - length);
        self.data.segment(offset as u64, length as u64).unwrap()
    }

    /// Push a chain; false if the ring has no room for it, and must say so.
    fn push(&mut self) -> bool {
        let short = self.published_count < self.short_until && !self.random.once_in(64);
        let longest = if short { 1 } else { SEGMENTS_MAX.min(self.ring.size().into()) };
        let count = 1 + self.random.below(longest);
        let readable_count = self.random.up_to(count);
        let segments: Vec<Segment> = (0..count).map(|_| self.segment()).collect();
        let (readable, writable) = segments.split_at(readable_count);
        let needed = self.descriptors_of(count);
        let outcome = self.ring.push(readable, writable);
        if needed > self.free {
            assert_eq!(outcome, Err(PushError::Full { needed, free: self.free }));
            return false;
        }
        let parts = segments.iter().enumerate().map(|(index, segment)| Part {
            address: segment.addr(),
            length: segment.len(),
            writable: index >= readable_count,
        });
        let head = outcome.unwrap();
        self.free -= needed;
        if self.in_order {
            assert_eq!(head, self.next_slot, "chains take the slots of the table in turn");
            self.next_slot = (head + needed) % self.ring.size();
        }
        self.pushed.push(Asked { head, parts: parts.collect() });
        true
    }

    /// Take back what was pushed: the device never gets to see it.
    fn withdraw(&mut self) {
        let mut heads = Vec::new();
        self.ring.withdraw(|head| heads.push(head));
        let newest_first = self.pushed.iter().rev().map(|asked| asked.head);
        assert!(heads.iter().copied().eq(newest_first));
        if let Some(oldest) = heads.last() {
            self.next_slot = *oldest;
        }
        for asked in std::mem::take(&mut self.pushed) {
            self.free += self.descriptors_of(asked.parts.len());
        }
    }

    fn publish(&mut self) {
        let old = self.published_count;
        self.published_count += self.pushed.len() as u64;
        self.available.extend(self.pushed.drain(..));
        let kick = self.ring.publish().unwrap();
        let expected = is_wanted(self.device_event, self.event_idx, old, self.published_count);
        assert_eq!(kick, expected, "{old}..{} {:?}", self.published_count, self.device_event);
        assert_eq!(self.ring.next_available(), self.published_count as u16);
        self.kick_count += u64::from(kick);
    }

    /// The device asks for notifications, or for none.
    fn device_listens(&mut self, enable: bool) {
        if enable {
            let more = self.device.enable_notification();
            assert_eq!(more, !self.available.is_empty());
            self.device_event = Some((self.published_count - self.available.len() as u64) as u16);
        } else {
            self.device.disable_notification();
            // With EVENT_IDX the crate lets the index run past the event, and writes nothing.
            if !self.event_idx {
                self.device_event = None;
            }
        }
    }

    /// The device takes chains, which must be those that were asked for, in order.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(asked) = self.available.pop_front() else {
                assert!(self.device.take().is_none());
                return;
            };
            let chain = self.device.take().expect("a chain was published");
            let head = chain.head_index();
            let links = links_of(chain.clone());
            assert_eq!((head, parts_of(chain)), (asked.head, asked.parts.clone()));
            let segments = asked.parts.len();
            let in_table = segments >= 2 && self.descriptors_of(segments) == 1;
            assert_eq!(self.device.is_indirect(head), in_table);
            if self.in_order {
                let (start, modulus) =
                    if in_table { (0, u16::MAX) } else { (head, self.ring.size()) };
                let expected = (1..segments as u16).map(|step| (start + step) % modulus);
                assert!(links.iter().copied().eq(expected), "{links:?} of {head}, {segments}");
            }
            self.held.push(asked);
        }
    }

    /// The device completes some that it holds, and notifies if that is wanted.
    fn complete(&mut self, count: usize) {
        let old = self.completed_count;
        let mut left = count.min(self.held.len());
        while left > 0 {
            // Without IN_ORDER any of them; with it the oldest, perhaps several by one entry.
            let batch = if self.in_order { 1 + self.random.below(left) } else { 1 };
            left -= batch;
            let entries: Vec<(u16, u32)> =
                (0..batch).map(|at| self.choose(at + 1 == batch)).collect();
            self.device.complete_batch(&entries);
            self.completed_count += batch as u64;
        }
        let interrupt = self.device.needs_notification();
        // Without EVENT_IDX the crate always says yes.
        if self.event_idx {
            let expected = is_wanted(self.driver_event, true, old, self.completed_count);
            assert_eq!(
                interrupt, expected,
                "{old}..{} {:?}",
                self.completed_count, self.driver_event
            );
            self.interrupt_count += u64::from(interrupt);
        }
    }

    /// The next that is completed: its head, and how much is said to be written. Of one that the
    /// device passes over, all is.
    fn choose(&mut self, is_named: bool) -> (u16, u32) {
        let index = if self.in_order { 0 } else { self.random.below(self.held.len()) };
        let asked = self.held.remove(index);
        let writable = asked.writable_bytes();
        let length = if is_named { self.random.up_to(writable) } else { writable } as u32;
        let descriptors = self.descriptors_of(asked.parts.len());
        self.used.push_back((asked.head, length, descriptors));
        (asked.head, length)
    }

    /// The driver takes back at most `limit`, in the order in which they were completed.
    fn reap(&mut self, limit: usize) {
        assert_eq!(self.ring.has_used(), !self.used.is_empty());
        let expected: Vec<_> = self.used.drain(..limit.min(self.used.len())).collect();
        let mut reaped = Vec::new();
        let count = self.ring.reap(limit, |used| reaped.push(used)).unwrap();
        let used = |&(head, written, _)| Used { head, written, written_given: true };
        assert!(reaped.iter().copied().eq(expected.iter().map(used)), "{reaped:?} {expected:?}");
        assert_eq!(count, expected.len());
        self.free += expected.iter().map(|&(_, _, descriptors)| descriptors).sum::<u16>();
        self.reaped_count += count as u64;
        assert_eq!(self.ring.free_count(), self.free);
        let outstanding = self.published_count - self.reaped_count;
        assert_eq!(u64::from(self.ring.outstanding_count()), outstanding);
    }

    /// The driver asks for interrupts, or for none.
    fn driver_listens(&mut self, enable: bool) {
        let seen = self.reaped_count as u16;
        if enable {
            assert_eq!(self.ring.arm(), Ok(!self.used.is_empty()));
            self.driver_event = Some(seen);
        } else {
            self.ring.disarm();
            // The entry that comes last of all.
            self.driver_event = self.event_idx.then_some(seen.wrapping_sub(1));
        }
        let no_interrupt = !enable && !self.event_idx;
        assert_eq!(self.device.available_flags(), u16::from(no_interrupt));
    }

    fn step(&mut self) {
        let batch = self.random.up_to(BATCH_MAX);
        for _ in 0..batch {
            if !self.push() {
                break;
            }
        }
        if self.random.once_in(16) {
            self.withdraw();
        }
        self.publish();
        if self.random.once_in(2) {
            let enable = self.random.once_in(2);
            self.device_listens(enable);
        }
        // One more than there are: the device must find no other.
        let count = self.random.up_to(self.available.len() + 1);
        self.take(count);
        if self.random.once_in(2) {
            let enable = self.random.once_in(2);
            self.driver_listens(enable);
        }
        let count = self.random.up_to(self.held.len());
        self.complete(count);
        let limit = self.random.up_to(BATCH_MAX + 8);
        self.reap(limit);
    }

    fn run(mut self, over_the_wrap: bool) {
        if over_the_wrap {
            self.short_until = WRAP - CHAINS / 2;
        }
        while self.reaped_count < self.short_until + CHAINS {
            self.step();
        }
        self.take(self.available.len() + 1);
        self.complete(self.held.len());
        self.reap(usize::MAX);
        assert_eq!(self.free, self.ring.size());
        assert_eq!(self.reaped_count, self.published_count);
        assert_eq!((self.ring.broken(), self.ring.clamped_count()), (None, 0));
        assert!(self.kick_count > 0 && self.kick_count < self.published_count);
        assert_eq!(self.interrupt_count > 0, self.event_idx);
    }
}

/// Whether the other side must be notified when the entries `old..new` become visible.
fn is_wanted(event: Option<u16>, event_idx: bool, old: u64, new: u64) -> bool {
    let is_event = |entry: u64| !event_idx || event == Some(entry as u16);
    event.is_some() && (old..new).any(is_event)
}

/// Rings of these sizes, with and without indirect tables.
fn walk(event_idx: bool, in_order: bool, sizes: &[usize]) {
    for &size in sizes {
        for tables in [0, SEGMENTS_MAX.min(size)] {
            Run::new(size, tables, event_idx, in_order).run(false);
        }
    }
}

const SIZES: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

#[test]
fn chains_and_completions_are_understood_on_rings_of_every_size() {
    clause!("SPLIT-LAYOUT-01", "SPLIT-INDIR-01", "SPLIT-INDIR-04", "SPLIT-ADD-03");
    walk(true, false, &SIZES);
    walk(false, false, &SIZES);
}

#[test]
fn the_indices_wrap_and_each_side_is_notified_at_the_event_index_it_set() {
    clause!("SPLIT-KICK-06", "SPLIT-KICK-07", "SPLIT-INTR-03", "SPLIT-INTR-04");
    for (size, tables) in [(1, 0), (4, 4), (16, 0), (256, 16), (1024, 0)] {
        Run::new(size, tables, true, false).run(true);
    }
}

#[test]
fn the_indices_wrap_and_the_flags_say_who_is_notified() {
    clause!("SPLIT-KICK-03", "SPLIT-KICK-04", "SPLIT-INTR-01", "SPLIT-INTR-02");
    for (size, tables) in [(2, 0), (32, 16), (512, 0)] {
        Run::new(size, tables, false, false).run(true);
    }
}

#[test]
fn in_order_chains_take_the_table_in_turn_and_one_entry_returns_a_batch() {
    clause!("INORDER-SPLIT-01", "INORDER-SPLIT-02", "SPLIT-INDIR-05");
    walk(true, true, &SIZES);
    walk(false, true, &SIZES);
}

#[test]
fn the_indices_wrap_with_chains_in_order() {
    for (size, tables, event_idx) in [(1, 0, true), (4, 4, false), (64, 0, true), (256, 16, true)] {
        Run::new(size, tables, event_idx, true).run(true);
    }
}
