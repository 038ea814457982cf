//! The PCI face: its registers, and what it says of a driver that uses them wrongly.

use std::sync::Arc;

use shm::{RegisterError, Width};
use softdev::{DeviceOptions, Fault, PciFace, PciFaceOptions, feature, status};

use crate::bar::*;
use crate::driver::*;

use Width::{Bits8, Bits16, Bits32};

#[test]
fn a_driver_that_keeps_the_rules_gets_its_requests_served_and_breaks_none() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    bar.offer_flush();
    bar.set(bar.doorbell(), Bits16, 0);
    assert_eq!(bar.served(), 1);
    assert_eq!(bar.driver.reap().unwrap().len, 1);
    assert_eq!(bar.driver.counters().kicks, 1);
    bar.assert_clean();
}

#[test]
fn features_are_shown_in_windows_and_those_after_the_second_are_empty() {
    let bar = Bar::offering(1 << feature::NOTIFICATION_DATA);
    let offered: Vec<u32> = (0..5)
        .map(|window| {
            bar.set(DEVICE_FEATURE_SELECT, Bits32, window);
            bar.get(DEVICE_FEATURE, Bits32)
        })
        .collect();
    let features = FEATURES | 1 << feature::NOTIFICATION_DATA;
    assert_eq!(offered, [features as u32, (features >> 32) as u32, 0, 0, 0]);
}

#[test]
fn a_feature_of_a_window_that_is_empty_is_refused() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    assert_ne!(bar.get(STATUS, Bits8) & u32::from(status::FEATURES_OK), 0);
    bar.set(STATUS, Bits8, 0);
    bar.get(STATUS, Bits8);
    bar.set(STATUS, Bits8, 3);
    for (window, bits) in [(0, FEATURES as u32), (1, (FEATURES >> 32) as u32), (3, 1 << 31)] {
        bar.set(DRIVER_FEATURE_SELECT, Bits32, window);
        bar.set(DRIVER_FEATURE, Bits32, bits);
    }
    bar.set(STATUS, Bits8, 11);
    assert_eq!(bar.get(STATUS, Bits8), 3);
}

#[test]
fn features_that_need_the_registers_of_the_face_are_honoured_with_it_alone() {
    let more = 1 << feature::NOTIFICATION_DATA | 1 << feature::NOTIF_CONFIG_DATA;
    let device = DeviceOptions { features: FEATURES | more, ..options() };
    let plain = Driver::new(device, FEATURES, 8);
    plain.negotiate(FEATURES | more);
    assert_eq!(plain.device.read_status().unwrap() & status::FEATURES_OK, 0);
    let mut bar = Bar::offering(more);
    bar.negotiate(FEATURES | more);
    assert_eq!(bar.get(STATUS, Bits8), 11);
}

#[test]
fn every_write_to_a_read_only_field_is_noticed_and_changes_nothing() {
    let bar = Bar::offering(0);
    for (offset, width) in [
        (DEVICE_FEATURE, Bits32),
        (NUM_QUEUES, Bits16),
        (GENERATION, Bits8),
        (QUEUE_NOTIFY_OFF, Bits16),
        (QUEUE_NOTIF_CONFIG_DATA, Bits16),
        (bar.at("isr"), Bits8),
        (bar.at("msix_pending"), Bits32),
    ] {
        bar.set(offset, width, 1);
        assert_says(&bar.violation(), "read-only");
    }
    assert_eq!(bar.get(NUM_QUEUES, Bits16), 1);
    assert_eq!(bar.get(QUEUE_NOTIFY_OFF, Bits16), 1);
}

#[test]
fn an_access_of_another_width_than_the_field_has_is_noticed() {
    let bar = Bar::offering(0);
    for (offset, width) in [
        (STATUS, Bits16),
        (STATUS, Bits32),
        (NUM_QUEUES, Bits8),
        (DEVICE_FEATURE, Bits16),
        (QUEUE_DESC, Bits16),
        (bar.at("isr"), Bits32),
        (bar.at("device"), Bits8),
        (bar.at("msix_table"), Bits16),
        (0x800, Bits32),
    ] {
        bar.get(offset, width);
        assert_says(&bar.violation(), &format!("{} bytes at {offset:#x}", width.bytes()));
    }
    bar.set(QUEUE_DESC, Bits16, 0x1234);
    assert_says(&bar.violation(), "queue_desc, at 0x20, is accessed by 4 bytes");
    assert_eq!(bar.get(QUEUE_DESC, Bits32), 0);
}

