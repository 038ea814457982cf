//! What an access to the BAR does.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard};

use shm::{RegisterError, RegisterModel, Width};

use crate::device::Device;
use crate::error::DeviceError;
use crate::faults::Moment;
use crate::registers::status::{DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK};
use crate::registers::{WRITEBACK_OFFSET, feature};
use crate::service::lock;

use super::common::{Common, Queue, Reset};
use super::fields::{COMMON_BYTES, Field, Layout, OLD_COMMON_BYTES, Place, Structure, VECTORS_MAX};
use super::interrupts::{Interrupts, NO_VECTOR};
use super::log::{Access, Log};

/// What the face of a device is made from.
#[derive(Clone, Debug)]
pub struct PciFaceOptions {
    /// Entries of the MSI-X table; 0: there is none.
    pub vector_count: u16,
    /// notify_off_multiplier: 0 (one address for all queues), or a power of two from 2 to 4096.
    pub notify_multiplier: u32,
    /// What num_queues says, where it is not the truth.
    pub queue_count_shown: Option<u16>,
    /// The queue_size that queues have after a reset, where it is not the truth.
    pub queue_size_shown: Option<u16>,
    /// The common configuration ends before queue_notif_config_data, as in devices of old.
    pub short_common: bool,
}

impl Default for PciFaceOptions {
    fn default() -> Self {
        Self {
            vector_count: 0,
            notify_multiplier: 4,
            queue_count_shown: None,
            queue_size_shown: None,
            short_common: false,
        }
    }
}

impl PciFaceOptions {
    fn check(&self, offered: u64) -> Result<(), DeviceError> {
        let Self { vector_count, notify_multiplier: multiplier, .. } = *self;
        let has = |bit: u32| offered >> bit & 1 != 0;
        let reason = if vector_count > VECTORS_MAX {
            format!("vector_count is {vector_count}, more than {VECTORS_MAX}")
        } else if multiplier != 0
            && !(multiplier.is_power_of_two() && (2..=4096).contains(&multiplier))
        {
            format!("notify_multiplier is {multiplier}, not 0 or a power of two from 2 to 4096")
        } else if multiplier == 2 && has(feature::NOTIFICATION_DATA) {
            "notify_multiplier is 2, but notifications of 4 bytes (NOTIFICATION_DATA is offered) \
             need 0 or a multiple of 4"
                .into()
        } else if self.short_common && (has(feature::NOTIF_CONFIG_DATA) || has(feature::RING_RESET))
        {
            "NOTIF_CONFIG_DATA and RING_RESET need registers that the short common configuration \
             does not have"
                .into()
        } else {
            return Ok(());
        };
        Err(DeviceError::Invalid(reason))
    }
}

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

