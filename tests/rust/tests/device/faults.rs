//! Each fault does what its name says, and nothing else.

use softdev::{Fault, status};

use crate::driver::*;

fn driver_with(fault: Fault, value: u64) -> Driver {
    let driver = Driver::new(options(), FLAGS_ONLY, 8);
    driver.device.inject(fault, 1, 0, value).unwrap();
    driver
}

/// A read of sector 0 as descriptors 0 to 2, offered `count` times and served.
fn serve_reads(driver: &mut Driver, count: u16) -> Vec<(u32, u32)> {
    driver.put_header(FREE, IN, 0);
    let parts = [(FREE, 16, false), (FREE + 0x1000, SECTOR, true), (FREE + 0x100, 1, true)];
    let head = driver.link(&parts);
    (0..count).for_each(|_| driver.offer(head));
    driver.publish();
    driver.device.serve(usize::MAX).unwrap();
    std::iter::from_fn(|| driver.reap()).map(|element| (element.id, element.len)).collect()
}

const GOOD: (u32, u32) = (0, 513);

#[test]
fn id_out_of_range() {
    assert_eq!(serve_reads(&mut driver_with(Fault::IdOutOfRange, 0), 2), [(8, 513), GOOD]);
    assert_eq!(serve_reads(&mut driver_with(Fault::IdOutOfRange, 1 << 40), 1), [(u32::MAX, 513)]);
}

#[test]
fn id_not_outstanding() {
    let used = serve_reads(&mut driver_with(Fault::IdNotOutstanding, 0), 2);
    assert_eq!(used.len(), 2);
    assert!(used[0].0 != 0 && used[0].0 < 8, "{used:?}");
    assert_eq!(used[1], GOOD);
}

#[test]
fn id_not_outstanding_when_every_descriptor_is_a_head() {
    let mut driver = driver_with(Fault::IdNotOutstanding, 0);
    driver.put_header(FREE, FLUSH, 0);
    for n in 0..8 {
        driver.link_table(FREE + 0x200 + 64 * n, &[(FREE, 16, false), (FREE + 0x100, 1, true)], 0);
        driver.offer(n as u16);
    }
    driver.publish();
    driver.device.serve(usize::MAX).unwrap();
    // Nine elements for eight chains; whichever is read, the second of an id is wrong.
    assert_eq!(driver.used_index(), 9);
}

#[test]
fn id_twice() {
    assert_eq!(serve_reads(&mut driver_with(Fault::IdTwice, 0), 2), [GOOD; 3]);
}

#[test]
fn index_ahead() {
    let mut driver = driver_with(Fault::IndexAhead, 3);
    serve_reads(&mut driver, 1);
    assert_eq!(driver.used_index(), 4);
    let mut driver = driver_with(Fault::IndexAhead, 0);
    serve_reads(&mut driver, 1);
    assert_eq!(driver.used_index(), 9);
}

#[test]
fn lengths() {
    assert_eq!(serve_reads(&mut driver_with(Fault::HugeLength, 0), 1), [(0, u32::MAX)]);
    assert_eq!(serve_reads(&mut driver_with(Fault::HugeLength, 514), 1), [(0, 514)]);
    assert_eq!(serve_reads(&mut driver_with(Fault::ShortLength, 0), 1), [(0, 0)]);
    assert_eq!(serve_reads(&mut driver_with(Fault::ShortLength, 12), 1), [(0, 12)]);
}

#[test]
fn garbage_status_is_said_of_a_request_that_was_carried_out() {
    let mut driver = driver_with(Fault::GarbageStatus, 0x77);
    assert_eq!(driver.write_sectors(0, &[4; SECTOR]), 0x77);
    assert_eq!(driver.read_sectors(0, 1), [4; SECTOR]);
}

#[test]
fn status_is_said_of_a_request_that_was_not_carried_out() {
    let mut driver = driver_with(Fault::Status, 1);
    assert_eq!(driver.write_sectors(0, &[4; SECTOR]), IOERR);
    assert_eq!(driver.read_sectors(0, 1), [0; SECTOR]);
}

#[test]
fn silence() {
    assert_eq!(serve_reads(&mut driver_with(Fault::Silence, 0), 3), [GOOD; 2]);
}

#[test]
fn a_fault_waits_for_its_turn() {
    let mut driver = Driver::new(options(), FLAGS_ONLY, 8);
    driver.device.inject(Fault::ShortLength, 2, 1, 7).unwrap();
    assert_eq!(serve_reads(&mut driver, 4), [GOOD, (0, 7), (0, 7), GOOD]);
}