#[test]
fn accesses_are_recorded_with_what_they_read_and_wrote() {
    let bar = Bar::offering(0);
    bar.set(QUEUE_SELECT, Bits16, 5);
    bar.get(NUM_QUEUES, Bits16);
    let seen: Vec<_> =
        bar.face.accesses().iter().map(|a| (a.offset, a.value, a.is_write)).collect();
    assert_eq!(seen, [(QUEUE_SELECT, 5, true), (NUM_QUEUES, 1, false)]);
    assert_eq!(bar.face.access_count(), 2);
    bar.face.clear_log();
    assert_eq!((bar.face.accesses().len(), bar.face.access_count()), (0, 0));
}

#[test]
fn a_window_refuses_what_is_not_inside_or_not_aligned_before_the_face_sees_it() {
    let bar = Bar::offering(0);
    let misplaced =
        |offset| matches!(bar.window.read(offset, Bits32), Err(RegisterError::Misplaced { .. }));
    assert!(misplaced(2) && misplaced(bar.window.length()));
    assert_eq!(bar.face.access_count(), 0);
    assert!(bar.window.length().is_power_of_two());
}

#[test]
fn the_halves_of_an_address_may_come_in_any_order() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    for first_upper in [false, true] {
        let mut halves = [(QUEUE_DESC, 0x1000), (QUEUE_DESC + 4, 1)];
        if first_upper {
            halves.reverse();
        }
        halves.iter().for_each(|&(offset, value)| bar.set(offset, Bits32, value));
        assert_eq!((bar.get(QUEUE_DESC, Bits32), bar.get(QUEUE_DESC + 4, Bits32)), (0x1000, 1));
    }
    bar.assert_clean();
}

#[test]
fn a_queue_that_is_not_there_reads_as_size_0_and_cannot_be_set_up() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    bar.set(QUEUE_SELECT, Bits16, 1);
    assert_eq!(bar.get(QUEUE_SIZE, Bits16), 0);
    bar.assert_clean();
    bar.set(QUEUE_SIZE, Bits16, 8);
    assert_says(&bar.violation(), "there is no queue 1");
}

#[test]
fn a_queue_size_is_a_power_of_two_up_to_the_largest() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    assert_eq!(bar.get(QUEUE_SIZE, Bits16), 256);
    for size in [0, 3, 512] {
        bar.set(QUEUE_SIZE, Bits16, size);
        assert_says(&bar.violation(), "no power of two up to 256");
    }
    bar.set(QUEUE_SIZE, Bits16, 64);
    assert_eq!(bar.get(QUEUE_SIZE, Bits16), 64);
}

#[test]
fn a_queue_is_enabled_last_once_and_by_1() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    bar.set(QUEUE_ENABLE, Bits16, 1);
    assert_says(&bar.violation(), "without queue_desc");
    bar.program();
    for wrong in [0, 2] {
        bar.set(QUEUE_ENABLE, Bits16, wrong);
        assert_says(&bar.violation(), "queue_enable was written");
        assert_eq!(bar.get(QUEUE_ENABLE, Bits16), 0);
    }
    bar.set(QUEUE_ENABLE, Bits16, 1);
    assert_eq!(bar.get(QUEUE_ENABLE, Bits16), 1);
    for (offset, width) in
        [(QUEUE_SIZE, Bits16), (QUEUE_MSIX_VECTOR, Bits16), (QUEUE_DEVICE, Bits32)]
    {
        bar.set(offset, width, 2);
        assert_says(&bar.violation(), "after queue_enable");
    }
    bar.set(QUEUE_ENABLE, Bits16, 1);
    assert_says(&bar.violation(), "enabled already");
}

