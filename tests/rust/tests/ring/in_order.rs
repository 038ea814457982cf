//! IN_ORDER: one used element returns the chain that it names and all before it.

use vring::{Ring, RingOptions, SplitQueue};

use crate::bench::{Bench, DATA_BYTES, Format, IN_ORDER, INDEX, given, on_both_formats};

on_both_formats!(
    one_element_returns_all_chains_up_to_the_one_that_it_names,
    a_device_that_does_not_batch_returns_one_chain_by_each_element,
    a_reap_amid_a_batch_leaves_the_rest_for_the_next,
    what_was_reaped_of_a_batch_can_be_pushed_again_before_the_rest,
    arm_amid_a_batch_names_the_first_chain_that_was_not_handed_out,
    a_batch_of_lists_is_skipped_by_their_descriptors_over_the_end_of_the_ring,
    a_batch_of_indirect_chains_is_skipped_one_descriptor_each,
    one_element_can_return_every_chain_of_a_ring_of_any_size,
    batches_keep_their_place_over_the_end_of_every_counter,
    a_length_that_is_too_large_is_clamped_in_the_last_chain_alone,
    a_skipped_chain_of_all_bytes_reports_one_less,
    a_reset_amid_a_batch_forgets_the_rest,
);

fn one_element_returns_all_chains_up_to_the_one_that_it_names<R: Format>() {
    let mut bench = Bench::<R>::new(8, IN_ORDER);
    let heads = bench.publish(&[100, 200, 300, 400]);
    assert!(!bench.ring.has_used());
    bench.give_back_batch(heads[2], Some(5), 3);
    assert!(bench.ring.has_used());
    let expected = [given(heads[0], 100), given(heads[1], 200), given(heads[2], 5)];
    assert_eq!(bench.reap_all().unwrap(), expected);
    assert!(!bench.ring.has_used());
    assert_eq!((bench.ring.outstanding_count(), bench.ring.free_count()), (1, 7));
    bench.give_back(heads[3], 6);
    assert_eq!(bench.reap_all().unwrap(), [given(heads[3], 6)]);
}

fn a_device_that_does_not_batch_returns_one_chain_by_each_element<R: Format>() {
    let mut bench = Bench::<R>::new(4, IN_ORDER);
    for _ in 0..5 {
        let heads = bench.publish(&[10, 20, 30]);
        for (written, &head) in (1..).zip(&heads) {
            bench.give_back(head, written);
        }
        let expected = [given(heads[0], 1), given(heads[1], 2), given(heads[2], 3)];
        assert_eq!(bench.reap_all().unwrap(), expected);
    }
}

fn a_reap_amid_a_batch_leaves_the_rest_for_the_next<R: Format>() {
    let mut bench = Bench::<R>::new(8, IN_ORDER);
    let heads = bench.publish(&[1, 2, 3, 4, 5]);
    bench.give_back_batch(heads[3], Some(0), 4);
    assert_eq!(bench.reap(0).unwrap(), []);
    assert_eq!(bench.reap(1).unwrap(), [given(heads[0], 1)]);
    assert!(bench.ring.has_used() && bench.ring.arm().unwrap());
    assert_eq!((bench.ring.outstanding_count(), bench.ring.free_count()), (4, 4));
    assert_eq!(bench.reap(2).unwrap(), [given(heads[1], 2), given(heads[2], 3)]);
    assert!(bench.ring.has_used() && bench.ring.arm().unwrap());
    // The rest of this batch, and the next.
    bench.give_back(heads[4], 5);
    assert_eq!(bench.reap(9).unwrap(), [given(heads[3], 0), given(heads[4], 5)]);
    assert!(!bench.ring.has_used() && !bench.ring.arm().unwrap());
}

fn what_was_reaped_of_a_batch_can_be_pushed_again_before_the_rest<R: Format>() {
    let mut bench = Bench::<R>::new(4, IN_ORDER);
    let heads = bench.publish(&[1, 2, 3, 4]);
    bench.give_back_batch(heads[3], Some(4), 4);
    assert_eq!(bench.reap(2).unwrap(), [given(heads[0], 1), given(heads[1], 2)]);
    // It overwrites the descriptors where the device wrote of the batch.
    assert_eq!(bench.publish(&[5, 6]), heads[..2]);
    assert_eq!(bench.reap_all().unwrap(), [given(heads[2], 3), given(heads[3], 4)]);
    assert!(!bench.ring.has_used());
    bench.give_back_batch(heads[1], Some(6), 2);
    assert_eq!(bench.reap_all().unwrap(), [given(heads[0], 5), given(heads[1], 6)]);
}

fn arm_amid_a_batch_names_the_first_chain_that_was_not_handed_out<R: Format>() {
    let mut bench = Bench::<R>::new(8, RingOptions { event_idx: true, ..IN_ORDER });
    let heads = bench.publish(&[1, 2, 3]);
    bench.give_back_batch(heads[2], Some(3), 3);
    assert_eq!(bench.reap(2).unwrap().len(), 2);
    assert!(bench.ring.arm().unwrap());
    assert_eq!(R::event(&bench.device) & !(1 << 15), 2);
}

