//! Words that no device should write: each breaks the ring, with its reason, until a reset.

use vring::{Broken, PackedQueue, RingOptions, SplitQueue};

use crate::bench::{ANY_ORDER, Bench, Format, IN_ORDER, INDEX, given, on_both_formats};

on_both_formats!(
    an_id_out_of_range_breaks_the_ring,
    an_id_that_no_chain_has_breaks_the_ring,
    an_id_that_was_returned_already_breaks_the_ring,
    an_id_that_was_not_published_breaks_the_ring,
    a_length_beyond_the_chain_breaks_a_strict_ring_before_any_of_its_batch_is_handed_out,
    what_came_before_a_breach_is_handed_out,
    amid_a_batch_nothing_that_the_device_writes_matters,
);

const STRICT: RingOptions = RingOptions { strict: true, ..IN_ORDER };

fn an_id_out_of_range_breaks_the_ring<R: Format>() {
    for options in [ANY_ORDER, IN_ORDER] {
        let mut bench = Bench::<R>::new(8, options);
        bench.publish(&[1, 2]);
        bench.give_back(8_u16, 0);
        let broken = Broken::IdOutOfRange { id: 8, size: 8 };
        assert_eq!(bench.reap_all(), Err(broken));
        bench.assert_broken(broken);
    }
}

fn an_id_that_no_chain_has_breaks_the_ring<R: Format>() {
    for options in [ANY_ORDER, IN_ORDER] {
        let mut bench = Bench::<R>::new(8, options);
        bench.publish(&[1, 2]);
        bench.give_back(5_u16, 0);
        let broken = Broken::IdNotOutstanding { id: 5 };
        assert_eq!(bench.reap_all(), Err(broken));
        bench.assert_broken(broken);
    }
}

fn an_id_that_was_returned_already_breaks_the_ring<R: Format>() {
    for options in [ANY_ORDER, IN_ORDER] {
        let mut bench = Bench::<R>::new(8, options);
        let heads = bench.publish(&[1, 2]);
        bench.give_back(heads[0], 0);
        bench.give_back(heads[0], 0);
        assert_eq!(bench.reap_all(), Ok(vec![given(heads[0], 0)]));
        let broken = Broken::IdNotOutstanding { id: heads[0].into() };
        assert_eq!(bench.reap_all(), Err(broken));
        bench.assert_broken(broken);
    }
}

fn an_id_that_was_not_published_breaks_the_ring<R: Format>() {
    for options in [ANY_ORDER, IN_ORDER] {
        let mut bench = Bench::<R>::new(8, options);
        bench.publish(&[1]);
        let head = bench.push(&[2]).unwrap();
        bench.give_back(head, 0);
        let broken = Broken::IdNotOutstanding { id: head.into() };
        assert_eq!(bench.reap_all(), Err(broken));
        bench.assert_broken(broken);
    }
}

fn a_length_beyond_the_chain_breaks_a_strict_ring_before_any_of_its_batch_is_handed_out<
    R: Format,
>() {
    let mut bench = Bench::<R>::new(8, STRICT);
    let heads = bench.publish(&[100, 10]);
    bench.give_back_batch(heads[1], Some(11), 2);
    let broken = Broken::LengthTooLarge { length: 11, writable: 10, head: heads[1] };
    assert_eq!(bench.reap_all(), Err(broken));
    assert_eq!((bench.ring.outstanding_count(), bench.ring.clamped_count()), (2, 0));
    bench.assert_broken(broken);
}

fn what_came_before_a_breach_is_handed_out<R: Format>() {
    let mut bench = Bench::<R>::new(8, STRICT);
    let heads = bench.publish(&[1, 2, 3, 4]);
    bench.give_back_batch(heads[1], Some(0), 2);
    bench.give_back(heads[0], 0);
    assert_eq!(bench.reap_all(), Ok(vec![given(heads[0], 1), given(heads[1], 0)]));
    let broken = Broken::IdNotOutstanding { id: heads[0].into() };
    bench.assert_broken(broken);
}

fn amid_a_batch_nothing_that_the_device_writes_matters<R: Format>() {
    let mut bench = Bench::<R>::new(8, STRICT);
    let heads = bench.publish(&[1, 2, 3]);
    bench.give_back_batch(heads[2], Some(3), 3);
    assert_eq!(bench.reap(1).unwrap(), [given(heads[0], 1)]);
    // The same element once more, with nonsense in it.
    R::restart(&mut bench.device);
    bench.give_back_batch(7_u16, Some(99), 3);
    assert_eq!(bench.reap_all().unwrap(), [given(heads[1], 2), given(heads[2], 3)]);
    assert_eq!((bench.ring.broken(), bench.ring.free_count()), (None, 8));
}

#[test]
fn a_batch_longer_than_the_used_index_moved_breaks_the_ring() {
    let mut bench = Bench::<SplitQueue>::new(8, IN_ORDER);
    let heads = bench.publish(&[1, 2, 3, 4]);
    bench.give_back(heads[0], 0);
    bench.give_back_batch(heads[3], Some(0), 2);
    assert_eq!(bench.reap_all(), Ok(vec![given(heads[0], 0)]));
    let broken = Broken::BatchTooLong { head: heads[3], batch: 3, ready: 2 };
    assert_eq!(
        broken.to_string(),
        "the device used chains up to head 3, 3 of them, but moved the used index by 2"
    );
    bench.assert_broken(broken);
}

#[test]
fn a_used_index_ahead_of_what_is_outstanding_breaks_the_ring_amid_a_batch_too() {
    for (limit, outstanding) in [(0, 3), (2, 1)] {
        let mut bench = Bench::<SplitQueue>::new(8, IN_ORDER);
        let heads = bench.publish(&[1, 2, 3]);
        bench.give_back_batch(heads[2], Some(0), 3);
        assert_eq!(bench.reap(limit).unwrap().len(), limit);
        bench.device.used.store(INDEX, 4);
        let broken = Broken::UsedIndexAhead { index: 4, ahead: 1, outstanding };
        assert_eq!(bench.reap_all(), Err(broken));
        bench.assert_broken(broken);
    }
}

#[test]
fn a_used_descriptor_where_nothing_is_outstanding_breaks_the_ring() {
    for options in [ANY_ORDER, IN_ORDER] {
        let mut bench = Bench::<PackedQueue>::new(3, options);
        let heads = bench.publish(&[1]);
        bench.give_back(heads[0], 0);
        bench.give_back(1_u16, 0);
        assert_eq!(bench.reap_all(), Ok(vec![given(heads[0], 0)]));
        bench.assert_broken(Broken::UsedNotAvailable { slot: 1 });
    }
}

#[test]
fn without_write_the_length_of_a_batch_is_not_given_and_not_judged() {
    let mut bench = Bench::<PackedQueue>::new(8, STRICT);
    let heads = bench.publish(&[1, 2]);
    bench.give_back_batch(heads[1], None, 2);
    let used = bench.reap_all().unwrap();
    assert_eq!(used[0], given(heads[0], 1));
    assert_eq!((used[1].head, used[1].written, used[1].written_given), (heads[1], 0, false));
}
