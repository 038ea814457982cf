//! Packed rings, in the layout that the crate has for their descriptors. It has no queue for them,
//! so what walks and completes them here is written from the specification once more.

use std::collections::VecDeque;
use std::sync::Arc;

use shm::{DmaSpace, Pin, Segment};
use vioblk_tests::clause;
use virtio_queue::desc::packed::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vring::{PackedLayout, PackedQueue, PushError, Ring, RingOptions, Used};

use crate::device::{Part, Random, guest_memory};

const BASE: u64 = 3 << 33;
const DATA_BYTES: usize = 1 << 16;
const DESCRIPTOR_BYTES: u64 = 16;
const SEGMENTS_MAX: usize = 9;
const BATCH_MAX: usize = 12;
const CHAINS: u64 = 1500;

const WRITE: u16 = 2;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_DESCRIPTOR: u16 = 2;

/// A chain as the device read it.
struct Taken {
    id: u16,
    /// Descriptors of the ring.
    slots: u16,
    parts: Vec<Part>,
}

/// A place that runs round the ring, counted without end.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    fn slot(self, size: u16) -> u16 {
        (self.0 % u64::from(size)) as u16
    }

    /// The wrap counter: 1 in the first lap.
    fn wrap(self, size: u16) -> bool {
        (self.0 / u64::from(size)).is_multiple_of(2)
    }

    /// As an event suppression structure has it.
    fn word(self, size: u16) -> u16 {
        self.slot(size) | u16::from(self.wrap(size)) << 15
    }
}

struct Device {
    memory: Arc<GuestMemoryMmap>,
    ring: u64,
    layout: PackedLayout,
    next_available: Place,
    next_used: Place,
}

