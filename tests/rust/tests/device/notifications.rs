//! Suppression both ways (VIRTIO 1.4, 2.7.7 and 2.7.10), and what the counters say of it.

use std::io::Write;

use softdev::DeviceOptions;

use crate::driver::*;

/// A flush: the smallest request there is.
fn link_flush(driver: &mut Driver) -> u16 {
    driver.rewind();
    driver.put_header(FREE, FLUSH, 0);
    driver.link(&[(FREE, 16, false), (FREE + 0x100, 1, true)])
}

/// Run `count` flushes in one batch.
fn batch(driver: &mut Driver, count: u16) {
    let head = link_flush(driver);
    (0..count).for_each(|_| driver.offer(head));
    driver.publish();
    assert_eq!(driver.device.serve(usize::MAX).unwrap(), usize::from(count));
    while driver.reap().is_some() {}
}

#[test]
fn a_batch_is_one_interrupt() {
    let mut driver = Driver::new(options(), FLAGS_ONLY, 32);
    batch(&mut driver, 16);
    assert_eq!(driver.interrupts(), 1);
    let counters = driver.counters();
    assert_eq!((counters.chains, counters.batches, counters.interrupts), (16, 1, 1));
    assert_eq!((counters.largest_batch, counters.most_outstanding), (16, 16));
}

#[test]
fn the_flag_suppresses_interrupts_and_the_event_does_not() {
    let mut driver = Driver::new(options(), FLAGS_ONLY, 8);
    driver.set_available_flags(1);
    driver.set_used_event(0);
    batch(&mut driver, 1);
    assert_eq!(driver.interrupts(), 0);
    driver.set_available_flags(0);
    driver.set_used_event(1000);
    batch(&mut driver, 1);
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.counters().interrupts_suppressed, 1);
}

#[test]
fn with_event_idx_the_event_decides_and_the_flag_does_not() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    driver.set_available_flags(1);
    driver.set_used_event(2);
    // Used indices 0 and 1 are filled, then 2 to 4, then 5.
    batch(&mut driver, 2);
    assert_eq!(driver.interrupts(), 0);
    batch(&mut driver, 3);
    assert_eq!(driver.interrupts(), 1);
    batch(&mut driver, 1);
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn the_event_is_hit_at_every_index_over_the_wrap() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    for round in 0..30_000u32 {
        let count = (round % 7 + 1) as u16;
        let first = driver.next_used;
        let offset = (round % 9) as u16;
        driver.set_used_event(first.wrapping_add(offset));
        batch(&mut driver, count);
        assert_eq!(driver.interrupts(), u64::from(offset < count), "round {round}");
    }
    assert!(driver.counters().chains > 65536);
}

#[test]
fn without_event_idx_the_flags_word_is_0_or_1_and_armed_when_idle() {
    let mut driver = Driver::new(options(), FLAGS_ONLY, 8);
    batch(&mut driver, 3);
    assert_eq!(driver.used_flags(), 0);
    assert_eq!(driver.avail_event(), 0);
}

#[test]
fn with_event_idx_the_event_names_the_next_chain_and_the_flags_stay_0() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    for expected in [3, 6, 9] {
        batch(&mut driver, 3);
        assert_eq!((driver.used_flags(), driver.avail_event()), (0, expected));
    }
}

#[test]
fn a_limit_leaves_the_rest_waiting() {
    let mut driver = Driver::new(options(), FLAGS_ONLY, 32);
    let head = link_flush(&mut driver);
    (0..10).for_each(|_| driver.offer(head));
    driver.publish();
    assert_eq!(driver.device.serve(4).unwrap(), 4);
    assert_eq!(driver.used_index(), 4);
    assert_eq!(driver.device.serve(4).unwrap(), 4);
    assert_eq!(driver.device.serve(usize::MAX).unwrap(), 2);
    assert_eq!((driver.used_index(), driver.counters().batches), (10, 1));
}

#[test]
fn kicks_are_counted_one_by_one_and_do_no_harm_for_nothing() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    (0..5).for_each(|_| driver.kick());
    assert_eq!(driver.device.serve(usize::MAX).unwrap(), 0);
    assert_eq!(driver.counters().kicks, 5);
    batch(&mut driver, 1);
}

#[test]
fn more_kicks_than_can_be_counted_are_kicks_like_others() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    let fd = shm::duplicate_fd(driver.device.kick_fd(0).unwrap()).unwrap();
    let mut kick = std::fs::File::from(fd);
    for _ in 0..2 {
        kick.write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        batch(&mut driver, 1);
    }
    assert_eq!(driver.counters().kicks, u64::MAX);
}

#[test]
fn a_thread_serves_what_a_kick_announces() {
    for features in [FEATURES, FLAGS_ONLY] {
        let threaded = DeviceOptions { threaded: true, ..options() };
        let mut driver = Driver::new(threaded, features, 8);
        let poller = shm::Poller::new().unwrap();
        let fd = shm::duplicate_fd(driver.device.interrupt_fd(0).unwrap()).unwrap();
        let interrupt = shm::EventFd::from_fd(fd);
        poller.add(&interrupt, 0, shm::Watch::Readable).unwrap();
        for round in 0..200u16 {
            driver.set_used_event(round);
            let head = link_flush(&mut driver);
            driver.offer(head);
            driver.publish();
            driver.kick();
            let ready = poller.wait(std::time::Duration::from_secs(20)).unwrap().count();
            assert_eq!(ready, 1, "no interrupt in 20 seconds, round {round}");
            interrupt.drain();
            assert_eq!(driver.reap().map(|element| element.id), Some(head.into()));
        }
        driver.device.close().unwrap();
        assert_eq!(driver.counters().chains, 200);
    }
}
