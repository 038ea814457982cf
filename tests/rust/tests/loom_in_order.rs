//! loom models of both formats with IN_ORDER, where the device returns what it has served in one
//! batch. What they do is in `vioblk_tests::models`; what loom does not see stands at those of the
//! split ring.
#![cfg(loom)]

use shm::fence::Fence;
use vioblk_tests::clause;
use vioblk_tests::models::*;

#[test]
fn a_published_chain_is_seen_whole_and_so_is_its_reply() {
    clause!("SPLIT-BARRIER-01", "PACKED-BARRIER-01");
    check(polling::<SplitInOrder>);
    check(polling::<PackedInOrder>);
}

#[test]
fn two_requests_in_flight_keep_apart() {
    check(two_requests::<SplitInOrder>);
    check(two_requests::<PackedInOrder>);
}

#[test]
fn a_batch_over_the_end_of_the_ring_is_seen_whole_and_so_are_its_replies() {
    clause!("SPLIT-BARRIER-01", "PACKED-BARRIER-01");
    for shape in [FLAGS, TABLES] {
        check(move || batch::<SplitInOrder>(shape));
        check(move || batch::<PackedInOrder>(shape));
    }
}

#[test]
fn what_was_reaped_can_be_used_again() {
    check(reuse_of_descriptors::<SplitInOrder>);
    check(reuse_of_tables::<SplitInOrder>);
    check(reuse_of_descriptors::<PackedInOrder>);
    check(reuse_over_the_end::<PackedInOrder>);
    check(reuse_of_tables::<PackedInOrder>);
}

#[test]
fn what_was_reaped_can_be_used_again_before_the_rest_of_its_batch() {
    check(reuse_amid_a_batch::<SplitInOrder>);
    check(reuse_amid_a_batch::<PackedInOrder>);
}

#[test]
fn what_was_not_reaped_cannot_be_used_again() {
    for model in
        [overwrites_before_it_reaps::<SplitInOrder>, overwrites_before_it_reaps::<PackedInOrder>]
    {
        let why = failure_of(model).expect("the model passes");
        assert!(why.contains(UNORDERED), "{why}");
    }
}

fn no_kick_is_lost<F: Format>() {
    for shape in [FLAGS, EVENTS] {
        check(move || kick_race::<F>(shape, 0, false));
        check(move || kick_race::<F>(shape, 1, true));
    }
    check(|| kick_race::<F>(TABLES, 1, true));
    for history in 1..=3 {
        check(move || kick_race::<F>(TABLES_AND_EVENTS, history, true));
    }
}

#[test]
fn no_kick_is_lost_on_a_split_ring() {
    clause!("SPLIT-BARRIER-02", "SPLIT-KICK-04", "SPLIT-KICK-06");
    no_kick_is_lost::<SplitInOrder>();
}

#[test]
fn no_kick_is_lost_on_a_packed_ring() {
    clause!("PACKED-BARRIER-02");
    no_kick_is_lost::<PackedInOrder>();
}

#[test]
fn no_interrupt_is_lost_amid_a_batch() {
    clause!("SPLIT-RECV-01", "PACKED-RECV-01");
    for shape in [TABLES, TABLES_AND_EVENTS] {
        check(move || interrupt_race_amid_a_batch::<SplitInOrder>(shape, 1));
        check(move || interrupt_race_amid_a_batch::<PackedInOrder>(shape, 1));
    }
}

fn no_interrupt_is_lost<F: Format>() {
    for shape in [FLAGS, EVENTS] {
        check(move || interrupt_race::<F>(shape, 0));
    }
    check(|| interrupt_race::<F>(TABLES, 1));
    for history in 1..=3 {
        check(move || interrupt_race::<F>(TABLES_AND_EVENTS, history));
        check(move || interrupt_race_ahead::<F>(TABLES_AND_EVENTS, history));
    }
}

