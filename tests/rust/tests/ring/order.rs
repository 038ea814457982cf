//! Which descriptors and buffer ids chains get, in order and in any order.

use vioblk_tests::clause;
use vring::{PackedQueue, PushError, Ring, RingOptions, SplitQueue};

use crate::bench::{ANY_ORDER, Bench, Format, IN_ORDER, given, on_both_formats};

const NEXT: u16 = 1;
const INDIRECT: u16 = 4;

on_both_formats!(
    withdrawn_numbers_are_taken_again_over_the_end_of_the_ring,
    a_full_ring_refuses_and_nothing_changes,
    chains_come_back_in_any_order_without_in_order,
);

fn withdrawn_numbers_are_taken_again_over_the_end_of_the_ring<R: Format>() {
    for options in [ANY_ORDER, IN_ORDER] {
        let mut bench = Bench::<R>::new(4, options);
        for _ in 0..9 {
            let pushed = [&[1, 2][..], &[3]].map(|chain| bench.push(chain).unwrap());
            let mut withdrawn = Vec::new();
            bench.ring.withdraw(|head| withdrawn.push(head));
            assert_eq!(withdrawn, [pushed[1], pushed[0]]);
            assert_eq!((bench.ring.free_count(), bench.ring.next_head()), (4, pushed[0]));
            assert_eq!(bench.ring.publish(), Ok(false));
            // What stays behind them is published once only.
            let head = bench.publish(&[5])[0];
            assert_eq!(head, pushed[0]);
            let held = bench.push(&[6, 7, 8]).unwrap();
            bench.ring.withdraw(|head| assert_eq!(head, held));
            bench.give_back(head, 5);
            assert_eq!(bench.reap_all().unwrap(), [given(head, 5)]);
        }
    }
}

fn a_full_ring_refuses_and_nothing_changes<R: Format>() {
    for options in [ANY_ORDER, IN_ORDER] {
        let mut bench = Bench::<R>::new(4, options);
        let heads = bench.publish(&[1, 2, 3]);
        assert_eq!(bench.push(&[4, 5]), Err(PushError::Full { needed: 2, free: 1 }));
        let last = bench.publish(&[6])[0];
        assert_eq!(bench.push(&[7]), Err(PushError::Full { needed: 1, free: 0 }));
        for &head in heads.iter().chain([&last]) {
            bench.give_back(head, 0);
        }
        assert_eq!(bench.reap_all().unwrap().len(), 4);
    }
}

fn chains_come_back_in_any_order_without_in_order<R: Format>() {
    let mut bench = Bench::<R>::new(8, ANY_ORDER);
    let heads = bench.publish(&[10, 20, 30, 40]);
    let expected = [(heads[2], 1), (heads[0], 2), (heads[3], 3), (heads[1], 4)];
    for (head, written) in expected {
        bench.give_back(head, written);
    }
    assert_eq!(bench.reap_all().unwrap(), expected.map(|(head, written)| given(head, written)));
    // What came back last is taken first.
    assert_eq!(bench.ring.next_head(), heads[1]);
}

/// Publish and return a chain of so many descriptors.
fn cycle<R: Format>(bench: &mut Bench<R>, count: u16) -> u16 {
    let head = bench.push(&vec![1; count.into()]).unwrap();
    bench.ring.publish().unwrap();
    R::use_batch(&mut bench.device, head.into(), Some(0), 1, count);
    assert_eq!(bench.reap_all().unwrap(), [given(head, 0)]);
    head
}

#[test]
fn in_order_chains_take_the_descriptors_of_the_table_in_turn_and_go_round() {
    clause!("INORDER-SPLIT-01", "INORDER-SPLIT-02");
    let mut bench = Bench::<SplitQueue>::new(8, IN_ORDER);
    let mut expected = 0;
    for count in [3, 1, 5, 8, 2, 7, 1, 1, 6, 8, 8, 4] {
        assert_eq!(cycle(&mut bench, count), expected);
        for position in 0..count {
            let slot = (expected + position) % 8;
            let descriptor = bench.device.descriptors.load(slot.into());
            let last = position + 1 == count;
            assert_eq!(descriptor.flags & NEXT == 0, last);
            assert!(last || descriptor.next == if slot == 7 { 0 } else { slot + 1 });
        }
        expected = (expected + count) % 8;
    }
}

#[test]
fn in_order_a_chain_that_was_withdrawn_leaves_no_gap_in_the_table() {
    clause!("INORDER-SPLIT-01", "INORDER-SPLIT-02");
    let mut bench = Bench::<SplitQueue>::new(8, IN_ORDER);
    assert_eq!(cycle(&mut bench, 6), 0);
    assert_eq!(bench.push(&[1; 4]), Ok(6));
    bench.ring.withdraw(|_| ());
    assert_eq!(bench.push(&[1; 3]), Ok(6));
    let links = [6, 7].map(|slot| bench.device.descriptors.load(slot).next);
    assert_eq!(links, [7, 0]);
}

#[test]
fn tables_are_filled_in_sequence() {
    clause!("SPLIT-INDIR-05");
    for options in [IN_ORDER, ANY_ORDER] {
        let mut bench = Bench::<SplitQueue>::with_tables(4, 4, options);
        for count in [4, 2, 3, 4, 3] {
            let head = usize::from(bench.push(&vec![1; count]).unwrap());
            bench.ring.publish().unwrap();
            assert_eq!(bench.device.descriptors.load(head).flags, INDIRECT);
            for position in 0..count {
                let entry = bench.device.tables.load(4 * head + position);
                let last = position + 1 == count;
                assert_eq!(entry.flags & NEXT == 0, last);
                assert!(last || usize::from(entry.next) == position + 1);
            }
            bench.give_back(head as u32, 0);
            bench.reap_all().unwrap();
        }
    }
}

#[test]
fn in_order_a_buffer_id_is_the_number_of_its_chain_modulo_the_queue_size() {
    for size in [1, 3, 5, 8, 255] {
        let mut bench = Bench::<PackedQueue>::with_tables(size, size.min(3), IN_ORDER);
        for number in 0..3 * size {
            let id = (number % size) as u16;
            // Withdrawn ones do not count.
            assert_eq!(bench.push(&[1]), Ok(id));
            bench.ring.withdraw(|_| ());
            let segments = [1; 3];
            let count = 1 + number % size.min(3);
            assert_eq!(bench.push(&segments[..count]), Ok(id));
            bench.ring.publish().unwrap();
            // A table, if it has more than one segment.
            bench.give_back(id, 0);
            assert_eq!(bench.reap_all().unwrap(), [given(id, 0)]);
        }
    }
}

#[test]
fn a_packed_ring_of_any_size_goes_round_with_lists_of_any_length() {
    for options in [ANY_ORDER, IN_ORDER, RingOptions { event_idx: true, ..IN_ORDER }] {
        for size in [1, 2, 3, 7, 13, 100] {
            let mut bench = Bench::<PackedQueue>::new(size, options);
            for number in 0..5 * size {
                cycle(&mut bench, (1 + number * 5 % size) as u16);
                assert_eq!(usize::from(bench.ring.free_count()), size);
            }
        }
    }
}
