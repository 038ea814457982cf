//! What each request does, and how it fails (VIRTIO 1.4, 5.2.6 Device Operation).

use softdev::{Device, DeviceOptions, feature};

use crate::driver::*;

const DATA: u64 = FREE + 0x1_0000;

#[test]
fn what_was_written_is_read_back_and_the_rest_is_zero() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    let data: Vec<u8> = (0..4 * SECTOR).map(|n| (n % 255) as u8).collect();
    assert_eq!(driver.write_sectors(CAPACITY_SECTORS - 4, &data), OK);
    assert_eq!(driver.read_sectors(CAPACITY_SECTORS - 4, 4), data);
    assert_eq!(driver.read_sectors(0, 4), vec![0; 4 * SECTOR]);
    let counters = driver.counters();
    assert_eq!((counters.reads, counters.writes), (2, 1));
    assert_eq!((counters.bytes_read, counters.bytes_written), (4096, 2048));
}

#[test]
fn a_request_that_reaches_past_the_end_fails_and_changes_nothing() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    let last = CAPACITY_SECTORS - 1;
    for sector in [last, CAPACITY_SECTORS, 1 << 55, u64::MAX / 512, u64::MAX] {
        assert_eq!(driver.write_sectors(sector, &[7; 2 * SECTOR]), IOERR, "{sector}");
        assert_eq!(driver.request(IN, sector, (DATA, 2 * SECTOR, true)).0, IOERR, "{sector}");
    }
    assert_eq!(driver.read_sectors(last, 1), [0; SECTOR]);
    assert_eq!(driver.counters().failed_requests, 10);
}

#[test]
fn a_failed_read_has_written_all_that_its_used_length_says() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    driver.write(DATA, &[PENDING; SECTOR]);
    let (status, used) = driver.request(IN, CAPACITY_SECTORS, (DATA, SECTOR, true));
    assert_eq!((status, used as usize), (IOERR, SECTOR + 1));
    assert_eq!(driver.read(DATA, SECTOR), [0; SECTOR]);
}

#[test]
fn data_that_is_no_number_of_sectors_fails() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    assert_eq!(driver.request(IN, 0, (DATA, 511, true)).0, IOERR);
    assert_eq!(driver.request(OUT, 0, (DATA, 513, false)).0, IOERR);
}

#[test]
fn data_in_the_wrong_direction_fails() {
    let mut driver = Driver::new(options(), FEATURES, 8);
    assert_eq!(driver.request(IN, 0, (DATA, 512, false)).0, IOERR);
    assert_eq!(driver.request(OUT, 0, (DATA, 512, true)).0, IOERR);
}

#[test]
fn nothing_is_written_to_a_read_only_disk_accepted_or_not() {
    for accepted in [FEATURES, FEATURES | 1 << feature::RO] {
        let read_only = DeviceOptions { read_only: true, ..options() };
        let mut driver = Driver::new(read_only, accepted, 8);
        assert_eq!(driver.write_sectors(0, &[7; SECTOR]), IOERR);
        assert_eq!(driver.ranges(DISCARD, &[(0, 1, 0)]), IOERR);
        assert_eq!(driver.ranges(WRITE_ZEROES, &[(0, 1, 0)]), IOERR);
        assert_eq!(driver.read_sectors(0, 1), [0; SECTOR]);
        assert_eq!(driver.flush(), OK);
    }
}

#[test]
fn the_serial_number_takes_exactly_20_bytes() {
    let short = DeviceOptions { serial: b"abc".to_vec(), ..options() };
    let mut driver = Driver::new(short, FEATURES, 8);
    driver.write(DATA, &[PENDING; 21]);
    assert_eq!(driver.request(GET_ID, 0, (DATA, 20, true)), (OK, 21));
    assert_eq!(driver.read(DATA, 21), b"abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xEE");
    assert_eq!(driver.request(GET_ID, 0, (DATA, 19, true)).0, IOERR);
    assert_eq!(driver.request(GET_ID, 0, (DATA, 24, true)).0, IOERR);
}

