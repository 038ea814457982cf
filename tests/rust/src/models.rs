//! Models of a ring over every interleaving, and every value that the memory model lets a relaxed
//! load return: the driver's code that ships against the device's code that ships. Only what a
//! request means is made up here. They are written once, for both formats.

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::thread;
use shm::fence::{self, Fence};
use shm::{DmaSpace, Region};
use softdev::AddressMap;
use softdev::ring::packed::PackedRing;
use softdev::ring::{Chain, DeviceRing, RingAddresses, RingFeatures, Violation};
use vring::{PackedLayout, PackedQueue, Ring, RingOptions, SplitLayout, SplitQueue};

const REQUEST: usize = 0;
const REPLY: usize = 64;

/// What loom says of accesses that nothing orders.
pub const UNORDERED: &str = "Causality violation";
/// The device was neither notified nor did it find what was there.
pub const DEVICE_SLEEPS: &str = "the device sleeps over a published chain";
/// The driver was neither notified nor did it find what was there.
pub const DRIVER_SLEEPS: &str = "the driver sleeps over a used chain";

/// A ring in which `places` requests fit at once. A request has one readable and one writable
/// segment of 8 bytes, in two descriptors or in an indirect table of two.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Descriptors in the ring.
    pub size: usize,
    /// EVENT_IDX.
    pub event_idx: bool,
    /// INDIRECT_DESC.
    pub indirect: bool,
}

/// Direct chains, notifications by flags.
pub const FLAGS: Shape = Shape { size: 4, event_idx: false, indirect: false };
/// Direct chains, notifications by event.
pub const EVENTS: Shape = Shape { event_idx: true, ..FLAGS };
/// A ring of two with indirect tables.
pub const TABLES: Shape = Shape { size: 2, indirect: true, ..FLAGS };

/// A ring of two with indirect tables, notifications by event.
pub const TABLES_AND_EVENTS: Shape = Shape { event_idx: true, ..TABLES };

impl Shape {
    fn places(self) -> usize {
        if self.indirect { self.size } else { self.size / 2 }
    }

    fn table_size(self) -> usize {
        if self.indirect { 2 } else { 0 }
    }
}

/// The device's half of a ring, of either format.
pub trait DeviceHalf: Sized + Send + 'static {
    /// On a ring that was just set up.
    fn new(at: &RingAddresses, features: RingFeatures, map: &mut AddressMap) -> Self;
    /// Look for chains.
    fn poll(&mut self) -> Result<u16, Violation>;
    /// Take the next one.
    fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> Result<bool, Violation>;
    /// Give one back; in order, what is given back before it is shown is shown by one element.
    fn give_back(&mut self, chain: &Chain, written: u32);
    /// Show what was given back.
    fn publish(&mut self);
    /// Whether the driver is to be notified.
    fn wants_interrupt(&mut self) -> bool;
    /// Ask to be notified; whether there is something already.
    fn arm(&mut self) -> bool;
    /// Ask not to be notified.
    fn disarm(&mut self);
}

/// The rings have these methods under the same names.
macro_rules! device_half {
    ($ring:ty) => {
        impl DeviceHalf for $ring {
            fn new(at: &RingAddresses, features: RingFeatures, map: &mut AddressMap) -> Self {
                Self::new(at, features, map).unwrap()
            }
            fn poll(&mut self) -> Result<u16, Violation> {
                self.poll()
            }
            fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> Result<bool, Violation> {
                self.take(map, chain)
            }
            fn give_back(&mut self, chain: &Chain, written: u32) {
                self.give_back(chain, written);
            }
            fn publish(&mut self) {
                self.publish();
            }
            fn wants_interrupt(&mut self) -> bool {
                self.wants_interrupt()
            }
            fn arm(&mut self) -> bool {
                self.arm()
            }
            fn disarm(&mut self) {
                self.disarm();
            }
        }
    };
}

device_half!(DeviceRing);
device_half!(PackedRing);

/// Where a ring lies.
pub struct Place {
    length: usize,
    driver: usize,
    device: usize,
}

/// A format of the ring, both its halves.
pub trait Format: 'static {
    /// IN_ORDER.
    const IN_ORDER: bool;
    /// The driver's half.
    type Queue: Ring + Send + 'static;
    /// The device's half.
    type Half: DeviceHalf;
    /// Its layout.
    fn layout(shape: Shape) -> (<Self::Queue as Ring>::Layout, Place);
}

