//! The device's own parse of rings: `split` and `packed`, and what they have in common.
//!
//! Everything that the driver can write is read once and checked before use.

mod chain;
#[cfg(not(loom))]
pub(crate) mod either;
pub mod packed;
mod split;
mod table;
mod violation;

pub use chain::Chain;
pub(crate) use chain::Completion;
pub use split::DeviceRing;
pub use violation::Violation;

#[cfg(not(loom))]
use crate::registers::{feature, has};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR_BYTES: usize = 16;

/// Largest queue size (VIRTIO 1.4, 2.7 Split Virtqueues).
pub const SIZE_MAX: u16 = 32768;

/// Where a ring lies, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptors: on a split ring a power of two.
    pub size: u16,
    /// Of the descriptor table, or ring: a multiple of 16.
    pub descriptors: u64,
    /// Of the driver area: the available ring, a multiple of 2, or the driver event suppression
    /// structure, a multiple of 4.
    pub available: u64,
    /// Of the device area, a multiple of 4: the used ring, or the device event suppression
    /// structure.
    pub used: u64,
}

/// The negotiated features that shape a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
}

#[cfg(not(loom))]
impl RingFeatures {
    /// Those among `accepted`.
    pub(crate) fn of(accepted: u64) -> Self {
        Self {
            event_idx: has(accepted, feature::EVENT_IDX),
            indirect: has(accepted, feature::INDIRECT_DESC),
            packed: has(accepted, feature::RING_PACKED),
            in_order: has(accepted, feature::IN_ORDER),
        }
    }
}

/// Whether the step of an index from `old` to `new` passed `event`.
/// VIRTIO 1.4, 2.7.7.1 and 2.7.10.1 (the event index), with 16-bit wrap.
#[inline]
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn an_event_is_passed_by_the_step_over_it_alone() {
        assert!(passes(4, 4, 5));
        assert!(!passes(5, 4, 5));
        assert!(!passes(3, 4, 5));
        assert!(passes(6, 4, 8));
        assert!(!passes(8, 4, 8));
    }

    #[test]
    fn an_event_is_passed_over_the_wrap_of_the_index() {
        assert!(passes(u16::MAX, u16::MAX, 0));
        assert!(passes(0, u16::MAX, 2));
        assert!(!passes(2, u16::MAX, 2));
    }
}
