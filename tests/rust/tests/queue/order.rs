//! Resets, limits that change, and the order of batches that wait for room.

use super::*;

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
