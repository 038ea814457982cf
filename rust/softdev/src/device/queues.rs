//! Queues of the device: where a driver says that they lie, and their resets.

use std::sync::atomic::Ordering::Acquire;

use super::Device;
use crate::error::DeviceError;
use crate::faults::Moment;
use crate::registers::status::{DRIVER_OK, FEATURES_OK};
use crate::registers::{QueueSetup, QueueState, feature, has};
use crate::ring::RingFeatures;
use crate::service::lock;

impl Device {
    /// Set up queue `index`, between FEATURES_OK and DRIVER_OK, or after it was reset, then with
    /// other settings too.
    pub fn enable_queue(&self, index: usize, setup: QueueSetup) -> Result<(), DeviceError> {
        self.check()?;
        let mut engine = self.service.visit();
        let mut registers = lock(&self.service.registers);
        let (accepted, status) = (registers.accepted(), registers.status());
        let queue_count = if has(accepted, feature::MQ) { self.options.queue_count } else { 1 };
        let Some(state) = registers.queue(index).filter(|_| index < queue_count.into()) else {
            return Err(DeviceError::Invalid(format!(
                "there is no queue {index}: the driver may use {queue_count} (the device has {}, \
                 MQ is {}negotiated)",
                self.options.queue_count,
                if has(accepted, feature::MQ) { "" } else { "not " }
            )));
        };
        if *state == QueueState::Resetting {
            return Err(DeviceError::State(format!("the reset of queue {index} has not ended")));
        }
        let again = self.service.wires.live.load(Acquire)
            && has(accepted, feature::RING_RESET)
            && *state == QueueState::Disabled;
        if status & (DRIVER_OK | FEATURES_OK) != FEATURES_OK && !again {
            return Err(DeviceError::State(format!(
                "queues are set up between FEATURES_OK and DRIVER_OK; the status is {status:#x}"
            )));
        }
        self.check_setup(&setup, has(accepted, feature::RING_PACKED))?;
        *state = QueueState::Enabled(setup);
        if let Some(announced) = self.announced.get(index) {
            announced.watch(&self.space, &setup, has(accepted, feature::RING_PACKED));
        }
        drop(registers);
        if again {
            match engine.adopt_one(index, &setup, RingFeatures::of(accepted)) {
                // Chains may be there already. Our own eventfd cannot fail.
                Ok(()) => drop(self.service.control.signal()),
                Err(violation) => self.service.condemn(violation),
            }
        }
        Ok(())
    }

    fn check_setup(&self, setup: &QueueSetup, packed: bool) -> Result<(), DeviceError> {
        let size_max = self.options.queue_size_max;
        let fits = if packed { setup.size > 0 } else { setup.size.is_power_of_two() };
        if !fits || setup.size > size_max {
            return Err(DeviceError::Invalid(format!(
                "the queue size is {}, not a {} up to {size_max}",
                setup.size,
                if packed { "number from 1" } else { "power of two" },
            )));
        }
        let count = usize::from(setup.size);
        let parts = if packed {
            [
                ("descriptor ring", setup.descriptors, 16, 16 * count),
                ("driver event suppression structure", setup.available, 4, 4),
                ("device event suppression structure", setup.used, 4, 4),
            ]
        } else {
            [
                ("descriptor table", setup.descriptors, 16, 16 * count),
                ("available ring", setup.available, 2, 6 + 2 * count),
                ("used ring", setup.used, 4, 6 + 8 * count),
            ]
        };
        for (name, address, align, length) in parts {
            if !address.is_multiple_of(align) {
                return Err(DeviceError::Invalid(format!(
                    "the {name} is at {address:#x}, not a multiple of {align}"
                )));
            }
            if self.space.translate(address, length).is_none() {
                return Err(DeviceError::Invalid(format!(
                    "the {name}, {length} bytes at {address:#x}, is not in memory of this device"
                )));
            }
        }
        Ok(())
    }

    /// Reset queue `index`: forget its ring and all that came from it. When this returns, nothing
    /// of the queue is touched any more, and the others go on; unless a fault wants it otherwise,
    /// the reset has ended. A queue that is not enabled is left as it is.
    /// VIRTIO 1.4, 2.6.1 Virtqueue Reset.
    pub fn reset_queue(&self, index: usize) -> Result<(), DeviceError> {
        self.check()?;
        let mut engine = self.service.visit();
        let mut registers = lock(&self.service.registers);
        if !has(registers.accepted(), feature::RING_RESET) {
            let why = format!("queue {index} cannot be reset: RING_RESET was not negotiated");
            return Err(DeviceError::State(why));
        }
        let queue_count = self.options.queue_count;
        let state = registers.queue(index).ok_or_else(|| {
            DeviceError::Invalid(format!("there is no queue {index}, but {queue_count} queues"))
        })?;
        if !matches!(state, QueueState::Enabled(_)) {
            return Ok(());
        }
        engine.retire(index);
        if let Some(announced) = self.announced.get(index) {
            announced.forget();
        }
        if let Some(kick) = self.service.wires.kicks.get(index) {
            kick.drain();
        }
        let stuck = self.service.wires.faults.strike(Moment::QueueReset).is_some();
        *state = if stuck { QueueState::Resetting } else { QueueState::Disabled };
        Ok(())
    }

    /// Whether a reset of queue `index` has not ended yet.
    pub fn is_queue_resetting(&self, index: usize) -> Result<bool, DeviceError> {
        self.check()?;
        let mut registers = lock(&self.service.registers);
        Ok(registers.queue(index).is_some_and(|state| *state == QueueState::Resetting))
    }
}
