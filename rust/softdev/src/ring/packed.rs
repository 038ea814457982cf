//! The device's own parse of a packed ring (VIRTIO 1.4, 2.8 Packed Virtqueues).
//!
//! Buffer ids are the driver's business: they are given back as they came, and nothing here is
//! looked up by one. How many slots a chain takes is remembered with the chain.

use shm::{PackedBody, PackedDescriptor, PackedDescriptors, PackedUsed, UsedElement, Words, fence};

use super::table::Table;
use super::{
    Chain, Completion, DESCRIPTOR_BYTES, INDIRECT, NEXT, RingAddresses, RingFeatures, Violation,
    WRITE, passes,
};
use crate::address_map::AddressMap;

const AVAIL: u16 = 0x80;
const USED: u16 = 0x8000;
const OWNER: u16 = AVAIL | USED;

/// The words of an event suppression structure (2.8.14 Event Suppression Structure Format).
const PLACE: usize = 0;
const WISH: usize = 1;

const WISH_MASK: u16 = 3;
const ALWAYS: u16 = 0;
const NEVER: u16 = 1;
const AT_PLACE: u16 = 2;

/// A slot, and the flags that a descriptor has there when it is due: AVAIL or USED alone where it
/// becomes available, both or none where it is used. Behind the last slot both flip, as the wrap
/// counter does (2.8.1 Driver and Device Ring Wrap Counters), which is what AVAIL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    slot: u16,
    flags: u16,
}

impl Place {
    const FIRST_AVAILABLE: Self = Self { slot: 0, flags: AVAIL };
    const FIRST_USED: Self = Self { slot: 0, flags: OWNER };

    fn counter(self) -> u16 {
        u16::from(self.flags & AVAIL != 0)
    }

    fn word(self) -> u16 {
        self.slot | self.counter() << 15
    }

    #[inline]
    fn is_due(self, flags: u16) -> bool {
        flags & OWNER == self.flags
    }

    /// No chain takes more than a lap, so this takes no division, which would cost as much as all
    /// the rest of a descriptor.
    #[inline]
    fn skip(&mut self, count: u16, size: u16) {
        let slot = u32::from(self.slot) + u32::from(count);
        if slot < u32::from(size) {
            self.slot = slot as u16;
        } else {
            self.slot = (slot - u32::from(size)) as u16;
            self.flags ^= OWNER;
        }
    }
}

/// Chains that one used descriptor will show.
#[derive(Clone, Copy, Debug)]
struct Batch {
    /// Where the first of them began.
    first: Place,
    end: UsedElement,
}

/// The device's half of one packed ring.
#[derive(Debug)]
pub struct PackedRing {
    size: u16,
    features: RingFeatures,
    descriptors: PackedDescriptors,
    driver_event: Words,
    device_event: Words,
    /// Up to where chains have been taken.
    taken: Place,
    /// Chains that were taken and not yet used, and their slots: those from `used` to `taken`.
    held: u16,
    held_slots: u16,
    /// Where the next used descriptor goes.
    used: Place,
    /// The first used descriptor that the driver cannot see yet; its flags will show it, and all
    /// those behind it, which have theirs.
    hidden: Option<Place>,
    /// Used descriptors written so far, a batch being shown by one.
    elements: u32,
    /// In order: the chains before `used` for which no used descriptor was written yet, and what
    /// the one that will stand for them all says.
    batch: Option<Batch>,
    /// Slots passed by used descriptors since the last notification was decided on.
    unjudged_slots: u32,
    /// Whether the driver has been asked for kicks.
    armed: bool,
    /// Whether a fault has overwritten what the driver made available.
    lied: bool,
}

impl PackedRing {
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
        let driver_event = part(addresses.available, 4)?;
        let device_event = part(addresses.used, 4)?;
        Ok(Self {
            size: addresses.size,
            features,
            descriptors: descriptors.packed_descriptors(0, count)?,
            driver_event: driver_event.words(0, 2)?,
            device_event: device_event.words(0, 2)?,
            taken: Place::FIRST_AVAILABLE,
            held: 0,
            held_slots: 0,
            used: Place::FIRST_USED,
            hidden: None,
            elements: 0,
            batch: None,
            unjudged_slots: 0,
            // A zeroed structure asks for every kick.
            armed: true,
            lied: false,
        })
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Whether a chain waits: 0 or 1, as counting them is as much work as taking them.
    #[inline]
    pub fn poll(&mut self) -> Result<u16, Violation> {
        Ok(self.pending().into())
    }

