//! A notification that is asked for further ahead than the next used chain.

use vring::{Ring, RingOptions};

use crate::bench::{ANY_ORDER, Bench, Format, IN_ORDER, on_both_formats};

on_both_formats!(
    with_event_idx_it_names_the_place_of_the_last_chain_that_is_lacked,
    it_names_its_place_over_the_end_of_every_counter,
    without_event_idx_it_is_that_of_the_next_chain,
    of_no_chain_it_is_that_of_the_next_one,
);

const EVENTS: RingOptions = RingOptions { event_idx: true, ..ANY_ORDER };

/// The place in the ring's lap.
fn event<R: Format>(bench: &Bench<R>) -> u16 {
    R::event(&bench.device) & !(1 << 15)
}

fn with_event_idx_it_names_the_place_of_the_last_chain_that_is_lacked<R: Format>() {
    let mut bench = Bench::<R>::new(8, EVENTS);
    let heads = bench.publish(&[1, 2, 3, 4, 5]);
    assert!(!bench.ring.arm_ahead(3).unwrap());
    assert_eq!(event(&bench), 2);
    for &head in &heads[..2] {
        bench.give_back(head, 0);
        assert!(bench.ring.has_used() && !bench.ring.has_used_many(3));
        assert!(!bench.ring.arm_ahead(3).unwrap(), "it can still be waited for");
    }
    bench.give_back(heads[2], 0);
    assert!(bench.ring.has_used_many(3) && bench.ring.arm_ahead(3).unwrap());
    assert_eq!(bench.reap_all().unwrap().len(), 3);
    assert!(!bench.ring.arm().unwrap());
    assert_eq!(event(&bench), 3);
}

fn it_names_its_place_over_the_end_of_every_counter<R: Format>() {
    let mut bench = Bench::<R>::new(4, EVENTS);
    for _ in 0..(1 << 16) / 3 + 8 {
        let heads = bench.publish(&[1, 2, 3]);
        assert!(!bench.ring.arm_ahead(3).unwrap());
        let asked_for = R::event(&bench.device);
        bench.give_back(heads[2], 0);
        bench.give_back(heads[0], 0);
        assert!(!bench.ring.arm_ahead(3).unwrap());
        assert_eq!(R::event(&bench.device), asked_for);
        assert_eq!(bench.reap_all().unwrap().len(), 2);
        assert!(!bench.ring.arm().unwrap());
        assert_eq!(R::event(&bench.device), asked_for, "the same chain is the next by now");
        bench.give_back(heads[1], 0);
        assert!(bench.ring.arm().unwrap());
        assert_eq!(bench.reap_all().unwrap().len(), 1);
    }
}

fn without_event_idx_it_is_that_of_the_next_chain<R: Format>() {
    let mut bench = Bench::<R>::new(8, ANY_ORDER);
    let heads = bench.publish(&[1, 2, 3]);
    assert!(!bench.ring.arm_ahead(3).unwrap());
    bench.give_back(heads[1], 0);
    assert!(bench.ring.arm_ahead(3).unwrap(), "there is no other notification to come");
}

fn of_no_chain_it_is_that_of_the_next_one<R: Format>() {
    let mut bench = Bench::<R>::new(8, EVENTS);
    let heads = bench.publish(&[1]);
    assert!(!bench.ring.has_used_many(0) && !bench.ring.arm_ahead(0).unwrap());
    assert_eq!(event(&bench), 0);
    bench.give_back(heads[0], 0);
    assert!(bench.ring.has_used_many(0) && bench.ring.arm_ahead(0).unwrap());
}

#[test]
fn a_batch_that_is_used_in_one_step_counts_as_its_chains() {
    let mut bench = Bench::<vring::SplitQueue>::new(8, RingOptions { event_idx: true, ..IN_ORDER });
    let heads = bench.publish(&[1, 2, 3, 4]);
    assert!(!bench.ring.arm_ahead(4).unwrap());
    assert_eq!(event(&bench), 3);
    bench.give_back_batch(heads[2], Some(3), 3);
    assert!(!bench.ring.arm_ahead(4).unwrap());
    bench.give_back(heads[3], 4);
    assert!(bench.ring.arm_ahead(4).unwrap());
}

#[test]
fn where_the_places_to_come_are_not_known_it_names_the_next() {
    // Of lists of descriptors, which one is used next says where the one after it will be.
    let mut bench = Bench::<vring::PackedQueue>::new(8, EVENTS);
    let heads = [&[1, 2][..], &[3]].map(|chain| bench.push(chain).unwrap());
    bench.ring.publish().unwrap();
    assert!(!bench.ring.arm_ahead(2).unwrap());
    assert_eq!(event(&bench), 0);
    bench.give_back(heads[1], 0);
    assert!(bench.ring.arm_ahead(2).unwrap());
    // In order, a batch has one used descriptor, wherever it begins.
    let mut bench =
        Bench::<vring::PackedQueue>::new(8, RingOptions { event_idx: true, ..IN_ORDER });
    let heads = bench.publish(&[1, 2, 3]);
    assert!(!bench.ring.arm_ahead(3).unwrap());
    assert_eq!(event(&bench), 0);
    bench.give_back_batch(heads[2], Some(3), 3);
    assert!(bench.ring.arm_ahead(3).unwrap());
}

#[test]
fn a_place_that_is_used_before_those_in_front_of_it_is_nothing_to_be_woken_for() {
    let mut bench = Bench::<vring::PackedQueue>::new(8, EVENTS);
    let heads = bench.publish(&[1, 2, 3]);
    bench.device.offset = 2;
    bench.give_back(heads[2], 0);
    assert!(!bench.ring.has_used_many(3) && !bench.ring.arm_ahead(3).unwrap());
    bench.device.offset = 0;
    bench.give_back(heads[0], 0);
    assert!(bench.ring.has_used_many(3) && bench.ring.arm_ahead(3).unwrap());
    assert_eq!(bench.reap_all().unwrap().len(), 1);
    assert!(!bench.ring.has_used_many(2) && !bench.ring.arm_ahead(2).unwrap());
}
