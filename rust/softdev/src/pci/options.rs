//! What the face of a device is made from.

use crate::error::DeviceError;
use crate::registers::feature;

use super::fields::VECTORS_MAX;

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
    pub(super) fn check(&self, offered: u64) -> Result<(), DeviceError> {
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