fn a_batch_of_lists_is_skipped_by_their_descriptors_over_the_end_of_the_ring<R: Format>() {
    let mut bench = Bench::<R>::new(8, IN_ORDER);
    for lap in 0..9 {
        let heads = [&[1, 2, 3][..], &[4], &[5, 6]].map(|chain| bench.push(chain).unwrap());
        bench.ring.publish().unwrap();
        R::use_batch(&mut bench.device, heads[2].into(), Some(7), 3, 6);
        let expected = [given(heads[0], 6), given(heads[1], 4), given(heads[2], 7)];
        assert_eq!(bench.reap_all().unwrap(), expected, "lap {lap}");
        assert_eq!(bench.ring.free_count(), 8);
    }
}

fn a_batch_of_indirect_chains_is_skipped_one_descriptor_each<R: Format>() {
    let mut bench = Bench::<R>::with_tables(4, 3, IN_ORDER);
    for _ in 0..7 {
        let heads = [3, 1, 2].map(|count| bench.push(&[9; 3][..count]).unwrap());
        bench.ring.publish().unwrap();
        bench.give_back_batch(heads[2], Some(18), 3);
        let expected = [given(heads[0], 27), given(heads[1], 9), given(heads[2], 18)];
        assert_eq!(bench.reap_all().unwrap(), expected);
    }
}

fn one_element_can_return_every_chain_of_a_ring_of_any_size<R: Format>() {
    for size in [1, 2, 256, 32_768] {
        let mut bench = Bench::<R>::new(size, IN_ORDER);
        for _ in 0..3 {
            let heads = bench.publish(&vec![16; size]);
            assert_eq!(bench.ring.free_count(), 0);
            bench.give_back_batch(heads[size - 1], Some(1), size as u16);
            let used = bench.reap_all().unwrap();
            assert!(used.iter().map(|one| one.head).eq(heads.iter().copied()));
            assert!(used[..size - 1].iter().all(|one| one.written == 16));
            assert_eq!(used[size - 1].written, 1);
            assert_eq!(usize::from(bench.ring.free_count()), size);
        }
    }
}

fn batches_keep_their_place_over_the_end_of_every_counter<R: Format>() {
    let mut bench = Bench::<R>::new(64, IN_ORDER);
    // No multiple of the queue size, often enough for the indices to go round twice.
    for _ in 0..=2 * 65_536 / 37 {
        let heads = bench.publish(&[4; 37]);
        bench.give_back_batch(heads[19], Some(4), 20);
        bench.give_back_batch(heads[36], Some(4), 17);
        let used = bench.reap_all().unwrap();
        assert!(used.iter().map(|one| one.head).eq(heads));
    }
}

fn a_length_that_is_too_large_is_clamped_in_the_last_chain_alone<R: Format>() {
    let mut bench = Bench::<R>::new(4, IN_ORDER);
    let heads = bench.publish(&[10, 20]);
    bench.give_back_batch(heads[1], Some(21), 2);
    assert_eq!(bench.reap_all().unwrap(), [given(heads[0], 10), given(heads[1], 20)]);
    assert_eq!(bench.ring.clamped_count(), 1);
}

fn a_skipped_chain_of_all_bytes_reports_one_less<R: Format>() {
    let mut bench = Bench::<R>::new(8192, IN_ORDER);
    let segments = (1_u64 << 32) / u64::from(DATA_BYTES);
    let first = bench.push(&vec![DATA_BYTES; segments as usize]).unwrap();
    let second = bench.push(&[1]).unwrap();
    bench.ring.publish().unwrap();
    R::use_batch(&mut bench.device, second.into(), Some(1), 2, segments as u16 + 1);
    assert_eq!(bench.reap_all().unwrap(), [given(first, u32::MAX), given(second, 1)]);
}

fn a_reset_amid_a_batch_forgets_the_rest<R: Format>() {
    let mut bench = Bench::<R>::new(4, IN_ORDER);
    let heads = bench.publish(&[1, 2, 3]);
    let unpublished = bench.push(&[4]).unwrap();
    bench.give_back_batch(heads[2], Some(3), 3);
    assert_eq!(bench.reap(1).unwrap(), [given(heads[0], 1)]);
    let mut kept = Vec::new();
    bench.ring.reclaim(|head| kept.push(head));
    assert_eq!(kept, [heads[1], heads[2], unpublished]);
    assert!(!bench.ring.has_used() && !bench.ring.is_live());
    R::restart(&mut bench.device);
    // From the start, in both halves.
    assert_eq!(bench.publish(&[5, 6]), [0, 1]);
    bench.give_back_batch(1_u16, Some(6), 2);
    assert_eq!(bench.reap_all().unwrap(), [given(0, 5), given(1, 6)]);
}

#[test]
fn a_used_index_that_is_moved_back_into_a_batch_takes_nothing_of_it_back() {
    let mut bench = Bench::<SplitQueue>::new(8, IN_ORDER);
    let heads = bench.publish(&[1, 2, 3, 4]);
    bench.give_back_batch(heads[2], Some(3), 3);
    assert_eq!(bench.reap(1).unwrap(), [given(heads[0], 1)]);
    bench.device.used.store(INDEX, 1);
    assert!(bench.ring.has_used());
    assert_eq!(bench.reap_all().unwrap(), [given(heads[1], 2), given(heads[2], 3)]);
    // Where it stands now, it claims what was never made available.
    assert!(bench.reap_all().is_err());
}