#[test]
fn a_ring_that_is_no_memory_of_the_device_is_not_enabled() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    bar.program();
    bar.set_address(QUEUE_DEVICE, 0xDEAD_0000);
    bar.set(QUEUE_ENABLE, Bits16, 1);
    assert_says(&bar.violation(), "0xdead0000, is not in memory");
    assert_eq!(bar.get(QUEUE_ENABLE, Bits16), 0);
}

#[test]
fn nothing_is_written_between_a_reset_and_the_0_that_ends_it() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    bar.set(STATUS, Bits8, 0);
    bar.set(QUEUE_SELECT, Bits16, 0);
    assert_says(&bar.violation(), "before the status read as 0");
    bar.set(STATUS, Bits8, 1);
    assert_says(&bar.violation(), "before the status read as 0");
    assert_eq!(bar.get(STATUS, Bits8), 0);
    assert_eq!(bar.get(QUEUE_ENABLE, Bits16), 0);
    bar.set(STATUS, Bits8, 1);
    bar.assert_clean();
}

#[test]
fn a_slow_reset_ends_after_so_many_reads_and_a_stuck_one_when_faults_are_cleared() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    bar.driver.device.inject(Fault::SlowReset, 1, 0, 2).unwrap();
    bar.set(STATUS, Bits8, 0);
    let seen: Vec<u32> = (0..4).map(|_| bar.get(STATUS, Bits8)).collect();
    assert_eq!(seen, [15, 15, 0, 0]);
    bar.start(FEATURES);
    bar.driver.device.inject(Fault::ResetNeverEnds, 1, 0, 0).unwrap();
    bar.set(STATUS, Bits8, 0);
    assert!((0..100).all(|_| bar.get(STATUS, Bits8) == 15));
    bar.driver.device.clear_faults().unwrap();
    assert_eq!(bar.get(STATUS, Bits8), 0);
    bar.start(FEATURES);
    bar.assert_clean();
}

#[test]
fn status_bits_are_not_taken_back_and_driver_ok_needs_features_ok() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    bar.set(STATUS, Bits8, 1);
    assert_says(&bar.violation(), "clears bits of 0xb");
    bar.set(STATUS, Bits8, 0);
    bar.get(STATUS, Bits8);
    bar.set(STATUS, Bits8, 3);
    bar.set(STATUS, Bits8, 7);
    assert_says(&bar.violation(), "DRIVER_OK without FEATURES_OK");
}

#[test]
fn features_are_written_between_driver_and_features_ok() {
    let mut bar = Bar::offering(0);
    bar.set(STATUS, Bits8, 0);
    bar.get(STATUS, Bits8);
    bar.set(DRIVER_FEATURE, Bits32, 1);
    assert_says(&bar.violation(), "between DRIVER and FEATURES_OK");
    bar.negotiate(FEATURES);
    bar.set(DRIVER_FEATURE, Bits32, 0);
    assert_says(&bar.violation(), "between DRIVER and FEATURES_OK");
}

#[test]
fn fields_of_a_feature_are_there_with_it_alone() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    bar.get(QUEUE_NOTIF_CONFIG_DATA, Bits16);
    assert_says(&bar.violation(), "NOTIF_CONFIG_DATA was not negotiated");
    bar.set(QUEUE_RESET, Bits16, 1);
    assert_says(&bar.violation(), "RING_RESET was not negotiated");
    bar.get(0x3C, Bits16);
    assert_says(&bar.violation(), "ADMIN_VQ was not negotiated");
}

#[test]
fn a_short_common_configuration_ends_before_the_later_fields() {
    let face = PciFaceOptions { short_common: true, ..PciFaceOptions::default() };
    let bar = Bar::new(options(), face);
    bar.get(QUEUE_NOTIF_CONFIG_DATA, Bits16);
    assert_says(&bar.violation(), "no structure is there");
}

