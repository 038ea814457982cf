//! loom models of the split ring: the driver's code that ships (`vring::SplitQueue`) against the
//! device's code that ships (`softdev::ring`); what they do is in `vioblk_tests::models`.
//!
//! Each fence has a mutant: with the fence left out, its model must fail in the way that the fence
//! is there to prevent.
//!
//! What loom does not see: SeqCst accesses are treated as acquire and release (we use fences,
//! which it does model), and load buffering is not explored. What is not modelled:
//! `vring::BlockQueue`, whose threads meet in a mutex and not in the ring, and the step of an index
//! from 65535 to 0 (the ring's slots do wrap here; the stress test and the differential tests cross
//! the other).
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // a test

use loom::thread;
use shm::fence::{self, Fence};
use shm::{Descriptor, DmaSpace, Doorbell, EventFd, Records};
use vioblk_tests::clause;
use vioblk_tests::models::*;

/// Whoever hears the doorbell sees what was stored before it, ring word or not.
fn doorbell() {
    let space = DmaSpace::new();
    space.map(4096, 0x1000).unwrap();
    let region = space.alloc(64, 64).unwrap();
    let (descriptors, bell) = (region.span().records(0, 1).unwrap(), EventFd::new().unwrap());
    let device_bell = bell.try_clone().unwrap();
    let device_region = region.clone();
    let device = thread::spawn(move || {
        while device_bell.drain() == 0 {
            thread::yield_now();
        }
        fence::device_after_available_index();
        let descriptors: Records<Descriptor> = device_region.span().records(0, 1).unwrap();
        assert_eq!(descriptors.load(0).len, 5);
    });
    descriptors.store(0, Descriptor { len: 5, ..Descriptor::default() });
    assert!(Doorbell::EventFd(bell).ring(1).unwrap());
    device.join().unwrap();
}

#[test]
fn a_published_chain_is_seen_whole_and_so_is_its_reply() {
    clause!("SPLIT-BARRIER-01");
    check(polling::<Split>);
}

#[test]
fn two_requests_in_flight_keep_apart() {
    check(two_requests::<Split>);
}

#[test]
fn a_batch_over_the_end_of_the_ring_is_seen_whole() {
    clause!("SPLIT-BARRIER-01");
    check(|| batch::<Split>(FLAGS));
}

#[test]
fn a_batch_of_indirect_chains_is_seen_whole() {
    clause!("SPLIT-BARRIER-01");
    check(|| batch::<Split>(TABLES));
}

#[test]
fn what_was_reaped_can_be_used_again() {
    check(reuse_of_descriptors::<Split>);
    check(reuse_of_tables::<Split>);
    check(reuse_while_another_is_served::<Split>);
}

#[test]
fn what_was_not_reaped_cannot_be_used_again() {
    let why = failure_of(overwrites_before_it_reaps::<Split>).expect("the model passes");
    assert!(why.contains(UNORDERED), "{why}");
}

#[test]
fn no_kick_is_lost_with_flags() {
    clause!("SPLIT-BARRIER-02", "SPLIT-KICK-04");
    check(|| kick_race::<Split>(FLAGS, 0, false));
    check(kick_race_with_flags::<Split>);
    check(|| kick_race::<Split>(TABLES, 1, true));
}

#[test]
fn no_kick_is_lost_with_event_idx() {
    clause!("SPLIT-BARRIER-02", "SPLIT-KICK-06");
    check(|| kick_race::<Split>(EVENTS, 0, false));
    check(kick_race_with_event_idx::<Split>);
    for history in 1..=3 {
        check(move || kick_race::<Split>(TABLES_AND_EVENTS, history, true));
    }
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    clause!("SPLIT-RECV-01");
    check(interrupt_race_with_flags::<Split>);
    check(|| interrupt_race::<Split>(TABLES, 1));
}

#[test]
fn no_interrupt_is_lost_with_event_idx() {
    clause!("SPLIT-RECV-01");
    check(interrupt_race_with_event_idx::<Split>);
    for history in 1..=3 {
        check(move || interrupt_race::<Split>(TABLES_AND_EVENTS, history));
    }
}

#[test]
fn the_doorbell_brings_what_was_stored_before_it() {
    check(doorbell);
}

#[test]
fn no_interrupt_is_lost_that_was_asked_for_further_ahead() {
    clause!("SPLIT-RECV-01");
    check(|| interrupt_race_ahead::<Split>(FLAGS, 0));
    check(|| interrupt_race_ahead::<Split>(EVENTS, 0));
    for history in 0..=3 {
        check(move || interrupt_race_ahead::<Split>(TABLES_AND_EVENTS, history));
    }
}

#[test]
fn without_a_second_look_the_driver_sleeps() {
    let why = failure_of(sleeps_without_a_second_look::<Split>).expect("the model passes");
    assert!(why.contains(DRIVER_SLEEPS), "{why}");
}

#[test]
fn without_before_publish_the_models_fail() {
    must_fail_without(Fence::BeforePublish, polling::<Split>, UNORDERED);
    must_fail_without(Fence::BeforePublish, reuse_of_tables::<Split>, UNORDERED);
}

#[test]
fn without_after_used_index_the_models_fail() {
    must_fail_without(Fence::AfterUsedIndex, polling::<Split>, UNORDERED);
    must_fail_without(Fence::AfterUsedIndex, reuse_of_descriptors::<Split>, UNORDERED);
}

#[test]
fn without_before_notify_check_the_models_fail() {
    must_fail_without(Fence::BeforeNotifyCheck, kick_race_with_flags::<Split>, DEVICE_SLEEPS);
    must_fail_without(Fence::BeforeNotifyCheck, kick_race_with_event_idx::<Split>, DEVICE_SLEEPS);
}

#[test]
fn without_after_arm_the_models_fail() {
    must_fail_without(Fence::AfterArm, interrupt_race_with_flags::<Split>, DRIVER_SLEEPS);
    must_fail_without(Fence::AfterArm, interrupt_race_with_event_idx::<Split>, DRIVER_SLEEPS);
    must_fail_without(Fence::AfterArm, interrupt_race_ahead_with_event_idx::<Split>, DRIVER_SLEEPS);
}

#[test]
fn without_before_doorbell_the_model_fails() {
    must_fail_without(Fence::BeforeDoorbell, doorbell, UNORDERED);
}

#[test]
fn without_the_fences_around_device_work_the_models_fail() {
    must_fail_without(Fence::DeviceAfterAvailableIndex, polling::<Split>, UNORDERED);
    must_fail_without(Fence::DeviceAfterAvailableIndex, reuse_of_descriptors::<Split>, UNORDERED);
    must_fail_without(Fence::DeviceBeforeUsedIndex, polling::<Split>, UNORDERED);
    must_fail_without(Fence::DeviceBeforeUsedIndex, reuse_of_descriptors::<Split>, UNORDERED);
}

#[test]
fn without_device_after_arm_the_models_fail() {
    must_fail_without(Fence::DeviceAfterArm, kick_race_with_flags::<Split>, DEVICE_SLEEPS);
    must_fail_without(Fence::DeviceAfterArm, kick_race_with_event_idx::<Split>, DEVICE_SLEEPS);
}

#[test]
fn without_device_before_interrupt_check_the_models_fail() {
    must_fail_without(
        Fence::DeviceBeforeInterruptCheck,
        interrupt_race_with_flags::<Split>,
        DRIVER_SLEEPS,
    );
    must_fail_without(
        Fence::DeviceBeforeInterruptCheck,
        interrupt_race_with_event_idx::<Split>,
        DRIVER_SLEEPS,
    );
}
