//! What an access to the BAR does.

mod common_access;
mod notify;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};

use shm::{RegisterError, RegisterModel, Width};

use crate::device::Device;
use crate::error::DeviceError;
use crate::registers::status::FEATURES_OK;
use crate::registers::{WRITEBACK_OFFSET, feature};

use super::common::Common;
use super::fields::{COMMON_BYTES, Layout, OLD_COMMON_BYTES, Place, Structure};
use super::interrupts::Interrupts;
use super::log::{Access, Log};
use super::options::PciFaceOptions;

/// The registers of a device on a PCI bus. See the module.
pub struct PciFace {
    device: Arc<Device>,
    options: PciFaceOptions,
    layout: Layout,
    common: Mutex<Common>,
    interrupts: Arc<Interrupts>,
    log: Arc<Log>,
    decoding: AtomicBool,
    removed: AtomicBool,
}

/// queue_notify_off of a queue: never its index, which a driver could take by mistake.
fn notify_off(queue: usize) -> usize {
    2 * queue + 1
}

impl PciFace {
    /// The face of a device, which can have but one. Until it is told otherwise, memory decoding,
    /// bus mastering and MSI-X are off, as they are when a machine starts.
    pub fn new(device: Arc<Device>, options: PciFaceOptions) -> Result<Self, DeviceError> {
        options.check(device.read_features()?)?;
        let (queue_count, size_max) = device.queues();
        let common_bytes = if options.short_common { OLD_COMMON_BYTES } else { COMMON_BYTES };
        let last = notify_off(queue_count.into()) * options.notify_multiplier as usize;
        let layout = Layout::new(common_bytes, options.vector_count, last + 4);
        let log = Arc::new(Log::default());
        let vector_count = options.vector_count;
        let interrupts =
            Arc::new(Interrupts::new(queue_count.into(), vector_count, Arc::clone(&log))?);
        device.give_notifier(Arc::clone(&interrupts) as _, feature::HONOURED_BY_PCI)?;
        device.set_bus_master(false);
        let size_shown = options.queue_size_shown.unwrap_or(size_max);
        Ok(Self {
            common: Mutex::new(Common::new(queue_count, size_shown)),
            device,
            options,
            layout,
            interrupts,
            log,
            decoding: AtomicBool::new(false),
            removed: AtomicBool::new(false),
        })
    }

    /// Refuse calls in a child of the process that made the device: there, locks may be held for
    /// ever by threads that do not exist.
    pub fn check_owner(&self) -> Result<(), DeviceError> {
        self.device.check_owner()
    }

    // What the machine does with it

    /// Where each structure lies in the BAR.
    pub fn structures(&self) -> &[Structure] {
        self.layout.structures()
    }

    /// The command register was written: whether the BAR is decoded, whether the device reaches
    /// memory, and whether INTx is switched off.
    pub fn set_command(&self, memory: bool, bus_master: bool, intx_disabled: bool) {
        self.decoding.store(memory, Release);
        let reaches = bus_master && !self.is_removed();
        self.interrupts.set_command(reaches, intx_disabled);
        self.device.set_bus_master(reaches);
    }

    /// The message control of MSI-X was written.
    pub fn set_msix(&self, enabled: bool, masked: bool) {
        self.interrupts.set_msix(enabled, masked);
    }

    /// The eventfd that a message with this data signals; data are below the number of vectors.
    pub fn message_fd(&self, data: usize) -> Result<RawFd, DeviceError> {
        self.device.check()?;
        self.interrupts.receiver(data)?.ok_or_else(|| {
            let count = self.options.vector_count;
            DeviceError::Invalid(format!("nobody takes messages of data {data}: there are {count}"))
        })
    }

    /// The eventfd that INTx signals when its level rises, and when it is high as it is
    /// acknowledged; in between it does not.
    pub fn intx_fd(&self) -> RawFd {
        self.interrupts.intx_fd()
    }

    /// The level of INTx.
    pub fn intx_asserted(&self) -> bool {
        self.interrupts.intx_asserted()
    }

    /// The interrupt status of the status register in configuration space.
    pub fn interrupt_status(&self) -> bool {
        self.interrupts.intx_pending()
    }

    /// Whoever heard INTx has read the ISR.
    pub fn acknowledge_intx(&self) {
        self.interrupts.acknowledge_intx();
    }

    /// Take the device off its bus, as a hand does that asks nobody: reads give all ones, writes
    /// go nowhere, memory is not touched and nothing is signalled any more.
    pub fn remove(&self) {
        self.removed.store(true, Release);
        self.interrupts.remove();
        self.device.set_bus_master(false);
    }