impl Device {
    fn descriptor(&self, slot: u16) -> Descriptor {
        let address =
            self.ring + self.layout.descriptors as u64 + DESCRIPTOR_BYTES * u64::from(slot);
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn is_available(&self, place: Place) -> bool {
        let wrap = place.wrap(self.layout.size);
        let flags = self.descriptor(place.slot(self.layout.size)).flags();
        (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap
    }

    fn take(&mut self) -> Option<Taken> {
        let size = self.layout.size;
        if !self.is_available(self.next_available) {
            return None;
        }
        let first = self.descriptor(self.next_available.slot(size));
        if first.refers_to_indirect_table() {
            self.next_available.0 += 1;
            return Some(Taken { id: first.id(), slots: 1, parts: self.table(&first) });
        }
        let (mut parts, mut slots) = (Vec::new(), 0);
        loop {
            assert!(self.is_available(self.next_available), "all of a list is, if its head is");
            let descriptor = self.descriptor(self.next_available.slot(size));
            assert!(!descriptor.refers_to_indirect_table(), "lists have no tables");
            parts.push(part_of(&descriptor));
            slots += 1;
            self.next_available.0 += 1;
            if !descriptor.has_next() {
                return Some(Taken { id: descriptor.id(), slots, parts });
            }
        }
    }

    fn table(&self, first: &Descriptor) -> Vec<Part> {
        assert!(!first.has_next() && !first.is_write_only());
        let length = u64::from(first.len());
        assert!(length.is_multiple_of(DESCRIPTOR_BYTES));
        let entry = |index: u64| {
            let address = first.addr().0 + DESCRIPTOR_BYTES * index;
            let entry: Descriptor = self.memory.read_obj(GuestAddress(address)).unwrap();
            assert_eq!(entry.flags() & !WRITE, 0, "an entry of a table has no other flag");
            part_of(&entry)
        };
        (0..length / DESCRIPTOR_BYTES).map(entry).collect()
    }

    /// Return chains, `slots` of the ring in all, by one element that names the last.
    fn complete(&mut self, id: u16, slots: u64, length: Option<u32>) {
        let size = self.layout.size;
        let colour = if self.next_used.wrap(size) { AVAIL | USED } else { 0 };
        let flags = colour | if length.is_some() { WRITE } else { 0 };
        let element = Descriptor::new(0, length.unwrap_or(u32::MAX), id, flags);
        let offset = DESCRIPTOR_BYTES * u64::from(self.next_used.slot(size));
        let address = self.ring + self.layout.descriptors as u64 + offset;
        self.memory.write_obj(element, GuestAddress(address)).unwrap();
        self.next_used.0 += slots;
    }

    fn ask(&self, word: u16, flags: u16) {
        let address = GuestAddress(self.ring + self.layout.device_event as u64);
        self.memory.write_obj([word.to_le(), flags.to_le()], address).unwrap();
    }

    /// What the driver wants to hear of: place and flags.
    fn asked(&self) -> (u16, u16) {
        let address = GuestAddress(self.ring + self.layout.driver_event as u64);
        let [word, flags]: [u16; 2] = self.memory.read_obj(address).unwrap();
        (u16::from_le(word), u16::from_le(flags))
    }
}

fn part_of(descriptor: &Descriptor) -> Part {
    Part {
        address: descriptor.addr().0,
        length: descriptor.len(),
        writable: descriptor.is_write_only(),
    }
}

/// What the driver asked for.
#[derive(Clone)]
struct Asked {
    head: u16,
    slots: u16,
    parts: Vec<Part>,
}

impl Asked {
    fn writable_bytes(&self) -> u32 {
        self.parts.iter().filter(|part| part.writable).map(|part| part.length).sum()
    }
}

struct Run {
    ring: PackedQueue,
    device: Device,
    data: Pin,
    options: RingOptions,
    random: Random,
    pushed: Vec<Asked>,
    available: VecDeque<Asked>,
    held: Vec<Asked>,
    used: VecDeque<(Asked, Used)>,
    free: u16,
    pushed_count: u64,
    /// Places of the ring, counted without end.
    published: Place,
    reaped: Place,
    reaped_count: u64,
    kick_count: u64,
}

impl Run {
    fn new(size: usize, tables: usize, event_idx: bool, in_order: bool) -> Self {
        let space = DmaSpace::new();
        let layout = PackedLayout::new(size, tables).unwrap();
        space.map(layout.length.next_multiple_of(4096) + DATA_BYTES, BASE).unwrap();
        let region = space.alloc(layout.length, 4096).unwrap();
        let data = space.alloc(DATA_BYTES, 4096).unwrap().pin().unwrap();
        let options = RingOptions { event_idx, in_order, ..RingOptions::default() };
        let device = Device {
            memory: Arc::new(guest_memory(&space)),
            ring: region.device_address(),
            layout,
            next_available: Place(0),
            next_used: Place(0),
        };
        Self {
            ring: PackedQueue::new(region.claim().unwrap(), layout, options).unwrap(),
            device,
            data,
            options,
            random: Random::new((size << 6 | tables) as u64),
            pushed: Vec::new(),
            available: VecDeque::new(),
            held: Vec::new(),
            used: VecDeque::new(),
            free: layout.size,
            pushed_count: 0,
            published: Place(0),
            reaped: Place(0),
            reaped_count: 0,
            kick_count: 0,
        }
    }

    /// Push a chain; false if the ring has no room for it, and must say so.
    fn push(&mut self) -> bool {
        let count = 1 + self.random.below(SEGMENTS_MAX.min(self.ring.size().into()));
        let readable_count = self.random.up_to(count);
        let segments: Vec<Segment> = (0..count).map(|_| self.segment()).collect();
        let (readable, writable) = segments.split_at(readable_count);
        let in_table = (2..=usize::from(self.ring.indirect_table_size())).contains(&count);
        let slots = if in_table { 1 } else { count as u16 };
        let outcome = self.ring.push(readable, writable);
        if slots > self.free {
            assert_eq!(outcome, Err(PushError::Full { needed: slots, free: self.free }));
            return false;
        }
        let head = outcome.unwrap();
        if self.options.in_order {
            assert_eq!(u64::from(head), self.pushed_count % u64::from(self.ring.size()));
        }
        let parts = segments.iter().enumerate().map(|(index, segment)| Part {
            address: segment.addr(),
            length: segment.len(),
            writable: index >= readable_count,
        });
        self.free -= slots;
        self.pushed_count += 1;
        self.pushed.push(Asked { head, slots, parts: parts.collect() });
        true
    }

    fn segment(&mut self) -> Segment {
        let length = 1 + self.random.below(256);
        let offset = self.random.up_to(DATA_BYTES - length);
        self.data.segment(offset as u64, length as u64).unwrap()
    }

    fn withdraw(&mut self) {
        let mut count = 0;
        self.ring.withdraw(|_| count += 1);
        assert_eq!(count, self.pushed.len());
        self.pushed_count -= count as u64;
        self.free += self.pushed.drain(..).map(|asked| asked.slots).sum::<u16>();
    }

    /// Make them available; the device has asked to hear of a place, of all, or of none.
    fn publish(&mut self) {
        let size = self.ring.size();
        let old = self.published;
        let more: u64 = self.pushed.iter().map(|asked| u64::from(asked.slots)).sum();
        let event = Place(old.0 + self.random.below(size.into()) as u64);
        let expected = match self.random.below(if self.options.event_idx { 3 } else { 2 }) {
            0 => {
                self.device.ask(event.word(size), ENABLE);
                more > 0
            }
            1 => {
                self.device.ask(event.word(size), DISABLE);
                false
            }
            _ => {
                self.device.ask(event.word(size), AT_DESCRIPTOR);
                event.0 < old.0 + more
            }
        };
        assert_eq!(self.ring.publish().unwrap(), expected);
        self.published.0 += more;
        self.kick_count += u64::from(expected);
        assert_eq!(self.ring.next_available(), self.published.word(size));
        self.available.extend(self.pushed.drain(..));
    }

    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(asked) = self.available.pop_front() else {
                assert!(self.device.take().is_none());
                return;
            };
            let taken = self.device.take().expect("a chain was published");
            assert_eq!((taken.id, taken.slots), (asked.head, asked.slots));
            assert_eq!(taken.parts, asked.parts);
            assert!(self.held.iter().all(|held| held.head != asked.head));
            self.held.push(asked);
        }
    }

