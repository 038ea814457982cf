//! loom models of doorbells that have no order of their own, as their owner rings them or as a
//! store to a register is one: the order must be there all the same.
#![cfg(loom)]
#![allow(clippy::unwrap_used)] // a test

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
use loom::thread;
use shm::fence::{self, Fence};
use shm::{
    Descriptor, DmaSpace, Doorbell, EventFd, MmioWindow, Notification, Records, RegisterError,
    RegisterModel, Width,
};

/// The driver stores and rings; the device, once it was `told`, must find what was stored.
fn stored_before(told: impl Fn() -> bool + Send + 'static, ring: impl FnOnce()) {
    let space = DmaSpace::new();
    space.map(4096, 0x1000).unwrap();
    let region = space.alloc(64, 64).unwrap();
    let (descriptors, device_region) = (region.span().records(0, 1).unwrap(), region.clone());
    let device = thread::spawn(move || {
        while !told() {
            thread::yield_now();
        }
        fence::device_after_available_index();
        let descriptors: Records<Descriptor> = device_region.span().records(0, 1).unwrap();
        assert_eq!(descriptors.load(0).len, 5);
    });
    descriptors.store(0, Descriptor { len: 5, ..Descriptor::default() });
    ring();
    device.join().unwrap();
}

/// The driver asks whether it is to ring, and rings a bell of its own.
fn owner_rings() {
    let bell = EventFd::new().unwrap();
    let device_bell = bell.try_clone().unwrap();
    stored_before(
        move || device_bell.drain() > 0,
        || {
            assert!(!Doorbell::None.ring(1).unwrap());
            bell.signal().unwrap();
        },
    );
}

/// A register as the bus has it: what is stored arrives, and orders nothing.
#[derive(Debug)]
struct Register(AtomicU32);

impl RegisterModel for Register {
    fn length(&self) -> usize {
        4
    }

    fn read(&self, _offset: usize, _width: Width) -> Result<u32, RegisterError> {
        Ok(self.0.load(Relaxed))
    }

    fn write(&self, _offset: usize, _width: Width, value: u32) -> Result<(), RegisterError> {
        self.0.store(value, Relaxed);
        Ok(())
    }
}

fn register_is_stored_to() {
    let window = MmioWindow::model(Arc::new(Register(AtomicU32::new(0))));
    let notification = Notification { value: 7, carries_data: true };
    let bell = Doorbell::mmio(window.clone(), 0, notification).unwrap();
    stored_before(
        move || window.read(0, Width::Bits32) == Ok(1 << 16 | 7),
        || assert!(bell.ring(1).unwrap()),
    );
}

#[test]
fn stores_come_before_a_notification_that_is_left_to_the_owner() {
    loom::model(owner_rings);
}

#[test]
fn stores_come_before_the_store_to_a_doorbell_register() {
    loom::model(register_is_stored_to);
}

#[test]
fn without_its_fence_neither_would_be_ordered() {
    for model in [owner_rings, register_is_stored_to] {
        let failed = fence::mutant::without(Fence::BeforeDoorbell, || {
            catch_unwind(AssertUnwindSafe(|| loom::model(model))).is_err()
        });
        assert!(failed);
    }
}

#[test]
fn no_memory_of_no_bytes_is_made() {
    loom::model(|| assert!(shm::Memory::create(0).is_err()));
}
