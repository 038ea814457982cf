//! A driver that breaks the rules finds DEVICE_NEEDS_RESET set, is told so, and gets nothing used;
//! after a reset all is well.

use shm::Descriptor;

use crate::driver::*;

const HEADER: u64 = FREE;
const DATA: u64 = FREE + 0x1000;
const TABLE: u64 = FREE + 0x3000;

fn descriptor(offset: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr: BASE.wrapping_add(offset), len, flags, next }
}

/// A driver with a good GET_ID request in descriptors 0 to 2 and in a table, to be spoiled.
fn driver() -> Driver {
    let driver = Driver::new(options(), FEATURES, 8);
    driver.put_header(HEADER, GET_ID, 0);
    let good = [
        descriptor(HEADER, 16, NEXT, 1),
        descriptor(DATA, 20, NEXT | WRITE, 2),
        descriptor(DATA + 64, 1, WRITE, 0),
    ];
    for (n, each) in good.into_iter().enumerate() {
        driver.put_descriptor(n as u16, each);
        driver.write(TABLE + 16 * n as u64, &raw(&each));
    }
    driver
}

fn is_refused(mut driver: Driver, head: u16, reason: &str) {
    driver.write(DATA, &[PENDING; 65]);
    driver.offer(head);
    driver.publish();
    driver.device.serve(usize::MAX).unwrap();
    let violation = driver.device.violation().unwrap().unwrap_or_default();
    assert!(violation.contains(reason), "{violation:?} does not say {reason:?}");
    assert!(driver.needs_reset());
    assert_eq!((driver.used_index(), driver.interrupts()), (0, 0));
    assert_eq!((driver.config_interrupts(), driver.counters().bad_chains), (1, 1));
    assert_eq!(driver.read(DATA, 65), [PENDING; 65]);
    // Nothing more is served, until a reset.
    driver.offer(head);
    driver.publish();
    assert_eq!(driver.device.serve(usize::MAX).unwrap(), 0);
    driver.start(FEATURES);
    assert_eq!(driver.write_sectors(0, &[1; SECTOR]), OK);
}

#[test]
fn the_good_chain_works() {
    let mut driver = driver();
    assert_eq!(driver.run(0).map(|element| element.len), Some(21));
    driver.put_descriptor(3, descriptor(TABLE, 48, INDIRECT, 0));
    assert_eq!(driver.run(3).map(|element| element.len), Some(21));
}

#[test]
fn a_head_out_of_range() {
    is_refused(driver(), 8, "descriptor 8");
    is_refused(driver(), u16::MAX, "descriptor 65535");
}

#[test]
fn a_link_out_of_range() {
    let driver = driver();
    driver.put_descriptor(1, descriptor(DATA, 20, NEXT | WRITE, 8));
    is_refused(driver, 0, "descriptor 8");
}

#[test]
fn a_loop() {
    let driver = driver();
    driver.put_descriptor(2, descriptor(DATA + 64, 1, NEXT | WRITE, 1));
    is_refused(driver, 0, "loops");
}

#[test]
fn a_descriptor_that_links_to_itself() {
    let driver = driver();
    driver.put_descriptor(0, descriptor(HEADER, 16, NEXT, 0));
    is_refused(driver, 0, "loops");
}

#[test]
fn a_readable_descriptor_after_a_writable_one() {
    let driver = driver();
    driver.put_descriptor(2, descriptor(DATA + 64, 1, 0, 0));
    is_refused(driver, 0, "descriptor 2 is readable");
}

#[test]
fn a_descriptor_of_no_bytes() {
    let driver = driver();
    driver.put_descriptor(1, descriptor(DATA, 0, NEXT | WRITE, 2));
    is_refused(driver, 0, "descriptor 1 describes no bytes");
}

#[test]
fn an_address_that_is_not_memory_of_the_device() {
    let below = 0u64.wrapping_sub(8);
    let end = (4 << 20) - 8;
    let last = u64::MAX - BASE - 8;
    for offset in [below, end, last, 1 << 40, u64::MAX - BASE] {
        let driver = driver();
        driver.put_descriptor(1, descriptor(offset, 20, NEXT | WRITE, 2));
        is_refused(driver, 0, "not memory of this device");
    }
}

#[test]
fn a_length_beyond_memory() {
    let driver = driver();
    driver.put_descriptor(1, descriptor(DATA, u32::MAX, NEXT | WRITE, 2));
    is_refused(driver, 0, "not memory of this device");
}

