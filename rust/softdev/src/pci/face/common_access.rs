//! Loads and stores of the common configuration (VIRTIO 1.4, 4.1.4.3 Common configuration
//! structure layout).

use std::sync::MutexGuard;

use super::{PciFace, Refusal, notify_off, refuse_unless};
use crate::error::DeviceError;
use crate::faults::Moment;
use crate::pci::common::{Common, Queue, Reset};
use crate::pci::fields::Field;
use crate::pci::interrupts::NO_VECTOR;
use crate::registers::feature;
use crate::registers::status::{DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK};
use crate::service::lock;

impl PciFace {
    /// The state of the common configuration, brought up to date: a reset may have ended since.
    pub(super) fn common(&self) -> MutexGuard<'_, Common> {
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

    pub(super) fn load_common(&self, field: Field, upper: bool) -> Result<u32, DeviceError> {
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
                queue.resetting = self.device.is_queue_resetting(index).unwrap_or(false);
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

    pub(super) fn store_common(
        &self,
        field: Field,
        upper: bool,
        value: u32,
    ) -> Result<(), Refusal> {
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
            Field::QueueReset => return self.reset_queue(queue, index, size_max, value),
            _ => {}
        }
        refuse_unless(!queue.enabled, || {
            format!("{} of queue {index} was written after queue_enable", field.name())
        })?;
        match field {
            Field::QueueSize => {
                let size = value as u16;
                let packed = self.accepts(feature::RING_PACKED);
                let fits = if packed { size > 0 } else { size.is_power_of_two() };
                refuse_unless(fits && size <= size_max, || {
                    let what = if packed { "number" } else { "power of two" };
                    format!("queue_size {size} is no {what} up to {size_max}")
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
    fn reset_queue(
        &self,
        queue: &mut Queue,
        index: usize,
        size_max: u16,
        value: u32,
    ) -> Result<(), Refusal> {
        refuse_unless(value == 1, || format!("queue_reset was written {value}"))?;
        refuse_unless(queue.enabled, || format!("queue {index} was reset, but is not enabled"))?;
        self.device.reset_queue(index)?;
        // As after a reset of the device: all is to be programmed again.
        queue.clear(size_max);
        queue.resetting = self.device.is_queue_resetting(index)?;
        self.interrupts.set_queue_vector(index, NO_VECTOR);
        Ok(())
    }
}
