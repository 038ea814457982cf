//! Chains that keep their descriptors and are pushed again and again.

use shm::Segment;
use vring::{Broken, PackedQueue, PushError, Ring, SplitQueue};

use crate::bench::{ANY_ORDER, Bench, Format, IN_ORDER};

type Split = Bench<SplitQueue>;

fn segments<R: Format>(bench: &Bench<R>, count: usize) -> Vec<Segment> {
    (0..count).map(|_| bench.segment(8)).collect()
}

/// Reserve a chain of so many segments, of which the device writes none.
fn reserve(bench: &mut Split, count: usize) -> u16 {
    let chain = segments(bench, count);
    bench.ring.reserve(&chain, &[]).unwrap()
}

#[test]
fn a_reserved_chain_stays_in_the_table_and_its_descriptors_with_it() {
    let mut bench = Split::new(8, ANY_ORDER);
    let head = reserve(&mut bench, 3);
    assert_eq!((bench.ring.free_count(), bench.ring.reserved_count()), (5, 3));
    let written: Vec<_> = (0..3).map(|index| bench.device.descriptors.load(index)).collect();
    for _ in 0..20 {
        bench.ring.push_reserved(head, 7);
        assert_eq!(bench.ring.publish(), Ok(true));
        let others = bench.publish(&[2, 3]);
        assert!(others.iter().all(|&other| other > 2), "the others have other descriptors");
        bench.give_back(head, 7);
        for other in others {
            bench.give_back(other, 0);
        }
        let used = bench.reap_all().unwrap();
        assert_eq!((used.len(), used[0].head, used[0].written), (3, head, 7));
        assert_eq!((bench.ring.free_count(), bench.ring.outstanding_count()), (5, 0));
    }
    let now: Vec<_> = (0..3).map(|index| bench.device.descriptors.load(index)).collect();
    assert_eq!(now, written);
    bench.ring.release(head, 3);
    assert_eq!((bench.ring.free_count(), bench.ring.reserved_count()), (8, 0));
    assert_eq!(bench.publish(&[1, 1, 1, 1, 1, 1, 1, 1]).len(), 8, "all of them can be used");
}

#[test]
fn what_is_reserved_cannot_be_taken_and_no_more_than_is_free_can_be_reserved() {
    let mut bench = Split::new(4, ANY_ORDER);
    reserve(&mut bench, 3);
    let chain = segments(&bench, 2);
    let full = Err(PushError::Full { needed: 2, free: 1 });
    assert_eq!(bench.ring.push(&chain, &[]), full);
    assert_eq!(bench.ring.reserve(&chain, &[]), full);
    assert_eq!(bench.ring.free_count(), 1);
}

#[test]
fn a_withdrawn_chain_can_be_pushed_again_and_keeps_what_it_has() {
    let mut bench = Split::new(8, ANY_ORDER);
    let (first, second) = (reserve(&mut bench, 2), reserve(&mut bench, 2));
    let chain = segments(&bench, 1);
    bench.ring.push_reserved(first, 1);
    let between = bench.ring.push(&chain, &[]).unwrap();
    bench.ring.push_reserved(second, 1);
    let mut withdrawn = Vec::new();
    bench.ring.withdraw(|head| withdrawn.push(head));
    assert_eq!(withdrawn, [second, between, first]);
    assert_eq!((bench.ring.free_count(), bench.ring.reserved_count()), (4, 4));
    assert_eq!(bench.ring.publish(), Ok(false));
    bench.ring.push_reserved(second, 1);
    assert_eq!(bench.ring.publish(), Ok(true));
    bench.give_back(second, 1);
    assert_eq!(bench.reap_all().unwrap().len(), 1);
}

#[test]
fn the_device_can_return_a_reserved_chain_only_while_it_has_it() {
    let mut bench = Split::new(8, ANY_ORDER);
    let (head, other) = (reserve(&mut bench, 2), reserve(&mut bench, 2));
    bench.ring.push_reserved(head, 1);
    bench.ring.publish().unwrap();
    bench.give_back(other, 1);
    let id = other.into();
    assert_eq!(bench.reap_all(), Err(Broken::IdNotOutstanding { id }));
    assert_eq!(bench.ring.publish(), Err(Broken::IdNotOutstanding { id }));
}

#[test]
fn a_reset_forgets_what_was_reserved() {
    let mut bench = Split::new(8, ANY_ORDER);
    let (pushed, _) = (reserve(&mut bench, 3), reserve(&mut bench, 2));
    bench.ring.push_reserved(pushed, 1);
    bench.ring.publish().unwrap();
    let mut lost = Vec::new();
    bench.ring.reclaim(|head| lost.push(head));
    assert_eq!(lost, [pushed]);
    assert_eq!((bench.ring.free_count(), bench.ring.reserved_count()), (8, 0));
}

#[test]
fn where_the_place_says_when_it_is_used_nothing_is_reserved() {
    let mut in_order = Split::new(8, IN_ORDER);
    let chain = segments(&in_order, 1);
    assert!(!in_order.ring.can_reserve());
    assert!(matches!(in_order.ring.reserve(&chain, &[]), Err(PushError::Full { .. })));
    for options in [ANY_ORDER, IN_ORDER] {
        let mut packed = Bench::<PackedQueue>::new(8, options);
        let chain = segments(&packed, 1);
        assert!(!packed.ring.can_reserve());
        assert!(matches!(packed.ring.reserve(&chain, &[]), Err(PushError::Full { .. })));
    }
}
