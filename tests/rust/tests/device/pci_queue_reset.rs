//! The PCI face: one queue is reset while the device lives (VIRTIO 1.4, 2.6.1 Virtqueue Reset).

use shm::Width::{Bits16, Bits32};
use softdev::{Fault, feature};

use crate::bar::*;
use crate::driver::*;

const RING_RESET: u64 = 1 << feature::RING_RESET;

fn started() -> Bar {
    let mut bar = Bar::offering(RING_RESET);
    bar.start(FEATURES | RING_RESET);
    bar
}

#[test]
fn one_queue_is_reset_and_enabled_again_while_the_device_lives() {
    let mut bar = started();
    bar.offer_flush();
    assert_eq!(bar.served(), 1);
    bar.set(QUEUE_RESET, Bits16, 1);
    assert_eq!((bar.get(QUEUE_RESET, Bits16), bar.get(QUEUE_ENABLE, Bits16)), (0, 0));
    bar.offer_flush();
    assert_eq!(bar.served(), 0, "a queue that was reset is left alone");
    bar.driver.wipe();
    bar.program();
    bar.set(QUEUE_ENABLE, Bits16, 1);
    assert_eq!(bar.get(QUEUE_RESET, Bits16), 0);
    bar.offer_flush();
    bar.set(bar.doorbell(), Bits16, 0);
    assert_eq!(bar.served(), 1);
    assert_eq!(bar.driver.used_index(), 1);
    bar.assert_clean();
}

#[test]
fn what_a_queue_was_told_is_forgotten_with_its_reset() {
    let bar = started();
    bar.set(QUEUE_RESET, Bits16, 1);
    assert_eq!(bar.get(QUEUE_SIZE, Bits16), u32::from(options().queue_size_max));
    assert_eq!(bar.get(QUEUE_DESC, Bits32), 0);
    bar.set(QUEUE_ENABLE, Bits16, 1);
    assert_says(&bar.violation(), "without queue_desc");
}

#[test]
fn requests_in_flight_are_forgotten_with_their_queue() {
    for fault in [Fault::Delay, Fault::Silence] {
        let mut bar = started();
        bar.driver.device.inject(fault, 1, 0, 0).unwrap();
        bar.offer_flush();
        assert_eq!(bar.served(), 1);
        bar.set(bar.doorbell(), Bits16, 0);
        bar.set(QUEUE_RESET, Bits16, 1);
        assert_eq!(bar.get(QUEUE_RESET, Bits16), 0);
        let before = bar.driver.read(0, FREE as usize);
        bar.driver.device.clear_faults().unwrap();
        assert_eq!(bar.served(), 0);
        assert!(bar.driver.read(0, FREE as usize) == before, "{fault:?}: touched after the reset");
        assert_eq!(bar.driver.counters().kicks, 0);
        bar.driver.wipe();
        bar.program();
        bar.set(QUEUE_ENABLE, Bits16, 1);
        assert_eq!(bar.driver.flush(), OK);
        bar.assert_clean();
    }
}

#[test]
fn the_reset_of_a_queue_that_never_ends_lasts_until_faults_are_cleared() {
    let bar = started();
    bar.driver.device.inject(Fault::QueueResetNeverEnds, 1, 0, 0).unwrap();
    bar.set(QUEUE_RESET, Bits16, 1);
    assert!((0..100).all(|_| bar.get(QUEUE_RESET, Bits16) == 1));
    bar.program();
    bar.set(QUEUE_ENABLE, Bits16, 1);
    assert_says(&bar.violation(), "has not ended");
    bar.driver.device.clear_faults().unwrap();
    assert_eq!(bar.get(QUEUE_RESET, Bits16), 0);
    bar.set(QUEUE_ENABLE, Bits16, 1);
    bar.assert_clean();
}
