//! Notifications of available buffers (VIRTIO 1.4, 4.1.5.2 Available Buffer Notifications).

use shm::Width;

use super::{PciFace, Refusal, notify_off, refuse_unless};
use crate::registers::feature;
use crate::registers::status::DRIVER_OK;

/// queue_notif_config_data of a queue: never its index, which a driver could take by mistake.
fn notif_config_data(queue: usize) -> u16 {
    0xA500 | queue as u16 & 0xFF
}

impl PciFace {
    /// What names a queue in a notification.
    pub(super) fn notify_value(&self, index: usize) -> u16 {
        if self.accepts(feature::NOTIF_CONFIG_DATA) {
            notif_config_data(index)
        } else {
            index as u16
        }
    }

    /// VIRTIO 1.4, 4.1.5.2 Available Buffer Notifications.
    pub(super) fn notify(&self, offset: usize, width: Width, value: u32) -> Result<(), Refusal> {
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
        self.device.judge_announced(index, announced).map_err(|available| {
            Refusal::Rule(format!(
                "queue {index} announces {announced:#x}, but its next available position is \
                 {available:#x}"
            ))
        })
    }
}