    /// The device returns some: any, or with IN_ORDER the oldest, several by one element.
    fn complete(&mut self, count: usize) {
        let mut left = count.min(self.held.len());
        while left > 0 {
            let in_order = self.options.in_order;
            let batch = if in_order { 1 + self.random.below(left) } else { 1 };
            left -= batch;
            let first = if in_order { 0 } else { self.random.below(self.held.len()) };
            let chains: Vec<Asked> = self.held.drain(first..first + batch).collect();
            let slots = chains.iter().map(|asked| u64::from(asked.slots)).sum();
            let last = chains.last().expect("a batch has one").clone();
            // Now and then it does not say how much it wrote.
            let told = !self.random.once_in(4);
            let length = self.random.up_to(last.writable_bytes() as usize) as u32;
            self.device.complete(last.head, slots, told.then_some(length));
            for asked in chains {
                let is_last = asked.head == last.head;
                let written = if !is_last {
                    asked.writable_bytes()
                } else if told {
                    length
                } else {
                    0
                };
                let used = Used { head: asked.head, written, written_given: told || !is_last };
                self.used.push_back((asked, used));
            }
        }
    }

    fn reap(&mut self, limit: usize) {
        assert_eq!(self.ring.has_used(), !self.used.is_empty());
        let mut reaped = Vec::new();
        let count = self.ring.reap(limit, |used| reaped.push(used)).unwrap();
        assert_eq!(count, limit.min(self.used.len()));
        for (found, (asked, expected)) in reaped.into_iter().zip(self.used.drain(..count)) {
            assert_eq!(found, expected);
            self.free += asked.slots;
            self.reaped.0 += u64::from(asked.slots);
        }
        self.reaped_count += count as u64;
        assert_eq!(self.ring.free_count(), self.free);
    }

    fn driver_listens(&mut self, enable: bool) {
        if !enable {
            self.ring.disarm();
            assert_eq!(self.device.asked().1, DISABLE);
            return;
        }
        assert_eq!(self.ring.arm(), Ok(!self.used.is_empty()));
        let (word, flags) = self.device.asked();
        if self.options.event_idx {
            assert_eq!((word, flags), (self.reaped.word(self.ring.size()), AT_DESCRIPTOR));
        } else {
            assert_eq!(flags, ENABLE);
        }
    }

    fn run(mut self) {
        while self.reaped_count < CHAINS {
            for _ in 0..self.random.up_to(BATCH_MAX) {
                if !self.push() {
                    break;
                }
            }
            if self.random.once_in(16) {
                self.withdraw();
            }
            self.publish();
            let count = self.random.up_to(self.available.len() + 1);
            self.take(count);
            let enable = self.random.once_in(2);
            self.driver_listens(enable);
            let count = self.random.up_to(self.held.len());
            self.complete(count);
            let limit = self.random.up_to(BATCH_MAX + 4);
            self.reap(limit);
        }
        assert_eq!((self.ring.broken(), self.ring.clamped_count()), (None, 0));
        assert!(self.kick_count > 0);
    }
}

fn walk(in_order: bool) {
    for size in [1, 2, 3, 5, 8, 27, 64, 100, 256] {
        for tables in [0, SEGMENTS_MAX.min(size)] {
            for event_idx in [false, true] {
                Run::new(size, tables, event_idx, in_order).run();
            }
        }
    }
}

#[test]
fn packed_rings_of_any_size_are_understood_lap_after_lap() {
    clause!("PACKED-SG-03", "PACKED-INDIR-02", "PACKED-INDIR-04");
    walk(false);
}

#[test]
fn packed_rings_are_understood_in_order_and_one_element_returns_a_batch() {
    walk(true);
}
