//! Two threads: the driver's ring against the device, millions of requests, payloads checked,
//! notifications switched on and off at random. A lost notification or a torn payload fails it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shm::{DmaSpace, EventFd, Pin, Poller, Region, Watch};
use softdev::{Device, DeviceOptions, QueueSetup, feature, status};
use vioblk_tests::clause;
use vring::{PackedLayout, PackedQueue, Ring, RingOptions, SplitLayout, SplitQueue};

const SLOTS: usize = 64;
const SECTOR: usize = 512;
/// Sectors that one slot writes and reads; no other slot touches them.
const SECTORS_PER_SLOT: u64 = 32;
const IN: u32 = 0;
const OUT: u32 = 1;
/// Nothing takes this long unless a notification was lost.
const LOST: Duration = Duration::from_secs(20);
/// Looks at the used ring between two looks at the clock.
const LOOKS: usize = 4096;

/// In one slot of the payload region: header, status, data.
const SLOT_BYTES: u64 = 1024;
const STATUS_OFFSET: u64 = 16;
const DATA_OFFSET: u64 = 64;

fn request_count() -> u64 {
    match std::env::var("VIOBLK_SOAK_REQUESTS") {
        Ok(count) => count.parse().expect("VIOBLK_SOAK_REQUESTS must be a number"),
        // Without optimisation the same assertions run, on fewer requests.
        Err(_) if cfg!(debug_assertions) => 400_000,
        Err(_) => 10_000_000,
    }
}

/// xorshift64*: reproducible, and cheap next to a request.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A sector full of numbers that tell which sector, and which write of it, it is.
fn pattern(sector: u64, version: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let mut word = sector << 40 ^ version;
    for piece in bytes.chunks_exact_mut(8) {
        piece.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    }
    bytes
}

/// What is negotiated for a run.
#[derive(Clone, Copy, Debug)]
struct Variant {
    event_idx: bool,
    indirect: bool,
    in_order: bool,
}

/// What is in flight in a slot, and what its sectors hold.
#[derive(Clone, Default)]
struct Slot {
    /// Requests that were pushed before this one.
    number: u64,
    kind: u32,
    sector: u64,
    /// By sector of the slot: how often it was written; 0 means that it reads as zero.
    versions: [u64; SECTORS_PER_SLOT as usize],
}

/// Where the parts of a ring lie, whatever the format.
struct Place {
    length: usize,
    driver: usize,
    device: usize,
}

/// A format of the ring.
trait Format: Ring {
    /// As large as a queue gets by default, or just not a power of two.
    const SIZE: u16;
    const FEATURE: u64;
    fn lay_out(tables: usize) -> (Self::Layout, Place);
}

impl Format for SplitQueue {
    const SIZE: u16 = 256;
    const FEATURE: u64 = 0;
    fn lay_out(tables: usize) -> (SplitLayout, Place) {
        let layout = SplitLayout::new(Self::SIZE.into(), None, tables).unwrap();
        let SplitLayout { length, available, used, .. } = layout;
        (layout, Place { length, driver: available, device: used })
    }
}

impl Format for PackedQueue {
    const SIZE: u16 = 255;
    const FEATURE: u64 = 1 << feature::RING_PACKED;
    fn lay_out(tables: usize) -> (PackedLayout, Place) {
        let layout = PackedLayout::new(Self::SIZE.into(), tables).unwrap();
        let PackedLayout { length, driver_event, device_event, .. } = layout;
        (layout, Place { length, driver: driver_event, device: device_event })
    }
}

struct Driver<R: Format> {
    device: Device,
    queue: R,
    kick: EventFd,
    interrupt: EventFd,
    poller: Poller,
    payload: Region,
    pin: Pin,
    slots: Vec<Slot>,
    slot_of_head: Vec<usize>,
    idle: Vec<usize>,
    random: Random,
    in_order: bool,
    pushed: u64,
    reaped: u64,
    sleeps: u64,
}

fn wire(fd: i32) -> EventFd {
    EventFd::from_fd(shm::duplicate_fd(fd).unwrap())
}

