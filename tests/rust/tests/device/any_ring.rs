//! A driver with no safety whose ring is of any format, for what holds in all of them.

use std::sync::Arc;

use shm::{Descriptor, DmaSpace, EventFd, PackedBody, Span, UsedElement};
use softdev::{Counters, Device, DeviceOptions, QueueSetup, feature, status};

use crate::driver::{BASE, FEATURES, IN, NEXT, PENDING, SECTOR, WRITE, options};

const MEMORY_BYTES: usize = 4 << 20;
/// The parts of a ring, from the start of its queue's memory.
const DRIVER_AREA: usize = 0x4000;
const DEVICE_AREA: usize = 0x8000;
/// Where requests lie, from the start of their queue's memory.
const REQUESTS: usize = 0x1_0000;
/// Of one request: the header, then these.
const REQUEST_BYTES: usize = 0x400;
const STATUS: usize = 0x10;
const DATA: usize = 0x200;
const QUEUE_BYTES: usize = 0x10_0000;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A format of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub packed: bool,
    pub in_order: bool,
}

impl Format {
    pub const SPLIT: Self = Self { packed: false, in_order: false };
    pub const SPLIT_IN_ORDER: Self = Self { in_order: true, ..Self::SPLIT };
    pub const PACKED: Self = Self { packed: true, in_order: false };
    pub const PACKED_IN_ORDER: Self = Self { in_order: true, ..Self::PACKED };

    pub const ALL: [Self; 4] =
        [Self::SPLIT, Self::SPLIT_IN_ORDER, Self::PACKED, Self::PACKED_IN_ORDER];

    pub fn features(self) -> u64 {
        u64::from(self.packed) << feature::RING_PACKED
            | u64::from(self.in_order) << feature::IN_ORDER
    }
}

/// One queue, as a driver sees it.
pub struct Queue {
    format: Format,
    pub size: u16,
    /// Of the queue, from the start of memory.
    start: usize,
    memory: Span,
    /// Descriptors and chains that were offered so far, and chains that were seen used.
    next_descriptor: usize,
    offered: usize,
    /// On a split ring used elements, on a packed one descriptors.
    next_used: usize,
    /// Offered and not seen used, in order: the chain's id, and its descriptors.
    outstanding: Vec<(u16, usize)>,
    /// Flags that make what was offered available.
    hidden: Vec<(usize, u16)>,
}

impl Queue {
    fn new(format: Format, size: u16, index: usize, memory: Span) -> Self {
        let start = index * QUEUE_BYTES;
        memory.fill(start, REQUESTS, 0).unwrap();
        Self {
            format,
            size,
            start,
            memory,
            next_descriptor: 0,
            offered: 0,
            next_used: 0,
            outstanding: Vec::new(),
            hidden: Vec::new(),
        }
    }

    pub fn setup(&self) -> QueueSetup {
        let at = |offset: usize| BASE + (self.start + offset) as u64;
        QueueSetup {
            size: self.size,
            descriptors: at(0),
            available: at(DRIVER_AREA),
            used: at(DEVICE_AREA),
        }
    }

    fn request_at(&self, number: usize) -> usize {
        self.start + REQUESTS + number % usize::from(self.size) * REQUEST_BYTES
    }

    /// Offer a read of a sector, not yet visible; its id. All writable bytes are PENDING.
    pub fn offer_read(&mut self, sector: u64) -> u16 {
        let at = self.request_at(self.offered);
        self.memory.write_bytes(at, &crate::driver::header(IN, sector)).unwrap();
        self.memory.fill(at + STATUS, 1, PENDING).unwrap();
        self.memory.fill(at + DATA, SECTOR, PENDING).unwrap();
        self.offer(&[(at, 16, 0), (at + DATA, SECTOR, WRITE), (at + STATUS, 1, WRITE)])
    }

    /// Offer a chain of (offset, length, flags), not yet visible; its id.
    pub fn offer(&mut self, parts: &[(usize, usize, u16)]) -> u16 {
        let size = usize::from(self.size);
        let first = self.next_descriptor;
        let id = if self.format.packed { self.offered % size } else { first % size } as u16;
        for (position, &(offset, length, flags)) in parts.iter().enumerate() {
            let next = if position + 1 < parts.len() { NEXT } else { 0 };
            let (addr, len, flags) = (BASE + offset as u64, length as u32, flags | next);
            let number = first + position;
            let slot = number % size;
            if self.format.packed {
                let ring = self.memory.packed_descriptors(self.start, size).unwrap();
                ring.store_body(slot, PackedBody { addr, len, id });
                let owner = if (number / size).is_multiple_of(2) { AVAIL } else { USED };
                self.hidden.push((slot, flags | owner));
            } else {
                let next = ((slot + 1) % size) as u16;
                let table = self.memory.records::<Descriptor>(self.start, size).unwrap();
                table.store(slot, Descriptor { addr, len, flags, next });
            }
        }
        if !self.format.packed {
            let ring = self.memory.words(self.start + DRIVER_AREA + 4, size).unwrap();
            ring.store(self.offered % size, id);
        }
        self.next_descriptor += parts.len();
        self.offered += 1;
        self.outstanding.push((id, parts.len()));
        id
    }

    /// Make what was offered available.
    pub fn publish(&mut self) {
        shm::fence::before_publish();
        if self.format.packed {
            let size = usize::from(self.size);
            let ring = self.memory.packed_descriptors(self.start, size).unwrap();
            for (slot, flags) in self.hidden.drain(..).rev() {
                ring.store_flags(slot, flags);
            }
        } else {
            let words = self.memory.words(self.start + DRIVER_AREA, 2).unwrap();
            words.store(1, self.offered as u16);
        }
    }

