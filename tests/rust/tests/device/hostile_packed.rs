//! A driver that breaks the rules of a packed ring: the device says so, and stays whole.

use shm::{DmaSpace, PackedBody, PackedDescriptors, Span};
use softdev::{Device, DeviceError, DeviceOptions, QueueSetup, feature, status};

use crate::driver::{BASE, CAPACITY_SECTORS, FEATURES, IN, INDIRECT, NEXT, OK, WRITE, options};

const MEMORY_BYTES: usize = 1 << 20;
const SIZE: u16 = 7;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const PACKED: u64 = FEATURES | 1 << feature::RING_PACKED;

/// Where things lie, from the start of memory.
const DRIVER_EVENT: u64 = 0x1000;
const DEVICE_EVENT: u64 = 0x1040;
const HEADER: u64 = 0x2000;
const STATUS: u64 = 0x2100;
const TABLE: u64 = 0x3000;
const DATA: u64 = 0x4000;

struct Driver {
    device: Device,
    memory: Span,
    ring: PackedDescriptors,
}

impl Driver {
    fn new() -> Self {
        let space = DmaSpace::new();
        space.map(MEMORY_BYTES, BASE).unwrap();
        let options = DeviceOptions { features: PACKED, queue_size_max: SIZE, ..options() };
        let device = Device::new(space.clone(), options).unwrap();
        let memory = space.translate(BASE, MEMORY_BYTES).unwrap();
        let ring = memory.packed_descriptors(0, SIZE.into()).unwrap();
        let driver = Self { device, memory, ring };
        driver.start();
        driver
    }

    fn setup(size: u16) -> QueueSetup {
        let (available, used) = (BASE + DRIVER_EVENT, BASE + DEVICE_EVENT);
        QueueSetup { size, descriptors: BASE, available, used }
    }

    fn negotiate(&self) {
        self.memory.fill(0, DATA as usize, 0).unwrap();
        self.device.write_status(0).unwrap();
        self.device.write_status(status::ACKNOWLEDGE | status::DRIVER).unwrap();
        self.device.write_features(PACKED).unwrap();
        self.set_status(status::FEATURES_OK);
        assert_ne!(self.device.read_status().unwrap() & status::FEATURES_OK, 0);
    }

    fn start(&self) {
        self.negotiate();
        self.device.enable_queue(0, Self::setup(SIZE)).unwrap();
        self.set_status(status::DRIVER_OK);
    }

    fn set_status(&self, bit: u8) {
        let before = self.device.read_status().unwrap();
        self.device.write_status(before | bit).unwrap();
    }

    fn needs_reset(&self) -> bool {
        self.device.read_status().unwrap() & status::DEVICE_NEEDS_RESET != 0
    }

    fn put(&self, slot: u16, addr: u64, len: u32, flags: u16) {
        self.ring.store_body(slot.into(), PackedBody { addr, len, id: slot });
        self.ring.store_flags(slot.into(), flags);
    }

    /// A read of the first sector, in the first three slots of the first lap.
    fn read_a_sector(&self) -> u8 {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&IN.to_le_bytes());
        self.memory.write_bytes(HEADER as usize, &header).unwrap();
        self.memory.write_bytes(STATUS as usize, &[0xEE]).unwrap();
        self.put(2, BASE + STATUS, 1, AVAIL | WRITE);
        self.put(1, BASE + DATA, 512, AVAIL | WRITE | NEXT);
        self.put(0, BASE + HEADER, 16, AVAIL | NEXT);
        assert_eq!(self.device.serve(64).unwrap(), 1);
        assert_eq!(self.ring.load_flags(0), AVAIL | USED | WRITE);
        let mut status = [0xEE];
        self.memory.read_bytes(STATUS as usize, &mut status).unwrap();
        status[0]
    }
}

/// xorshift64*: reproducible.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 20) % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A descriptor, plausible often enough that all kinds of lists are met.
    fn body(&mut self) -> (u64, u32, u16) {
        let wild = self.below(16) == 0;
        let any = self.below(u64::MAX);
        let offset = self.one_of(&[HEADER, HEADER, DATA, STATUS, TABLE, TABLE + 1]);
        let addr = if wild { any } else { BASE + offset };
        let len = self.one_of(&[1, 8, 16, 16, 16, 20, 32, 48, 512, 4096]);
        let len = if wild { self.one_of(&[0, u32::MAX]) } else { len };
        (addr, len, self.one_of(&[0, NEXT, NEXT, WRITE, WRITE, NEXT | WRITE, INDIRECT, 7]))
    }
}

#[test]
fn the_good_request_works() {
    assert_eq!(Driver::new().read_a_sector(), OK);
}

#[test]
fn a_queue_that_cannot_be() {
    let driver = Driver::new();
    driver.negotiate();
    let good = Driver::setup(SIZE);
    let bad = [
        QueueSetup { size: 0, ..good },
        QueueSetup { size: SIZE + 1, ..good },
        QueueSetup { descriptors: BASE + 8, ..good },
        QueueSetup { available: good.available + 2, ..good },
        QueueSetup { used: good.used + 2, ..good },
        QueueSetup { descriptors: 0, ..good },
        QueueSetup { used: BASE + MEMORY_BYTES as u64, ..good },
    ];
    for setup in bad {
        let refused = driver.device.enable_queue(0, setup);
        assert!(matches!(refused, Err(DeviceError::Invalid(_))), "{setup:?}");
    }
    for size in 1..=SIZE {
        driver.device.enable_queue(0, Driver::setup(size)).unwrap();
    }
}

#[test]
fn no_ring_however_random_brings_the_device_down() {
    let mut random = Random(0x5EED);
    let driver = Driver::new();
    let (mut refused, mut served) = (0, 0);
    for round in 0..40_000 {
        let kind = random.one_of(&[0_u32, 1, 4, 8, 11, 13, 99]);
        let sector = random.one_of(&[0, 1, CAPACITY_SECTORS, u64::MAX]);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        driver.memory.write_bytes(HEADER as usize, &header).unwrap();
        for entry in 0..8 {
            let (addr, len, flags) = random.body();
            let flags = random.one_of(&[0, WRITE, WRITE, flags]);
            let table = driver.memory.packed_descriptors(TABLE as usize, 8).unwrap();
            table.store_body(entry, PackedBody { addr, len, id: 0 });
            table.store_flags(entry, flags);
        }
        for slot in 0..SIZE {
            let (addr, len, flags) = random.body();
            let owner = random.one_of(&[0, AVAIL, AVAIL, AVAIL, USED, USED, AVAIL | USED]);
            driver.put(slot, addr, len, flags | owner);
        }
        if random.below(4) == 0 {
            // What could be right, at the start of a lap.
            driver.put(0, BASE + HEADER, 16, AVAIL | NEXT);
            driver.put(1, BASE + DATA, random.one_of(&[1, 20, 512]), AVAIL | WRITE);
        }
        served += driver.device.serve(64).unwrap();
        if driver.needs_reset() {
            refused += 1;
            driver.start();
        }
        assert_eq!(driver.device.counters().unwrap().bad_chains, refused, "round {round}");
    }
    assert!(served > 500 && refused > 500, "{served} served, {refused} refused");
    driver.start();
    assert_eq!(driver.read_a_sector(), OK);
}
