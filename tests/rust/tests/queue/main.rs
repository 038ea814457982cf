//! `BlockQueue` alone, against a device that the test drives by hand: who is told what, and when.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod order;
mod pools;
mod regions;
mod waiting;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use shm::{DmaSpace, Doorbell, EventFd, Region, UsedElement, Words};
use softdev::ring::{Chain, DeviceRing, RingAddresses, RingFeatures};
use softdev::{AddressMap, Segment};
use vring::request::{Completion, Limits, Request, RequestError, kind};
use vring::{
    BlockQueue, Broken, Execution, PoolId, PoolShape, PoolWay, QueueError, Ring, RingOptions,
    STATUS_PENDING, SplitLayout, SplitQueue, Wires,
};

/// Requests that fit at once.
const DEPTH: usize = 4;
const SECTOR: u32 = 512;
const CAPACITY_SECTORS: u64 = 1 << 20;

/// Longer than anything here takes on a busy machine; a bound, not a wait.
const LONG: Duration = Duration::from_secs(30);

fn limits(capacity_sectors: u64) -> Limits {
    Limits {
        capacity_sectors,
        kinds: 1 << kind::IN | 1 << kind::OUT | 1 << kind::FLUSH,
        ..Limits::default()
    }
}

/// The status with which the device answers for a sector: another one for each of many.
fn status_of(sector: u64) -> u8 {
    (sector % 251) as u8
}

fn statuses_of(sectors: impl IntoIterator<Item = u64>) -> Vec<u8> {
    sectors.into_iter().map(status_of).collect()
}

/// A request that the device holds.
struct Held {
    head: u16,
    sector: u64,
    status: Segment,
    writable_bytes: u32,
}

/// The device's half: it does what the test says, when the test says it.
struct Device {
    ring: DeviceRing,
    map: AddressMap,
    interrupt: EventFd,
    held: VecDeque<Held>,
}

impl Device {
    fn new(
        space: &DmaSpace,
        ring: u64,
        layout: &SplitLayout,
        interrupt: EventFd,
        event_idx: bool,
    ) -> Self {
        let addresses = RingAddresses {
            size: layout.size,
            descriptors: ring + layout.descriptors as u64,
            available: ring + layout.available as u64,
            used: ring + layout.used as u64,
        };
        let mut map = AddressMap::new(space.clone());
        let features = RingFeatures { indirect: true, event_idx, ..RingFeatures::default() };
        let ring = DeviceRing::new(&addresses, features, &mut map).unwrap();
        Self { ring, map, interrupt, held: VecDeque::new() }
    }

    /// Take what is available; the sectors, in order.
    fn take(&mut self) -> Vec<u64> {
        self.ring.poll().unwrap();
        let (mut chain, mut sectors) = (Chain::default(), Vec::new());
        while self.ring.take(&mut self.map, &mut chain).unwrap() {
            let mut header = [0; 16];
            self.map.read(&chain.readable[0], 0, &mut header).unwrap();
            let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
            sectors.push(sector);
            self.held.push_back(Held {
                head: chain.head,
                sector,
                status: *chain.writable.last().unwrap(),
                writable_bytes: chain.writable_bytes as u32,
            });
        }
        sectors
    }

    /// Complete the oldest `count` of those that are held, and notify the driver if it asks.
    fn complete(&mut self, count: usize) {
        self.complete_silently(count);
        if self.ring.wants_interrupt() {
            self.interrupt.signal().unwrap();
        }
    }

    /// The same, and the interrupt is still to come.
    fn complete_silently(&mut self, count: usize) {
        for Held { head, sector, status, writable_bytes } in self.held.drain(..count) {
            self.map.write(&status, status.length - 1, &[status_of(sector)]).unwrap();
            self.ring.put_used(UsedElement { id: head.into(), len: writable_bytes });
        }
        self.ring.publish();
    }

    /// Serve until told to stop, which a test that fails does not get to.
    fn serve(&mut self, stop: &AtomicBool) {
        let started = Instant::now();
        while !stop.load(Relaxed) && started.elapsed() < LONG {
            self.take();
            if self.held.is_empty() {
                thread::yield_now();
            } else {
                self.complete(self.held.len().min(3));
            }
        }
    }
}

/// A queue, the memory of its requests, and what its device is made from.
struct Rig {
    space: DmaSpace,
    queue: BlockQueue<SplitQueue>,
    ring: Region,
    data: Region,
    interrupt: EventFd,
    /// The available ring's flags, by which a waiter asks for an interrupt.
    available_flags: Words,
    /// With EVENT_IDX, the chain of whose use a waiter asks to be told.
    used_event: Option<Words>,
    /// The device is gone when this end of its connection is.
    connection: UnixStream,
}

fn descriptor_of(event: &EventFd) -> OwnedFd {
    shm::duplicate_fd(event.as_raw_fd()).unwrap()
}

