//! The device's own parse of a split ring (VIRTIO 1.4, 2.7 Split Virtqueues).

use shm::{AvailableElement, Descriptor, Records, UsedElement, Words, fence};

use super::table::Table;
use super::{
    Chain, Completion, DESCRIPTOR_BYTES, INDIRECT, NEXT, RingAddresses, RingFeatures, Violation,
    WRITE, passes,
};
use crate::address_map::AddressMap;

/// The first two words of either ring.
const FLAGS: usize = 0;
const INDEX: usize = 1;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The device's half of one split ring.
#[derive(Debug)]
pub struct DeviceRing {
    size: u16,
    features: RingFeatures,
    descriptors: Records<Descriptor>,
    available: Words,
    entries: Records<AvailableElement>,
    used_event: Words,
    used_words: Words,
    used: Records<UsedElement>,
    avail_event: Words,
    /// Chains taken so far.
    next_available: u16,
    /// The available index when it was last looked at.
    seen_available: u16,
    /// Used elements written so far, published or not.
    next_used: u16,
    /// The used index when the last notification was decided on.
    judged_used: u16,
    /// Used elements written so far, a batch being shown by one.
    elements: u32,
    /// In order: the chains before `next_used` for which no element was written yet, and what the
    /// one that will stand for them all says.
    batch: u16,
    batch_end: UsedElement,
    /// In order: the descriptor with which the next chain begins.
    next_head: u16,
    /// Whether the driver has been asked for kicks.
    armed: bool,
}

