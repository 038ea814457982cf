//! How long the regions of requests are in use.

use super::*;

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