impl<R: Format> Driver<R> {
    fn new(variant: Variant, seed: u64) -> Self {
        let Variant { event_idx, indirect, in_order } = variant;
        let space = DmaSpace::new();
        space.map(4 << 20, 1 << 32).unwrap();
        let features = 1 << feature::VERSION_1
            | R::FEATURE
            | u64::from(event_idx) << feature::EVENT_IDX
            | u64::from(in_order) << feature::IN_ORDER
            | u64::from(indirect) << feature::INDIRECT_DESC;
        let capacity_sectors = SLOTS as u64 * SECTORS_PER_SLOT;
        let options = DeviceOptions { capacity_sectors, features, ..DeviceOptions::default() };
        let device = Device::new(space.clone(), options).unwrap();
        let tables = if indirect { 4 } else { 0 };
        let (layout, place) = R::lay_out(tables);
        let ring = space.alloc(place.length, 4096).unwrap();
        let options = RingOptions { event_idx, in_order, strict: true, zeroed: false };
        let queue = R::new(ring.claim().unwrap(), layout, options).unwrap();
        start(&device, features, R::SIZE, &place, ring.device_address());
        let payload = space.alloc(SLOTS * SLOT_BYTES as usize, 4096).unwrap();
        let interrupt = wire(device.interrupt_fd(0).unwrap());
        let poller = Poller::new().unwrap();
        poller.add(&interrupt, 0, Watch::Edge).unwrap();
        Self {
            kick: wire(device.kick_fd(0).unwrap()),
            interrupt,
            poller,
            pin: payload.pin().unwrap(),
            payload,
            queue,
            device,
            slots: vec![Slot::default(); SLOTS],
            slot_of_head: vec![0; R::SIZE.into()],
            idle: (0..SLOTS).collect(),
            random: Random(seed),
            in_order,
            pushed: 0,
            reaped: 0,
            sleeps: 0,
        }
    }

    /// Push a request in slot `index`: a write, or a read of what was written.
    fn push(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let own = self.random.below(SECTORS_PER_SLOT);
        slot.sector = index as u64 * SECTORS_PER_SLOT + own;
        slot.kind = if self.random.below(2) == 0 { IN } else { OUT };
        slot.number = self.pushed;
        self.pushed += 1;
        let base = index as u64 * SLOT_BYTES;
        let span = self.payload.span();
        let mut header = [0; 16];
        header[..4].copy_from_slice(&slot.kind.to_le_bytes());
        header[8..].copy_from_slice(&slot.sector.to_le_bytes());
        span.write_bytes(base as usize, &header).unwrap();
        span.write_bytes((base + STATUS_OFFSET) as usize, &[0xEE]).unwrap();
        let header = self.pin.segment(base, 16).unwrap();
        let status = self.pin.segment(base + STATUS_OFFSET, 1).unwrap();
        let data = self.pin.segment(base + DATA_OFFSET, SECTOR as u64).unwrap();
        let head = if slot.kind == OUT {
            let version = &mut slot.versions[own as usize];
            *version += 1;
            let bytes = pattern(slot.sector, *version);
            span.write_bytes((base + DATA_OFFSET) as usize, &bytes).unwrap();
            self.queue.push(&[header, data], &[status]).unwrap()
        } else {
            self.queue.push(&[header], &[data, status]).unwrap()
        };
        self.slot_of_head[usize::from(head)] = index;
    }

    /// Take back what the device has used, and check it.
    fn reap(&mut self) -> u64 {
        // In the middle of a batch, if there is one, now and then.
        let limit = if self.random.below(4) == 0 { 1 + self.random.below(4) } else { u64::MAX };
        let Self { queue, slots, slot_of_head, idle, payload, in_order, reaped, .. } = self;
        let count = queue.reap(limit as usize, |used| {
            let index = slot_of_head[usize::from(used.head)];
            assert!(!*in_order || slots[index].number == *reaped, "not in order");
            *reaped += 1;
            check(&slots[index], index, used.written, payload);
            idle.push(index);
        });
        count.unwrap() as u64
    }

    fn submit(&mut self, count: usize) {
        for _ in 0..count {
            let index = self.idle.pop().unwrap();
            self.push(index);
        }
        if self.queue.publish().unwrap() {
            self.kick.signal().unwrap();
        }
    }

    /// Until something was used: by looking, or by asking for a notification.
    fn wait(&mut self) {
        if self.random.below(2) > 0 {
            let started = Instant::now();
            while !(0..LOOKS).any(|_| self.queue.has_used()) {
                assert!(started.elapsed() < LOST, "the device does not answer: {}", self.report());
                // The device may need this processor.
                std::thread::yield_now();
            }
            return;
        }
        let started = Instant::now();
        while !self.queue.arm().unwrap() {
            let ready = self.poller.wait(LOST).unwrap().count();
            let lost = ready == 0 && started.elapsed() >= LOST;
            assert!(!lost, "an interrupt was lost: {}", self.report());
            self.interrupt.drain();
            self.sleeps += 1;
        }
        if self.random.below(4) > 0 {
            self.queue.disarm();
        }
    }

    fn report(&self) -> String {
        format!("{:?}, {:?}", self.device.counters(), self.device.violation())
    }

    fn run(&mut self, total: u64) {
        let (mut submitted, mut completed) = (0, 0);
        while completed < total {
            let room = (self.idle.len() as u64).min(total - submitted);
            if room > 0 {
                let most = if self.random.below(8) == 0 { room.min(4) } else { room };
                let count = 1 + self.random.below(most);
                self.submit(count as usize);
                submitted += count;
            }
            // Now and then refill before anything has come back, else wait.
            let full = self.idle.is_empty() || submitted == total;
            if !self.queue.has_used() && (full || self.random.below(2) == 0) {
                self.wait();
            }
            completed += self.reap();
            if self.random.below(8) == 0 {
                completed += self.lull();
            }
        }
    }

