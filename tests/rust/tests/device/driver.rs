//! A driver with no safety: every test writes the descriptors that it wants.

use std::sync::Arc;

use shm::{Descriptor, DmaSpace, EventFd, Records, Span, UsedElement, Words};
use softdev::{Counters, Device, DeviceOptions, QueueSetup, feature, status};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

/// What a status byte holds before the device writes it.
pub const PENDING: u8 = 0xEE;

pub const BASE: u64 = 1 << 32;
const MEMORY_BYTES: usize = 4 << 20;
const AVAILABLE: u64 = 0x4000;
pub const USED: u64 = 0x8000;
/// Where tests put headers, data and tables: offsets from here on are free.
pub const FREE: u64 = 0x2_0000;

pub const SECTOR: usize = 512;
pub const CAPACITY_SECTORS: u64 = 2048;

/// All features that the tests may want, bits 1, 2 (limits) excepted.
pub const FEATURES: u64 = 1 << feature::VERSION_1
    | 1 << feature::FLUSH
    | 1 << feature::CONFIG_WCE
    | 1 << feature::DISCARD
    | 1 << feature::WRITE_ZEROES
    | 1 << feature::INDIRECT_DESC
    | 1 << feature::EVENT_IDX;

/// No event index: suppression by flags.
pub const FLAGS_ONLY: u64 = FEATURES & !(1 << feature::EVENT_IDX);

pub fn options() -> DeviceOptions {
    DeviceOptions {
        capacity_sectors: CAPACITY_SECTORS,
        features: FEATURES,
        serial: b"twenty bytes exactly".to_vec(),
        threaded: false,
        ..DeviceOptions::default()
    }
}

/// A descriptor's buffer: offset from the start of memory, length, and whether it is writable.
pub type Part = (u64, usize, bool);

pub struct Driver {
    pub device: Arc<Device>,
    memory: Span,
    pub size: u16,
    descriptors: Records<Descriptor>,
    available: Words,
    used_words: Words,
    used: Records<UsedElement>,
    avail_event: Words,
    pub next_available: u16,
    pub next_used: u16,
    next_descriptor: u16,
}

impl Driver {
    pub fn new(options: DeviceOptions, features: u64, size: u16) -> Self {
        let space = DmaSpace::new();
        space.map(MEMORY_BYTES, BASE).unwrap();
        let device = Arc::new(Device::new(space.clone(), options).unwrap());
        let memory = space.translate(BASE, MEMORY_BYTES).unwrap();
        let count = usize::from(size);
        let mut driver = Self {
            size,
            descriptors: memory.records(0, count).unwrap(),
            available: memory.words(AVAILABLE as usize, 3 + count).unwrap(),
            used_words: memory.words(USED as usize, 2).unwrap(),
            used: memory.records(USED as usize + 4, count).unwrap(),
            avail_event: memory.words(USED as usize + 4 + 8 * count, 1).unwrap(),
            memory,
            device,
            next_available: 0,
            next_used: 0,
            next_descriptor: 0,
        };
        driver.start(features);
        driver
    }

    /// From a fresh or reset device to DRIVER_OK.
    pub fn start(&mut self, features: u64) {
        self.wipe();
        self.negotiate(features);
        assert_ne!(self.device.read_status().unwrap() & status::FEATURES_OK, 0);
        self.device.enable_queue(0, self.setup()).unwrap();
        self.set_status(status::DRIVER_OK);
    }

    /// Fresh rings.
    pub fn wipe(&mut self) {
        self.memory.fill(0, FREE as usize, 0).unwrap();
        (self.next_available, self.next_used, self.next_descriptor) = (0, 0, 0);
    }

    pub fn setup(&self) -> QueueSetup {
        let (available, used) = (BASE + AVAILABLE, BASE + USED);
        QueueSetup { size: self.size, descriptors: BASE, available, used }
    }

