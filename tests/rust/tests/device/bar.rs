//! A driver that reaches the device by the registers of a PCI function, and can misuse them.

use std::sync::Arc;

use shm::{MmioWindow, Width};
use softdev::{DeviceOptions, PciFace, PciFaceOptions, status};

use crate::driver::*;

use Width::{Bits8, Bits16, Bits32};

pub const DEVICE_FEATURE_SELECT: usize = 0x00;
pub const DEVICE_FEATURE: usize = 0x04;
pub const DRIVER_FEATURE_SELECT: usize = 0x08;
pub const DRIVER_FEATURE: usize = 0x0C;
pub const CONFIG_MSIX_VECTOR: usize = 0x10;
pub const NUM_QUEUES: usize = 0x12;
pub const STATUS: usize = 0x14;
pub const GENERATION: usize = 0x15;
pub const QUEUE_SELECT: usize = 0x16;
pub const QUEUE_SIZE: usize = 0x18;
pub const QUEUE_MSIX_VECTOR: usize = 0x1A;
pub const QUEUE_ENABLE: usize = 0x1C;
pub const QUEUE_NOTIFY_OFF: usize = 0x1E;
pub const QUEUE_DESC: usize = 0x20;
pub const QUEUE_DRIVER: usize = 0x28;
pub const QUEUE_DEVICE: usize = 0x30;
pub const QUEUE_NOTIF_CONFIG_DATA: usize = 0x38;
pub const QUEUE_RESET: usize = 0x3A;

pub const MULTIPLIER: usize = 8;

/// A driver that reaches the device by its BAR.
pub struct Bar {
    pub driver: Driver,
    pub face: Arc<PciFace>,
    pub window: MmioWindow,
}

impl Bar {
    pub fn new(device: DeviceOptions, face: PciFaceOptions) -> Self {
        let driver = Driver::new(device, FEATURES, 8);
        let face = Arc::new(PciFace::new(Arc::clone(&driver.device), face).unwrap());
        face.set_command(true, true, false);
        let window = MmioWindow::model(Arc::clone(&face) as _);
        Self { driver, face, window }
    }

    pub fn offering(extra: u64) -> Self {
        let device = DeviceOptions { features: FEATURES | extra, ..options() };
        let face = PciFaceOptions {
            vector_count: 4,
            notify_multiplier: MULTIPLIER as u32,
            ..PciFaceOptions::default()
        };
        Self::new(device, face)
    }

    pub fn at(&self, structure: &str) -> usize {
        self.face.structures().iter().find(|each| each.name == structure).unwrap().offset
    }

    pub fn get(&self, offset: usize, width: Width) -> u32 {
        self.window.read(offset, width).unwrap()
    }

    pub fn set(&self, offset: usize, width: Width, value: u32) {
        self.window.write(offset, width, value).unwrap();
    }

    pub fn add_status(&self, bit: u8) {
        self.set(STATUS, Bits8, self.get(STATUS, Bits8) | u32::from(bit));
    }

    /// Reset, and on to FEATURES_OK.
    pub fn negotiate(&mut self, features: u64) {
        self.set(STATUS, Bits8, 0);
        assert_eq!(self.get(STATUS, Bits8), 0);
        self.driver.wipe();
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.set(DRIVER_FEATURE_SELECT, Bits32, select);
            self.set(DRIVER_FEATURE, Bits32, half);
        }
        self.add_status(status::FEATURES_OK);
    }

    pub fn set_address(&self, field: usize, address: u64) {
        self.set(field + 4, Bits32, (address >> 32) as u32);
        self.set(field, Bits32, address as u32);
    }

    pub fn program(&self) {
        let setup = self.driver.setup();
        self.set(QUEUE_SELECT, Bits16, 0);
        self.set(QUEUE_SIZE, Bits16, setup.size.into());
        self.set_address(QUEUE_DESC, setup.descriptors);
        self.set_address(QUEUE_DRIVER, setup.available);
        self.set_address(QUEUE_DEVICE, setup.used);
    }

    /// To DRIVER_OK, with queue 0.
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        self.program();
        self.set(QUEUE_ENABLE, Bits16, 1);
        self.add_status(status::DRIVER_OK);
        assert_eq!(self.get(STATUS, Bits8), 15);
    }

    pub fn doorbell(&self) -> usize {
        self.at("notify") + self.get(QUEUE_NOTIFY_OFF, Bits16) as usize * MULTIPLIER
    }

    /// Offer a flush, and publish it.
    pub fn offer_flush(&mut self) {
        let at = FREE;
        self.driver.put_header(at, FLUSH, 0);
        self.driver.rewind();
        let head = self.driver.link(&[(at, 16, false), (at + 0x100, 1, true)]);
        self.driver.offer(head);
        self.driver.publish();
    }

    pub fn served(&self) -> usize {
        self.driver.device.serve(usize::MAX).unwrap()
    }

    pub fn kicks(&self) -> u64 {
        self.served();
        self.driver.counters().kicks
    }

    /// The one thing that the driver did wrong.
    pub fn violation(&self) -> String {
        let violations = self.face.violations();
        assert_eq!(violations.len(), 1, "{violations:?}");
        self.face.clear_log();
        violations.into_iter().next().unwrap()
    }

    pub fn assert_clean(&self) {
        assert_eq!(self.face.violations(), Vec::<String>::new());
    }
}

#[track_caller]
pub fn assert_says(violation: &str, words: &str) {
    assert!(violation.contains(words), "{violation:?} does not say {words:?}");
}
