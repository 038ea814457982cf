//! `BlockQueue` alone, against a device that the test drives by hand: who is told what, and when.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

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

#[test]
fn two_executors_each_get_their_own_statuses() {
    for (rig, device) in [Rig::new(), Rig::with_events(DEPTH)] {
        assert_two_executors_get_their_own_statuses(&rig, device);
    }
}

fn assert_two_executors_get_their_own_statuses(rig: &Rig, mut device: Device) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let served = scope.spawn(|| device.serve(&stop));
        let execute = move |first: u64| {
            for round in 0..100 {
                let start = first + round * 7;
                // From less than fits to several times as much.
                let sectors = start..start + 1 + round % 19;
                let execution = rig.begin(sectors.clone());
                assert_eq!(rig.finish(&execution), Ok(statuses_of(sectors)));
            }
        };
        let others = [scope.spawn(move || execute(0)), scope.spawn(move || execute(100_000))];
        let [(), ()] = others.map(join);
        stop.store(true, Relaxed);
        join(served);
    });
    assert_eq!(rig.queue.in_flight(), 0);
}

#[test]
fn who_waits_alone_asks_to_be_told_of_the_last_completion_of_his_batch() {
    let (rig, mut device) = Rig::with_events(DEPTH);
    let execution = rig.begin(0..3);
    assert_eq!(device.take(), [0, 1, 2]);
    thread::scope(|scope| {
        let finishing = scope.spawn(|| rig.finish(&execution));
        rig.until_asked_for(2);
        device.complete(1);
        device.complete(2);
        assert_eq!(join(finishing), Ok(statuses_of(0..3)));
    });
}

#[test]
fn who_has_more_than_fits_asks_to_be_told_when_a_part_has_come_back() {
    let (rig, mut device) = Rig::with_events(16);
    let execution = rig.begin(0..24);
    assert_eq!(device.take(), (0..16).collect::<Vec<_>>());
    thread::scope(|scope| {
        let finishing = scope.spawn(|| rig.finish(&execution));
        rig.until_asked_for(3);
        device.complete(4);
        // The place of those four was filled: the next part is awaited.
        rig.until_asked_for(7);
        assert_eq!(device.take(), (16..20).collect::<Vec<_>>());
        device.complete(4);
        // Nothing waits for room any more.
        rig.until_asked_for(23);
        assert_eq!(device.take(), (20..24).collect::<Vec<_>>());
        device.complete(16);
        assert_eq!(join(finishing), Ok(statuses_of(0..24)));
    });
}

#[test]
fn who_needs_the_next_completion_brings_the_interrupt_of_another_waiter_forward() {
    let (rig, mut device) = Rig::with_events(DEPTH);
    let batch = rig.begin(0..3);
    assert_eq!(device.take(), [0, 1, 2]);
    thread::scope(|scope| {
        let rig = &rig;
        let finishing = scope.spawn(|| rig.finish(&batch));
        rig.until_asked_for(2);
        rig.queue.submit_many(rig.reads([3])).unwrap();
        assert_eq!(device.take(), [3]);
        let waiting = scope
            .spawn(|| rig.queue.wait(Some(Instant::now() + LONG), || Ok::<(), QueueError>(())));
        rig.until_asked_for(0);
        device.complete(3);
        assert_eq!(join(finishing), Ok(statuses_of(0..3)));
        device.complete(1);
        assert_eq!(join(waiting), Ok(true));
    });
}

#[test]
fn an_event_loop_brings_the_interrupt_of_a_waiter_forward_and_both_are_told() {
    let (rig, mut device) = Rig::with_events(DEPTH);
    let batch = rig.begin(0..3);
    assert_eq!(device.take(), [0, 1, 2]);
    thread::scope(|scope| {
        let rig = &rig;
        let finishing = scope.spawn(|| rig.finish(&batch));
        rig.until_asked_for(2);
        assert_eq!(rig.queue.arm(), Ok(false));
        rig.until_asked_for(0);
        device.complete(1);
        rig.until_asked_for(1);
        device.complete(2);
        assert_eq!(join(finishing), Ok(statuses_of(0..3)));
    });
}

#[test]
fn an_abort_ends_every_wait_with_its_reason() {
    let (rig, mut device) = Rig::new();
    let executions = [rig.begin([1]), rig.begin([2])];
    rig.queue.submit_many(rig.reads([3])).unwrap();
    assert_eq!(device.take(), [1, 2, 3]);
    thread::scope(|scope| {
        let rig = &rig;
        let finishing = executions.each_ref().map(|one| scope.spawn(move || rig.finish(one)));
        let waiting = scope
            .spawn(|| rig.queue.wait(Some(Instant::now() + LONG), || Ok::<(), QueueError>(())));
        rig.until_armed();
        rig.queue.abort("given up".into());
        rig.queue.abort("and again".into());
        for thread in finishing {
            assert_eq!(join(thread), Err(QueueError::Gone("given up".into())));
        }
        // There is an error to tell, which the next reap does.
        assert_eq!(join(waiting), Ok(true));
    });
    let gone = Err(QueueError::Gone("given up".into()));
    assert_eq!(rig.queue.reap_many(8, |_| ()), gone);
    assert_eq!(rig.queue.submit_many(rig.reads([4])), gone);
    // What the device still completes is handed out all the same.
    device.complete(3);
    let mut tokens = Vec::new();
    assert_eq!(rig.queue.reap_many(8, |Completion { token, .. }| tokens.push(token)), Ok(1));
    assert_eq!((tokens, rig.queue.in_flight()), (vec![3], 0));
}

