//! loom models of the split ring: the driver's real code (`vring::SplitQueue`) against a device
//! half that is just large enough, over every interleaving and every value that the memory model
//! lets a relaxed load return.
//!
//! Each fence has a mutant: with the fence left out, its model must fail. What loom does not see:
//! SeqCst accesses are treated as acquire and release (we use fences, which it does model), and
//! load buffering is not explored.
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // a test

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::thread;
use shm::fence::{self, Fence};
use shm::{
    AvailableElement, Descriptor, DmaSpace, Doorbell, EventFd, Records, Region, UsedElement, Words,
};
use vioblk_tests::clause;
use vring::{SplitLayout, SplitOptions, SplitQueue, event_passed};

const SIZE: usize = 4;
const REQUEST: usize = 0;
const REPLY: usize = 64;

/// The device's half, for chains of one readable and one writable segment of 8 bytes each.
struct Device {
    space: DmaSpace,
    event_idx: bool,
    descriptors: Records<Descriptor>,
    available: Words,
    available_ring: Records<AvailableElement>,
    used_event: Words,
    used: Words,
    used_ring: Records<UsedElement>,
    avail_event: Words,
    taken: u16,
}

impl Device {
    fn new(space: &DmaSpace, ring: &Region, layout: &SplitLayout, event_idx: bool) -> Self {
        let span = ring.span();
        Self {
            space: space.clone(),
            event_idx,
            descriptors: span.records(layout.descriptors, SIZE).unwrap(),
            available: span.words(layout.available, 2).unwrap(),
            available_ring: span.records(layout.available + 4, SIZE).unwrap(),
            used_event: span.words(layout.available + 4 + 2 * SIZE, 1).unwrap(),
            used: span.words(layout.used, 2).unwrap(),
            used_ring: span.records(layout.used + 4, SIZE).unwrap(),
            avail_event: span.words(layout.used + 4 + 8 * SIZE, 1).unwrap(),
            taken: 0,
        }
    }

    fn bytes(&self, descriptor: Descriptor) -> shm::Span {
        self.space.translate(descriptor.addr, descriptor.len as usize).unwrap()
    }

    /// Serve one chain, if there is one: the reply is the request plus one.
    fn serve(&mut self) -> bool {
        if self.available.load(1) == self.taken {
            return false;
        }
        fence::device_after_available_index();
        let slot = usize::from(self.taken) % SIZE;
        let AvailableElement(head) = self.available_ring.load(slot);
        let request = self.descriptors.load(usize::from(head));
        let reply = self.descriptors.load(usize::from(request.next));
        let mut number = [0; 8];
        self.bytes(request).read_bytes(0, &mut number).unwrap();
        let answer = (u64::from_le_bytes(number) + 1).to_le_bytes();
        self.bytes(reply).write_bytes(0, &answer).unwrap();
        self.used_ring.store(slot, UsedElement { id: head.into(), len: 8 });
        fence::device_before_used_index();
        self.taken += 1;
        self.used.store(1, self.taken);
        true
    }

    /// Ask for a kick; whether there is something to do already.
    fn arm(&self) -> bool {
        if self.event_idx {
            self.avail_event.store(0, self.taken);
        } else {
            self.used.store(0, 0);
        }
        fence::device_after_arm();
        self.available.load(1) != self.taken
    }

    /// After one chain was served: whether the driver wants to hear of it.
    fn must_interrupt(&self) -> bool {
        fence::device_before_interrupt_check();
        if self.event_idx {
            event_passed(self.taken - 1, self.taken, self.used_event.load(0))
        } else {
            self.available.load(0) & 1 == 0
        }
    }
}

struct Driver {
    queue: SplitQueue,
    data: Region,
}

impl Driver {
    /// Push request `number`, of which there may be one at each of SIZE places.
    fn push(&mut self, number: u64) {
        let place = number as usize % SIZE * 8;
        self.data.span().write_bytes(REQUEST + place, &number.to_le_bytes()).unwrap();
        let pin = self.data.pin().unwrap();
        let request = pin.segment((REQUEST + place) as u64, 8).unwrap();
        let reply = pin.segment((REPLY + place) as u64, 8).unwrap();
        self.queue.push(&[request], &[reply]).unwrap();
    }

    fn reap(&mut self) -> usize {
        self.queue.reap(SIZE, |used| assert_eq!(used.written, 8)).unwrap()
    }

    fn assert_reply(&self, number: u64) {
        let mut reply = [0; 8];
        self.data.span().read_bytes(REPLY + number as usize % SIZE * 8, &mut reply).unwrap();
        assert_eq!(u64::from_le_bytes(reply), number + 1);
    }
}

fn pair(event_idx: bool) -> (Driver, Device) {
    let space = DmaSpace::new();
    space.map(4096, 0x1000).unwrap();
    let layout = SplitLayout::new(SIZE, None, 0).unwrap();
    let ring = space.alloc(layout.length, 4096).unwrap();
    let data = space.alloc(128, 64).unwrap();
    let device = Device::new(&space, &ring, &layout, event_idx);
    let options = SplitOptions { event_idx, strict: true, zeroed: false };
    let queue = SplitQueue::new(ring.pin().unwrap(), layout, options).unwrap();
    (Driver { queue, data }, device)
}

