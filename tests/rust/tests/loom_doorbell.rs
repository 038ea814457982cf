//! loom models of doorbells that their owner rings: the order must be there all the same.
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // a test

use std::panic::{AssertUnwindSafe, catch_unwind};

use loom::thread;
use shm::fence::{self, Fence};
use shm::{Descriptor, DmaSpace, Doorbell, EventFd, Records};

/// The driver stores, asks whether it is to ring, and rings a bell that has no order of its own.
fn owner_rings() {
    let space = DmaSpace::new();
    space.map(4096, 0x1000).unwrap();
    let region = space.alloc(64, 64).unwrap();
    let (descriptors, bell) = (region.span().records(0, 1).unwrap(), EventFd::new().unwrap());
    let (device_bell, device_region) = (bell.try_clone().unwrap(), region.clone());
    let device = thread::spawn(move || {
        while device_bell.drain() == 0 {
            thread::yield_now();
        }
        fence::device_after_available_index();
        let descriptors: Records<Descriptor> = device_region.span().records(0, 1).unwrap();
        assert_eq!(descriptors.load(0).len, 5);
    });
    descriptors.store(0, Descriptor { len: 5, ..Descriptor::default() });
    assert!(!Doorbell::None.ring(1).unwrap());
    bell.signal().unwrap();
    device.join().unwrap();
}

#[test]
fn stores_come_before_a_notification_that_is_left_to_the_owner() {
    loom::model(owner_rings);
}

#[test]
fn without_its_fence_a_notification_left_to_the_owner_would_not_be_ordered() {
    let failed = fence::mutant::without(Fence::BeforeDoorbell, || {
        catch_unwind(AssertUnwindSafe(|| loom::model(owner_rings))).is_err()
    });
    assert!(failed);
}

#[test]
fn no_memory_of_no_bytes_is_made() {
    loom::model(|| assert!(shm::Memory::create(0).is_err()));
}