/// Two wait, one in epoll and the other for the one in epoll: each must be told without delay.
fn assert_wakes_at_once(end: impl Fn(&BlockQueue<SplitQueue>), expected: &QueueError) {
    // A wait that only ends with its tick calls it. On a busy machine the tick can come first.
    let prompt = (0..20).any(|_| {
        let (rig, mut device) = Rig::new();
        let executions = [rig.begin([1]), rig.begin([2])];
        assert_eq!(device.take(), [1, 2]);
        let ticks = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (queue, ticks) = (&rig.queue, &ticks);
            let waiting = executions.each_ref().map(|execution| {
                scope.spawn(move || {
                    queue.finish(execution, Some(Instant::now() + LONG), || {
                        ticks.fetch_add(1, Relaxed);
                        Ok::<(), QueueError>(())
                    })
                })
            });
            rig.until_armed();
            end(queue);
            for thread in waiting {
                assert_eq!(join(thread).as_ref(), Err(expected));
            }
        });
        ticks.load(Relaxed) == 0
    });
    assert!(prompt, "nobody was woken");
}

#[test]
fn an_abort_wakes_those_who_wait_at_once() {
    let gone = QueueError::Gone("given up".into());
    assert_wakes_at_once(|queue| queue.abort("given up".into()), &gone);
}

#[test]
fn a_reset_wakes_those_who_wait_at_once() {
    assert_wakes_at_once(|queue| assert!(queue.reclaim().is_empty()), &QueueError::Reset);
}

#[test]
fn a_device_that_hangs_up_ends_a_wait() {
    let (rig, mut device) = Rig::new();
    let execution = rig.begin([1]);
    assert_eq!(device.take(), [1]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.finish(&execution));
        rig.until_armed();
        rig.connection.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(
            join(waiting),
            Err(QueueError::Gone("the device hung up; close the disk and open it again".into()))
        );
    });
}

#[test]
fn a_polled_queue_waits_by_looking_and_asks_for_no_interrupt() {
    // A wait that only ends with its tick calls it. On a busy machine the tick can come first.
    let prompt = (0..20).any(|_| ticks_of_20_polled_waits() < 10);
    assert!(prompt, "most waits were not looked after in time");
}

fn ticks_of_20_polled_waits() -> usize {
    let (rig, mut device) = Rig::polled();
    let (stop, ticks) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let served = scope.spawn(|| {
            let started = Instant::now();
            while !stop.load(Relaxed) && started.elapsed() < LONG {
                device.take();
                assert!(!device.ring.wants_interrupt());
                // Longer than the driver looks, so that it has to nap.
                thread::sleep(Duration::from_micros(500));
                device.complete(device.held.len());
            }
        });
        let (rig, ticks) = (&rig, &ticks);
        let execute = move |first: u64| {
            for start in first..first + 10 {
                let execution = rig.begin(start..start + 3);
                let statuses = rig.queue.finish(&execution, Some(Instant::now() + LONG), || {
                    ticks.fetch_add(1, Relaxed);
                    Ok::<(), QueueError>(())
                });
                assert_eq!(statuses, Ok(statuses_of(start..start + 3)));
            }
        };
        let others = [scope.spawn(move || execute(0)), scope.spawn(move || execute(100_000))];
        let [(), ()] = others.map(join);
        stop.store(true, Relaxed);
        join(served);
    });
    ticks.load(Relaxed)
}

#[test]
fn who_waits_is_told_at_once_how_the_queue_waits_from_now_on() {
    // A wait that only ends with its tick calls it. On a busy machine the tick can come first.
    let prompt = (0..20).any(|_| {
        let (rig, mut device) = Rig::new();
        let ticks = AtomicUsize::new(0);
        let tick = || {
            ticks.fetch_add(1, Relaxed);
            Ok::<(), QueueError>(())
        };
        let finish = |execution| rig.queue.finish(execution, Some(Instant::now() + LONG), tick);
        let executions = [rig.begin([1]), rig.begin([2])];
        assert_eq!(device.take(), [1, 2]);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| finish(&executions[0]));
            rig.until_armed();
            assert!(rig.queue.set_polling(true) && rig.queue.polling());
            assert_ne!(rig.available_flags.load(0), 0, "an interrupt is asked for still");
            device.complete_silently(1);
            assert!(!device.ring.wants_interrupt());
            assert_eq!(join(waiting), Ok(statuses_of([1])));
            // And back: the one that looks, or naps, asks for an interrupt then.
            let waiting = scope.spawn(|| finish(&executions[1]));
            assert!(rig.queue.set_polling(false) && !rig.queue.polling());
            rig.until_armed();
            device.complete(1);
            assert_eq!(join(waiting), Ok(statuses_of([2])));
        });
        ticks.load(Relaxed) == 0
    });
    assert!(prompt, "who waited was not told");
}

#[test]
fn a_queue_without_an_interrupt_is_polled_whatever_it_is_told() {
    let (rig, mut device) = Rig::polled();
    assert!(rig.queue.polling());
    assert!(rig.queue.set_polling(true));
    assert!(!rig.queue.set_polling(false) && rig.queue.polling());
    rig.assert_works_with(&mut device);
}