#[test]
fn a_request_without_a_status() {
    let driver = driver();
    driver.put_descriptor(0, descriptor(HEADER, 16, 0, 0));
    is_refused(driver, 0, "no writable byte");
}

#[test]
fn a_request_without_a_whole_header() {
    let driver = driver();
    driver.put_descriptor(0, descriptor(HEADER, 15, NEXT, 2));
    is_refused(driver, 0, "15 readable bytes");
    is_refused(self::driver(), 1, "0 readable bytes");
}

#[test]
fn more_chains_than_the_ring_has_room_for() {
    let driver = driver();
    for ahead in [9, 1000, u16::MAX] {
        driver.set_available_index(ahead);
        driver.device.serve(usize::MAX).unwrap();
        assert!(driver.needs_reset(), "{ahead}");
        assert_eq!(driver.used_index(), 0);
    }
}

#[test]
fn an_available_index_that_moves_backwards() {
    let mut driver = driver();
    (0..4).for_each(|_| driver.offer(0));
    driver.publish();
    assert_eq!(driver.device.serve(2).unwrap(), 2);
    driver.set_available_index(3);
    assert_eq!(driver.device.serve(1).unwrap(), 0);
    assert!(driver.needs_reset());
}

#[test]
fn what_was_served_before_the_bad_chain_is_given_back() {
    let mut driver = driver();
    driver.offer(0);
    driver.offer(9);
    driver.publish();
    driver.device.serve(usize::MAX).unwrap();
    assert_eq!(driver.used_index(), 1);
    assert_eq!(driver.reap().map(|element| element.len), Some(21));
    assert!(driver.needs_reset());
}

#[test]
fn an_indirect_table_that_was_not_negotiated() {
    let mut driver = driver();
    driver.start(FEATURES & !(1 << softdev::feature::INDIRECT_DESC));
    driver.put_descriptor(3, descriptor(TABLE, 48, INDIRECT, 0));
    driver.offer(3);
    driver.publish();
    driver.device.serve(usize::MAX).unwrap();
    assert!(driver.device.violation().unwrap().unwrap().contains("without INDIRECT_DESC"));
}

#[test]
fn an_indirect_descriptor_that_has_a_next_one() {
    let driver = driver();
    driver.put_descriptor(3, descriptor(TABLE, 48, INDIRECT | NEXT, 0));
    is_refused(driver, 3, "both INDIRECT and NEXT");
}

#[test]
fn an_indirect_table_of_no_whole_descriptors() {
    for length in [0, 8, 47] {
        let driver = driver();
        driver.put_descriptor(3, descriptor(TABLE, length, INDIRECT, 0));
        is_refused(driver, 3, "not a number of descriptors");
    }
}

#[test]
fn an_indirect_table_outside_memory() {
    let driver = driver();
    driver.put_descriptor(3, descriptor(4 << 20, 48, INDIRECT, 0));
    is_refused(driver, 3, "not memory of this device");
}

#[test]
fn a_table_in_a_table() {
    let driver = driver();
    driver.write(TABLE + 16, &raw(&descriptor(TABLE, 48, INDIRECT, 0)));
    driver.put_descriptor(3, descriptor(TABLE, 48, INDIRECT, 0));
    is_refused(driver, 3, "names another one");
}

#[test]
fn a_link_out_of_a_table() {
    let driver = driver();
    driver.write(TABLE + 16, &raw(&descriptor(DATA, 20, NEXT | WRITE, 3)));
    driver.put_descriptor(3, descriptor(TABLE, 48, INDIRECT, 0));
    is_refused(driver, 3, "descriptor 3 was named, but there are 3");
}

#[test]
fn a_loop_in_a_table() {
    let driver = driver();
    driver.write(TABLE + 32, &raw(&descriptor(DATA + 64, 1, NEXT | WRITE, 1)));
    driver.put_descriptor(3, descriptor(TABLE, 48, INDIRECT, 0));
    is_refused(driver, 3, "loops");
}

#[test]
fn a_table_longer_than_the_queue() {
    let driver = driver();
    for n in 0..9 {
        let each = descriptor(DATA + n, 1, if n < 8 { NEXT | WRITE } else { WRITE }, n as u16 + 1);
        driver.write(TABLE + 16 * n, &raw(&each));
    }
    driver.put_descriptor(3, descriptor(TABLE, 9 * 16, INDIRECT, 0));
    is_refused(driver, 3, "more descriptors than the queue size");
}

