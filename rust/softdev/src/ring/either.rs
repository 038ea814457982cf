//! A ring of the format that was negotiated.

use shm::UsedElement;

use super::packed::PackedRing;
use super::{Chain, Completion, DeviceRing, RingAddresses, RingFeatures, Violation};
use crate::address_map::AddressMap;

/// The device's half of a ring of either format.
#[derive(Debug)]
pub(crate) enum EitherRing {
    /// VIRTIO 1.4, 2.7 Split Virtqueues.
    Split(DeviceRing),
    /// VIRTIO 1.4, 2.8 Packed Virtqueues.
    Packed(PackedRing),
}

/// The same call on either.
macro_rules! either {
    ($either:expr, $ring:ident => $what:expr) => {
        match $either {
            EitherRing::Split($ring) => $what,
            EitherRing::Packed($ring) => $what,
        }
    };
}

impl EitherRing {
    pub(crate) fn new(
        addresses: &RingAddresses,
        features: RingFeatures,
        map: &mut AddressMap,
    ) -> Result<Self, Violation> {
        Ok(if features.packed {
            Self::Packed(PackedRing::new(addresses, features, map)?)
        } else {
            Self::Split(DeviceRing::new(addresses, features, map)?)
        })
    }

    pub(crate) fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    /// How many chains wait behind `known` ones that are known to. On a packed ring nobody looks
    /// before those are taken.
    #[inline]
    pub(crate) fn find(&mut self, known: u16) -> Result<u16, Violation> {
        match self {
            Self::Split(ring) => ring.poll(),
            Self::Packed(ring) => Ok(if known == 0 { ring.waiting() } else { 0 }),
        }
    }

    /// Chains taken and not yet used.
    #[inline]
    pub(crate) fn held(&self) -> u16 {
        either!(self, ring => ring.held())
    }

    #[inline]
    pub(crate) fn take(
        &mut self,
        map: &mut AddressMap,
        chain: &mut Chain,
    ) -> Result<bool, Violation> {
        either!(self, ring => ring.take(map, chain))
    }

    /// Give a chain back; in order, with others behind one used element.
    #[inline]
    pub(crate) fn complete(&mut self, done: Completion) {
        either!(self, ring => ring.complete(done));
    }

    /// Used elements since this was last asked, among them what `publish` will show.
    pub(crate) fn take_element_count(&mut self) -> u32 {
        either!(self, ring => ring.take_element_count())
    }

    /// Give a chain back with a used element of its own; `slots` is needed on a packed ring.
    pub(crate) fn put_used(&mut self, element: UsedElement, slots: u16) {
        match self {
            Self::Split(ring) => ring.put_used(element),
            Self::Packed(ring) => ring.put_used(element, slots),
        }
    }

    #[inline]
    pub(crate) fn has_unpublished(&self) -> bool {
        either!(self, ring => ring.has_unpublished())
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        either!(self, ring => ring.publish());
    }

    #[inline]
    pub(crate) fn wants_interrupt(&mut self) -> bool {
        either!(self, ring => ring.wants_interrupt())
    }

    pub(crate) fn arm(&mut self) -> bool {
        either!(self, ring => ring.arm())
    }

    #[inline]
    pub(crate) fn pending(&self) -> bool {
        either!(self, ring => ring.pending())
    }

    pub(crate) fn is_armed(&self) -> bool {
        either!(self, ring => ring.is_armed())
    }

    #[inline]
    pub(crate) fn disarm(&mut self) {
        either!(self, ring => ring.disarm());
    }

    /// Whether the driver may announce `announced` in a notification: not what it has yet to make
    /// available. Else where it is now.
    pub(crate) fn judge_announced(&self, announced: u16) -> Result<(), u16> {
        match self {
            Self::Split(ring) => {
                let available = ring.available_index();
                let ahead = announced.wrapping_sub(available);
                if ahead == 0 || ahead > u16::MAX / 2 { Ok(()) } else { Err(available) }
            }
            Self::Packed(ring) => {
                let available = ring.next_available();
                if ring.is_at_most(announced, available) { Ok(()) } else { Err(available) }
            }
        }
    }

    /// Write a used element and stay where it is: a fault.
    pub(crate) fn put_used_in_place(&mut self, element: UsedElement) {
        either!(self, ring => ring.put_used_in_place(element));
    }

    /// The id of the last of the waiting chains.
    pub(crate) fn last_waiting(&self) -> Option<u16> {
        either!(self, ring => ring.last_waiting())
    }

    /// Give back once more what was given back: a fault.
    pub(crate) fn put_used_again(&mut self, element: UsedElement) {
        match self {
            Self::Split(ring) => ring.put_used(element),
            Self::Packed(ring) => ring.lie(element.id, 1),
        }
    }

    /// Say that `count` chains more were used than were, `id` having been given back: a fault.
    pub(crate) fn skip_used(&mut self, count: u16, id: u32) {
        match self {
            Self::Split(ring) => ring.skip_used(count),
            Self::Packed(ring) => ring.lie(id, count),
        }
    }

    /// A number by which no chain that the driver could have outstanding is known, given that the
    /// device holds `held` besides what waits in the ring.
    pub(crate) fn not_outstanding(&self, held: &[u16]) -> Option<u16> {
        either!(self, ring => ring.not_outstanding(held))
    }
}