#[test]
fn a_polled_queue_lets_its_owner_act_about_every_tick() {
    let (rig, mut device) = Rig::polled();
    let execution = rig.begin([1]);
    assert_eq!(device.take(), [1]);
    let (started, mut ticks) = (Instant::now(), 0);
    let ended = rig.queue.finish(&execution, Some(started + LONG), || {
        ticks += 1;
        if ticks < 3 { Ok(()) } else { Err(QueueError::Gone("the owner ends it".into())) }
    });
    assert_eq!(ended, Err(QueueError::Gone("the owner ends it".into())));
    assert!(started.elapsed() >= 3 * vring::TICK, "each is dear");
    assert_eq!(rig.queue.end(execution), [STATUS_PENDING]);
}

#[test]
fn a_device_that_hangs_up_ends_a_wait_on_a_polled_queue() {
    let (rig, mut device) = Rig::polled();
    let execution = rig.begin([1]);
    assert_eq!(device.take(), [1]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.finish(&execution));
        rig.connection.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(
            join(waiting),
            Err(QueueError::Gone("the device hung up; close the disk and open it again".into()))
        );
    });
}

#[test]
fn an_interrupt_that_queues_share_wakes_whoever_waits_on_any_of_them() {
    let interrupt = EventFd::new().unwrap();
    let layout = SplitLayout::new(DEPTH, None, DEPTH).unwrap();
    let mut rigs = [0; 4].map(|_| Rig::wired(layout, interrupt.try_clone().unwrap(), true));
    let prompt = (0..20).any(|_| {
        let ticks = AtomicUsize::new(0);
        let executions: Vec<_> = rigs.iter().map(|(rig, _)| rig.begin([1])).collect();
        thread::scope(|scope| {
            let mut waiting = Vec::new();
            let mut devices = Vec::new();
            for ((rig, device), execution) in rigs.iter_mut().zip(&executions) {
                assert_eq!(device.take(), [1]);
                devices.push(device);
                let (rig, ticks): (&Rig, _) = (rig, &ticks);
                waiting.push(scope.spawn(move || {
                    rig.queue.finish(execution, Some(Instant::now() + LONG), || {
                        ticks.fetch_add(1, Relaxed);
                        Ok::<(), QueueError>(())
                    })
                }));
                rig.until_armed();
            }
            // All have completed before the one interrupt comes that is for all.
            let (last, others) = devices.split_last_mut().unwrap();
            for device in others {
                device.complete_silently(1);
            }
            last.complete(1);
            for thread in waiting {
                assert_eq!(join(thread), Ok(statuses_of([1])));
            }
        });
        ticks.load(Relaxed) == 0
    });
    assert!(prompt, "somebody was not woken");
}

#[test]
fn a_reset_ends_every_wait_and_the_queue_works_again() {
    let (rig, mut device) = Rig::new();
    for round in 0..20 {
        // More than fits, so that some of it has never been submitted.
        let executions = [rig.begin(0..2), rig.begin(2..8)];
        assert_eq!(device.take(), [0, 1, 2, 3]);
        let complete_first = round % 2 == 0;
        thread::scope(|scope| {
            let rig = &rig;
            let waiting = executions.each_ref().map(|one| scope.spawn(move || rig.finish(one)));
            rig.until_armed();
            if complete_first {
                device.complete(2);
            }
            assert_eq!(rig.queue.reclaim(), []);
            let [first, second] = waiting.map(join);
            // The first may have been completed before the reset, if anybody has looked.
            assert!(
                first == Err(QueueError::Reset) || complete_first && first == Ok(statuses_of(0..2)),
                "{first:?}"
            );
            assert_eq!(second, Err(QueueError::Reset));
        });
        for execution in executions {
            rig.queue.end(execution);
        }
        assert_eq!((rig.queue.in_flight(), rig.data.in_flight()), (0, 0));
        device = rig.device();
        rig.assert_works_with(&mut device);
        // The ring goes on from where it is; a fresh device starts from the beginning.
        rig.queue.reclaim();
        device = rig.device();
    }
}

#[test]
fn a_reset_returns_the_tokens_that_were_lost_and_keeps_what_was_completed() {
    let (rig, mut device) = Rig::new();
    assert_eq!(rig.queue.submit_many(rig.reads(0..9)), Ok(DEPTH));
    let elsewhere = thread::scope(|scope| {
        let waiting = scope
            .spawn(|| rig.queue.wait(Some(Instant::now() + LONG), || Ok::<(), QueueError>(())));
        assert_eq!(device.take(), [0, 1, 2, 3]);
        device.complete(1);
        join(waiting)
    });
    assert_eq!(elsewhere, Ok(true));
    let mut lost = rig.queue.reclaim();
    lost.sort_unstable();
    assert_eq!(lost, [1, 2, 3]);
    let mut kept = Vec::new();
    assert_eq!(rig.queue.reap_many(8, |completion| kept.push(completion)), Ok(1));
    assert_eq!(kept, [Completion { token: 0, written: SECTOR, status: status_of(0) }]);
    // Nothing is in flight, so there is nothing to wait for.
    let nothing = rig.queue.wait(None, || Err(QueueError::Gone("it waited".into())));
    assert_eq!((nothing, rig.queue.in_flight()), (Ok(false), 0));
}

#[test]
fn an_abandoned_batch_is_forgotten_when_it_comes_back() {
    let (rig, mut device) = Rig::new();
    let abandoned = rig.begin(0..6);
    assert_eq!(device.take(), [0, 1, 2, 3]);
    device.complete(1);
    assert_eq!(rig.queue.advance(&abandoned), Ok(None));
    let mut so_far = vec![STATUS_PENDING; 6];
    so_far[0] = status_of(0);
    assert_eq!(rig.queue.end(abandoned), so_far);
    // Of the rest, 4 took the place of 0 and is in flight; 5 was never submitted.
    let next = rig.begin([100]);
    assert_eq!(device.take(), [4]);
    assert!(rig.data.close().is_err(), "the device may still write to it");
    device.complete(4);
    assert_eq!(rig.queue.advance(&next), Ok(None));
    assert_eq!(device.take(), [100]);
    device.complete(1);
    assert_eq!(rig.finish(&next), Ok(statuses_of([100])));
    assert_eq!((rig.queue.in_flight(), rig.data.in_flight()), (0, 0));
    rig.data.close().unwrap();
}