#[test]
fn more_than_4_gib_in_one_chain() {
    // A sparse mapping of 2 GiB, described three times over.
    let space = shm::DmaSpace::new();
    space.map(2 << 30, BASE).unwrap();
    let memory = space.translate(BASE, 4096).unwrap();
    let mut map = softdev::AddressMap::new(space.clone());
    let addresses = softdev::QueueSetup {
        size: 8,
        descriptors: BASE,
        available: BASE + 0x400,
        used: BASE + 0x800,
    };
    let features = softdev::ring::RingFeatures::default();
    let mut ring = softdev::ring::DeviceRing::new(&addresses, features, &mut map).unwrap();
    let table = memory.records::<Descriptor>(0, 8).unwrap();
    for n in 0..3 {
        let flags = if n < 2 { NEXT } else { 0 };
        table.store(n.into(), descriptor(0, 2 << 30, flags, n + 1));
    }
    memory.words(0x400, 3).unwrap().store(1, 1);
    let mut chain = softdev::ring::Chain::default();
    assert_eq!(ring.poll(), Ok(1));
    let refused = ring.take(&mut map, &mut chain);
    assert_eq!(refused, Err(softdev::ring::Violation::TooManyBytes));
}

#[test]
fn a_queue_that_cannot_be() {
    let driver = Driver::new(options(), FEATURES, 8);
    driver.negotiate(FEATURES);
    let good = driver.setup();
    let bad = [
        softdev::QueueSetup { size: 0, ..good },
        softdev::QueueSetup { size: 7, ..good },
        softdev::QueueSetup { size: 512, ..good },
        softdev::QueueSetup { descriptors: BASE + 8, ..good },
        softdev::QueueSetup { available: good.available + 1, ..good },
        softdev::QueueSetup { used: good.used + 2, ..good },
        softdev::QueueSetup { descriptors: 0, ..good },
        softdev::QueueSetup { used: BASE + (4 << 20) - 16, ..good },
    ];
    for setup in bad {
        let refused = driver.device.enable_queue(0, setup);
        assert!(matches!(refused, Err(softdev::DeviceError::Invalid(_))), "{setup:?}");
    }
    assert!(driver.device.enable_queue(1, good).is_err());
    driver.device.enable_queue(0, good).unwrap();
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

    /// Descriptor `index`, plausible often enough that all kinds of chains are met.
    fn descriptor(&mut self, index: u16) -> Descriptor {
        let wild = self.below(16) == 0;
        let any = self.below(u64::MAX);
        let offset = [HEADER, HEADER, DATA, DATA + 64, TABLE, TABLE + 1, any % (4 << 20)];
        Descriptor {
            addr: if wild { any } else { BASE + self.one_of(&offset) },
            len: if wild { self.one_of(&[0, u32::MAX]) } else { self.length() },
            flags: self.one_of(&[0, NEXT, NEXT, WRITE, WRITE, NEXT | WRITE, INDIRECT, 7]),
            next: if wild { self.below(10) as u16 } else { index + 1 },
        }
    }

    fn length(&mut self) -> u32 {
        self.one_of(&[1, 8, 16, 16, 16, 20, 32, 48, 512, 4096])
    }
}

#[test]
fn no_ring_however_random_brings_the_device_down() {
    let mut random = Random(0x5EED);
    let mut driver = driver();
    let (mut refused, mut served) = (0, 0);
    for round in 0..40_000 {
        let kind = random.one_of(&[IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 99]);
        let sector = random.one_of(&[0, 1, CAPACITY_SECTORS, u64::MAX]);
        driver.put_header(HEADER, kind, sector);
        for index in 0..8 {
            driver.put_descriptor(index, random.descriptor(index));
            let entry = raw(&random.descriptor(index));
            driver.write(TABLE + 16 * u64::from(index), &entry);
        }
        (0..random.below(3)).for_each(|_| driver.offer(random.below(9) as u16));
        driver.publish();
        driver.device.serve(64).unwrap();
        while driver.reap().is_some() {
            served += 1;
        }
        if driver.needs_reset() {
            refused += 1;
            driver.start(FEATURES);
        }
        assert_eq!(driver.counters().bad_chains, refused, "round {round}");
    }
    assert!(served > 500 && refused > 500, "{served} served, {refused} refused");
    driver.start(FEATURES);
    assert_eq!(driver.write_sectors(0, &[1; SECTOR]), OK);
    assert_eq!(driver.read_sectors(0, 1), [1; SECTOR]);
}
