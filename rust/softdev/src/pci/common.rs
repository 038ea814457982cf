//! What the common configuration holds of its own, apart from what the device knows.

use crate::ring::RingAddresses;

use super::fields::Field;

/// Windows of 32 feature bits (VIRTIO 1.4, 2.2 Feature Bits, allots 128).
const WINDOWS: usize = 4;

/// A reset, as far as the driver has got with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// None, or it was seen to end.
    Over,
    /// Asked for, and not ended.
    Asked,
    /// Ended, and the driver has not read 0 yet.
    Unseen,
}

/// The registers of one queue.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) size: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
    /// Addresses that were written since the reset.
    written: [bool; 3],
    pub(super) enabled: bool,
    /// queue_reset reads as 1.
    pub(super) resetting: bool,
}

impl Queue {
    fn new(size_max: u16) -> Self {
        Self {
            size: size_max,
            descriptors: 0,
            driver: 0,
            device: 0,
            written: [false; 3],
            enabled: false,
            resetting: false,
        }
    }

    /// As it is after a reset.
    pub(super) fn clear(&mut self, size_max: u16) {
        *self = Self::new(size_max);
    }

    fn address(&mut self, field: Field) -> (&mut u64, usize) {
        match field {
            Field::QueueDesc => (&mut self.descriptors, 0),
            Field::QueueDriver => (&mut self.driver, 1),
            _ => (&mut self.device, 2),
        }
    }

    pub(super) fn read_half(&mut self, field: Field, upper: bool) -> u32 {
        let (address, _) = self.address(field);
        if upper { (*address >> 32) as u32 } else { *address as u32 }
    }

    pub(super) fn write_half(&mut self, field: Field, upper: bool, value: u32) {
        let (address, which) = self.address(field);
        let value = u64::from(value);
        *address = if upper {
            *address & 0xFFFF_FFFF | value << 32
        } else {
            *address & !0xFFFF_FFFF | value
        };
        self.written[which] = true;
    }

    /// The first of its addresses that the driver did not write.
    pub(super) fn missing(&self) -> Option<Field> {
        let fields = [Field::QueueDesc, Field::QueueDriver, Field::QueueDevice];
        fields.into_iter().zip(self.written).find(|&(_, written)| !written).map(|(field, _)| field)
    }

    pub(super) fn setup(&self) -> RingAddresses {
        let Self { size, descriptors, driver: available, device: used, .. } = *self;
        RingAddresses { size, descriptors, available, used }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: [u32; WINDOWS],
    pub(super) queue_select: u16,
    pub(super) queues: Vec<Queue>,
    pub(super) reset: Reset,
    size_max: u16,
}

impl Common {
    pub(super) fn new(queue_count: u16, size_max: u16) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: [0; WINDOWS],
            queue_select: 0,
            queues: vec![Queue::new(size_max); queue_count.into()],
            reset: Reset::Over,
            size_max,
        }
    }

    /// Everything but `reset`, as it is after a reset.
    pub(super) fn clear(&mut self) {
        let queue_count = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        *self = Self { reset: self.reset, ..Self::new(queue_count, self.size_max) };
    }

    pub(super) fn window(select: u32) -> Option<usize> {
        usize::try_from(select).ok().filter(|&window| window < WINDOWS)
    }

    /// Of the features that the driver wrote, the first 64.
    pub(super) fn accepted(&self) -> u64 {
        let [low, high, ..] = self.driver_features;
        u64::from(high) << 32 | u64::from(low)
    }

    /// Whether the driver accepted any feature after the first 64: the device offers none.
    pub(super) fn accepts_the_unknown(&self) -> bool {
        let [_, _, third, fourth] = self.driver_features;
        third | fourth != 0
    }
}
