//! loom models of the packed ring: `vring::PackedQueue` against `softdev::ring::packed`. What they
//! do is in `vioblk_tests::models`; what loom does not see stands at those of the split ring.
#![cfg(loom)]

use shm::fence::Fence;
use vioblk_tests::clause;
use vioblk_tests::models::*;

#[test]
fn a_published_chain_is_seen_whole_and_so_is_its_reply() {
    clause!("PACKED-BARRIER-01");
    check(polling::<Packed>);
}

#[test]
fn two_requests_in_flight_keep_apart() {
    check(two_requests::<Packed>);
}

#[test]
fn a_batch_over_the_end_of_the_ring_is_seen_whole() {
    clause!("PACKED-BARRIER-01");
    check(|| batch::<Packed>(FLAGS));
}

#[test]
fn a_batch_of_indirect_chains_is_seen_whole() {
    clause!("PACKED-BARRIER-01");
    check(|| batch::<Packed>(TABLES));
}

#[test]
fn what_was_reaped_can_be_used_again() {
    check(reuse_of_descriptors::<Packed>);
    check(reuse_over_the_end::<Packed>);
    check(reuse_of_tables::<Packed>);
    check(reuse_while_another_is_served::<Packed>);
}

#[test]
fn what_was_not_reaped_cannot_be_used_again() {
    let why = failure_of(overwrites_before_it_reaps::<Packed>).expect("the model passes");
    assert!(why.contains(UNORDERED), "{why}");
}

#[test]
fn no_kick_is_lost_with_flags() {
    clause!("PACKED-BARRIER-02");
    check(|| kick_race::<Packed>(FLAGS, 0, false));
    check(kick_race_with_flags::<Packed>);
    check(|| kick_race::<Packed>(TABLES, 1, true));
}

#[test]
fn no_kick_is_lost_with_event_idx() {
    clause!("PACKED-BARRIER-02");
    check(|| kick_race::<Packed>(EVENTS, 0, false));
    check(kick_race_with_event_idx::<Packed>);
    for history in 1..=3 {
        check(move || kick_race::<Packed>(TABLES_AND_EVENTS, history, true));
    }
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    clause!("PACKED-RECV-01");
    check(interrupt_race_with_flags::<Packed>);
    check(|| interrupt_race::<Packed>(TABLES, 1));
}

#[test]
fn no_interrupt_is_lost_with_event_idx() {
    clause!("PACKED-RECV-01");
    check(interrupt_race_with_event_idx::<Packed>);
    for history in 1..=3 {
        check(move || interrupt_race::<Packed>(TABLES_AND_EVENTS, history));
    }
}

#[test]
fn no_interrupt_is_lost_that_was_asked_for_further_ahead() {
    clause!("PACKED-RECV-01");
    check(|| interrupt_race_ahead::<Packed>(FLAGS, 0));
    check(|| interrupt_race_ahead::<Packed>(EVENTS, 0));
    for history in 0..=3 {
        check(move || interrupt_race_ahead::<Packed>(TABLES_AND_EVENTS, history));
    }
}

#[test]
fn without_a_second_look_the_driver_sleeps() {
    let why = failure_of(sleeps_without_a_second_look::<Packed>).expect("the model passes");
    assert!(why.contains(DRIVER_SLEEPS), "{why}");
}

#[test]
fn without_before_publish_the_models_fail() {
    must_fail_without(Fence::BeforePublish, polling::<Packed>, UNORDERED);
    must_fail_without(Fence::BeforePublish, reuse_of_tables::<Packed>, UNORDERED);
}

#[test]
fn without_after_used_index_the_models_fail() {
    must_fail_without(Fence::AfterUsedIndex, polling::<Packed>, UNORDERED);
    must_fail_without(Fence::AfterUsedIndex, reuse_of_descriptors::<Packed>, UNORDERED);
}

#[test]
fn without_before_notify_check_the_models_fail() {
    must_fail_without(Fence::BeforeNotifyCheck, kick_race_with_flags::<Packed>, DEVICE_SLEEPS);
    must_fail_without(Fence::BeforeNotifyCheck, kick_race_with_event_idx::<Packed>, DEVICE_SLEEPS);
}

#[test]
fn without_after_arm_the_models_fail() {
    must_fail_without(Fence::AfterArm, interrupt_race_with_flags::<Packed>, DRIVER_SLEEPS);
    must_fail_without(Fence::AfterArm, interrupt_race_with_event_idx::<Packed>, DRIVER_SLEEPS);
    must_fail_without(
        Fence::AfterArm,
        interrupt_race_ahead_with_event_idx::<Packed>,
        DRIVER_SLEEPS,
    );
}

#[test]
fn without_the_fences_around_device_work_the_models_fail() {
    must_fail_without(Fence::DeviceAfterAvailableIndex, polling::<Packed>, UNORDERED);
    must_fail_without(Fence::DeviceAfterAvailableIndex, reuse_of_tables::<Packed>, UNORDERED);
    must_fail_without(Fence::DeviceBeforeUsedIndex, polling::<Packed>, UNORDERED);
    must_fail_without(Fence::DeviceBeforeUsedIndex, reuse_of_descriptors::<Packed>, UNORDERED);
}

#[test]
fn without_device_after_arm_the_models_fail() {
    must_fail_without(Fence::DeviceAfterArm, kick_race_with_flags::<Packed>, DEVICE_SLEEPS);
    must_fail_without(Fence::DeviceAfterArm, kick_race_with_event_idx::<Packed>, DEVICE_SLEEPS);
}

#[test]
fn without_device_before_interrupt_check_the_models_fail() {
    must_fail_without(
        Fence::DeviceBeforeInterruptCheck,
        interrupt_race_with_flags::<Packed>,
        DRIVER_SLEEPS,
    );
    must_fail_without(
        Fence::DeviceBeforeInterruptCheck,
        interrupt_race_with_event_idx::<Packed>,
        DRIVER_SLEEPS,
    );
}