impl DeviceRing {
    /// A ring that the driver has just set up, zeroed.
    pub fn new(
        addresses: &RingAddresses,
        features: RingFeatures,
        map: &mut AddressMap,
    ) -> Result<Self, Violation> {
        let count = usize::from(addresses.size);
        let mut part = |address: u64, length: usize| {
            let segment = map.resolve(address, length);
            let segment = segment.ok_or(Violation::NotMapped { address, length: length as u32 })?;
            Ok::<_, Violation>(map.span(&segment)?)
        };
        let descriptors = part(addresses.descriptors, count * DESCRIPTOR_BYTES)?;
        let available = part(addresses.available, 6 + 2 * count)?;
        let used = part(addresses.used, 6 + 8 * count)?;
        Ok(Self {
            size: addresses.size,
            features,
            descriptors: descriptors.records(0, count)?,
            available: available.words(0, 2)?,
            entries: available.records(4, count)?,
            used_event: available.words(4 + 2 * count, 1)?,
            used_words: used.words(0, 2)?,
            used: used.records(4, count)?,
            avail_event: used.words(4 + 8 * count, 1)?,
            next_available: 0,
            seen_available: 0,
            next_used: 0,
            judged_used: 0,
            elements: 0,
            batch: 0,
            batch_end: UsedElement::default(),
            next_head: 0,
            // A zeroed used ring asks for kicks: no flag, and an event of 0.
            armed: true,
        })
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Look at the available index: how many chains it brought that were not there before.
    #[inline]
    pub fn poll(&mut self) -> Result<u16, Violation> {
        let available = self.available.load(INDEX);
        let fresh = available.wrapping_sub(self.seen_available);
        if fresh == 0 {
            return Ok(0);
        }
        let waiting = available.wrapping_sub(self.next_available);
        if waiting > self.size || fresh > waiting {
            return Err(Violation::AvailableIndexAhead { waiting, size: self.size });
        }
        fence::device_after_available_index();
        self.seen_available = available;
        Ok(fresh)
    }

    /// Chains seen and not yet taken.
    #[inline]
    pub fn waiting(&self) -> u16 {
        self.seen_available.wrapping_sub(self.next_available)
    }

    /// Chains taken and not yet used.
    pub fn held(&self) -> u16 {
        self.next_available.wrapping_sub(self.next_used)
    }

    /// Take the next of the waiting chains into `chain`; false if there is none.
    #[inline]
    pub fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> Result<bool, Violation> {
        if self.waiting() == 0 {
            return Ok(false);
        }
        let head = self.entry(self.next_available);
        self.next_available = self.next_available.wrapping_add(1);
        chain.clear(head);
        if self.features.in_order {
            self.check_order(head, self.next_head)?;
        }
        self.walk(head, map, chain)?;
        chain.check_length()?;
        Ok(true)
    }

    #[inline]
    fn entry(&self, available_index: u16) -> u16 {
        self.entries.load(usize::from(available_index & (self.size - 1))).0
    }

    /// Descriptors are used in the order of the table (VIRTIO 1.4, 2.7.5 The Virtqueue Descriptor
    /// Table, on IN_ORDER).
    #[inline]
    fn check_order(&self, index: u16, expected: u16) -> Result<(), Violation> {
        if index == expected { Ok(()) } else { Err(Violation::OutOfOrder { index, expected }) }
    }

    #[inline]
    fn walk(
        &mut self,
        head: u16,
        map: &mut AddressMap,
        chain: &mut Chain,
    ) -> Result<(), Violation> {
        let mut index = head;
        loop {
            if index >= self.size {
                return Err(Violation::IndexOutOfRange { index, count: self.size.into() });
            }
            let descriptor = self.descriptors.load(usize::from(index));
            self.next_head = (index + 1) & (self.size - 1);
            if descriptor.flags & INDIRECT != 0 {
                return self.walk_table(&descriptor, map, chain);
            }
            let Descriptor { addr, len, flags, .. } = descriptor;
            chain.append(index, addr, len, flags & WRITE != 0, self.size, map)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
            if self.features.in_order {
                self.check_order(index, self.next_head)?;
            }
        }
    }

    /// The rest of a chain stands in an indirect table; WRITE on `pointer` means nothing.
    /// VIRTIO 1.4, 2.7.5.3 Indirect Descriptors.
    fn walk_table(
        &self,
        pointer: &Descriptor,
        map: &mut AddressMap,
        chain: &mut Chain,
    ) -> Result<(), Violation> {
        let Descriptor { addr: address, len: length, flags, .. } = *pointer;
        let bytes = length as usize;
        if !self.features.indirect {
            return Err(Violation::IndirectNotNegotiated);
        }
        if flags & NEXT != 0 {
            return Err(Violation::IndirectWithNext);
        }
        if bytes == 0 || !bytes.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err(Violation::IndirectTableLength { length });
        }
        let count = bytes / DESCRIPTOR_BYTES;
        let segment =
            map.resolve(address, bytes).ok_or(Violation::NotMapped { address, length })?;
        let table = Table::<Descriptor>::open(segment, count, map);
        chain.indirect = true;
        let mut index = 0;
        loop {
            if usize::from(index) >= count {
                return Err(Violation::IndexOutOfRange { index, count });
            }
            let descriptor = table.load(index, map)?;
            if descriptor.flags & INDIRECT != 0 {
                return Err(Violation::IndirectNested);
            }
            let Descriptor { addr, len, flags, .. } = descriptor;
            chain.append(index, addr, len, flags & WRITE != 0, self.size, map)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            if self.features.in_order {
                self.check_order(descriptor.next, index.wrapping_add(1))?;
            }
            index = descriptor.next;
        }
    }

    /// Give `chain` back, `written` bytes having been written to it. The driver sees it with the
    /// next `publish`; in order, one element then shows a run of chains, up to one that was not
    /// written completely.
    #[inline]
    pub fn give_back(&mut self, chain: &Chain, written: u32) {
        self.complete(Completion::new(chain, written));
    }

    #[inline]
    pub(crate) fn complete(&mut self, done: Completion) {
        if !self.features.in_order {
            return self.store_next(done.element);
        }
        self.next_used = self.next_used.wrapping_add(1);
        self.batch += 1;
        self.batch_end = done.element;
        if !done.whole {
            self.end_batch();
        }
    }

    /// Write the element of the chains that have none yet, where that of the first would be.
    /// VIRTIO 1.4, 2.7.9 In-order use of descriptors.
    #[inline]
    fn end_batch(&mut self) {
        let first = self.next_used.wrapping_sub(std::mem::take(&mut self.batch));
        if first != self.next_used {
            self.store_used(first, self.batch_end);
        }
    }

