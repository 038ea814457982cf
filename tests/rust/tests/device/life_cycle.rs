//! Status, reset, resize, threads and close.

use std::sync::Arc;
use std::time::{Duration, Instant};

use softdev::{DeviceError, DeviceOptions, Fault, feature, status};

use crate::driver::*;

/// Longer than anything here takes on a busy machine; a bound, not a wait.
const LONG: Duration = Duration::from_secs(30);

fn threaded() -> DeviceOptions {
    DeviceOptions { threaded: true, ..options() }
}

/// Offer as many writes of 64 KiB as the ring has room for.
fn offer_writes(driver: &mut Driver) {
    driver.put_header(FREE, OUT, 0);
    let parts = [(FREE, 16, false), (FREE + 0x1_0000, 1 << 16, false), (FREE + 0x100, 1, true)];
    let head = driver.link(&parts);
    (0..driver.size).for_each(|_| driver.offer(head));
    driver.publish();
    driver.kick();
}

#[test]
fn nothing_is_served_before_driver_ok() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    driver.negotiate(FEATURES);
    driver.device.enable_queue(0, driver.setup()).unwrap();
    offer_writes(&mut driver);
    assert_eq!(driver.device.serve(usize::MAX).unwrap(), 0);
    driver.set_status(status::DRIVER_OK);
    assert_eq!(driver.device.serve(usize::MAX).unwrap(), 8);
}

#[test]
fn a_reset_stops_the_device_in_mid_work_and_it_works_again() {
    let mut driver = Driver::new(threaded(), FEATURES, 128);
    for round in 0..50 {
        offer_writes(&mut driver);
        if round % 2 == 0 {
            // Half of them are used, and the device is at the others.
            until("begun", || driver.used_index() > 0);
        }
        driver.device.write_status(0).unwrap();
        assert_eq!(driver.device.read_status().unwrap(), 0);
        // Wipe what the device writes and leave what it reads, so that it could go on.
        let mut memory = driver.read(0, FREE as usize + 0x2_0000);
        memory[USED as usize..][..6 + 8 * 128].fill(0xCC);
        memory[FREE as usize + 0x100] = PENDING;
        driver.write(0, &memory);
        // The thread goes on after the first kick before it can hear the second.
        for _ in 0..2 {
            let kicks = driver.counters().kicks;
            driver.kick();
            until("heard", || driver.counters().kicks > kicks);
        }
        assert!(driver.read(0, memory.len()) == memory, "touched after the reset");
        assert_eq!(driver.device.read_status().unwrap(), 0);
        assert_eq!(driver.device.violation().unwrap(), None);
        driver.start(FEATURES);
    }
    offer_writes(&mut driver);
    until("served", || driver.used_index() == 128);
    assert!(!driver.needs_reset());
}

#[test]
fn a_failed_driver_is_not_served() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    driver.set_status(status::FAILED);
    offer_writes(&mut driver);
    assert_eq!(driver.device.serve(usize::MAX).unwrap(), 0);
}

#[test]
fn queues_are_set_up_between_features_ok_and_driver_ok_only() {
    let driver = Driver::new(options(), FEATURES, 8);
    let late = driver.device.enable_queue(0, driver.setup());
    assert!(matches!(late, Err(DeviceError::State(_))));
    driver.device.write_status(0).unwrap();
    let early = driver.device.enable_queue(0, driver.setup());
    assert!(matches!(early, Err(DeviceError::State(_))));
}

#[test]
fn closing_in_mid_work_ends_the_thread() {
    for round in 0..50 {
        let mut driver = Driver::new(threaded(), FEATURES, 128);
        offer_writes(&mut driver);
        if round % 2 == 0 {
            driver.device.close().unwrap();
            let closed = driver.device.read_status();
            assert!(matches!(closed, Err(DeviceError::State(_))));
            driver.device.close().unwrap();
        }
    }
}

