//! loom models of the split ring: the driver's code that ships (`vring::SplitQueue`) against the
//! device's code that ships (`softdev::ring`), over every interleaving and every value that the
//! memory model lets a relaxed load return. Only what a request means is made up here.
//!
//! Each fence has a mutant: with the fence left out, its model must fail in the way that the fence
//! is there to prevent.
//!
//! What loom does not see: SeqCst accesses are treated as acquire and release (we use fences,
//! which it does model), and load buffering is not explored. What is not modelled:
//! `vring::BlockQueue`, whose threads meet in a mutex and not in the ring, and the step of an index
//! from 65535 to 0 (the ring's slots do wrap here; the stress test and the differential tests cross
//! the other).
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // a test

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::thread;
use shm::fence::{self, Fence};
use shm::{Descriptor, DmaSpace, Doorbell, EventFd, Records, Region, UsedElement};
use softdev::AddressMap;
use softdev::ring::{Chain, DeviceRing, RingAddresses, RingFeatures};
use vioblk_tests::clause;
use vring::{Ring, RingOptions, SplitLayout, SplitQueue};

const REQUEST: usize = 0;
const REPLY: usize = 64;

/// What loom says of accesses that nothing orders.
const UNORDERED: &str = "Causality violation";
const DEVICE_SLEEPS: &str = "the device sleeps over a published chain";
const DRIVER_SLEEPS: &str = "the driver sleeps over a used chain";

/// A ring in which `places` requests fit at once. A request has one readable and one writable
/// segment of 8 bytes, in two descriptors or in an indirect table of two.
#[derive(Clone, Copy)]
struct Shape {
    size: usize,
    event_idx: bool,
    indirect: bool,
}

const FLAGS: Shape = Shape { size: 4, event_idx: false, indirect: false };
const EVENTS: Shape = Shape { event_idx: true, ..FLAGS };

impl Shape {
    fn places(self) -> usize {
        if self.indirect { self.size } else { self.size / 2 }
    }
}

/// The device's half. Its answer is the request plus one.
struct Device {
    ring: DeviceRing,
    map: AddressMap,
    chain: Chain,
}

impl Device {
    fn new(space: &DmaSpace, ring: &Region, layout: &SplitLayout, shape: Shape) -> Self {
        let address = |offset: usize| ring.device_address() + offset as u64;
        let addresses = RingAddresses {
            size: layout.size,
            descriptors: address(layout.descriptors),
            available: address(layout.available),
            used: address(layout.used),
        };
        let features = RingFeatures { event_idx: shape.event_idx, indirect: shape.indirect };
        let mut map = AddressMap::new(space.clone());
        let ring = DeviceRing::new(&addresses, features, &mut map).unwrap();
        Self { ring, map, chain: Chain::default() }
    }

    /// Serve every chain in sight; how many there were.
    fn serve(&mut self) -> usize {
        self.ring.poll().unwrap();
        let mut served = 0;
        while self.ring.take(&mut self.map, &mut self.chain).unwrap() {
            let mut number = [0; 8];
            self.map.read(&self.chain.readable[0], 0, &mut number).unwrap();
            let answer = (u64::from_le_bytes(number) + 1).to_le_bytes();
            self.map.write(&self.chain.writable[0], 0, &answer).unwrap();
            self.ring.put_used(UsedElement { id: self.chain.head.into(), len: 8 });
            served += 1;
        }
        if served > 0 {
            self.ring.publish();
        }
        served
    }

    /// Serve until there were `count` chains.
    fn serve_all(&mut self, count: usize) {
        let mut served = 0;
        while served < count {
            served += self.serve();
            thread::yield_now();
        }
    }
}

struct Driver {
    queue: SplitQueue,
    data: Region,
    places: usize,
}

impl Driver {
    fn place(&self, number: u64) -> usize {
        number as usize % self.places * 8
    }

    /// Push request `number`, of which there may be one at each place.
    fn push(&mut self, number: u64) {
        let place = self.place(number);
        self.data.span().write_bytes(REQUEST + place, &number.to_le_bytes()).unwrap();
        let pin = self.data.pin().unwrap();
        let request = pin.segment((REQUEST + place) as u64, 8).unwrap();
        let reply = pin.segment((REPLY + place) as u64, 8).unwrap();
        self.queue.push(&[request], &[reply]).unwrap();
    }