    /// Take the next of the waiting chains into `chain`; false if there is none.
    #[inline]
    pub fn take(&mut self, map: &mut AddressMap, chain: &mut Chain) -> Result<bool, Violation> {
        let mut place = self.taken;
        let mut flags = self.descriptors.load_flags(usize::from(place.slot));
        if !self.may_take(place, flags) {
            return Ok(false);
        }
        // Whatever belongs to a list was written before its first descriptor became available.
        fence::device_after_available_index();
        chain.clear(0);
        let free_slots = self.size - self.held_slots;
        let mut slots = 0;
        loop {
            let PackedBody { addr, len, id } = self.descriptors.load_body(usize::from(place.slot));
            slots += 1;
            chain.head = id;
            if flags & INDIRECT != 0 {
                place.skip(1, self.size);
                self.walk_table(flags, addr, len, slots, map, chain)?;
                break;
            }
            chain.append(place.slot, addr, len, flags & WRITE != 0, self.size, map)?;
            place.skip(1, self.size);
            if flags & NEXT == 0 {
                break;
            }
            if slots == free_slots {
                return Err(Violation::ChainTooLong { size: self.size });
            }
            flags = self.descriptors.load_flags(usize::from(place.slot));
            if !place.is_due(flags) {
                return Err(Violation::ListNotAvailable { slot: place.slot });
            }
        }
        chain.check_length()?;
        chain.slots = slots;
        self.taken = place;
        self.held += 1;
        self.held_slots += slots;
        Ok(true)
    }

    #[inline]
    fn may_take(&self, place: Place, flags: u16) -> bool {
        place.is_due(flags) && self.held_slots < self.size && !self.lied
    }

    /// Chains that wait, counted anew.
    pub fn waiting(&self) -> u16 {
        if self.lied {
            return 0;
        }
        let mut lists = 0;
        self.look_ahead(|_, flags| lists += u16::from(flags & NEXT == 0));
        // A list without an end is there to be taken, which fails.
        lists.max(self.pending().into())
    }

    /// Chains taken and not yet used.
    pub fn held(&self) -> u16 {
        self.held
    }

    /// Show `each` the slots that are available behind what was taken, with their flags; nothing
    /// is done about them. The place behind them.
    fn look_ahead(&self, mut each: impl FnMut(usize, u16)) -> Place {
        let mut place = self.taken;
        for _ in self.held_slots..self.size {
            let flags = self.descriptors.load_flags(usize::from(place.slot));
            if !place.is_due(flags) {
                break;
            }
            each(place.slot.into(), flags);
            place.skip(1, self.size);
        }
        place
    }

    /// All of a chain stands in an indirect table, entry behind entry; WRITE on `flags` means
    /// nothing. VIRTIO 1.4, 2.8.7 Indirect Flag: Scatter-Gather Support.
    fn walk_table(
        &self,
        flags: u16,
        address: u64,
        length: u32,
        slots: u16,
        map: &mut AddressMap,
        chain: &mut Chain,
    ) -> Result<(), Violation> {
        let bytes = length as usize;
        if !self.features.indirect {
            return Err(Violation::IndirectNotNegotiated);
        }
        if flags & NEXT != 0 || slots > 1 {
            return Err(Violation::IndirectWithNext);
        }
        if bytes == 0 || !bytes.is_multiple_of(DESCRIPTOR_BYTES) {
            return Err(Violation::IndirectTableLength { length });
        }
        let count = bytes / DESCRIPTOR_BYTES;
        if count > usize::from(self.size) {
            return Err(Violation::ChainTooLong { size: self.size });
        }
        let segment =
            map.resolve(address, bytes).ok_or(Violation::NotMapped { address, length })?;
        let table = Table::<PackedDescriptor>::open(segment, count, map);
        chain.indirect = true;
        for index in 0..count as u16 {
            let PackedDescriptor { addr, len, flags, .. } = table.load(index, map)?;
            if flags & INDIRECT != 0 {
                return Err(Violation::IndirectNested);
            }
            if flags & !WRITE != 0 {
                return Err(Violation::TableEntryFlags { index, flags });
            }
            chain.append(index, addr, len, flags & WRITE != 0, self.size, map)?;
        }
        Ok(())
    }