#[test]
fn no_interrupt_is_lost_on_a_split_ring() {
    clause!("SPLIT-RECV-01");
    no_interrupt_is_lost::<SplitInOrder>();
}

#[test]
fn no_interrupt_is_lost_on_a_packed_ring() {
    clause!("PACKED-RECV-01");
    no_interrupt_is_lost::<PackedInOrder>();
}

#[test]
fn without_before_publish_the_models_fail() {
    must_fail_without(Fence::BeforePublish, polling::<SplitInOrder>, UNORDERED);
    must_fail_without(Fence::BeforePublish, reuse_of_tables::<SplitInOrder>, UNORDERED);
    must_fail_without(Fence::BeforePublish, polling::<PackedInOrder>, UNORDERED);
    must_fail_without(Fence::BeforePublish, reuse_of_tables::<PackedInOrder>, UNORDERED);
}

#[test]
fn without_after_used_index_the_models_fail() {
    for (one, many) in [
        (polling::<SplitInOrder> as fn(), batch_of_tables::<SplitInOrder> as fn()),
        (polling::<PackedInOrder>, batch_of_tables::<PackedInOrder>),
    ] {
        must_fail_without(Fence::AfterUsedIndex, one, UNORDERED);
        must_fail_without(Fence::AfterUsedIndex, many, UNORDERED);
    }
}

fn without_the_driver_fences_of_notifications_the_models_fail<F: Format>() {
    let (kick, interrupt) = (Fence::BeforeNotifyCheck, Fence::AfterArm);
    must_fail_without(kick, kick_race_with_flags::<F>, DEVICE_SLEEPS);
    must_fail_without(kick, kick_race_with_event_idx::<F>, DEVICE_SLEEPS);
    must_fail_without(interrupt, interrupt_race_with_flags::<F>, DRIVER_SLEEPS);
    must_fail_without(interrupt, interrupt_race_with_event_idx::<F>, DRIVER_SLEEPS);
}

#[test]
fn without_before_notify_check_or_after_arm_the_models_fail() {
    without_the_driver_fences_of_notifications_the_models_fail::<SplitInOrder>();
    without_the_driver_fences_of_notifications_the_models_fail::<PackedInOrder>();
}

#[test]
fn without_the_fences_around_device_work_the_models_fail() {
    let (before, after) = (Fence::DeviceAfterAvailableIndex, Fence::DeviceBeforeUsedIndex);
    must_fail_without(before, polling::<SplitInOrder>, UNORDERED);
    must_fail_without(before, reuse_of_descriptors::<SplitInOrder>, UNORDERED);
    must_fail_without(before, polling::<PackedInOrder>, UNORDERED);
    must_fail_without(before, reuse_of_tables::<PackedInOrder>, UNORDERED);
    must_fail_without(after, polling::<SplitInOrder>, UNORDERED);
    must_fail_without(after, batch_of_tables::<SplitInOrder>, UNORDERED);
    must_fail_without(after, polling::<PackedInOrder>, UNORDERED);
    must_fail_without(after, batch_of_tables::<PackedInOrder>, UNORDERED);
}

fn without_the_device_fences_of_notifications_the_models_fail<F: Format>() {
    let (kick, interrupt) = (Fence::DeviceAfterArm, Fence::DeviceBeforeInterruptCheck);
    must_fail_without(kick, kick_race_with_flags::<F>, DEVICE_SLEEPS);
    must_fail_without(kick, kick_race_with_event_idx::<F>, DEVICE_SLEEPS);
    must_fail_without(interrupt, interrupt_race_with_flags::<F>, DRIVER_SLEEPS);
    must_fail_without(interrupt, interrupt_race_with_event_idx::<F>, DRIVER_SLEEPS);
}

#[test]
fn without_device_after_arm_or_before_interrupt_check_the_models_fail() {
    without_the_device_fences_of_notifications_the_models_fail::<SplitInOrder>();
    without_the_device_fences_of_notifications_the_models_fail::<PackedInOrder>();
}