    /// The next used element, if there is one; what it gives back is forgotten.
    pub fn reap(&mut self) -> Option<(u16, u32)> {
        let size = usize::from(self.size);
        let UsedElement { id, len } = if self.format.packed {
            let ring = self.memory.packed_descriptors(self.start, size).unwrap();
            let slot = self.next_used % size;
            let used = if (self.next_used / size).is_multiple_of(2) { AVAIL | USED } else { 0 };
            if ring.load_flags(slot) & (AVAIL | USED) != used {
                return None;
            }
            shm::fence::after_used_index();
            let body = ring.load_body(slot);
            UsedElement { id: body.id.into(), len: body.len }
        } else {
            if self.used_index() == self.next_used as u16 {
                return None;
            }
            shm::fence::after_used_index();
            let ring = self.memory.records(self.start + DEVICE_AREA + 4, size).unwrap();
            ring.load(self.next_used % size)
        };
        let found = self.outstanding.iter().position(|&(each, _)| u32::from(each) == id);
        let last = found.unwrap_or_else(|| panic!("{id} is not in {:?}", self.outstanding));
        let first = if self.format.in_order { 0 } else { last };
        for (_, descriptors) in self.outstanding.drain(first..=last) {
            self.next_used += if self.format.packed { descriptors } else { 1 };
        }
        Some((id as u16, len))
    }

    /// All used elements that there are.
    pub fn reap_all(&mut self) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.reap()).collect()
    }

    /// Every used element in sight, wherever it stands and whatever it says, before the first lap
    /// ends: its place (on a packed ring its slot), id and length.
    pub fn used_elements(&self) -> Vec<(usize, u32, u32)> {
        let size = usize::from(self.size);
        if self.format.packed {
            let ring = self.memory.packed_descriptors(self.start, size).unwrap();
            let used = (0..size).filter(|&slot| ring.load_flags(slot) & USED != 0);
            used.map(|slot| {
                let body = ring.load_body(slot);
                (slot, body.id.into(), body.len)
            })
            .collect()
        } else {
            let ring = self.memory.records(self.start + DEVICE_AREA + 4, size).unwrap();
            let places = 0..usize::from(self.used_index());
            let element = |place| (place, ring.load(place % size));
            let elements = places.map(element);
            elements.map(|(place, UsedElement { id, len })| (place, id, len)).collect()
        }
    }

    /// The used index of a split ring.
    pub fn used_index(&self) -> u16 {
        self.memory.words(self.start + DEVICE_AREA, 2).unwrap().load(1)
    }

    /// The status of the `number`th chain that was offered, if that was a read.
    pub fn status(&self, number: usize) -> u8 {
        let mut status = [0];
        let at = self.request_at(number) + STATUS;
        self.memory.read_bytes(at, &mut status).unwrap();
        status[0]
    }
}

/// A driver with as many queues as it asked for.
pub struct Driver {
    pub device: Arc<Device>,
    pub format: Format,
    memory: Span,
    pub queues: Vec<Queue>,
    accepted: u64,
}

impl Driver {
    /// Of a device that offers what is needed, and `more`.
    pub fn with(format: Format, size: u16, count: u16, more: u64, options: DeviceOptions) -> Self {
        let space = DmaSpace::new();
        space.map(MEMORY_BYTES, BASE).unwrap();
        let several = u64::from(count > 1) << feature::MQ;
        let accepted = FEATURES | format.features() | more | several;
        let options = DeviceOptions { features: accepted, queue_count: count, ..options };
        let device = Arc::new(Device::new(space.clone(), options).unwrap());
        let memory = space.translate(BASE, MEMORY_BYTES).unwrap();
        let mut driver = Self { device, format, memory, queues: Vec::new(), accepted };
        driver.start(size, count);
        driver
    }

    /// One queue of a device that serves when it is told to.
    pub fn new(format: Format, size: u16) -> Self {
        Self::with(format, size, 1, 0, options())
    }

    /// From a reset to DRIVER_OK.
    pub fn start(&mut self, size: u16, count: u16) {
        self.device.write_status(0).unwrap();
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        self.device.write_features(self.accepted).unwrap();
        self.set_status(status::FEATURES_OK);
        assert_ne!(self.device.read_status().unwrap() & status::FEATURES_OK, 0);
        self.queues.clear();
        for index in 0..usize::from(count) {
            let queue = self.fresh_queue(index, size);
            self.device.enable_queue(index, queue.setup()).unwrap();
            self.queues.push(queue);
        }
        self.set_status(status::DRIVER_OK);
    }

    /// Rings for queue `index`, of which the device was not told.
    pub fn fresh_queue(&self, index: usize, size: u16) -> Queue {
        Queue::new(self.format, size, index, self.memory.clone())
    }

    fn set_status(&self, bit: u8) {
        let before = self.device.read_status().unwrap();
        self.device.write_status(before | bit).unwrap();
    }

    /// Offer as many reads, make them available at once and let them be served; their ids.
    pub fn serve_reads(&mut self, count: usize) -> Vec<u16> {
        let ids = (0..count).map(|sector| self.queues[0].offer_read(sector as u64)).collect();
        self.queues[0].publish();
        self.device.serve(usize::MAX).unwrap();
        ids
    }

    pub fn kick(&self, index: usize) {
        let fd = self.device.kick_fd(index).unwrap();
        EventFd::from_fd(shm::duplicate_fd(fd).unwrap()).signal().unwrap();
    }

    pub fn counters(&self) -> Counters {
        self.device.counters().unwrap()
    }

    pub fn violation(&self) -> Option<String> {
        self.device.violation().unwrap()
    }
}