/// Publish against reap: both sides poll, nobody notifies.
fn polling() {
    let (mut driver, mut device) = pair(false);
    let served = thread::spawn(move || {
        while !device.serve() {
            thread::yield_now();
        }
    });
    driver.push(7);
    driver.queue.publish().unwrap();
    while driver.reap() == 0 {
        thread::yield_now();
    }
    driver.assert_reply(7);
    served.join().unwrap();
}

/// The device looks for work, asks for a kick, looks again, and goes to sleep, while the driver
/// publishes: it must be found, or a kick be sent. `suppressed`: no kicks were wanted before.
fn kick_race(event_idx: bool, suppressed: bool) {
    let (mut driver, mut device) = pair(event_idx);
    if suppressed {
        device.used.store(0, 1);
        device.avail_event.store(0, u16::MAX);
    }
    let device = thread::spawn(move || device.serve() || (device.arm() && device.serve()));
    driver.push(1);
    let kicked = driver.queue.publish().unwrap();
    let found = device.join().unwrap();
    assert!(found || kicked, "the device sleeps over a published chain");
}

/// The driver looks for completions, asks for an interrupt, looks again, and goes to sleep, while
/// the device completes: it must be found, or an interrupt be sent.
fn interrupt_race(event_idx: bool) {
    let (mut driver, mut device) = pair(event_idx);
    driver.queue.disarm();
    driver.push(1);
    driver.queue.publish().unwrap();
    let device = thread::spawn(move || {
        assert!(device.serve());
        device.must_interrupt()
    });
    let found = driver.reap() == 1 || (driver.queue.arm().unwrap() && driver.reap() == 1);
    let interrupted = device.join().unwrap();
    assert!(found || interrupted, "the driver sleeps over a used chain");
    assert!(found || driver.reap() == 1);
    driver.assert_reply(1);
}

/// Two requests, the second published while the first is served: both indices move twice.
fn two_requests() {
    let (mut driver, mut device) = pair(false);
    let served = thread::spawn(move || {
        for _ in 0..2 {
            while !device.serve() {
                thread::yield_now();
            }
        }
    });
    driver.push(2);
    driver.queue.publish().unwrap();
    driver.push(3);
    driver.queue.publish().unwrap();
    let mut reaped = 0;
    while reaped < 2 {
        reaped += driver.reap();
        thread::yield_now();
    }
    driver.assert_reply(2);
    driver.assert_reply(3);
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
    assert!(Doorbell::EventFd(bell).ring().unwrap());
    device.join().unwrap();
}

/// Every interleaving: no bound on preemptions.
fn check(model: fn()) {
    loom::model::Builder::new().check(model);
}

/// The model must fail without the fence, else the one or the other is good for nothing.
fn must_fail_without(fence: Fence, model: fn()) {
    let failed = fence::mutant::without(fence, || catch_unwind(AssertUnwindSafe(|| check(model))));
    assert!(failed.is_err(), "the model passes without {fence:?}");
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
fn no_kick_is_lost_with_flags() {
    clause!("SPLIT-BARRIER-02", "SPLIT-KICK-04");
    check(|| kick_race(false, false));
    check(|| kick_race(false, true));
}

#[test]
fn no_kick_is_lost_with_event_idx() {
    clause!("SPLIT-BARRIER-02", "SPLIT-KICK-06");
    check(|| kick_race(true, false));
    check(|| kick_race(true, true));
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    clause!("SPLIT-RECV-01");
    check(|| interrupt_race(false));
}

#[test]
fn no_interrupt_is_lost_with_event_idx() {
    clause!("SPLIT-RECV-01");
    check(|| interrupt_race(true));
}

#[test]
fn the_doorbell_brings_what_was_stored_before_it() {
    check(doorbell);
}

#[test]
fn without_before_publish_the_model_fails() {
    must_fail_without(Fence::BeforePublish, polling);
}

#[test]
fn without_after_used_index_the_model_fails() {
    must_fail_without(Fence::AfterUsedIndex, polling);
}

#[test]
fn without_before_notify_check_the_models_fail() {
    must_fail_without(Fence::BeforeNotifyCheck, || kick_race(false, true));
    must_fail_without(Fence::BeforeNotifyCheck, || kick_race(true, true));
}

#[test]
fn without_after_arm_the_models_fail() {
    must_fail_without(Fence::AfterArm, || interrupt_race(false));
    must_fail_without(Fence::AfterArm, || interrupt_race(true));
}

#[test]
fn without_before_doorbell_the_model_fails() {
    must_fail_without(Fence::BeforeDoorbell, doorbell);
}

#[test]
fn without_the_fences_of_the_device_the_models_fail() {
    must_fail_without(Fence::DeviceAfterAvailableIndex, polling);
    must_fail_without(Fence::DeviceBeforeUsedIndex, polling);
    must_fail_without(Fence::DeviceAfterArm, || kick_race(false, true));
    must_fail_without(Fence::DeviceBeforeInterruptCheck, || interrupt_race(false));
}