    /// Push requests and publish them in one step; whether a kick is due.
    fn submit(&mut self, numbers: impl IntoIterator<Item = u64>) -> bool {
        numbers.into_iter().for_each(|number| self.push(number));
        self.queue.publish().unwrap()
    }

    fn reap(&mut self) -> usize {
        self.queue.reap(usize::MAX, |used| assert_eq!(used.written, 8)).unwrap()
    }

    /// Reap until there were `count` chains.
    fn reap_all(&mut self, count: usize) {
        let mut reaped = 0;
        while reaped < count {
            reaped += self.reap();
            thread::yield_now();
        }
    }

    fn assert_reply(&self, number: u64) {
        let mut reply = [0; 8];
        self.data.span().read_bytes(REPLY + self.place(number), &mut reply).unwrap();
        assert_eq!(u64::from_le_bytes(reply), number + 1);
    }
}

/// Both halves of a ring that has served `history` requests already, one by one.
fn pair(shape: Shape, history: u64) -> (Driver, Device) {
    let space = DmaSpace::new();
    space.map(4096, 0x1000).unwrap();
    let table = if shape.indirect { 2 } else { 0 };
    let layout = SplitLayout::new(shape.size, None, table).unwrap();
    let ring = space.alloc(layout.length, 4096).unwrap();
    let data = space.alloc(128, 64).unwrap();
    let mut device = Device::new(&space, &ring, &layout, shape);
    let options = RingOptions { event_idx: shape.event_idx, strict: true, zeroed: false };
    let queue = SplitQueue::new(ring.claim().unwrap(), layout, options).unwrap();
    let mut driver = Driver { queue, data, places: shape.places() };
    for number in 0..history {
        driver.submit([number]);
        assert_eq!((device.serve(), driver.reap()), (1, 1));
    }
    (driver, device)
}

/// Publish against reap: both sides poll, nobody notifies.
fn polling() {
    let (mut driver, mut device) = pair(FLAGS, 0);
    let served = thread::spawn(move || device.serve_all(1));
    driver.submit([7]);
    driver.reap_all(1);
    driver.assert_reply(7);
    served.join().unwrap();
}

/// The device looks for work, asks for a kick, looks again, and goes to sleep, while the driver
/// publishes: it must be found, or a kick be sent. With EVENT_IDX the history decides whether
/// kicks are declined before: the event of a fresh ring has yet to pass.
fn kick_race(shape: Shape, history: u64, declined: bool) {
    let (mut driver, mut device) = pair(shape, history);
    if declined {
        device.ring.disarm();
    }
    let device = thread::spawn(move || {
        let found = device.serve() > 0;
        found || (device.ring.arm() && device.serve() > 0)
    });
    let kicked = driver.submit([history]);
    let found = device.join().unwrap();
    assert!(found || kicked, "{DEVICE_SLEEPS}");
}

fn kick_race_with_flags() {
    kick_race(FLAGS, 0, true);
}

fn kick_race_with_event_idx() {
    kick_race(EVENTS, 1, true);
}

/// The driver looks for completions, asks for an interrupt, looks again, and goes to sleep, while
/// the device completes: it must be found, or an interrupt be sent.
fn interrupt_race(shape: Shape) {
    let (mut driver, mut device) = pair(shape, 0);
    driver.queue.disarm();
    driver.submit([1]);
    let device = thread::spawn(move || {
        assert_eq!(device.serve(), 1);
        device.ring.wants_interrupt()
    });
    let found = driver.reap() == 1 || (driver.queue.arm().unwrap() && driver.reap() == 1);
    let interrupted = device.join().unwrap();
    assert!(found || interrupted, "{DRIVER_SLEEPS}");
    assert!(found || driver.reap() == 1);
    driver.assert_reply(1);
}

fn interrupt_race_with_flags() {
    interrupt_race(FLAGS);
}

fn interrupt_race_with_event_idx() {
    interrupt_race(EVENTS);
}