#[test]
fn a_disk_that_shrinks_refuses_the_rest_of_a_batch() {
    let (rig, mut device) = Rig::new();
    let batch = rig.begin(0..8);
    let later = rig.begin([1]);
    assert_eq!(device.take(), [0, 1, 2, 3]);
    rig.queue.set_limits(limits(6));
    device.complete(4);
    let refused = RequestError::BeyondEnd { sector: 6, length: SECTOR, capacity: 6 };
    let refused = QueueError::Request { index: 6, error: refused };
    assert_eq!(rig.finish(&batch), Err(refused));
    // It holds up nobody.
    assert_eq!(device.take(), [1]);
    let mut so_far = statuses_of(0..4);
    so_far.resize(8, STATUS_PENDING);
    assert_eq!(rig.queue.end(batch), so_far);
    device.complete(1);
    assert_eq!(rig.finish(&later), Ok(statuses_of([1])));
    assert_eq!(rig.queue.in_flight(), 0);
}

#[test]
fn a_change_of_limits_that_a_batch_can_live_with_changes_nothing_for_it() {
    let (rig, mut device) = Rig::new();
    let batch = rig.begin(0..8);
    assert_eq!(device.take(), [0, 1, 2, 3]);
    rig.queue.set_limits(limits(8));
    device.complete(4);
    assert_eq!(rig.queue.advance(&batch), Ok(None));
    assert_eq!(device.take(), [4, 5, 6, 7]);
    device.complete(4);
    assert_eq!(rig.finish(&batch), Ok(statuses_of(0..8)));
}