/// VIRTIO 1.4, 2.7 Split Virtqueues.
pub struct AnySplit<const IN_ORDER: bool>;

/// The device uses chains in any order.
pub type Split = AnySplit<false>;
/// With IN_ORDER.
pub type SplitInOrder = AnySplit<true>;

impl<const IN_ORDER: bool> Format for AnySplit<IN_ORDER> {
    const IN_ORDER: bool = IN_ORDER;
    type Queue = SplitQueue;
    type Half = DeviceRing;
    fn layout(shape: Shape) -> (SplitLayout, Place) {
        let layout = SplitLayout::new(shape.size, None, shape.table_size()).unwrap();
        let SplitLayout { length, available, used, .. } = layout;
        (layout, Place { length, driver: available, device: used })
    }
}

/// VIRTIO 1.4, 2.8 Packed Virtqueues.
pub struct AnyPacked<const IN_ORDER: bool>;

/// The device uses chains in any order.
pub type Packed = AnyPacked<false>;
/// With IN_ORDER.
pub type PackedInOrder = AnyPacked<true>;

impl<const IN_ORDER: bool> Format for AnyPacked<IN_ORDER> {
    const IN_ORDER: bool = IN_ORDER;
    type Queue = PackedQueue;
    type Half = PackedRing;
    fn layout(shape: Shape) -> (PackedLayout, Place) {
        let layout = PackedLayout::new(shape.size, shape.table_size()).unwrap();
        let PackedLayout { length, driver_event, device_event, .. } = layout;
        (layout, Place { length, driver: driver_event, device: device_event })
    }
}

/// The device. Its answer is the request plus one.
struct Device<F: Format> {
    ring: F::Half,
    map: AddressMap,
    chain: Chain,
}