    /// Whether it was removed.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Acquire)
    }

    /// Rules that the driver broke, in words, in the order in which it did.
    pub fn violations(&self) -> Vec<String> {
        self.log.violations()
    }

    /// The latest accesses of the BAR, the oldest first. They are recorded after a removal, too.
    pub fn accesses(&self) -> Vec<Access> {
        self.log.accesses()
    }

    /// How many there were.
    pub fn access_count(&self) -> u64 {
        self.log.access_count()
    }

    /// Forget accesses and violations.
    pub fn clear_log(&self) {
        self.log.clear();
    }

    // What the driver does

    fn load(&self, offset: usize, width: Width) -> Result<u32, DeviceError> {
        let ones = width.all_ones();
        if self.is_removed() {
            return Ok(ones);
        }
        self.device.check()?;
        if !self.decoding.load(Acquire) {
            self.log.violation(format!("a read at {offset:#x}, but memory decoding is off"));
            return Ok(ones);
        }
        let place = match self.layout.place(offset, width) {
            Ok(place) => place,
            Err(why) => {
                self.log
                    .violation(format!("a read of {} bytes at {offset:#x}: {why}", width.bytes()));
                return Ok(0);
            }
        };
        Ok(match place {
            Place::Common { field, upper } => self.load_common(field, upper)?,
            Place::Isr => self.interrupts.read_isr().into(),
            Place::Config { offset } => {
                let bytes = self.device.read_config(offset, width.bytes())?;
                bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
            }
            Place::Table { vector, word } => self.interrupts.read_entry(vector, word),
            Place::Pending { first_vector } => self.interrupts.pending_bits(first_vector),
            Place::Notify { .. } => {
                self.log.violation(format!("a read at {offset:#x}, where notifications go"));
                0
            }
        })
    }

    fn store(&self, offset: usize, width: Width, value: u32) -> Result<(), DeviceError> {
        if self.is_removed() {
            return Ok(());
        }
        self.device.check()?;
        if !self.decoding.load(Acquire) {
            self.log.violation(format!("a write at {offset:#x}, but memory decoding is off"));
            return Ok(());
        }
        let outcome = match self.layout.place(offset, width) {
            Ok(Place::Common { field, upper }) => self.store_common(field, upper, value),
            Ok(Place::Config { offset }) => self.store_config(offset, width, value),
            Ok(Place::Table { vector, word }) => {
                self.interrupts.write_entry(vector, word, value);
                Ok(())
            }
            Ok(Place::Notify { offset }) => self.notify(offset, width, value),
            Ok(Place::Isr) => Err(Refusal::because("the ISR status is read-only")),
            Ok(Place::Pending { .. }) => Err(Refusal::because("the pending bits are read-only")),
            Err(why) => Err(Refusal::Rule(why)),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(Refusal::Device(error)) => Err(error),
            Err(Refusal::Rule(why)) => {
                let bytes = width.bytes();
                let what = format!("a write of {value:#x}, {bytes} bytes at {offset:#x}: {why}");
                self.log.violation(what);
                Ok(())
            }
        }
    }

    fn store_config(&self, offset: usize, width: Width, value: u32) -> Result<(), Refusal> {
        refuse_unless(offset == WRITEBACK_OFFSET, || {
            format!("the configuration field at {offset:#x} is not the driver's to write")
        })?;
        let accepted = self.accepts(feature::CONFIG_WCE);
        refuse_unless(accepted, || "writeback was written without CONFIG_WCE".into())?;
        let bytes = value.to_le_bytes();
        self.device.write_config(offset, bytes.get(..width.bytes()).unwrap_or_default())?;
        Ok(())
    }

    /// Whether the driver accepted a feature, and the device agreed.
    fn accepts(&self, bit: u32) -> bool {
        self.device.peek_status() & FEATURES_OK != 0 && self.device.accepted() >> bit & 1 != 0
    }

    fn record(&self, offset: usize, width: Width, value: u32, is_write: bool) {
        self.log.access(Access { offset, width, value, is_write });
    }
}

/// Why a store has no effect.
enum Refusal {
    /// A driver may not do it; the text says what.
    Rule(String),
    Device(DeviceError),
}

impl Refusal {
    fn because(why: &str) -> Self {
        Self::Rule(why.into())
    }
}

impl From<DeviceError> for Refusal {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

fn refuse_unless(right: bool, why: impl FnOnce() -> String) -> Result<(), Refusal> {
    if right { Ok(()) } else { Err(Refusal::Rule(why())) }
}

impl RegisterModel for PciFace {
    fn length(&self) -> usize {
        self.layout.length()
    }

    fn read(&self, offset: usize, width: Width) -> Result<u32, RegisterError> {
        self.check_owner()?;
        let value = self.load(offset, width)?;
        self.record(offset, width, value, false);
        Ok(value)
    }

    fn write(&self, offset: usize, width: Width, value: u32) -> Result<(), RegisterError> {
        self.check_owner()?;
        // Before its effects, which other threads see at once.
        self.record(offset, width, value, true);
        Ok(self.store(offset, width, value)?)
    }
}