    /// As far as FEATURES_OK, whatever the device makes of it.
    pub fn negotiate(&self, features: u64) {
        self.device.write_status(0).unwrap();
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::DRIVER);
        self.device.write_features(features).unwrap();
        self.set_status(status::FEATURES_OK);
    }

    pub fn set_status(&self, bit: u8) {
        let before = self.device.read_status().unwrap();
        self.device.write_status(before | bit).unwrap();
    }

    pub fn write(&self, offset: u64, data: &[u8]) {
        self.memory.write_bytes(offset as usize, data).unwrap();
    }

    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_bytes(offset as usize, &mut bytes).unwrap();
        bytes
    }

    pub fn put_header(&self, offset: u64, kind: u32, sector: u64) {
        self.write(offset, &header(kind, sector));
    }

    pub fn put_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.descriptors.store(index.into(), descriptor);
    }

    /// Link `parts` in the descriptor table, from the next free place on; the head.
    pub fn link(&mut self, parts: &[Part]) -> u16 {
        let head = self.next_descriptor;
        for (n, descriptor) in chain(parts, head).enumerate() {
            self.put_descriptor(head + n as u16, descriptor);
        }
        self.next_descriptor += parts.len() as u16;
        head
    }

    /// Link a descriptor of an indirect table that lies at `offset` and holds `parts`; the head.
    pub fn link_table(&mut self, offset: u64, parts: &[Part], flags: u16) -> u16 {
        for (n, descriptor) in chain(parts, 0).enumerate() {
            self.write(offset + 16 * n as u64, &raw(&descriptor));
        }
        let head = self.next_descriptor;
        let len = 16 * parts.len() as u32;
        let pointer = Descriptor { addr: BASE + offset, len, flags: INDIRECT | flags, next: 0 };
        self.put_descriptor(head, pointer);
        self.next_descriptor += 1;
        head
    }

    /// Use the descriptor table from its start again.
    pub fn rewind(&mut self) {
        self.next_descriptor = 0;
    }

    /// Put a head in the available ring, not yet visible.
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.next_available % self.size);
        self.available.store(2 + slot, head);
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Move the available index to all that was offered.
    pub fn publish(&self) {
        self.set_available_index(self.next_available);
    }

    pub fn set_available_index(&self, index: u16) {
        shm::fence::before_publish();
        self.available.store(1, index);
    }

    pub fn set_available_flags(&self, flags: u16) {
        self.available.store(0, flags);
    }

    pub fn set_used_event(&self, event: u16) {
        self.available.store(2 + usize::from(self.size), event);
    }

    pub fn used_flags(&self) -> u16 {
        self.used_words.load(0)
    }

    pub fn used_index(&self) -> u16 {
        self.used_words.load(1)
    }

    pub fn avail_event(&self) -> u16 {
        self.avail_event.load(0)
    }

    /// The next used element, if there is one.
    pub fn reap(&mut self) -> Option<UsedElement> {
        if self.used_index() == self.next_used {
            return None;
        }
        shm::fence::after_used_index();
        let element = self.used.load(usize::from(self.next_used % self.size));
        self.next_used = self.next_used.wrapping_add(1);
        Some(element)
    }

    /// Offer and publish one chain, let the device serve it; what it said.
    pub fn run(&mut self, head: u16) -> Option<UsedElement> {
        self.offer(head);
        self.publish();
        self.device.serve(usize::MAX).unwrap();
        self.rewind();
        self.reap()
    }

    /// Carry out one request in the usual framing; (status, used length).
    pub fn request(&mut self, kind: u32, sector: u64, data: Part) -> (u8, u32) {
        let (at, status_at) = (FREE, FREE + 0x100);
        self.put_header(at, kind, sector);
        self.write(status_at, &[PENDING]);
        let all = [(at, 16, false), data, (status_at, 1, true)];
        let parts: Vec<Part> = all.into_iter().filter(|part| part.1 > 0).collect();
        let head = self.link(&parts);
        let element = self.run(head).expect("the request was not completed");
        assert_eq!(element.id, u32::from(head));
        (self.read(status_at, 1)[0], element.len)
    }

    pub fn write_sectors(&mut self, sector: u64, data: &[u8]) -> u8 {
        let at = FREE + 0x1_0000;
        self.write(at, data);
        self.request(OUT, sector, (at, data.len(), false)).0
    }

    pub fn read_sectors(&mut self, sector: u64, count: usize) -> Vec<u8> {
        let (at, length) = (FREE + 0x1_0000, count * SECTOR);
        self.write(at, &vec![PENDING; length]);
        let (status, used) = self.request(IN, sector, (at, length, true));
        assert_eq!((status, used as usize), (OK, length + 1));
        self.read(at, length)
    }

    pub fn flush(&mut self) -> u8 {
        self.request(FLUSH, 0, (0, 0, false)).0
    }

    /// A discard or write-zeroes request of (sector, sectors, flags).
    pub fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let at = FREE + 0x1_0000;
        let bytes: Vec<u8> = ranges.iter().flat_map(|&range| segment(range)).collect();
        self.write(at, &bytes);
        self.request(kind, 0, (at, bytes.len(), false)).0
    }

    pub fn counters(&self) -> Counters {
        self.device.counters().unwrap()
    }

    /// Used buffer notifications since the last time.
    pub fn interrupts(&self) -> u64 {
        signals(self.device.interrupt_fd(0).unwrap())
    }

    pub fn config_interrupts(&self) -> u64 {
        signals(self.device.config_fd().unwrap())
    }

    pub fn kick(&self) {
        event(self.device.kick_fd(0).unwrap()).signal().unwrap();
    }

    pub fn needs_reset(&self) -> bool {
        self.device.read_status().unwrap() & status::DEVICE_NEEDS_RESET != 0
    }
}

fn event(fd: i32) -> EventFd {
    EventFd::from_fd(shm::duplicate_fd(fd).unwrap())
}

pub fn signals(fd: i32) -> u64 {
    event(fd).drain()
}

pub fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn segment((sector, sectors, flags): (u64, u32, u32)) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

/// Descriptors that link `parts`, the first at index `first`.
fn chain(parts: &[Part], first: u16) -> impl Iterator<Item = Descriptor> {
    let count = parts.len();
    parts.iter().enumerate().map(move |(n, &(offset, length, writable))| Descriptor {
        addr: BASE + offset,
        len: length as u32,
        flags: if writable { WRITE } else { 0 } | if n + 1 < count { NEXT } else { 0 },
        next: first + n as u16 + 1,
    })
}

pub fn raw(descriptor: &Descriptor) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&descriptor.addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&descriptor.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
    bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
    bytes
}