#[test]
fn what_was_not_negotiated_or_is_unknown_is_unsupported() {
    let mut driver = Driver::new(options(), 1 << feature::VERSION_1, 8);
    assert_eq!(driver.flush(), UNSUPP);
    assert_eq!(driver.ranges(DISCARD, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(driver.ranges(WRITE_ZEROES, &[(0, 1, 0)]), UNSUPP);
    for kind in [2, 3, 5, 10, 14, 15, 99, u32::MAX] {
        assert_eq!(driver.request(kind, 0, (DATA, 512, true)).0, UNSUPP, "type {kind}");
    }
    assert_eq!(driver.counters().unknown_requests, 8);
}

#[test]
fn write_zeroes_and_discard_leave_zeroes_in_every_segment() {
    for (kind, flags) in [(WRITE_ZEROES, 0), (WRITE_ZEROES, 1), (DISCARD, 0)] {
        let mut driver = Driver::new(options(), FEATURES, 8);
        for sector in 0..8 {
            assert_eq!(driver.write_sectors(sector, &[9; SECTOR]), OK);
        }
        let ranges = [(1, 2, flags), (5, 1, flags), (7, 0, flags)];
        assert_eq!(driver.ranges(kind, &ranges), OK);
        let left: Vec<u8> = (0..8).map(|sector| driver.read_sectors(sector, 1)[0]).collect();
        assert_eq!(left, [9, 0, 0, 9, 9, 0, 9, 9]);
    }
}

#[test]
fn a_bad_segment_fails_the_request_before_any_is_carried_out() {
    let small = DeviceOptions { max_discard_sectors: 8, max_write_zeroes_sectors: 4, ..options() };
    let mut driver = Driver::new(small, FEATURES, 8);
    assert_eq!(driver.write_sectors(0, &[9; SECTOR]), OK);
    let good = (0, 1, 0);
    assert_eq!(driver.ranges(DISCARD, &[good, (8, 1, 1)]), UNSUPP, "unmap on a discard");
    assert_eq!(driver.ranges(DISCARD, &[good, (8, 1, 2)]), UNSUPP, "an unknown flag");
    assert_eq!(driver.ranges(WRITE_ZEROES, &[good, (8, 1, 1 << 31)]), UNSUPP, "an unknown flag");
    assert_eq!(driver.ranges(DISCARD, &[good, (8, 9, 0)]), IOERR, "too long");
    assert_eq!(driver.ranges(WRITE_ZEROES, &[good, (8, 5, 0)]), IOERR, "too long");
    assert_eq!(driver.ranges(DISCARD, &[good, (CAPACITY_SECTORS, 1, 0)]), IOERR, "past the end");
    assert_eq!(driver.ranges(DISCARD, &[good; 17]), IOERR, "too many");
    assert_eq!(driver.ranges(DISCARD, &[]), IOERR, "none");
    assert_eq!(driver.request(DISCARD, 0, (DATA, 24, false)).0, IOERR, "one and a half");
    assert_eq!(driver.read_sectors(0, 1), [9; SECTOR]);
}

#[test]
fn limits_that_the_driver_accepted_are_held_against_it() {
    let accepted = FEATURES | 1 << feature::SIZE_MAX | 1 << feature::SEG_MAX;
    let limited = DeviceOptions { features: accepted, size_max: 512, seg_max: 2, ..options() };
    let mut driver = Driver::new(limited.clone(), accepted, 8);
    let try_parts = |driver: &mut Driver, parts: &[(u64, usize)]| {
        driver.put_header(FREE, IN, 0);
        let mut all = vec![(FREE, 16, false)];
        all.extend(parts.iter().map(|&(offset, length)| (DATA + offset, length, true)));
        all.push((FREE + 0x100, 1, true));
        let head = driver.link(&all);
        driver.run(head).unwrap();
        driver.read(FREE + 0x100, 1)[0]
    };
    assert_eq!(try_parts(&mut driver, &[(0, 512), (512, 512)]), OK);
    assert_eq!(try_parts(&mut driver, &[(0, 1024)]), IOERR);
    assert_eq!(try_parts(&mut driver, &[(0, 256), (256, 128), (384, 128)]), IOERR);
    // A driver that did not hear of the limits cannot be blamed.
    let mut deaf = Driver::new(limited, FEATURES, 8);
    assert_eq!(try_parts(&mut deaf, &[(0, 1024)]), OK);
}

#[test]
fn a_file_is_served_in_place() {
    let path = std::env::temp_dir().join(format!("vioblk-device-{}.img", std::process::id()));
    std::fs::write(&path, vec![3; 8 * SECTOR + 100]).unwrap();
    let file = DeviceOptions { path: Some(path.clone()), capacity_sectors: 0, ..options() };
    let mut driver = Driver::new(file, FEATURES, 8);
    assert_eq!(driver.device.read_config(0, 8).unwrap(), 8u64.to_le_bytes());
    assert_eq!(driver.read_sectors(7, 1), [3; SECTOR]);
    assert_eq!(driver.write_sectors(2, &[5; SECTOR]), OK);
    assert_eq!(driver.ranges(WRITE_ZEROES, &[(4, 2, 0)]), OK);
    assert_eq!(driver.ranges(DISCARD, &[(0, 1, 0)]), OK);
    assert_eq!(driver.flush(), OK);
    let expected: Vec<u8> =
        [3, 3, 5, 3, 0, 0, 3, 3].into_iter().flat_map(|byte| [byte; SECTOR]).collect();
    let content = std::fs::read(&path).unwrap();
    assert_eq!(&content[..8 * SECTOR], expected);
    // The file is cut short behind the device's back: an error for the driver, no more.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(4 * 512).unwrap();
    assert_eq!(driver.request(IN, 6, (DATA, SECTOR, true)).0, IOERR);
    assert_eq!(driver.read_sectors(3, 1), [3; SECTOR]);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_is_no_file_to_serve_is_refused() {
    let refused = |path: &std::path::Path| {
        let file = DeviceOptions { path: Some(path.into()), capacity_sectors: 0, ..options() };
        Device::new(shm::DmaSpace::new(), file).err().map(|error| error.to_string()).unwrap()
    };
    assert!(refused("/dev/null".as_ref()).contains("neither a regular file"));
    assert!(refused(&std::env::temp_dir()).contains("neither a regular file"));
    assert!(refused("/nonexistent".as_ref()).contains("/nonexistent"));
    let path = std::env::temp_dir().join(format!("vioblk-short-{}.img", std::process::id()));
    std::fs::write(&path, [0; 511]).unwrap();
    assert!(refused(&path).contains("511 bytes"));
    std::fs::remove_file(&path).unwrap();
}