/// Two requests, the second published while the first is served: both indices move twice.
fn two_requests() {
    let (mut driver, mut device) = pair(FLAGS, 0);
    let served = thread::spawn(move || device.serve_all(2));
    driver.submit([2]);
    driver.submit([3]);
    driver.reap_all(2);
    driver.assert_reply(2);
    driver.assert_reply(3);
    served.join().unwrap();
}

/// One step of the index brings two requests, of which the second is in slot 0 again.
fn batch(shape: Shape) {
    let history = shape.size as u64 - 1;
    let (mut driver, mut device) = pair(shape, history);
    let served = thread::spawn(move || device.serve_all(2));
    driver.submit([history, history + 1]);
    driver.reap_all(2);
    driver.assert_reply(history);
    driver.assert_reply(history + 1);
    served.join().unwrap();
}

/// Request after request in a ring of two: the driver overwrites descriptors, tables, available
/// slots and payload that the device has read, and the device overwrites used slots that the
/// driver has read.
fn reuse(shape: Shape, requests: u64) {
    let (mut driver, mut device) = pair(shape, 0);
    let served = thread::spawn(move || device.serve_all(requests as usize));
    for number in 0..requests {
        driver.submit([number]);
        driver.reap_all(1);
        driver.assert_reply(number);
    }
    served.join().unwrap();
}

fn reuse_of_descriptors() {
    reuse(Shape { size: 2, ..FLAGS }, 3);
}

fn reuse_of_tables() {
    reuse(Shape { size: 2, indirect: true, ..FLAGS }, 3);
}

/// The same with one request ahead: a slot is used again while the other is being served.
fn reuse_while_another_is_served() {
    let (mut driver, mut device) = pair(Shape { size: 2, indirect: true, ..FLAGS }, 0);
    let served = thread::spawn(move || device.serve_all(3));
    driver.submit([0]);
    driver.submit([1]);
    let mut reaped = 0;
    while reaped == 0 {
        reaped = driver.reap();
        thread::yield_now();
    }
    driver.assert_reply(0);
    driver.submit([2]);
    driver.reap_all(3 - reaped);
    driver.assert_reply(1);
    driver.assert_reply(2);
    served.join().unwrap();
}

/// A driver that does not wait for the device before it uses a payload again.
fn overwrites_before_it_reaps() {
    let (mut driver, mut device) = pair(FLAGS, 0);
    let served = thread::spawn(move || device.serve_all(1));
    driver.submit([0]);
    driver.data.span().write_bytes(REQUEST, &[1; 8]).unwrap();
    served.join().unwrap();
}

/// Whoever hears the doorbell sees what was stored before it, ring word or not.
fn doorbell() {
    let space = DmaSpace::new();
    space.map(4096, 0x1000).unwrap();
    let region = space.alloc(64, 64).unwrap();
    let (descriptors, bell) = (region.span().records(0, 1).unwrap(), EventFd::new().unwrap());
    let device_bell = bell.try_clone().unwrap();
    let device_region = region.clone();
    let device = thread::spawn(move || {
        while device_bell.drain() == 0 {
            thread::yield_now();
        }
        fence::device_after_available_index();
        let descriptors: Records<Descriptor> = device_region.span().records(0, 1).unwrap();
        assert_eq!(descriptors.load(0).len, 5);
    });
    descriptors.store(0, Descriptor { len: 5, ..Descriptor::default() });
    assert!(Doorbell::EventFd(bell).ring(1).unwrap());
    device.join().unwrap();
}

/// Every interleaving, whatever the environment says.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.max_permutations = None;
    builder.max_duration = None;
    builder.check(model);
}

/// What the model says when it fails.
fn failure_of(model: fn()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| check(model))).err()?;
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    Some(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
}

/// The model must fail without the fence, and for want of it, else the one or the other is good
/// for nothing.
fn must_fail_without(fence: Fence, model: fn(), expected: &str) {
    match fence::mutant::without(fence, || failure_of(model)) {
        None => panic!("the model passes without {fence:?}"),
        Some(why) => assert!(why.contains(expected), "without {fence:?} it says: {why}"),
    }
}

#[test]
fn a_published_chain_is_seen_whole_and_so_is_its_reply() {
    clause!("SPLIT-BARRIER-01");
    check(polling);
}