    /// Let the device run dry, and then be on the point of going to sleep when the next request
    /// comes: this is when a kick can get lost.
    fn lull(&mut self) -> u64 {
        let mut completed = 0;
        while self.idle.len() < SLOTS {
            self.wait();
            completed += self.reap();
        }
        let started = Instant::now();
        let pause = Duration::from_nanos(self.random.below(40_000));
        while started.elapsed() < pause {
            std::hint::spin_loop();
        }
        completed
    }
}

fn start(device: &Device, features: u64, size: u16, place: &Place, ring: u64) {
    let mut progress = 0;
    let mut advance = |bit| {
        progress |= bit;
        device.write_status(progress).unwrap();
        assert_eq!(device.read_status().unwrap(), progress);
    };
    advance(status::ACKNOWLEDGE);
    advance(status::DRIVER);
    device.write_features(features).unwrap();
    advance(status::FEATURES_OK);
    let setup = QueueSetup {
        size,
        descriptors: ring,
        available: ring + place.driver as u64,
        used: ring + place.device as u64,
    };
    device.enable_queue(0, setup).unwrap();
    advance(status::DRIVER_OK);
}

fn check(slot: &Slot, index: usize, written: u32, payload: &Region) {
    let base = index * SLOT_BYTES as usize;
    let mut status = [0xEE];
    payload.span().read_bytes(base + STATUS_OFFSET as usize, &mut status).unwrap();
    assert_eq!(status, [0], "{} of sector {}", slot.kind, slot.sector);
    if slot.kind == OUT {
        assert_eq!(written, 1);
        return;
    }
    assert_eq!(written as usize, SECTOR + 1);
    let mut data = [0; SECTOR];
    payload.span().read_bytes(base + DATA_OFFSET as usize, &mut data).unwrap();
    let version = slot.versions[(slot.sector % SECTORS_PER_SLOT) as usize];
    let expected = if version == 0 { [0; SECTOR] } else { pattern(slot.sector, version) };
    assert!(data == expected, "sector {} is not as written ({version} times)", slot.sector);
}

#[test]
fn two_threads_lose_no_request_no_byte_and_no_notification_on_a_split_ring() {
    clause!("SPLIT-RECV-01");
    two_threads_lose_nothing::<SplitQueue>(false);
}

#[test]
fn two_threads_lose_no_request_no_byte_and_no_notification_on_a_packed_ring() {
    clause!("PACKED-RECV-01");
    two_threads_lose_nothing::<PackedQueue>(false);
}

#[test]
fn two_threads_lose_nothing_and_keep_the_order_on_a_split_ring_in_order() {
    clause!("SPLIT-RECV-01");
    two_threads_lose_nothing::<SplitQueue>(true);
}

#[test]
fn two_threads_lose_nothing_and_keep_the_order_on_a_packed_ring_in_order() {
    clause!("PACKED-RECV-01");
    two_threads_lose_nothing::<PackedQueue>(true);
}

/// Both threads of a test are to have a processor each, on a machine with two.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn two_threads_lose_nothing<R: Format>(in_order: bool) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let variants = [(false, false), (true, false), (true, true), (false, true)];
    // All but the way back is the same in order.
    let total = if in_order { request_count() / 4 } else { request_count() };
    let share = total.div_ceil(variants.len() as u64);
    for (n, (event_idx, indirect)) in variants.into_iter().enumerate() {
        let variant = Variant { event_idx, indirect, in_order };
        let mut driver = Driver::<R>::new(variant, 0x5EED + n as u64);
        let started = Instant::now();
        driver.run(share);
        let counters = driver.device.counters().unwrap();
        println!(
            "packed={} {variant:?}: {share} requests in {:.1} s, {} sleeps, {} kicks, {} \
             interrupts, {} batches, {} used elements",
            R::FEATURE != 0,
            started.elapsed().as_secs_f64(),
            driver.sleeps,
            counters.kicks,
            counters.interrupts,
            counters.batches,
            counters.used_elements,
        );
        assert_eq!((counters.chains, counters.bad_chains, counters.failed_requests), (share, 0, 0));
        assert_eq!(counters.indirect_chains, if indirect { share } else { 0 });
        assert!(counters.interrupts > 0 && counters.interrupts_suppressed > 0);
        // Both sides slept and were woken, or this has proved nothing; and so it is with batches.
        assert!(counters.kicks > 0 && driver.sleeps > 0);
        assert!((counters.used_elements < share) == in_order, "{}", counters.used_elements);
    }
}
