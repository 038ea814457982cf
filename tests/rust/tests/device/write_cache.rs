//! Which writes survive a loss of power (VIRTIO 1.4, 5.2.6.2 Device Requirements: Device
//! Operation).

use softdev::{DeviceOptions, feature};

use crate::driver::*;

const WCE: u64 = 1 << feature::CONFIG_WCE;
const FLUSH_BIT: u64 = 1 << feature::FLUSH;
const WRITEBACK: usize = 0x20;

fn cached() -> DeviceOptions {
    DeviceOptions { volatile_cache: true, ..options() }
}

/// Whether a write that was completed, and not flushed, survives.
fn survives(driver: &mut Driver) -> bool {
    assert_eq!(driver.write_sectors(0, &[8; SECTOR]), OK);
    assert_eq!(driver.read_sectors(0, 1), [8; SECTOR]);
    driver.device.power_loss().unwrap();
    driver.read_sectors(0, 1) == [8; SECTOR]
}

#[test]
fn a_write_is_lost_unless_a_flush_follows() {
    let mut driver = Driver::new(cached(), FEATURES, 8);
    assert_eq!(driver.write_sectors(0, &[1; SECTOR]), OK);
    assert_eq!(driver.flush(), OK);
    assert_eq!(driver.write_sectors(0, &[2; SECTOR]), OK);
    assert_eq!(driver.ranges(WRITE_ZEROES, &[(1, 1, 0)]), OK);
    driver.device.power_loss().unwrap();
    assert_eq!(driver.read_sectors(0, 1), [1; SECTOR]);
    assert!(!survives(&mut driver));
}

#[test]
fn without_a_volatile_cache_nothing_is_lost() {
    assert!(survives(&mut Driver::new(options(), FEATURES, 8)));
}

#[test]
fn writeback_0_makes_writes_stable_and_does_not_flush() {
    let mut driver = Driver::new(cached(), FEATURES, 8);
    assert_eq!(driver.device.read_config(WRITEBACK, 1).unwrap(), [1]);
    assert_eq!(driver.write_sectors(8, &[4; SECTOR]), OK);
    driver.device.write_config(WRITEBACK, &[0]).unwrap();
    assert_eq!(driver.device.read_config(WRITEBACK, 1).unwrap(), [0]);
    assert!(survives(&mut driver));
    assert_eq!(driver.read_sectors(8, 1), [0; SECTOR]);
    driver.device.write_config(WRITEBACK, &[1]).unwrap();
    assert_eq!(driver.write_sectors(0, &[0; SECTOR]), OK);
    assert_eq!(driver.flush(), OK);
    assert!(!survives(&mut driver));
}

#[test]
fn writes_are_stable_when_flushes_were_offered_and_not_taken() {
    assert!(survives(&mut Driver::new(cached(), FEATURES & !FLUSH_BIT & !WCE, 8)));
    assert!(!survives(&mut Driver::new(cached(), FEATURES & !WCE, 8)));
    // With CONFIG_WCE alone the cache starts as writethrough.
    assert!(survives(&mut Driver::new(cached(), FEATURES & !FLUSH_BIT, 8)));
}

#[test]
fn a_reset_does_not_lose_writes() {
    let mut driver = Driver::new(cached(), FEATURES, 8);
    assert_eq!(driver.write_sectors(0, &[6; SECTOR]), OK);
    driver.start(FEATURES);
    assert_eq!(driver.read_sectors(0, 1), [6; SECTOR]);
    assert_eq!(driver.flush(), OK);
    driver.device.power_loss().unwrap();
    assert_eq!(driver.read_sectors(0, 1), [6; SECTOR]);
}

#[test]
fn a_closed_device_has_written_its_cache_back() {
    let path = std::env::temp_dir().join(format!("vioblk-cache-{}.img", std::process::id()));
    std::fs::write(&path, [0; 4 * SECTOR]).unwrap();
    let file = DeviceOptions { path: Some(path.clone()), capacity_sectors: 0, ..cached() };
    let mut driver = Driver::new(file, FEATURES, 8);
    assert_eq!(driver.write_sectors(1, &[6; SECTOR]), OK);
    assert_eq!(std::fs::read(&path).unwrap(), [0; 4 * SECTOR]);
    driver.device.close().unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[SECTOR..2 * SECTOR], [6; SECTOR]);
    std::fs::remove_file(&path).unwrap();
}