/// queue_notif_config_data of a queue: never its index either.
fn notif_config_data(queue: usize) -> u16 {
    0xA500 | queue as u16 & 0xFF
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

    /// The state of the common configuration, brought up to date: a reset may have ended since.
    fn common(&self) -> MutexGuard<'_, Common> {
        let mut common = lock(&self.common);
        self.settle(&mut common);
        common
    }

    fn settle(&self, common: &mut Common) {
        if common.reset == Reset::Asked && self.device.peek_status() == 0 {
            common.reset = Reset::Unseen;
            common.clear();
            self.interrupts.reset();
        }
    }

    fn load_common(&self, field: Field, upper: bool) -> Result<u32, DeviceError> {
        if field == Field::DeviceStatus {
            let status = self.device.read_status()?;
            let mut common = self.common();
            if status == 0 && common.reset == Reset::Unseen {
                common.reset = Reset::Over;
            }
            return Ok(status.into());
        }
        if let Err(Refusal::Rule(why)) = self.check_presence(field) {
            self.log.violation(format!("a read of {}: {why}", field.name()));
        }
        let mut common = self.common();
        if field.is_of_a_queue() {
            return Ok(self.load_queue(&mut common, field, upper));
        }
        Ok(match field {
            Field::DeviceFeatureSelect => common.device_feature_select,
            Field::DeviceFeature => match common.device_feature_select {
                select @ 0..=1 => (self.device.read_features()? >> (32 * select)) as u32,
                _ => 0,
            },
            Field::DriverFeatureSelect => common.driver_feature_select,
            Field::DriverFeature => Common::window(common.driver_feature_select)
                .and_then(|window| common.driver_features.get(window).copied())
                .unwrap_or(0),
            Field::ConfigMsixVector => self.interrupts.config_vector().into(),
            Field::NumQueues => {
                self.options.queue_count_shown.unwrap_or(self.device.queues().0).into()
            }
            Field::ConfigGeneration => self.device.config_generation()? & 0xFF,
            Field::QueueSelect => common.queue_select.into(),
            _ => 0,
        })
    }

    fn load_queue(&self, common: &mut Common, field: Field, upper: bool) -> u32 {
        let index = usize::from(common.queue_select);
        let Some(queue) = common.queues.get_mut(index) else {
            // queue_size 0 says that there is no such queue.
            return 0;
        };
        match field {
            Field::QueueSize => queue.size.into(),
            Field::QueueMsixVector => self.interrupts.queue_vector(index).into(),
            Field::QueueEnable => queue.enabled.into(),
            Field::QueueNotifyOff => notify_off(index) as u32,
            Field::QueueNotifConfigData => self.notify_value(index).into(),
            Field::QueueReset => {
                queue.resetting &= self.device.is_queue_reset_stuck();
                queue.resetting.into()
            }
            _ => queue.read_half(field, upper),
        }
    }

    /// Some fields exist only with a feature, or in some devices.
    fn check_presence(&self, field: Field) -> Result<(), Refusal> {
        let needed = match field {
            Field::QueueNotifConfigData => ("NOTIF_CONFIG_DATA", feature::NOTIF_CONFIG_DATA),
            Field::QueueReset => ("RING_RESET", feature::RING_RESET),
            Field::AdminQueueIndex | Field::AdminQueueNum => ("ADMIN_VQ", 41),
            _ => return Ok(()),
        };
        let (name, bit) = needed;
        refuse_unless(self.accepts(bit), || format!("{name} was not negotiated"))
    }

    fn accepts(&self, bit: u32) -> bool {
        self.device.peek_status() & FEATURES_OK != 0 && self.device.accepted() >> bit & 1 != 0
    }

    fn store_common(&self, field: Field, upper: bool, value: u32) -> Result<(), Refusal> {
        refuse_unless(field.is_writable(), || format!("{} is read-only", field.name()))?;
        self.check_presence(field)?;
        let mut common = self.common();
        if field == Field::DeviceStatus {
            return self.store_status(&mut common, value as u8);
        }
        refuse_unless(common.reset == Reset::Over, || {
            format!("{} was written before the status read as 0 after a reset", field.name())
        })?;
        if field.is_of_a_queue() {
            return self.store_queue(&mut common, field, upper, value);
        }
        match field {
            Field::DeviceFeatureSelect => common.device_feature_select = value,
            Field::DriverFeatureSelect => common.driver_feature_select = value,
            Field::DriverFeature => self.store_features(&mut common, value)?,
            Field::ConfigMsixVector => {
                let vector = self.judge_vector(value as u16);
                self.interrupts.set_config_vector(vector);
            }
            _ => common.queue_select = value as u16,
        }
        Ok(())
    }

    fn store_status(&self, common: &mut Common, value: u8) -> Result<(), Refusal> {
        if value == 0 {
            self.device.write_status(0)?;
            common.reset = Reset::Asked;
            self.settle(common);
            return Ok(());
        }
        refuse_unless(common.reset == Reset::Over, || {
            format!("device_status {value:#x} before the status read as 0 after a reset")
        })?;
        let before = self.device.peek_status() & !DEVICE_NEEDS_RESET;
        refuse_unless(before & !value == 0, || {
            format!("device_status {value:#x} clears bits of {before:#x}")
        })?;
        refuse_unless(value & (DRIVER_OK | FEATURES_OK) != DRIVER_OK, || {
            format!("device_status {value:#x} sets DRIVER_OK without FEATURES_OK")
        })?;
        // The device refuses features that it did not offer, and these it has no room for.
        let refused = if common.accepts_the_unknown() { FEATURES_OK } else { 0 };
        self.device.write_status(value & !refused)?;
        Ok(())
    }

    fn store_features(&self, common: &mut Common, value: u32) -> Result<(), Refusal> {
        let status = self.device.peek_status();
        refuse_unless(status & (DRIVER | FEATURES_OK) == DRIVER, || {
            format!("driver_feature is written between DRIVER and FEATURES_OK, not at {status:#x}")
        })?;
        let select = common.driver_feature_select;
        let window = Common::window(select);
        let Some(features) = window.and_then(|window| common.driver_features.get_mut(window))
        else {
            return refuse_unless(value == 0, || format!("there is no feature window {select}"));
        };
        *features = value;
        self.device.write_features(common.accepted())?;
        Ok(())
    }

    /// What a vector register reads as after `vector` was written (VIRTIO 1.4, 4.1.5.1.2 MSI-X
    /// Vector Configuration).
    fn judge_vector(&self, vector: u16) -> u16 {
        let count = self.options.vector_count;
        if vector == NO_VECTOR {
            return NO_VECTOR;
        }
        if vector >= count {
            self.log.violation(format!("vector {vector} of a table of {count} was mapped"));
            return NO_VECTOR;
        }
        match self.device.strike(Moment::Vector) {
            Some(first) if u64::from(vector) >= first => NO_VECTOR,
            _ => vector,
        }
    }

    fn store_queue(
        &self,
        common: &mut Common,
        field: Field,
        upper: bool,
        value: u32,
    ) -> Result<(), Refusal> {
        let index = usize::from(common.queue_select);
        let size_max = self.options.queue_size_shown.unwrap_or(self.device.queues().1);
        let Some(queue) = common.queues.get_mut(index) else {
            return Err(Refusal::Rule(format!("there is no queue {index}")));
        };
        match field {
            Field::QueueEnable => return self.enable(queue, index, value),
            Field::QueueReset => return self.reset_queue(queue, index, value),
            _ => {}
        }
        refuse_unless(!queue.enabled, || {
            format!("{} of queue {index} was written after queue_enable", field.name())
        })?;
        match field {
            Field::QueueSize => {
                let size = value as u16;
                refuse_unless(size.is_power_of_two() && size <= size_max, || {
                    format!("queue_size {size} is no power of two up to {size_max}")
                })?;
                queue.size = size;
            }
            Field::QueueMsixVector => {
                let vector = self.judge_vector(value as u16);
                self.interrupts.set_queue_vector(index, vector);
            }
            _ => queue.write_half(field, upper, value),
        }
        Ok(())
    }

    fn enable(&self, queue: &mut Queue, index: usize, value: u32) -> Result<(), Refusal> {
        refuse_unless(value == 1, || format!("queue_enable was written {value}"))?;
        refuse_unless(!queue.enabled, || format!("queue {index} is enabled already"))?;
        refuse_unless(!queue.resetting, || format!("the reset of queue {index} has not ended"))?;
        if let Some(missing) = queue.missing() {
            let why = format!("queue {index} was enabled without {}", missing.name());
            return Err(Refusal::Rule(why));
        }
        match self.device.enable_queue(index, queue.setup()) {
            Ok(()) => {
                queue.enabled = true;
                Ok(())
            }
            Err(DeviceError::Invalid(why) | DeviceError::State(why)) => {
                Err(Refusal::Rule(format!("queue {index} was enabled: {why}")))
            }
            Err(error) => Err(Refusal::Device(error)),
        }
    }

    /// VIRTIO 1.4, 2.6.1 Virtqueue Reset.
    fn reset_queue(&self, queue: &mut Queue, index: usize, value: u32) -> Result<(), Refusal> {
        refuse_unless(value == 1, || format!("queue_reset was written {value}"))?;
        refuse_unless(queue.enabled, || format!("queue {index} was reset, but is not enabled"))?;
        self.device.reset_queue(index);
        queue.enabled = false;
        queue.resetting = self.device.is_queue_reset_stuck();
        self.interrupts.set_queue_vector(index, NO_VECTOR);
        Ok(())
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

    /// What names a queue in a notification.
    fn notify_value(&self, index: usize) -> u16 {
        if self.accepts(feature::NOTIF_CONFIG_DATA) {
            notif_config_data(index)
        } else {
            index as u16
        }
    }

    /// VIRTIO 1.4, 4.1.5.2 Available Buffer Notifications.
    fn notify(&self, offset: usize, width: Width, value: u32) -> Result<(), Refusal> {
        let carries_data = self.accepts(feature::NOTIFICATION_DATA);
        let wanted = if carries_data { Width::Bits32 } else { Width::Bits16 };
        refuse_unless(width == wanted, || {
            format!("notifications have {} bytes as negotiated", wanted.bytes())
        })?;
        let name = value as u16;
        let index = {
            let common = self.common();
            let multiplier = self.options.notify_multiplier as usize;
            let named = |index: &usize| {
                self.notify_value(*index) == name && notify_off(*index) * multiplier == offset
            };
            let found = (0..common.queues.len()).find(named);
            let index = found.ok_or_else(|| {
                Refusal::Rule(format!("{name:#x} names no queue that is notified here"))
            })?;
            let live = self.device.peek_status() & DRIVER_OK != 0;
            refuse_unless(live, || format!("queue {index} was notified before DRIVER_OK"))?;
            let enabled = common.queues.get(index).is_some_and(|queue| queue.enabled);
            refuse_unless(enabled, || format!("queue {index} was notified, but is not enabled"))?;
            index
        };
        let judged =
            if carries_data { self.judge_data(index, (value >> 16) as u16) } else { Ok(()) };
        self.device.kick(index);
        judged
    }

    /// A notification may come late, when more has been made available since; never early.
    fn judge_data(&self, index: usize, announced: u16) -> Result<(), Refusal> {
        let Some(available) = self.device.available_index(index) else { return Ok(()) };
        let ahead = announced.wrapping_sub(available);
        refuse_unless(ahead == 0 || ahead > u16::MAX / 2, || {
            format!("queue {index} announces {announced}, but its available index is {available}")
        })
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
        let value = self.load(offset, width).map_err(of_device)?;
        self.record(offset, width, value, false);
        Ok(value)
    }

    fn write(&self, offset: usize, width: Width, value: u32) -> Result<(), RegisterError> {
        // Before its effects, which other threads see at once.
        self.record(offset, width, value, true);
        self.store(offset, width, value).map_err(of_device)
    }
}

fn of_device(error: DeviceError) -> RegisterError {
    match error {
        DeviceError::Forked => RegisterError::Forked,
        other => RegisterError::Closed(other.to_string()),
    }
}
