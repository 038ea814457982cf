//! Slot pools beside other requests.

use super::*;

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