impl<F: Format> Device<F> {
    fn new(space: &DmaSpace, ring: &Region, place: &Place, shape: Shape) -> Self {
        let address = |offset: usize| ring.device_address() + offset as u64;
        let addresses = RingAddresses {
            size: shape.size as u16,
            descriptors: address(0),
            available: address(place.driver),
            used: address(place.device),
        };
        let (event_idx, indirect) = (shape.event_idx, shape.indirect);
        let in_order = F::IN_ORDER;
        let features = RingFeatures { event_idx, indirect, in_order, ..RingFeatures::default() };
        let mut map = AddressMap::new(space.clone());
        let ring = F::Half::new(&addresses, features, &mut map);
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
            self.ring.give_back(&self.chain, 8);
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

struct Driver<F: Format> {
    queue: F::Queue,
    data: Region,
    places: usize,
}

impl<F: Format> Driver<F> {
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
        self.reap_at_most(usize::MAX)
    }

    fn reap_at_most(&mut self, limit: usize) -> usize {
        self.queue.reap(limit, |used| assert_eq!(used.written, 8)).unwrap()
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
fn pair<F: Format>(shape: Shape, history: u64) -> (Driver<F>, Device<F>) {
    let space = DmaSpace::new();
    space.map(8192, 0x1000).unwrap();
    let (layout, place) = F::layout(shape);
    let ring = space.alloc(place.length, 4096).unwrap();
    let data = space.alloc(128, 64).unwrap();
    let mut device = Device::new(&space, &ring, &place, shape);
    let options = RingOptions {
        event_idx: shape.event_idx,
        in_order: F::IN_ORDER,
        strict: true,
        zeroed: false,
    };
    let queue = F::Queue::new(ring.claim().unwrap(), layout, options).unwrap();
    let mut driver = Driver { queue, data, places: shape.places() };
    for number in 0..history {
        driver.submit([number]);
        assert_eq!((device.serve(), driver.reap()), (1, 1));
    }
    (driver, device)
}

/// Publish against reap: both sides poll, nobody notifies.
pub fn polling<F: Format>() {
    let (mut driver, mut device) = pair::<F>(FLAGS, 0);
    let served = thread::spawn(move || device.serve_all(1));
    driver.submit([7]);
    driver.reap_all(1);
    driver.assert_reply(7);
    served.join().unwrap();
}

/// The device looks for work, asks for a kick, looks again, and goes to sleep, while the driver
/// publishes: it must be found, or a kick be sent. With EVENT_IDX the history decides whether
/// kicks are declined before: the event of a fresh ring has yet to pass.
pub fn kick_race<F: Format>(shape: Shape, history: u64, declined: bool) {
    let (mut driver, mut device) = pair::<F>(shape, history);
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

/// Where the device had declined kicks by a flag.
pub fn kick_race_with_flags<F: Format>() {
    kick_race::<F>(FLAGS, 0, true);
}

/// Where the device had declined kicks as its event had passed.
pub fn kick_race_with_event_idx<F: Format>() {
    kick_race::<F>(EVENTS, 1, true);
}

/// The driver looks for completions, asks for an interrupt, looks again, and goes to sleep, while
/// the device completes: it must be found, or an interrupt be sent.
pub fn interrupt_race<F: Format>(shape: Shape, history: u64) {
    let (mut driver, mut device) = pair::<F>(shape, history);
    driver.queue.disarm();
    driver.submit([history]);
    let device = thread::spawn(move || {
        assert_eq!(device.serve(), 1);
        device.ring.wants_interrupt()
    });
    let found = driver.reap() == 1 || (driver.queue.arm().unwrap() && driver.reap() == 1);
    let interrupted = device.join().unwrap();
    assert!(found || interrupted, "{DRIVER_SLEEPS}");
    assert!(found || driver.reap() == 1);
    driver.assert_reply(history);
}

/// Interrupts switched by flags.
pub fn interrupt_race_with_flags<F: Format>() {
    interrupt_race::<F>(FLAGS, 0);
}

/// Interrupts switched by the event.
pub fn interrupt_race_with_event_idx<F: Format>() {
    interrupt_race::<F>(EVENTS, 0);
}

/// The device serves what it sees, which may be one request or both, and perhaps in one batch,
/// while the driver takes them back one by one, and asks for an interrupt in between. It goes to
/// sleep only when that finds nothing more.
pub fn interrupt_race_amid_a_batch<F: Format>(shape: Shape, history: u64) {
    let (mut driver, mut device) = pair::<F>(shape, history);
    driver.queue.disarm();
    driver.submit([history]);
    let device = thread::spawn(move || {
        let (mut served, mut interrupts) = (0, 0);
        while served < 2 {
            served += device.serve();
            interrupts += usize::from(device.ring.wants_interrupt());
            thread::yield_now();
        }
        interrupts
    });
    driver.submit([history + 1]);
    let mut reaped = driver.reap_at_most(1);
    while reaped < 2 && driver.queue.arm().unwrap() {
        reaped += driver.reap_at_most(1);
    }
    let interrupts = device.join().unwrap();
    assert!(reaped == 2 || interrupts > 0, "{DRIVER_SLEEPS}");
    while reaped < 2 {
        let more = driver.reap_at_most(1);
        assert_eq!(more, 1, "what was used is not found");
        reaped += more;
    }
    driver.assert_reply(history);
    driver.assert_reply(history + 1);
}

/// The driver has two requests in flight, asks for an interrupt when both are used, looks again, and
/// goes to sleep, while the device completes them in one batch or one by one: both must be found, or
/// an interrupt be sent.
pub fn interrupt_race_ahead<F: Format>(shape: Shape, history: u64) {
    sleep_over_two::<F>(shape, history, true);
}

/// The same by a driver that does not look again.
pub fn sleeps_without_a_second_look<F: Format>() {
    sleep_over_two::<F>(TABLES_AND_EVENTS, 1, false);
}

/// Where interrupts are switched by the event.
pub fn interrupt_race_ahead_with_event_idx<F: Format>() {
    interrupt_race_ahead::<F>(TABLES_AND_EVENTS, 1);
}

fn sleep_over_two<F: Format>(shape: Shape, history: u64, looks_again: bool) {
    let (mut driver, mut device) = pair::<F>(shape, history);
    // So that what comes is judged by what is asked for from now on.
    device.ring.wants_interrupt();
    driver.queue.disarm();
    driver.submit([history, history + 1]);
    let device = thread::spawn(move || {
        let (mut served, mut interrupts) = (0, 0);
        while served < 2 {
            served += device.serve();
            interrupts += usize::from(device.ring.wants_interrupt());
            thread::yield_now();
        }
        interrupts
    });
    let found = driver.queue.arm_ahead(2).unwrap() && looks_again;
    let interrupts = device.join().unwrap();
    assert!(found || interrupts > 0, "{DRIVER_SLEEPS}");
    driver.reap_all(2);
    driver.assert_reply(history);
    driver.assert_reply(history + 1);
}

/// Two requests, the second published while the first is served: both sides move twice.
pub fn two_requests<F: Format>() {
    let (mut driver, mut device) = pair::<F>(FLAGS, 0);
    let served = thread::spawn(move || device.serve_all(2));
    driver.submit([2]);
    driver.submit([3]);
    driver.reap_all(2);
    driver.assert_reply(2);
    driver.assert_reply(3);
    served.join().unwrap();
}

/// One step brings two requests, of which the second is in slot 0 again.
pub fn batch<F: Format>(shape: Shape) {
    let history = shape.size as u64 - 1;
    let (mut driver, mut device) = pair::<F>(shape, history);
    let served = thread::spawn(move || device.serve_all(2));
    driver.submit([history, history + 1]);
    driver.reap_all(2);
    driver.assert_reply(history);
    driver.assert_reply(history + 1);
    served.join().unwrap();
}

/// The same with indirect tables.
pub fn batch_of_tables<F: Format>() {
    batch::<F>(TABLES);
}

/// Request after request in a ring of two: the driver overwrites descriptors, tables, available
/// slots and payload that the device has read, and the device overwrites what the driver has read
/// of the used ones.
fn reuse<F: Format>(shape: Shape, requests: u64) {
    let (mut driver, mut device) = pair::<F>(shape, 0);
    let served = thread::spawn(move || device.serve_all(requests as usize));
    for number in 0..requests {
        driver.submit([number]);
        driver.reap_all(1);
        driver.assert_reply(number);
    }
    served.join().unwrap();
}

/// The ring is full with one request.
pub fn reuse_of_descriptors<F: Format>() {
    reuse::<F>(Shape { size: 2, ..FLAGS }, 3);
}

/// A list that begins in the last slot and ends in the first one, with the other wrap counter.
pub fn reuse_over_the_end<F: Format>() {
    reuse::<F>(Shape { size: 3, ..FLAGS }, 3);
}

/// The same with tables.
pub fn reuse_of_tables<F: Format>() {
    reuse::<F>(TABLES, 3);
}

/// The same with one request ahead: a slot is used again while the other is being served.
pub fn reuse_while_another_is_served<F: Format>() {
    let (mut driver, mut device) = pair::<F>(TABLES, 0);
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

/// Two requests in one step, which the device may return as one batch: what the first took is used
/// again before the second is taken back.
pub fn reuse_amid_a_batch<F: Format>() {
    let (mut driver, mut device) = pair::<F>(TABLES, 0);
    let served = thread::spawn(move || device.serve_all(3));
    driver.submit([0, 1]);
    while driver.reap_at_most(1) == 0 {
        thread::yield_now();
    }
    driver.assert_reply(0);
    driver.submit([2]);
    driver.reap_all(2);
    driver.assert_reply(1);
    driver.assert_reply(2);
    served.join().unwrap();
}

/// A driver that does not wait for the device before it uses a payload again.
pub fn overwrites_before_it_reaps<F: Format>() {
    let (mut driver, mut device) = pair::<F>(FLAGS, 0);
    let served = thread::spawn(move || device.serve_all(1));
    driver.submit([0]);
    driver.data.span().write_bytes(REQUEST, &[1; 8]).unwrap();
    served.join().unwrap();
}

/// Every interleaving, whatever the environment says.
pub fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.max_permutations = None;
    builder.max_duration = None;
    builder.check(model);
}

/// What the model says when it fails.
pub fn failure_of(model: fn()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| check(model))).err()?;
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    Some(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
}

/// The model must fail without the fence, and for want of it, else the one or the other is good
/// for nothing.
pub fn must_fail_without(fence: Fence, model: fn(), expected: &str) {
    match fence::mutant::without(fence, || failure_of(model)) {
        None => panic!("the model passes without {fence:?}"),
        Some(why) => assert!(why.contains(expected), "without {fence:?} it says: {why}"),
    }
}