impl Rig {
    /// Every request takes one descriptor and an indirect table.
    fn new() -> (Self, Device) {
        Self::with(SplitLayout::new(DEPTH, None, DEPTH).unwrap())
    }

    /// The same, and the device gives no interrupts.
    fn polled() -> (Self, Device) {
        Self::wired(SplitLayout::new(DEPTH, None, DEPTH).unwrap(), EventFd::new().unwrap(), false)
    }

    /// With EVENT_IDX, for `depth` requests.
    fn with_events(depth: usize) -> (Self, Device) {
        let layout = SplitLayout::new(depth, None, DEPTH).unwrap();
        Self::built(layout, EventFd::new().unwrap(), true, true)
    }

    fn with(layout: SplitLayout) -> (Self, Device) {
        Self::wired(layout, EventFd::new().unwrap(), true)
    }

    fn wired(layout: SplitLayout, interrupt: EventFd, interrupts: bool) -> (Self, Device) {
        Self::built(layout, interrupt, interrupts, false)
    }

    fn built(
        layout: SplitLayout,
        interrupt: EventFd,
        interrupts: bool,
        event_idx: bool,
    ) -> (Self, Device) {
        let space = DmaSpace::new();
        space.map(1 << 20, 1 << 32).unwrap();
        let ring = space.alloc(layout.length, 4096).unwrap();
        let slots = space.alloc(vring::slots_length(layout.size.into()), 4096).unwrap();
        let data = space.alloc(4096, 4096).unwrap();
        let options = RingOptions { event_idx, ..RingOptions::default() };
        let split = SplitQueue::new(ring.claim().unwrap(), layout, options).unwrap();
        let kick = EventFd::new().unwrap();
        let (connection, ours) = UnixStream::pair().unwrap();
        let wires = Wires {
            doorbell: Arc::new(Doorbell::EventFd(kick)),
            interrupt: interrupts.then(|| descriptor_of(&interrupt)),
            hangup: Some(ours.into()),
        };
        let limits = limits(CAPACITY_SECTORS);
        let slots = slots.claim().unwrap();
        let queue = BlockQueue::new(split, space.clone(), slots, limits, false, wires).unwrap();
        let available_flags = ring.span().words(layout.available, 1).unwrap();
        let event_offset = layout.available + 4 + 2 * usize::from(layout.size);
        let used_event = event_idx.then(|| ring.span().words(event_offset, 1).unwrap());
        let rig =
            Self { space, queue, ring, data, interrupt, available_flags, used_event, connection };
        let device = rig.device();
        (rig, device)
    }

    /// A device that knows of nothing yet.
    fn device(&self) -> Device {
        let interrupt = self.interrupt.try_clone().unwrap();
        let (ring, layout) = (self.ring.device_address(), self.queue.layout());
        Device::new(&self.space, ring, layout, interrupt, self.used_event.is_some())
    }

    /// A read of one sector.
    fn read(&self, sector: u64) -> Request {
        Request {
            kind: kind::IN,
            sector,
            length: SECTOR,
            region: self.data.handle(),
            token: sector,
            ..Request::default()
        }
    }

    fn reads(&self, sectors: impl IntoIterator<Item = u64>) -> Vec<Request> {
        sectors.into_iter().map(|sector| self.read(sector)).collect()
    }

    fn begin(&self, sectors: impl IntoIterator<Item = u64>) -> Execution {
        self.queue.begin(self.reads(sectors)).unwrap()
    }

    /// Wait for a batch, but not for ever.
    fn finish(&self, execution: &Execution) -> Result<Vec<u8>, QueueError> {
        self.queue.finish(execution, Some(Instant::now() + LONG), || Ok(()))
    }

    /// Until a waiter has asked for an interrupt, and so sits in epoll or is about to.
    fn until_armed(&self) {
        let started = Instant::now();
        while self.available_flags.load(0) != 0 {
            assert!(started.elapsed() < LONG, "nobody waits");
            thread::yield_now();
        }
    }

    /// Until a waiter has asked to be told when the chain of this number is used.
    fn until_asked_for(&self, number: u16) {
        let started = Instant::now();
        while self.used_event.as_ref().unwrap().load(0) != number {
            assert!(started.elapsed() < LONG, "nobody asks for {number}");
            thread::yield_now();
        }
    }

    fn assert_works_with(&self, device: &mut Device) {
        let execution = self.begin(10..14);
        assert_eq!(device.take(), [10, 11, 12, 13]);
        device.complete(4);
        assert_eq!(self.finish(&execution), Ok(statuses_of(10..14)));
        assert_eq!(self.queue.in_flight(), 0);
    }

    fn reap(&self, limit: usize) -> usize {
        self.queue.reap_many(limit, |_| ()).unwrap()
    }
}

/// What a thread returned, which it does before long.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    let started = Instant::now();
    while !thread.is_finished() {
        assert!(started.elapsed() < LONG, "a waiter was forgotten");
        thread::yield_now();
    }
    thread.join().unwrap()
}