#[test]
fn a_notification_has_the_width_the_place_and_the_value_that_were_negotiated() {
    let data = 1 << feature::NOTIFICATION_DATA;
    let config_data = 1 << feature::NOTIF_CONFIG_DATA;
    for extra in [0, data, config_data, data | config_data] {
        let mut bar = Bar::offering(data | config_data);
        bar.start(FEATURES | extra);
        let doorbell = bar.doorbell();
        let name = if extra & config_data != 0 {
            let named = bar.get(QUEUE_NOTIF_CONFIG_DATA, Bits16);
            assert_ne!(named, 0, "an index by mistake would not be noticed");
            named
        } else {
            0
        };
        let (right, wrong) = if extra & data != 0 { (Bits32, Bits16) } else { (Bits16, Bits32) };
        bar.assert_clean();
        bar.set(doorbell, wrong, name);
        assert_says(&bar.violation(), &format!("notifications have {} bytes", right.bytes()));
        bar.set(doorbell, right, name ^ 1);
        assert_says(&bar.violation(), "names no queue");
        bar.set(bar.at("notify"), right, name);
        assert_says(&bar.violation(), "names no queue that is notified here");
        assert_eq!(bar.kicks(), 0);
        bar.set(doorbell, right, name);
        bar.assert_clean();
        assert_eq!(bar.kicks(), 1);
    }
}

#[test]
fn notification_data_may_lag_and_never_leads() {
    let data = 1 << feature::NOTIFICATION_DATA;
    let mut bar = Bar::offering(data);
    bar.start(FEATURES | data);
    bar.offer_flush();
    bar.offer_flush();
    for fits in [0, 1, 2] {
        bar.set(bar.doorbell(), Bits32, fits << 16);
        bar.assert_clean();
    }
    bar.set(bar.doorbell(), Bits32, 3 << 16);
    assert_says(&bar.violation(), "announces 0x3, but its next available position is 0x2");
}

#[test]
fn notification_data_of_a_packed_ring_names_a_place_of_the_last_lap() {
    let features = 1 << feature::NOTIFICATION_DATA | 1 << feature::RING_PACKED;
    let mut bar = Bar::offering(features);
    bar.start(FEATURES | features);
    // The ring, of 8, is as it was made: all of the lap before the first one counts as passed.
    for announced in 0..=u32::from(u16::MAX) {
        bar.set(bar.doorbell(), Bits32, announced << 16);
        if announced < 8 || announced == 1 << 15 {
            bar.assert_clean();
        } else {
            let words = format!("announces {announced:#x}, but its next available position is");
            assert_says(&bar.violation(), &words);
        }
    }
}

#[test]
fn nothing_is_notified_before_driver_ok_or_after_a_reset() {
    let mut bar = Bar::offering(0);
    bar.negotiate(FEATURES);
    bar.program();
    bar.set(QUEUE_ENABLE, Bits16, 1);
    bar.set(bar.doorbell(), Bits16, 0);
    assert_says(&bar.violation(), "before DRIVER_OK");
    bar.start(FEATURES);
    bar.set(STATUS, Bits8, 0);
    bar.set(bar.doorbell(), Bits16, 0);
    assert_says(&bar.violation(), "before DRIVER_OK");
}

#[test]
fn the_generation_changes_within_a_read_that_is_disturbed() {
    let bar = Bar::offering(0);
    let config = bar.at("device");
    bar.driver.device.inject(Fault::ConfigFlicker, 1, 1, 16).unwrap();
    let before = bar.get(GENERATION, Bits8);
    assert_eq!(bar.get(config, Bits32), CAPACITY_SECTORS as u32);
    assert_eq!(bar.get(GENERATION, Bits8), before);
    bar.get(config + 4, Bits32);
    assert_ne!(bar.get(GENERATION, Bits8), before);
    assert_eq!(bar.get(config, Bits32), CAPACITY_SECTORS as u32 - 16);
}

#[test]
fn the_generation_has_8_bits() {
    let bar = Bar::offering(0);
    bar.driver.device.inject(Fault::ConfigFlicker, 256, 0, 0).unwrap();
    let before = bar.get(GENERATION, Bits8);
    for _ in 0..256 {
        bar.get(bar.at("device"), Bits32);
    }
    assert_eq!(bar.get(GENERATION, Bits8), before);
    assert_eq!(bar.driver.device.config_generation().unwrap(), 256);
}

#[test]
fn writeback_is_the_one_configuration_field_to_write() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    let config = bar.at("device");
    bar.set(config + 0x20, Bits8, 0);
    assert_eq!(bar.get(config + 0x20, Bits8), 0);
    bar.assert_clean();
    bar.set(config, Bits32, 7);
    assert_says(&bar.violation(), "not the driver's to write");
    bar.start(FEATURES & !(1 << feature::CONFIG_WCE));
    bar.set(config + 0x20, Bits8, 1);
    assert_says(&bar.violation(), "without CONFIG_WCE");
}

