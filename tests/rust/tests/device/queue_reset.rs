//! The reset of one queue, while the others live (VIRTIO 1.4, 2.6.1 Virtqueue Reset).

use softdev::{DeviceError, DeviceOptions, Fault, feature};

use crate::any_ring::{Driver, Format, Queue};
use crate::driver::{OK, PENDING, options};
use crate::life_cycle::until;

const RING_RESET: u64 = 1 << feature::RING_RESET;

fn with_two_queues(format: Format) -> Driver {
    Driver::with(format, 16, 2, RING_RESET, options())
}

/// Offer reads on a queue; how many chains the device takes then.
fn serve(driver: &mut Driver, index: usize, count: u64) -> usize {
    for sector in 0..count {
        driver.queues[index].offer_read(sector);
    }
    driver.queues[index].publish();
    driver.device.serve(usize::MAX).unwrap()
}

#[test]
fn what_is_in_flight_is_forgotten_and_the_other_queue_goes_on() {
    for format in Format::ALL {
        for fault in [Fault::Delay, Fault::Silence] {
            let mut driver = with_two_queues(format);
            driver.device.inject(fault, 1, 1, 0).unwrap();
            assert_eq!(serve(&mut driver, 0, 3), 3);
            let seen = driver.queues[0].reap_all();
            assert_eq!(seen.len(), if format.in_order { 1 } else { 2 });
            driver.kick(0);
            driver.device.reset_queue(0).unwrap();
            assert!(!driver.device.is_queue_resetting(0).unwrap());
            // Offered too late, kicked, and nothing holds it back any more.
            driver.device.clear_faults().unwrap();
            assert_eq!(serve(&mut driver, 0, 1), 0, "{format:?} {fault:?}");
            driver.kick(0);
            assert_eq!(serve(&mut driver, 1, 2), 2, "{format:?} {fault:?}");
            assert_eq!(driver.queues[1].reap_all().len(), if format.in_order { 1 } else { 2 });
            assert_eq!(driver.queues[0].reap_all(), [], "{format:?} {fault:?}");
            assert_eq!(driver.queues[0].status(3), PENDING);
            assert_eq!(driver.violation(), None);
        }
    }
}

#[test]
fn a_queue_that_was_reset_comes_back_at_another_size() {
    for format in Format::ALL {
        let mut driver = with_two_queues(format);
        assert_eq!(serve(&mut driver, 1, 5), 5);
        let odd = if format.packed { 9 } else { 4 };
        for size in [odd, 32, 16] {
            driver.device.reset_queue(1).unwrap();
            driver.queues[1] = driver.fresh_queue(1, size);
            driver.device.enable_queue(1, driver.queues[1].setup()).unwrap();
            // More than a lap.
            for _ in 0..2 * size / 3 {
                assert_eq!(serve(&mut driver, 1, 1), 1, "{format:?} {size}");
                assert_eq!(driver.queues[1].reap_all().len(), 1);
            }
            assert_eq!(serve(&mut driver, 0, 1), 1);
            assert_eq!(driver.queues[0].reap_all().len(), 1);
            assert_eq!(driver.violation(), None);
        }
    }
}

#[test]
fn what_waits_in_a_queue_that_comes_back_is_served_without_a_kick() {
    for format in Format::ALL {
        let threaded = DeviceOptions { threaded: true, ..options() };
        let mut driver = Driver::with(format, 16, 1, RING_RESET, threaded);
        driver.device.reset_queue(0).unwrap();
        driver.queues[0] = driver.fresh_queue(0, 8);
        driver.queues[0].offer_read(0);
        driver.queues[0].publish();
        driver.device.enable_queue(0, driver.queues[0].setup()).unwrap();
        until("served", || driver.counters().completions == 1);
        until("status", || driver.queues[0].status(0) == OK);
    }
}

#[test]
fn once_a_reset_has_returned_nothing_is_touched_however_busy_the_device_was() {
    for format in Format::ALL {
        let threaded = DeviceOptions { threaded: true, ..options() };
        let mut driver = Driver::with(format, 16, 2, RING_RESET, threaded);
        for round in 0..100 {
            for sector in 0..4 {
                driver.queues[0].offer_read(sector);
            }
            driver.queues[0].publish();
            driver.kick(0);
            // Before it is served, in the midst of that, or after it.
            let pause = std::time::Instant::now();
            while pause.elapsed().as_micros() < round {
                std::hint::spin_loop();
            }
            driver.device.reset_queue(0).unwrap();
            let fresh = driver.fresh_queue(0, 16);
            let statuses = |queue: &Queue| [0, 1, 2, 3].map(|number| queue.status(number));
            let before = statuses(&driver.queues[0]);
            driver.queues[1].offer_read(0);
            driver.queues[1].publish();
            driver.kick(1);
            let queue = &mut driver.queues[1];
            until("served on the other queue", || queue.reap().is_some());
            assert_eq!(statuses(&driver.queues[0]), before, "{format:?}");
            assert_eq!(fresh.used_elements(), [], "{format:?}");
            driver.queues[0] = fresh;
            driver.device.enable_queue(0, driver.queues[0].setup()).unwrap();
        }
        assert_eq!(driver.violation(), None);
    }
}

#[test]
fn a_reset_that_does_not_end_lasts_until_faults_are_cleared() {
    for format in Format::ALL {
        let driver = with_two_queues(format);
        driver.device.inject(Fault::QueueResetNeverEnds, 1, 0, 0).unwrap();
        for _ in 0..2 {
            driver.device.reset_queue(1).unwrap();
            assert!(driver.device.is_queue_resetting(1).unwrap());
        }
        let early = driver.device.enable_queue(1, driver.queues[1].setup());
        assert!(matches!(early, Err(DeviceError::State(_))));
        // The other one has nothing to do with it.
        driver.device.reset_queue(0).unwrap();
        assert!(!driver.device.is_queue_resetting(0).unwrap());
        driver.device.clear_faults().unwrap();
        assert!(!driver.device.is_queue_resetting(1).unwrap());
        driver.device.enable_queue(1, driver.fresh_queue(1, 8).setup()).unwrap();
    }
}

#[test]
fn a_queue_is_reset_and_comes_back_only_where_that_was_negotiated() {
    let driver = Driver::new(Format::SPLIT, 8);
    let refused = driver.device.reset_queue(0);
    assert!(matches!(refused, Err(DeviceError::State(_))));
    let driver = with_two_queues(Format::SPLIT);
    assert!(matches!(driver.device.reset_queue(2), Err(DeviceError::Invalid(_))));
    let again = driver.device.enable_queue(0, driver.queues[0].setup());
    assert!(matches!(again, Err(DeviceError::State(_))), "it was not reset");
}
