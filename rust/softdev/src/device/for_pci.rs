//! What the PCI face does with a device: it is another way to the same registers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use super::Device;
use crate::engine::Notifier;
use crate::error::DeviceError;
use crate::faults::Moment;
use crate::service::lock;

impl Device {
    /// Send notifications through `notifier` from now on, and honour `features` as well.
    pub(crate) fn give_notifier(
        &self,
        notifier: Arc<dyn Notifier>,
        features: u64,
    ) -> Result<(), DeviceError> {
        self.check()?;
        let taken = self.service.wires.notifier.set(notifier).is_err();
        if taken {
            return Err(DeviceError::State("the software device has a PCI face already".into()));
        }
        lock(&self.service.registers).honour(features);
        Ok(())
    }

    /// Whether the device can reach memory. When this returns from taking that away, nothing is
    /// touched any more.
    pub(crate) fn set_bus_master(&self, enabled: bool) {
        self.service.wires.bus_master.store(enabled, Release);
        if enabled {
            // Chains may be waiting. Our own eventfd cannot fail.
            let _ = self.service.control.signal();
        } else {
            drop(self.service.visit());
        }
    }

    /// What the driver accepted.
    pub(crate) fn accepted(&self) -> u64 {
        lock(&self.service.registers).accepted()
    }

    /// A fault that strikes at a register which only the face has, with its value.
    pub(crate) fn strike(&self, moment: Moment) -> Option<u64> {
        self.service.wires.faults.strike(moment).map(|strike| strike.value)
    }

    /// Whether the driver may announce `announced` as its next available position of queue
    /// `index`. Else where it is now, as it stands in memory.
    pub(crate) fn judge_announced(&self, index: usize, announced: u16) -> Result<(), u16> {
        match self.announced.get(index) {
            Some(known) if known.was_made(announced) => Ok(()),
            _ => self.service.visit().judge_announced(index, announced),
        }
    }

    /// The driver has notified the device of queue `index`.
    pub(crate) fn kick(&self, index: usize) {
        if let Some(kick) = self.service.wires.kicks.get(index) {
            // Our own eventfd cannot fail, and if it did the driver would time out.
            let _ = kick.signal();
        }
    }

    /// How many queues the device has, and the largest size of each.
    pub(crate) fn queues(&self) -> (u16, u16) {
        (self.options.queue_count, self.options.queue_size_max)
    }
}