#[test]
fn a_device_can_lie_about_its_queues() {
    let face = PciFaceOptions {
        queue_count_shown: Some(0),
        queue_size_shown: Some(100),
        ..PciFaceOptions::default()
    };
    let mut bar = Bar::new(options(), face);
    assert_eq!(bar.get(NUM_QUEUES, Bits16), 0);
    assert_eq!(bar.get(QUEUE_SIZE, Bits16), 100);
    bar.start(FEATURES);
    bar.assert_clean();
}

#[test]
fn a_bar_that_is_not_decoded_reads_as_all_ones() {
    let bar = Bar::offering(0);
    bar.face.set_command(false, true, false);
    assert_eq!(bar.get(STATUS, Bits8), 0xFF);
    assert_says(&bar.violation(), "memory decoding is off");
    bar.set(QUEUE_SELECT, Bits16, 7);
    assert_says(&bar.violation(), "memory decoding is off");
    bar.face.set_command(true, true, false);
    assert_eq!(bar.get(QUEUE_SELECT, Bits16), 0);
}

#[test]
fn without_bus_mastering_memory_is_not_touched_until_it_is_on_again() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    bar.face.set_command(true, false, false);
    bar.offer_flush();
    bar.set(bar.doorbell(), Bits16, 0);
    assert_eq!((bar.served(), bar.driver.used_index()), (0, 0));
    bar.face.set_command(true, true, false);
    assert_eq!((bar.served(), bar.driver.used_index()), (1, 1));
}

#[test]
fn what_was_removed_reads_as_all_ones_and_does_nothing_but_count() {
    let mut bar = Bar::offering(0);
    bar.start(FEATURES);
    let doorbell = bar.doorbell();
    bar.face.clear_log();
    bar.face.remove();
    assert!(bar.face.is_removed());
    assert_eq!(bar.get(STATUS, Bits8), 0xFF);
    assert_eq!(bar.get(bar.at("device"), Bits32), 0xFFFF_FFFF);
    bar.offer_flush();
    bar.set(doorbell, Bits16, 0);
    assert_eq!((bar.served(), bar.driver.used_index()), (0, 0));
    bar.face.set_command(true, true, false);
    assert_eq!((bar.served(), bar.driver.used_index()), (0, 0));
    assert_eq!(bar.face.access_count(), 3);
    bar.assert_clean();
}

#[test]
fn a_device_has_one_face_and_none_after_it_is_closed() {
    let bar = Bar::offering(0);
    let device = &bar.driver.device;
    let again = PciFace::new(Arc::clone(device), PciFaceOptions::default());
    assert_says(&again.err().unwrap().to_string(), "a PCI face already");
    device.close().unwrap();
    assert!(matches!(bar.window.read(STATUS, Bits8), Err(RegisterError::Closed(_))));
}

#[test]
fn options_that_cannot_be_are_refused() {
    let refused = |features: u64, options: PciFaceOptions| {
        let device = DeviceOptions { features: FEATURES | features, ..crate::driver::options() };
        let driver = Driver::new(device, FEATURES, 8);
        PciFace::new(Arc::clone(&driver.device), options).err().unwrap().to_string()
    };
    let vectors = PciFaceOptions { vector_count: 2049, ..PciFaceOptions::default() };
    assert_says(&refused(0, vectors), "2049");
    for multiplier in [1, 3, 8192] {
        let face = PciFaceOptions { notify_multiplier: multiplier, ..PciFaceOptions::default() };
        assert_says(&refused(0, face), &format!("notify_multiplier is {multiplier}"));
    }
    let narrow = PciFaceOptions { notify_multiplier: 2, ..PciFaceOptions::default() };
    assert_says(&refused(1 << feature::NOTIFICATION_DATA, narrow), "multiple of 4");
    let short = PciFaceOptions { short_common: true, ..PciFaceOptions::default() };
    assert_says(&refused(1 << feature::RING_RESET, short), "does not have");
}