    /// Give `chain` back, `written` bytes having been written to it. The driver sees it with the
    /// next `publish`; in order, one used descriptor then shows a run of chains, up to one that
    /// was not written completely.
    #[inline]
    pub fn give_back(&mut self, chain: &Chain, written: u32) {
        self.complete(Completion::new(chain, written));
    }

    #[inline]
    pub(crate) fn complete(&mut self, done: Completion) {
        let Completion { element, slots, whole } = done;
        if !self.features.in_order {
            return self.put_used(element, slots);
        }
        let first = self.batch.map_or(self.used, |batch| batch.first);
        self.batch = Some(Batch { first, end: element });
        self.pass(slots);
        if !whole {
            self.end_batch();
        }
    }

    /// Write the used descriptor of the chains that have none yet, where the first of them began.
    /// VIRTIO 1.4, 2.8.8 In-order use of descriptors.
    #[inline]
    fn end_batch(&mut self) {
        if let Some(Batch { first, end }) = self.batch.take() {
            self.store_used(first, end);
        }
    }

    /// The driver looks at one used descriptor after the other, so none is seen before the first
    /// is, and that is hidden until its flags are stored.
    #[inline]
    fn store_used(&mut self, place: Place, element: UsedElement) {
        let UsedElement { id, len } = element;
        let id = u16::try_from(id).unwrap_or(u16::MAX);
        self.descriptors.store_used(usize::from(place.slot), PackedUsed { id, len });
        self.elements += 1;
        if self.hidden.is_none() {
            self.hidden = Some(place);
        } else {
            self.show(place);
        }
    }

    /// Something was written in any case, if only a status: the length counts.
    #[inline]
    fn show(&self, place: Place) {
        self.descriptors.store_flags(usize::from(place.slot), place.flags | WRITE);
    }

    /// Go on to where the next used descriptor stands.
    #[inline]
    fn pass(&mut self, slots: u16) {
        self.used.skip(slots, self.size);
        self.unjudged_slots += u32::from(slots);
        self.held_slots = self.held_slots.saturating_sub(slots);
        self.held = self.held.saturating_sub(1);
    }

    /// Write a used descriptor of its own for a chain of `slots`; the driver sees it with the next
    /// `publish`.
    #[inline]
    pub fn put_used(&mut self, element: UsedElement, slots: u16) {
        self.end_batch();
        self.store_used(self.used, element);
        self.pass(slots);
    }

    /// Used descriptors written since this was last asked, among them what `publish` will show.
    #[inline]
    pub(crate) fn take_element_count(&mut self) -> u32 {
        self.end_batch();
        std::mem::take(&mut self.elements)
    }

    /// Whether used descriptors were put that the driver cannot see yet.
    #[inline]
    pub fn has_unpublished(&self) -> bool {
        self.batch.is_some() || self.hidden.is_some()
    }

    /// Show the driver everything that was put.
    #[inline]
    pub fn publish(&mut self) {
        self.end_batch();
        if let Some(first) = self.hidden.take() {
            fence::device_before_used_index();
            self.show(first);
        }
    }

    /// Whether the driver wants to be notified of what was published since this was last asked.
    /// VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression.
    #[inline]
    pub fn wants_interrupt(&mut self) -> bool {
        fence::device_before_interrupt_check();
        let slots = std::mem::take(&mut self.unjudged_slots);
        match self.driver_event.load(WISH) & WISH_MASK {
            _ if slots == 0 => false,
            NEVER => false,
            AT_PLACE if self.features.event_idx => {
                self.went_past(self.driver_event.load(PLACE), slots)
            }
            _ => true,
        }
    }

    /// Whether the last `slots` slots before `used` have the place that `word` names among them.
    fn went_past(&self, word: u16, slots: u32) -> bool {
        let (slot, counter) = (word & 0x7fff, word >> 15);
        // Behind the last slot the counter was another: what it names lies a lap back.
        let lap_back = if counter == self.used.counter() { 0 } else { self.size };
        let event = slot.wrapping_sub(lap_back);
        passes(event, self.used.slot.wrapping_sub(slots as u16), self.used.slot)
    }