#[test]
fn resize_changes_capacity_and_generation_and_tells_a_live_driver() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    driver.device.resize(CAPACITY_SECTORS * 2).unwrap();
    assert_eq!(driver.config_interrupts(), 1);
    assert_eq!(driver.device.config_generation().unwrap(), 1);
    let shown = driver.device.read_config(0, 8).unwrap();
    assert_eq!(shown, (CAPACITY_SECTORS * 2).to_le_bytes());
    assert_eq!(driver.write_sectors(CAPACITY_SECTORS, &[1; SECTOR]), OK);
    driver.device.resize(CAPACITY_SECTORS).unwrap();
    assert_eq!(driver.write_sectors(CAPACITY_SECTORS, &[1; SECTOR]), IOERR);
    driver.device.write_status(0).unwrap();
    driver.config_interrupts();
    driver.device.resize(CAPACITY_SECTORS * 2).unwrap();
    assert_eq!(driver.config_interrupts(), 0);
    assert!(driver.device.resize(u64::MAX).is_err());
}

#[test]
fn others_get_their_turn_while_the_thread_is_busy() {
    let mut driver = Driver::new(threaded(), FEATURES, 128);
    let device = Arc::clone(&driver.device);
    let visitor = std::thread::spawn(move || {
        for round in 0..100 {
            device.write_config(0x20, &[round % 2]).unwrap();
            device.resize(CAPACITY_SECTORS).unwrap();
        }
    });
    // Feed the ring without end meanwhile.
    offer_writes(&mut driver);
    let started = Instant::now();
    while !visitor.is_finished() {
        while driver.reap().is_some() {
            driver.offer(0);
        }
        driver.publish();
        driver.kick();
        assert!(started.elapsed() < LONG, "the device makes no way");
    }
    visitor.join().unwrap();
    assert!(!driver.needs_reset(), "{:?}", driver.device.violation());
}

#[test]
fn every_queue_has_wires_of_its_own() {
    let mq = FEATURES | 1 << feature::MQ;
    let several = DeviceOptions { queue_count: 3, features: mq, ..options() };
    let mut driver = Driver::new(several, mq, 8);
    assert_eq!(driver.device.read_config(0x22, 2).unwrap(), [3, 0]);
    assert!(driver.device.kick_fd(3).is_err());
    // The same ring, this time as queue 2.
    driver.negotiate(mq);
    driver.device.enable_queue(2, driver.setup()).unwrap();
    driver.set_status(status::DRIVER_OK);
    driver.write(0, &vec![0; FREE as usize]);
    (driver.next_available, driver.next_used) = (0, 0);
    assert_eq!(driver.flush(), OK);
    let signalled = |index| signals(driver.device.interrupt_fd(index).unwrap());
    assert_eq!([signalled(0), signalled(1), signalled(2)], [0, 0, 1]);
    // Without MQ there is one queue.
    driver.negotiate(FEATURES);
    assert!(driver.device.enable_queue(1, driver.setup()).is_err());
}

#[test]
fn a_delay_of_a_threaded_device_ends_with_a_kick() {
    for features in [FEATURES, FLAGS_ONLY] {
        let mut driver = Driver::new(threaded(), features, 8);
        driver.device.inject(Fault::Delay, 1, 0, 0).unwrap();
        driver.put_header(FREE, FLUSH, 0);
        let head = driver.link(&[(FREE, 16, false), (FREE + 0x100, 1, true)]);
        driver.write(FREE + 0x100, &[PENDING]);
        driver.offer(head);
        driver.publish();
        driver.kick();
        // The request is carried out, which its status shows, and not completed.
        until("carried out", || driver.read(FREE + 0x100, 1) == [OK]);
        assert_eq!(driver.used_index(), 0);
        driver.kick();
        until("completed", || driver.used_index() == 1);
    }
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LONG, "not {what} after {LONG:?}");
        std::thread::yield_now();
    }
}