#[test]
fn two_requests_in_flight_keep_apart() {
    check(two_requests);
}

#[test]
fn a_batch_over_the_end_of_the_ring_is_seen_whole() {
    clause!("SPLIT-BARRIER-01");
    check(|| batch(FLAGS));
}

#[test]
fn a_batch_of_indirect_chains_is_seen_whole() {
    clause!("SPLIT-BARRIER-01");
    check(|| batch(Shape { size: 2, indirect: true, ..FLAGS }));
}

#[test]
fn what_was_reaped_can_be_used_again() {
    check(reuse_of_descriptors);
    check(reuse_of_tables);
    check(reuse_while_another_is_served);
}

#[test]
fn what_was_not_reaped_cannot_be_used_again() {
    let why = failure_of(overwrites_before_it_reaps).expect("the model passes");
    assert!(why.contains(UNORDERED), "{why}");
}

#[test]
fn no_kick_is_lost_with_flags() {
    clause!("SPLIT-BARRIER-02", "SPLIT-KICK-04");
    check(|| kick_race(FLAGS, 0, false));
    check(kick_race_with_flags);
}

#[test]
fn no_kick_is_lost_with_event_idx() {
    clause!("SPLIT-BARRIER-02", "SPLIT-KICK-06");
    check(|| kick_race(EVENTS, 0, false));
    check(kick_race_with_event_idx);
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    clause!("SPLIT-RECV-01");
    check(interrupt_race_with_flags);
}

#[test]
fn no_interrupt_is_lost_with_event_idx() {
    clause!("SPLIT-RECV-01");
    check(interrupt_race_with_event_idx);
}

#[test]
fn the_doorbell_brings_what_was_stored_before_it() {
    check(doorbell);
}

#[test]
fn without_before_publish_the_models_fail() {
    must_fail_without(Fence::BeforePublish, polling, UNORDERED);
    must_fail_without(Fence::BeforePublish, reuse_of_tables, UNORDERED);
}

#[test]
fn without_after_used_index_the_models_fail() {
    must_fail_without(Fence::AfterUsedIndex, polling, UNORDERED);
    must_fail_without(Fence::AfterUsedIndex, reuse_of_descriptors, UNORDERED);
}

#[test]
fn without_before_notify_check_the_models_fail() {
    must_fail_without(Fence::BeforeNotifyCheck, kick_race_with_flags, DEVICE_SLEEPS);
    must_fail_without(Fence::BeforeNotifyCheck, kick_race_with_event_idx, DEVICE_SLEEPS);
}

#[test]
fn without_after_arm_the_models_fail() {
    must_fail_without(Fence::AfterArm, interrupt_race_with_flags, DRIVER_SLEEPS);
    must_fail_without(Fence::AfterArm, interrupt_race_with_event_idx, DRIVER_SLEEPS);
}

#[test]
fn without_before_doorbell_the_model_fails() {
    must_fail_without(Fence::BeforeDoorbell, doorbell, UNORDERED);
}

#[test]
fn without_the_fences_around_device_work_the_models_fail() {
    must_fail_without(Fence::DeviceAfterAvailableIndex, polling, UNORDERED);
    must_fail_without(Fence::DeviceAfterAvailableIndex, reuse_of_descriptors, UNORDERED);
    must_fail_without(Fence::DeviceBeforeUsedIndex, polling, UNORDERED);
    must_fail_without(Fence::DeviceBeforeUsedIndex, reuse_of_descriptors, UNORDERED);
}

#[test]
fn without_device_after_arm_the_models_fail() {
    must_fail_without(Fence::DeviceAfterArm, kick_race_with_flags, DEVICE_SLEEPS);
    must_fail_without(Fence::DeviceAfterArm, kick_race_with_event_idx, DEVICE_SLEEPS);
}

#[test]
fn without_device_before_interrupt_check_the_models_fail() {
    must_fail_without(Fence::DeviceBeforeInterruptCheck, interrupt_race_with_flags, DRIVER_SLEEPS);
    must_fail_without(
        Fence::DeviceBeforeInterruptCheck,
        interrupt_race_with_event_idx,
        DRIVER_SLEEPS,
    );
}