    /// Ask for a kick; whether chains are there already.
    pub fn arm(&mut self) -> bool {
        self.armed = true;
        if self.features.event_idx {
            self.device_event.store(PLACE, self.taken.word());
            self.device_event.store(WISH, AT_PLACE);
        } else {
            self.device_event.store(WISH, ALWAYS);
        }
        fence::device_after_arm();
        self.pending()
    }

    /// Whether there is a chain to take.
    #[inline]
    pub fn pending(&self) -> bool {
        let flags = self.descriptors.load_flags(usize::from(self.taken.slot));
        self.may_take(self.taken, flags)
    }

    /// Where the driver will make the next chain available, as it looks now: slot, and wrap
    /// counter in bit 15.
    pub fn next_available(&self) -> u16 {
        self.look_ahead(|_, _| ()).word()
    }

    /// Whether the driver has been asked for a kick.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Hint that no kick is wanted.
    #[inline]
    pub fn disarm(&mut self) {
        if self.armed {
            self.device_event.store(WISH, NEVER);
        }
        self.armed = false;
    }

    /// Whether a driver that is at `available` may say that it is at `announced`: within a lap
    /// before it.
    pub(crate) fn is_at_most(&self, announced: u16, available: u16) -> bool {
        let size = u32::from(self.size);
        // The counter starts at 1, so that is the first of two laps. A slot that there is not has
        // no number.
        let number = |word: u16| {
            let (slot, lap) = (u32::from(word & 0x7fff), u32::from(word >> 15 ^ 1));
            (slot < size).then_some(lap * size + slot)
        };
        let behind = |place: u32, before: u32| (place + 2 * size - before) % (2 * size);
        let places = number(available).zip(number(announced));
        places.is_some_and(|(place, before)| behind(place, before) <= size)
    }

    /// Mark `count` descriptors more as used, with an id that was just given back: a fault. No
    /// more than leave the first of what is hidden as it is. They may be those of chains that wait
    /// to be taken, so nothing is taken from this ring any more.
    pub(crate) fn lie(&mut self, id: u32, count: u16) {
        self.end_batch();
        self.lied = true;
        let lap = usize::from(self.size).saturating_sub(self.hidden_slots());
        for _ in 0..lap.min(usize::from(count)) {
            self.put_used(UsedElement { id, len: 0 }, 1);
        }
    }

    /// Write a used descriptor, and the next one in the same place: a fault.
    pub(crate) fn put_used_in_place(&mut self, element: UsedElement) {
        self.end_batch();
        self.store_used(self.used, element);
    }

    /// The buffer id of the last of the waiting chains.
    pub(crate) fn last_waiting(&self) -> Option<u16> {
        let mut last = None;
        self.look_ahead(|slot, _| last = Some(self.descriptors.load_body(slot).id));
        last
    }

    /// Slots from the first that is hidden on.
    fn hidden_slots(&self) -> usize {
        let Some(Place { slot: first, .. }) = self.hidden else { return 0 };
        let (used, size) = (usize::from(self.used.slot), usize::from(self.size));
        let slots = (used + size - usize::from(first)) % size;
        if slots == 0 { size } else { slots }
    }

    /// A buffer id below the queue size of no chain that the driver could have outstanding, given
    /// that the device holds `held` besides what waits in the ring.
    pub(crate) fn not_outstanding(&self, held: &[u16]) -> Option<u16> {
        let mut taken = held.to_vec();
        self.look_ahead(|slot, _| taken.push(self.descriptors.load_body(slot).id));
        (0..self.size).rev().find(|id| !taken.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::{AVAIL, OWNER, Place, USED};

    #[test]
    fn the_flags_flip_behind_the_last_slot() {
        for size in [1, 2, 3, 7, 32_768] {
            let (mut available, mut used) = (Place::FIRST_AVAILABLE, Place::FIRST_USED);
            for lap in 0..3 {
                for slot in 0..size {
                    let first = lap % 2 == 0;
                    let flags = if first { AVAIL } else { USED };
                    assert_eq!(available, Place { slot, flags });
                    assert_eq!(used, Place { slot, flags: if first { OWNER } else { 0 } });
                    assert_eq!(available.word(), used.word());
                    assert_eq!(used.word(), slot | u16::from(first) << 15);
                    available.skip(1, size);
                    used.skip(1, size);
                }
            }
        }
    }
}