#[test]
fn delay_lasts_until_the_next_kick() {
    let mut driver = driver_with(Fault::Delay, 0);
    assert_eq!(serve_reads(&mut driver, 1), []);
    driver.device.serve(usize::MAX).unwrap();
    assert_eq!(driver.reap(), None);
    driver.kick();
    driver.device.serve(usize::MAX).unwrap();
    assert_eq!(driver.reap().map(|element| element.len), Some(513));
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn delay_ends_when_faults_are_cleared() {
    let mut driver = driver_with(Fault::Delay, 0);
    assert_eq!(serve_reads(&mut driver, 1), []);
    driver.device.clear_faults().unwrap();
    assert_eq!(driver.reap().map(|element| element.len), Some(513));
}

#[test]
fn refuse_features() {
    let driver = driver_with(Fault::RefuseFeatures, 0);
    driver.negotiate(FLAGS_ONLY);
    assert_eq!(driver.device.read_status().unwrap() & status::FEATURES_OK, 0);
    driver.negotiate(FLAGS_ONLY);
    assert_ne!(driver.device.read_status().unwrap() & status::FEATURES_OK, 0);
}

#[test]
fn reset_never_ends() {
    let mut driver = driver_with(Fault::ResetNeverEnds, 0);
    let before = driver.device.read_status().unwrap();
    for _ in 0..3 {
        driver.device.write_status(0).unwrap();
        assert_eq!(driver.device.read_status().unwrap(), before);
        driver.set_status(status::ACKNOWLEDGE);
    }
    assert_eq!(serve_reads(&mut driver, 1), []);
    driver.device.clear_faults().unwrap();
    assert_eq!(driver.device.read_status().unwrap(), 0);
    driver.start(FLAGS_ONLY);
    assert_eq!(serve_reads(&mut driver, 1), [GOOD]);
}

#[test]
fn needs_reset() {
    let mut driver = driver_with(Fault::NeedsReset, 0);
    assert!(driver.needs_reset());
    assert_eq!(driver.config_interrupts(), 1);
    assert_eq!(serve_reads(&mut driver, 1), []);
}

#[test]
fn needs_reset_before_driver_ok_is_not_signalled() {
    let driver = Driver::new(options(), FLAGS_ONLY, 8);
    driver.device.write_status(0).unwrap();
    driver.device.inject(Fault::NeedsReset, 1, 0, 0).unwrap();
    assert!(driver.needs_reset());
    assert_eq!(driver.config_interrupts(), 0);
}

#[test]
fn config_flicker() {
    let driver = Driver::new(options(), FLAGS_ONLY, 8);
    driver.device.inject(Fault::ConfigFlicker, 2, 1, 5).unwrap();
    let seen: Vec<(u32, u64)> = (0..5)
        .map(|_| {
            let generation = driver.device.config_generation().unwrap();
            let bytes = driver.device.read_config(0, 8).unwrap();
            (generation, u64::from_le_bytes(bytes.try_into().unwrap()))
        })
        .collect();
    let all = CAPACITY_SECTORS;
    assert_eq!(seen, [(0, all), (0, all), (1, all - 5), (2, all), (2, all)]);
}

#[test]
fn no_interrupt_and_spurious_interrupt() {
    let mut driver = driver_with(Fault::NoInterrupt, 0);
    assert_eq!(serve_reads(&mut driver, 1), [GOOD]);
    assert_eq!((driver.interrupts(), driver.counters().interrupts), (0, 0));
    driver.device.inject(Fault::SpuriousInterrupt, 2, 0, 0).unwrap();
    assert_eq!((driver.interrupts(), driver.used_index()), (2, 1));
    assert!(driver.device.inject(Fault::SpuriousInterrupt, 1, 0, 9).is_err());
}

#[test]
fn more_spurious_interrupts_than_a_call_should_take_are_refused() {
    let driver = Driver::new(options(), FEATURES, 8);
    let refused = driver.device.inject(Fault::SpuriousInterrupt, 1 << 63, 0, 0).unwrap_err();
    assert!(refused.to_string().contains("count is 9223372036854775808"), "{refused}");
    assert_eq!((driver.interrupts(), driver.counters().interrupts), (0, 0));
    // What waits for its occasion takes any count.
    driver.device.inject(Fault::Silence, 1 << 63, 0, 0).unwrap();
}

#[test]
fn drop_config_write() {
    let driver = driver_with(Fault::DropConfigWrite, 0);
    driver.device.write_config(0x20, &[0]).unwrap();
    assert_eq!(driver.device.read_config(0x20, 1).unwrap(), [1]);
    driver.device.write_config(0x20, &[0]).unwrap();
    assert_eq!(driver.device.read_config(0x20, 1).unwrap(), [0]);
}