#[test]
fn nothing_overtakes_a_batch_that_waits_for_room() {
    let (rig, mut device) = Rig::new();
    let batches = [rig.begin(0..6), rig.begin([6]), rig.begin([7])];
    assert_eq!(rig.queue.submit_many(rig.reads([8])), Ok(0));
    let mut seen = device.take();
    while seen.len() < 8 {
        // One at a time, so that there is room for a small batch before there is for the rest of
        // the large one.
        device.complete(1);
        assert_eq!(rig.queue.advance(&batches[2]), Ok(None));
        seen.extend(device.take());
        // 2 is there yet to be seen.
        let waits = (seen.len() as u64) < 8;
        assert!(!waits || rig.queue.submit_many(rig.reads([8])) == Ok(0));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(rig.queue.submit_many(rig.reads([8])), Ok(0), "the ring is full");
    device.complete(4);
    let [large, small, last] = batches;
    assert_eq!(rig.finish(&large), Ok(statuses_of(0..6)));
    assert_eq!(rig.finish(&small), Ok(statuses_of([6])));
    assert_eq!(rig.finish(&last), Ok(statuses_of([7])));
    assert_eq!(rig.queue.submit_many(rig.reads([8])), Ok(1));
    assert_eq!(device.take(), [8]);
}

/// A ring with two descriptors left, which are too few for the read that waits.
fn rig_with_a_read_that_waits() -> (Rig, Device, Execution) {
    let (rig, mut device) = Rig::with(SplitLayout::new(8, None, 0).unwrap());
    assert_eq!(rig.queue.submit_many(rig.reads(1..3)), Ok(2));
    let waits = rig.begin([3]);
    assert_eq!(device.take(), [1, 2]);
    (rig, device, waits)
}

const FLUSH: Request =
    Request { kind: kind::FLUSH, flags: 0, sector: 0, offset: 0, length: 0, region: 0, token: 0 };

#[test]
fn what_would_fit_does_not_overtake_what_does_not() {
    let (rig, mut device, waits) = rig_with_a_read_that_waits();
    assert_eq!(rig.queue.submit_many([FLUSH]), Ok(0));
    let flush = rig.queue.begin(vec![FLUSH]).unwrap();
    assert_eq!(device.take(), []);
    device.complete(1);
    assert_eq!(rig.queue.advance(&flush), Ok(None));
    assert_eq!(device.take(), [3, 0]);
    device.complete(3);
    assert_eq!(rig.finish(&waits), Ok(statuses_of([3])));
    assert_eq!(rig.finish(&flush), Ok(statuses_of([0])));
}

#[test]
fn what_waited_behind_an_ended_batch_goes_out_at_once() {
    let (rig, mut device, waits) = rig_with_a_read_that_waits();
    let flush = rig.queue.begin(vec![FLUSH]).unwrap();
    assert_eq!(rig.queue.end(waits), [STATUS_PENDING]);
    assert_eq!(device.take(), [0]);
    device.complete(3);
    assert_eq!(rig.finish(&flush), Ok(statuses_of([0])));
}

#[test]
fn an_ended_batch_makes_room_for_those_behind_it() {
    let (rig, mut device) = Rig::new();
    let first = rig.begin(0..4);
    let ended = rig.begin(4..12);
    let last = rig.begin([20]);
    assert_eq!(device.take(), [0, 1, 2, 3]);
    assert_eq!(rig.queue.end(ended), [STATUS_PENDING; 8]);
    device.complete(4);
    assert_eq!(rig.finish(&first), Ok(statuses_of(0..4)));
    assert_eq!(device.take(), [20]);
    device.complete(1);
    assert_eq!(rig.finish(&last), Ok(statuses_of([20])));
}

#[test]
fn a_wait_ends_when_its_time_is_up_and_says_how_far_it_came() {
    let (rig, mut device) = Rig::new();
    let execution = rig.begin(0..3);
    assert_eq!(device.take(), [0, 1, 2]);
    device.complete(2);
    let soon = Some(Instant::now() + Duration::from_millis(20));
    let timed_out = rig.queue.finish(&execution, soon, || Ok::<(), QueueError>(()));
    assert_eq!(timed_out, Err(QueueError::Timeout { completed: 2, total: 3 }));
    // It can be waited for again.
    device.complete(1);
    assert_eq!(rig.finish(&execution), Ok(statuses_of(0..3)));
}

#[test]
fn an_error_of_the_tick_ends_a_wait() {
    let (rig, mut device) = Rig::new();
    let execution = rig.begin([5]);
    assert_eq!(device.take(), [5]);
    let interrupted = || Err(QueueError::Gone("a signal came".into()));
    let waited = rig.queue.finish(&execution, Some(Instant::now() + LONG), interrupted);
    assert_eq!(waited, Err(QueueError::Gone("a signal came".into())));
    // The queue itself is none the worse for it.
    device.complete(1);
    assert_eq!(rig.finish(&execution), Ok(statuses_of([5])));
}

/// Reads into regions of their own.
impl Rig {
    fn region(&self) -> Region {
        self.space.alloc(4096, 4096).unwrap()
    }

    fn reads_into(&self, region: &Region, sectors: impl IntoIterator<Item = u64>) -> Vec<Request> {
        let mut requests = self.reads(sectors);
        requests.iter_mut().for_each(|request| request.region = region.handle());
        requests
    }

    fn reap(&self, limit: usize) -> usize {
        self.queue.reap_many(limit, |_| ()).unwrap()
    }
}

#[test]
fn a_region_is_in_use_until_the_last_of_its_requests_is_back_and_no_longer() {
    let (rig, mut device) = Rig::new();
    let region = rig.region();
    assert_eq!(rig.queue.submit_many(rig.reads_into(&region, 0..3)), Ok(3));
    device.take();
    for _ in 0..2 {
        device.complete(1);
        assert_eq!((rig.reap(8), region.in_flight()), (1, 1));
        assert!(region.close().is_err());
    }
    assert_eq!(rig.queue.submit_many(rig.reads_into(&region, 3..4)), Ok(1));
    device.take();
    device.complete(2);
    assert!(region.close().is_err(), "nobody has reaped what came back");
    assert_eq!((rig.reap(8), region.in_flight()), (2, 0));
    region.close().unwrap();
    let closed = RequestError::NoRegion(region.handle());
    let refused = rig.queue.submit_many(rig.reads_into(&region, 0..1));
    assert_eq!(refused, Err(QueueError::Request { index: 0, error: closed }));
    rig.assert_works_with(&mut device);
}

#[test]
fn regions_in_turn_are_each_in_use_for_their_own_requests() {
    let (rig, mut device) = Rig::new();
    let regions = [rig.region(), rig.region()];
    let requests: Vec<_> =
        (0..4).flat_map(|sector| rig.reads_into(&regions[sector as usize % 2], [sector])).collect();
    for _ in 0..2 {
        assert_eq!(rig.queue.submit_many(requests.clone()), Ok(4));
        device.take();
        for (done, in_use) in [(1, [1, 1]), (1, [1, 1]), (1, [0, 1]), (1, [0, 0])] {
            device.complete(done);
            rig.reap(8);
            assert_eq!([regions[0].in_flight(), regions[1].in_flight()], in_use);
        }
    }
    regions.iter().for_each(|region| region.close().unwrap());
}

#[test]
fn what_is_refused_or_does_not_fit_uses_no_region() {
    let (rig, mut device) = Rig::new();
    let (first, second) = (rig.region(), rig.region());
    let mut requests = rig.reads_into(&first, 0..2);
    requests.extend(rig.reads_into(&second, [CAPACITY_SECTORS]));
    for refused in
        [rig.queue.submit_many(requests.clone()).err(), rig.queue.begin(requests.clone()).err()]
    {
        assert!(matches!(refused, Some(QueueError::Request { index: 2, .. })));
        assert_eq!((first.in_flight(), second.in_flight()), (0, 0));
    }
    requests[2] = Request { offset: 4096, ..rig.reads_into(&second, [2])[0] };
    assert!(rig.queue.submit_many(requests.clone()).is_err(), "outside its region");
    assert_eq!((device.take().len(), first.in_flight(), second.in_flight()), (0, 0, 0));
    requests.extend(rig.reads_into(&second, 3..9));
    requests.remove(2);
    requests.splice(0..0, rig.reads([10, 11]));
    assert_eq!(rig.queue.submit_many(requests.clone()), Ok(DEPTH));
    assert_eq!((rig.data.in_flight(), first.in_flight(), second.in_flight()), (1, 1, 0));
    second.close().unwrap();
    let waits = rig.begin([12]);
    assert_eq!(rig.queue.submit_many(rig.reads_into(&first, 0..2)), Ok(0), "nothing overtakes");
    assert_eq!(device.take(), [10, 11, 0, 1]);
    device.complete(4);
    assert_eq!((rig.reap(8), first.in_flight()), (4, 0));
    first.close().unwrap();
    device.take();
    device.complete(1);
    assert_eq!(rig.finish(&waits), Ok(statuses_of([12])));
}

#[test]
fn a_batch_uses_the_regions_of_what_waits_for_room() {
    let (rig, mut device) = Rig::new();
    let region = rig.region();
    let mut requests = rig.reads(0..4);
    requests.extend(rig.reads_into(&region, 4..6));
    let batch = rig.queue.begin(requests.clone()).unwrap();
    assert_eq!(device.take(), [0, 1, 2, 3]);
    assert!(region.close().is_err(), "it was checked, and will be sent");
    device.complete(4);
    assert_eq!(rig.queue.advance(&batch), Ok(None));
    assert_eq!((rig.data.in_flight(), region.in_flight()), (0, 1));
    assert_eq!(device.take(), [4, 5]);
    device.complete(2);
    assert_eq!(rig.finish(&batch), Ok(statuses_of(0..6)));
    region.close().unwrap();
}

#[test]
fn a_batch_that_is_given_up_lets_go_of_what_was_not_sent() {
    let (rig, mut device) = Rig::new();
    let (sent, waiting) = (rig.region(), rig.region());
    let mut requests = rig.reads_into(&sent, 0..4);
    requests.extend(rig.reads_into(&waiting, 4..6));
    let batch = rig.queue.begin(requests.clone()).unwrap();
    assert_eq!(rig.queue.end(batch), [STATUS_PENDING; 6]);
    waiting.close().unwrap();
    assert!(sent.close().is_err(), "the device may still write to it");
    assert_eq!(device.take(), [0, 1, 2, 3]);
    device.complete(4);
    rig.reap(8);
    sent.close().unwrap();
    rig.assert_works_with(&mut device);
}

#[test]
fn what_a_smaller_disk_has_no_room_for_uses_its_region_until_the_batch_is_given_up() {
    let (rig, mut device) = Rig::new();
    let region = rig.region();
    let mut requests = rig.reads(0..4);
    requests.extend(rig.reads_into(&region, 4..9));
    let batch = rig.queue.begin(requests.clone()).unwrap();
    rig.queue.set_limits(limits(6));
    device.take();
    device.complete(4);
    assert!(matches!(rig.finish(&batch), Err(QueueError::Request { index: 6, .. })));
    rig.queue.end(batch);
    region.close().unwrap();
}

#[test]
fn a_reset_lets_go_of_what_the_device_had_and_its_batches_of_the_rest() {
    let (rig, mut device) = Rig::new();
    let (sent, waiting) = (rig.region(), rig.region());
    let mut requests = rig.reads_into(&sent, 0..4);
    requests.extend(rig.reads_into(&waiting, 4..6));
    let batch = rig.queue.begin(requests.clone()).unwrap();
    device.take();
    assert_eq!(rig.queue.reclaim(), []);
    sent.close().unwrap();
    assert_eq!(rig.finish(&batch), Err(QueueError::Reset));
    rig.queue.end(batch);
    waiting.close().unwrap();
    let region = rig.region();
    assert_eq!(rig.queue.submit_many(rig.reads_into(&region, 0..2)), Ok(2));
    assert_eq!((rig.queue.reclaim(), region.in_flight()), (vec![0, 1], 0));
    rig.assert_works_with(&mut rig.device());
}

#[test]
fn a_live_queue_that_is_dropped_leaves_its_device_what_is_in_flight_and_no_more() {
    let (rig, mut device) = Rig::new();
    let [back, sent, waiting] = [rig.region(), rig.region(), rig.region()];
    assert_eq!(rig.queue.submit_many(rig.reads_into(&back, 0..2)), Ok(2));
    device.take();
    device.complete(2);
    assert_eq!(rig.reap(8), 2);
    let mut requests = rig.reads_into(&sent, 0..4);
    requests.extend(rig.reads_into(&waiting, 4..6));
    let _batch = rig.queue.begin(requests.clone()).unwrap();
    let Rig { space, queue, .. } = rig;
    drop(queue);
    let free = space.free_bytes();
    for region in [&back, &sent, &waiting] {
        region.close().unwrap();
    }
    assert_eq!(space.free_bytes(), free + 2 * 4096, "of `sent` the device may write to every byte");
}

#[test]
fn calls_after_a_very_long_one_are_as_before() {
    let (rig, mut device) = Rig::new();
    let many = 10_000;
    assert_eq!(rig.queue.submit_many(rig.reads((0..many).map(|n| n % 7))), Ok(DEPTH));
    let batch = rig.begin((0..many).map(|n| n % 7));
    rig.queue.end(batch);
    device.take();
    device.complete(4);
    assert_eq!((rig.reap(8), rig.data.in_flight()), (4, 0));
    rig.assert_works_with(&mut device);
}

/// Slot pools, of reads into a region of their own.
impl Rig {
    /// With room for pools whose slots have descriptors to themselves.
    fn for_pools() -> (Self, Device) {
        Self::with(SplitLayout::new(16, None, DEPTH).unwrap())
    }

    /// A pool, and its buffers.
    fn pool(&self, count: u32) -> (PoolId, Region) {
        let shape = PoolShape { count, slot_bytes: SECTOR, write: false };
        let buffer = self.space.alloc((count * SECTOR) as usize, 4096).unwrap();
        let frames = self.space.alloc(self.queue.pool_frames_length(shape), 64).unwrap();
        let (pin, claim) = (buffer.pin().unwrap(), frames.claim().unwrap());
        (self.queue.open_pool(shape, pin, claim).unwrap(), buffer)
    }

    /// Submit (slot, sector) pairs.
    fn submit(&self, pool: PoolId, requests: &[(u32, u64)]) -> Result<usize, QueueError> {
        let bytes = |&(slot, sector)| (slot, sector * u64::from(SECTOR));
        self.queue.pool_submit(pool, requests.iter().map(bytes))
    }

    /// What came back: slot and status.
    fn reap_pool(&self, pool: PoolId) -> Result<Vec<(u32, u8)>, QueueError> {
        let mut back = Vec::new();
        let count = self.queue.pool_reap(pool, 64, true, |at, slot, status| {
            assert_eq!(at, back.len());
            back.push((slot, status));
        })?;
        assert_eq!(count, back.len());
        Ok(back)
    }

    fn asks_for_interrupts(&self) -> bool {
        self.available_flags.load(0) == 0
    }
}

#[test]
fn who_reaps_a_pool_leaves_an_event_loop_the_interrupt_that_it_asked_for() {
    let (rig, mut device) = Rig::for_pools();
    let (pool, _) = rig.pool(1);
    assert_eq!(rig.submit(pool, &[(0, 7)]), Ok(1));
    assert_eq!(rig.queue.submit_many(rig.reads([5])), Ok(1));
    assert_eq!(device.take(), [7, 5]);
    assert_eq!(rig.queue.arm(), Ok(false));
    // Used, and reaped by another thread before the device looks whether anybody is to be told.
    device.complete_silently(1);
    assert_eq!(rig.reap_pool(pool), Ok(vec![(0, status_of(7))]));
    assert!(rig.asks_for_interrupts(), "the loop's own is still to come");
    device.complete(1);
    assert_eq!(rig.interrupt.drain(), 1);
    assert_eq!(rig.reap(8), 1);
    assert!(!rig.asks_for_interrupts());
}

#[test]
fn who_reaps_requests_leaves_the_event_loop_of_a_pool_the_interrupt_that_it_asked_for() {
    let (rig, mut device) = Rig::for_pools();
    let ((pool, _), (other, _)) = (rig.pool(1), rig.pool(1));
    assert_eq!(rig.queue.submit_many(rig.reads([5])), Ok(1));
    assert_eq!(rig.submit(other, &[(0, 6)]), Ok(1));
    assert_eq!(rig.submit(pool, &[(0, 7)]), Ok(1));
    assert_eq!(device.take(), [5, 6, 7]);
    assert_eq!(rig.queue.arm(), Ok(false));
    device.complete_silently(1);
    assert_eq!(rig.reap(8), 1);
    assert!(rig.asks_for_interrupts());
    device.complete_silently(1);
    assert_eq!(rig.reap_pool(other), Ok(vec![(0, status_of(6))]));
    assert!(rig.asks_for_interrupts());
    device.complete(1);
    assert_eq!(rig.interrupt.drain(), 1);
    assert_eq!(rig.reap_pool(pool), Ok(vec![(0, status_of(7))]));
    assert!(!rig.asks_for_interrupts());
}

#[test]
fn a_dropped_pool_keeps_its_memory_and_its_descriptors_until_the_device_has_let_go() {
    let (rig, mut device) = Rig::for_pools();
    let depth = rig.queue.depth();
    let (pool, buffer) = rig.pool(3);
    assert_eq!(rig.queue.pool_way(pool), Some(PoolWay::Direct));
    assert_eq!(rig.queue.depth(), depth - 9);
    assert_eq!(rig.submit(pool, &[(2, 1), (0, 2)]), Ok(2));
    assert_eq!(device.take(), [1, 2]);
    rig.queue.drop_pool(pool);
    assert!(matches!(rig.reap_pool(pool), Err(QueueError::State(_))));
    assert!(matches!(rig.submit(pool, &[(1, 3)]), Err(QueueError::State(_))));
    assert_eq!((rig.queue.pool_way(pool), rig.queue.pool_in_flight(pool)), (None, 0));
    for left in [2, 1] {
        assert_eq!((rig.queue.in_flight(), rig.queue.depth()), (left, depth - 9));
        assert!(buffer.close().is_err(), "the device may still write to it");
        device.complete(1);
        assert_eq!(rig.reap(8), 0);
    }
    assert_eq!((rig.queue.in_flight(), rig.queue.depth()), (0, depth));
    buffer.close().unwrap();
    rig.assert_works_with(&mut device);
}

#[test]
fn a_live_queue_that_is_dropped_leaves_its_device_the_pools_that_are_at_work_and_no_others() {
    let (rig, mut device) = Rig::for_pools();
    let ((idle, unused), (busy, used)) = (rig.pool(1), rig.pool(1));
    assert_eq!((rig.submit(idle, &[(0, 1)]), rig.submit(busy, &[(0, 2)])), (Ok(1), Ok(1)));
    assert_eq!(device.take(), [1, 2]);
    device.complete(1);
    assert_eq!(rig.reap_pool(idle), Ok(vec![(0, status_of(1))]));
    let Rig { space, queue, .. } = rig;
    drop(queue);
    let free = space.free_bytes();
    unused.close().unwrap();
    used.close().unwrap();
    assert_eq!(space.free_bytes(), free + 4096, "of `used` the device may write to every byte");
}

#[test]
fn a_device_that_returns_a_slot_which_it_does_not_have_breaks_the_ring_and_nothing_else() {
    // An idle slot, and one that it has returned already.
    for slot in [2, 0] {
        let (rig, mut device) = Rig::for_pools();
        let (pool, buffer) = rig.pool(3);
        // Each is handed out once, so that the heads of all are known.
        assert_eq!(rig.submit(pool, &[(0, 1), (1, 2), (2, 3)]), Ok(3));
        device.take();
        let heads: Vec<_> = device.held.iter().map(|held| u32::from(held.head)).collect();
        device.complete(3);
        assert_eq!(rig.reap_pool(pool).unwrap().len(), 3);
        assert_eq!(rig.submit(pool, &[(0, 4), (1, 5)]), Ok(2));
        device.take();
        device.complete_silently(1);
        device.ring.put_used(UsedElement { id: heads[slot], len: 1 });
        device.ring.publish();
        assert_eq!(rig.reap_pool(pool), Ok(vec![(0, status_of(4))]));
        let broken = Err(QueueError::Broken(Broken::IdNotOutstanding { id: heads[slot] }));
        assert_eq!(rig.reap_pool(pool), broken);
        assert_eq!(rig.submit(pool, &[(0, 6)]).err(), broken.err());
        // Slot 1 is the device's until a reset.
        rig.queue.close_pool(pool).unwrap();
        assert!(buffer.close().is_err());
        rig.queue.reclaim();
        buffer.close().unwrap();
        rig.assert_works_with(&mut rig.device());
    }
}

#[test]
fn a_refused_submit_leaves_nothing_of_it_behind() {
    let (rig, mut device) = Rig::for_pools();
    // The first keeps descriptors, the other has too many slots for that.
    for count in [3, 64] {
        let (pool, _) = rig.pool(count);
        let reserved = rig.queue.pool_way(pool) == Some(PoolWay::Direct);
        assert_eq!(reserved, count == 3);
        for (requests, index, error) in [
            (&[(0, 1), (1, 2), (0, 3)][..], 2, RequestError::SlotTwice(0)),
            (&[(1, 1), (count, 2)], 1, RequestError::NoSlot { slot: count, count }),
            (
                &[(2, 0), (1, CAPACITY_SECTORS)],
                1,
                RequestError::BeyondEnd {
                    sector: CAPACITY_SECTORS,
                    length: SECTOR,
                    capacity: CAPACITY_SECTORS,
                },
            ),
        ] {
            let free = rig.queue.depth();
            let refused = Err(QueueError::Request { index, error });
            assert_eq!(rig.submit(pool, requests), refused);
            assert_eq!((rig.queue.in_flight(), rig.queue.depth()), (0, free));
            assert_eq!(device.take(), []);
        }
        assert_eq!(rig.submit(pool, &[(2, 1), (0, 2), (1, 3)]), Ok(3));
        assert_eq!(device.take(), [1, 2, 3]);
        device.complete(3);
        let back = [(2, 1), (0, 2), (1, 3)].map(|(slot, sector)| (slot, status_of(sector)));
        assert_eq!(rig.reap_pool(pool), Ok(back.to_vec()));
        rig.queue.close_pool(pool).unwrap();
    }
}

#[test]
fn pools_requests_and_batches_live_side_by_side_on_one_queue() {
    for (rig, mut device) in [Rig::for_pools(), Rig::new(), Rig::with_events(16)] {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (rig, stop) = (&rig, &stop);
            let served = scope.spawn(move || device.serve(stop));
            let deadline = move || Some(Instant::now() + LONG);
            let by_pool = move |first: u64| {
                let (pool, buffer) = rig.pool(3);
                let mut next = first;
                let (mut free, mut sectors): (Vec<u32>, _) = (vec![0, 1, 2], [0; 3]);
                for _ in 0..200 {
                    let requests: Vec<_> = free.iter().copied().zip(next..).collect();
                    let count = rig.submit(pool, &requests).unwrap();
                    for &(slot, sector) in &requests[..count] {
                        sectors[slot as usize] = sector;
                    }
                    next += count as u64;
                    free.drain(..count);
                    let came = rig.queue.pool_wait(pool, deadline(), || Ok::<(), QueueError>(()));
                    // False: nothing fitted, as the others have all of the ring.
                    assert!(came.unwrap() || free.len() == 3);
                    for (slot, status) in rig.reap_pool(pool).unwrap() {
                        assert_eq!(status, status_of(sectors[slot as usize]));
                        free.push(slot);
                    }
                }
                rig.queue.drop_pool(pool);
                buffer
            };
            let pools = [scope.spawn(move || by_pool(0)), scope.spawn(move || by_pool(1_000))];
            let batches = scope.spawn(move || {
                for round in 0..100 {
                    let sectors = round * 7..round * 7 + 1 + round % 19;
                    let execution = rig.begin(sectors.clone());
                    assert_eq!(rig.finish(&execution), Ok(statuses_of(sectors)));
                }
            });
            let singles = scope.spawn(move || {
                for round in 0..200 {
                    let Some(single) = rig.queue.send(&rig.read(round)).unwrap() else { continue };
                    let status =
                        rig.queue.finish_single(&single, deadline(), || Ok::<(), QueueError>(()));
                    assert_eq!(status, Ok(status_of(round)));
                }
            });
            let buffers = pools.map(join);
            join(batches);
            join(singles);
            let started = Instant::now();
            while rig.queue.in_flight() > 0 {
                assert!(started.elapsed() < LONG, "something was forgotten");
                rig.queue.wait(deadline(), || Ok::<(), QueueError>(())).unwrap();
            }
            buffers.iter().for_each(|buffer| buffer.close().unwrap());
            stop.store(true, Relaxed);
            join(served);
        });
    }
}