    #[inline]
    fn store_used(&mut self, used_index: u16, element: UsedElement) {
        self.used.store(usize::from(used_index & (self.size - 1)), element);
        self.elements += 1;
    }

    /// Write a used element of its own; the driver sees it with the next `publish`.
    #[inline]
    pub fn put_used(&mut self, element: UsedElement) {
        self.end_batch();
        self.store_next(element);
    }

    #[inline]
    fn store_next(&mut self, element: UsedElement) {
        self.store_used(self.next_used, element);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Used elements written since this was last asked, among them what `publish` will show.
    #[inline]
    pub(crate) fn take_element_count(&mut self) -> u32 {
        self.end_batch();
        std::mem::take(&mut self.elements)
    }

    /// Whether used elements were put that the driver cannot see yet.
    #[inline]
    pub fn has_unpublished(&self) -> bool {
        self.next_used != self.judged_used
    }

    /// Show the driver everything that was put.
    #[inline]
    pub fn publish(&mut self) {
        self.end_batch();
        fence::device_before_used_index();
        self.used_words.store(INDEX, self.next_used);
    }

    /// Whether the driver wants to be notified of what was published since this was last asked.
    /// VIRTIO 1.4, 2.7.7 Used Buffer Notification Suppression.
    #[inline]
    pub fn wants_interrupt(&mut self) -> bool {
        fence::device_before_interrupt_check();
        let old = std::mem::replace(&mut self.judged_used, self.next_used);
        if self.features.event_idx {
            passes(self.used_event.load(0), old, self.next_used)
        } else {
            old != self.next_used && self.available.load(FLAGS) & NO_INTERRUPT == 0
        }
    }

    /// Ask for a kick; whether chains are there already.
    /// VIRTIO 1.4, 2.7.10 Available Buffer Notification Suppression.
    pub fn arm(&mut self) -> bool {
        self.armed = true;
        if self.features.event_idx {
            self.avail_event.store(0, self.seen_available);
        } else {
            self.used_words.store(FLAGS, 0);
        }
        fence::device_after_arm();
        self.pending()
    }

    /// Whether the available index has moved since `poll`, without taking note of it.
    #[inline]
    pub fn pending(&self) -> bool {
        self.available.load(INDEX) != self.seen_available
    }

    /// The available index, without taking note of it.
    pub fn available_index(&self) -> u16 {
        self.available.load(INDEX)
    }

    /// Whether the driver has been asked for a kick.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Hint that no kick is wanted. With EVENT_IDX the event that has passed says so already.
    #[inline]
    pub fn disarm(&mut self) {
        if self.armed && !self.features.event_idx {
            self.used_words.store(FLAGS, NO_NOTIFY);
        }
        self.armed = false;
    }

    /// Write a used element past which the used index does not move: a fault.
    pub(crate) fn put_used_in_place(&mut self, element: UsedElement) {
        self.end_batch();
        self.store_used(self.next_used, element);
    }

    /// The head of the last of the waiting chains.
    pub(crate) fn last_waiting(&self) -> Option<u16> {
        (self.waiting() > 0).then(|| self.entry(self.seen_available.wrapping_sub(1)))
    }

    /// Let the used index run ahead of what was used: a fault.
    pub(crate) fn skip_used(&mut self, count: u16) {
        self.end_batch();
        self.next_used = self.next_used.wrapping_add(count);
    }

    /// A descriptor that is the head of no chain that the driver could have outstanding, given
    /// that the device holds `held` besides what waits in the ring.
    pub(crate) fn not_outstanding(&self, held: &[u16]) -> Option<u16> {
        let waiting = (0..self.waiting()).map(|n| self.entry(self.next_available.wrapping_add(n)));
        let taken: Vec<u16> = waiting.chain(held.iter().copied()).collect();
        (0..self.size).rev().find(|index| !taken.contains(index))
    }
}
