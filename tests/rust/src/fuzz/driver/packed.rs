//! A packed ring in plain bytes (VIRTIO 1.4, 2.8 Packed Virtqueues). Places are counted from the
//! start and never wrap: slot and wrap counter are what a count comes to.

use std::ops::Range;

use vring::{Broken, LayoutError, PackedLayout, PackedQueue, Used};

use super::Format;
use super::model::{Chain, Model};
use super::split::{some_id, some_length};
use crate::fuzz::bytes::Bytes;
use crate::fuzz::input::Input;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_DESCRIPTOR: u16 = 2;

/// Sizes of which most are no powers of two.
const SIZES: [usize; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 31, 64, 100, 255, 256];

/// The device's view of a packed ring.
#[derive(Debug)]
pub(in crate::fuzz) struct Packed {
    memory: Bytes,
    address: u64,
    layout: PackedLayout,
    /// Where an honest device uses next, in slots since the ring was made.
    device_at: u64,
}

impl Packed {
    fn slot(&self, place: u64) -> u16 {
        (place % u64::from(self.layout.size)) as u16
    }

    /// The wrap counter there.
    fn counter(&self, place: u64) -> bool {
        (place / u64::from(self.layout.size)).is_multiple_of(2)
    }

    /// As an event suppression structure says it.
    fn place_word(&self, place: u64) -> u16 {
        self.slot(place) | u16::from(self.counter(place)) << 15
    }

    fn available_flags(&self, place: u64) -> u16 {
        if self.counter(place) { AVAIL } else { USED }
    }

    fn used_flags(&self, place: u64) -> u16 {
        if self.counter(place) { AVAIL | USED } else { 0 }
    }

    fn descriptor(&self, place: u64) -> usize {
        self.layout.descriptors + 16 * usize::from(self.slot(place))
    }

    fn flags(&self, place: u64) -> u16 {
        self.memory.word(self.descriptor(place) + 14)
    }

    fn table(&self, head: u16) -> Range<usize> {
        let length = 16 * usize::from(self.layout.indirect_table_size);
        let start = self.layout.indirect + usize::from(head) * length;
        start..start + length
    }

    fn check_table(&self, chain: &Chain) {
        let table = self.table(chain.head).start;
        for (n, &(address, length, device_writes)) in chain.parts.iter().enumerate() {
            let at = table + 16 * n;
            let memory = &self.memory;
            let found = (memory.long(at), memory.double(at + 8), memory.word(at + 14));
            let flags = if device_writes { WRITE } else { 0 };
            assert_eq!(found, (address, length, flags), "part {n} of {chain:?}");
        }
    }

    /// The flags of the descriptors of `chain`, but those that say whose they are.
    fn kinds(chain: &Chain) -> Vec<u16> {
        if chain.is_indirect() {
            return vec![INDIRECT];
        }
        let last = chain.parts.len().saturating_sub(1);
        let kind = |(n, part): (usize, &(u64, u32, bool))| {
            let next = if n < last { NEXT } else { 0 };
            if part.2 { next | WRITE } else { next }
        };
        chain.parts.iter().enumerate().map(kind).collect()
    }
}

impl Format for Packed {
    type Queue = PackedQueue;

    const INDICES_WRAP: bool = false;

    fn layout(size: u8, tables: u16, _: bool) -> Result<PackedLayout, LayoutError> {
        PackedLayout::new(SIZES[usize::from(size % 16)], tables.into())
    }

    fn extent(layout: &PackedLayout) -> (usize, usize) {
        (layout.length, PackedLayout::ALIGN)
    }

    fn new(memory: Bytes, address: u64, layout: PackedLayout) -> Self {
        Self { memory, address, layout, device_at: 0 }
    }

    fn areas(&self) -> Vec<Range<usize>> {
        let (layout, size) = (&self.layout, usize::from(self.layout.size));
        vec![
            layout.descriptors..layout.descriptors + 16 * size,
            layout.driver_event..layout.driver_event + 4,
            layout.device_event..layout.device_event + 4,
            layout.indirect..layout.length,
        ]
    }

    /// All but the flags, which are nobody's business before the chain is available.
    fn check_pushed(&self, model: &Model, chain: &mut Chain) -> Vec<Range<usize>> {
        let mut written = Vec::new();
        let mut expected: Vec<_> = chain.parts.iter().map(|&(addr, len, _)| (addr, len)).collect();
        if chain.is_indirect() {
            self.check_table(chain);
            let table = self.table(chain.head);
            expected = vec![(self.address + table.start as u64, 16 * chain.parts.len() as u32)];
            written.push(table);
        }
        for (place, part) in (model.slots_pushed..).zip(expected) {
            let at = self.descriptor(place);
            assert_eq!((self.memory.long(at), self.memory.double(at + 8)), part, "slot {place}");
            assert_eq!(self.memory.word(at + 12), chain.head, "the buffer id in slot {place}");
            written.push(at..at + 14);
        }
        written
    }

    fn check_published(&self, model: &Model, batch: &[Chain]) -> Vec<Range<usize>> {
        let slots: u64 = batch.iter().map(|chain| u64::from(chain.slots)).sum();
        let places = model.slots_published - slots..;
        let kinds = batch.iter().flat_map(Self::kinds);
        let mut written = Vec::new();
        for (place, kind) in places.zip(kinds) {
            let at = self.descriptor(place) + 14;
            let expected = kind | self.available_flags(place);
            assert_eq!(self.memory.word(at), expected, "the flags of slot {place}");
            written.push(at..at + 2);
        }
        written
    }

    fn wants_kick(&self, model: &Model, batch: &[Chain]) -> Option<bool> {
        let event = self.memory.word(self.layout.device_event);
        match self.memory.word(self.layout.device_event + 2) & 3 {
            DISABLE => Some(false),
            AT_DESCRIPTOR if model.options.event_idx => {
                let slots: u64 = batch.iter().map(|chain| u64::from(chain.slots)).sum();
                let mut places = model.slots_published - slots..model.slots_published;
                let exists = event & 0x7fff < self.layout.size;
                exists.then(|| places.any(|place| self.place_word(place) == event))
            }
            _ => Some(true),
        }
    }

    fn check_armed(&self, model: &Model, armed: bool) -> Vec<Range<usize>> {
        let at = self.layout.driver_event;
        let flags = self.memory.word(at + 2);
        match (armed, model.options.event_idx) {
            (true, true) => {
                let place = self.place_word(model.slots_used);
                assert_eq!((self.memory.word(at), flags), (place, AT_DESCRIPTOR));
                return vec![at..at + 4];
            }
            (true, false) => assert_eq!(flags, ENABLE),
            (false, _) => assert_eq!(flags, DISABLE),
        }
        vec![at + 2..at + 4]
    }

    fn next_number(&self, model: &Model) -> u64 {
        model.chains_pushed
    }

    fn next_available(&self, model: &Model) -> u16 {
        self.place_word(model.slots_published)
    }

    fn has_used(&self, model: &Model) -> bool {
        let place = model.slots_used;
        model.left > 0 || self.flags(place) & (AVAIL | USED) == self.used_flags(place)
    }

    fn reap(&self, model: &mut Model, limit: usize) -> (Vec<Used>, Result<usize, Broken>) {
        let mut used = Vec::new();
        while used.len() < limit {
            if let Some(chain) = model.next_of_batch() {
                used.push(chain);
                continue;
            }
            if !self.has_used(model) {
                break;
            }
            let at = self.descriptor(model.slots_used);
            let (length, id) = (self.memory.double(at + 8), self.memory.word(at + 12));
            let length = (self.memory.word(at + 14) & WRITE != 0).then_some(length);
            let outcome = if model.outstanding.is_empty() {
                Err(Broken::UsedNotAvailable { slot: self.slot(model.slots_used) })
            } else if model.options.in_order {
                model.use_batch(id.into(), length, None).map(|()| None)
            } else {
                model.use_chain(id.into(), length)
            };
            match outcome {
                Ok(chain) => used.extend(chain),
                Err(broken) => return model.breach(used, broken),
            }
        }
        let count = used.len();
        (used, Ok(count))
    }

    fn complete(&mut self, model: &mut Model, place: usize, length: u32) {
        if !model.outstanding.iter().any(|chain| chain.answered) {
            self.device_at = model.slots_used;
        }
        let Some((head, _, slots)) = model.answer(place) else { return };
        let at = self.descriptor(self.device_at);
        let flags = self.used_flags(self.device_at) | if length > 0 { WRITE } else { 0 };
        self.device_at += slots;
        self.memory.set_double(at + 8, length);
        self.memory.set_word(at + 12, head);
        self.memory.set_word(at + 14, flags);
    }

    fn store(&mut self, model: &Model, argument: u8, input: &mut Input<'_>) {
        let slots = u64::from(self.layout.size);
        match argument {
            // What the driver would take for used, at its place or a little behind it.
            0..=3 => {
                let place = model.slots_used + u64::from(argument) % slots;
                let at = self.descriptor(place);
                let write = if input.byte() & 1 == 0 { WRITE } else { 0 };
                self.memory.set_double(at + 8, some_length(input));
                self.memory.set_word(at + 12, some_id(model, input) as u16);
                self.memory.set_word(at + 14, self.used_flags(place) | write);
            }
            // Flags alone.
            4..=6 => {
                let place = model.slots_used + u64::from(input.byte()) % slots;
                let flags = input.pick(&[0, AVAIL, USED, AVAIL | USED]) | u16::from(argument & 3);
                self.memory.set_word(self.descriptor(place) + 14, flags);
            }
            7 => {
                let at = self.descriptor(input.byte().into());
                self.memory.set_word(at + 14, input.word());
            }
            // Id and length alone, where the driver will look, or anywhere.
            8 | 9 => {
                let at = self.descriptor(model.slots_used + u64::from(argument - 8));
                self.memory.set_word(at + 12, some_id(model, input) as u16);
                self.memory.set_double(at + 8, some_length(input));
            }
            10 => {
                let at = self.descriptor(input.byte().into());
                self.memory.set_word(at + 12, input.word());
                self.memory.set_double(at + 8, some_length(input));
            }
            11 => self.memory.set_word(self.layout.device_event + 2, input.byte().into()),
            12 => self.memory.set_word(self.layout.device_event + 2, AT_DESCRIPTOR),
            13 | 14 => {
                let place = model.slots_published + u64::from(input.byte()) % (2 * slots);
                self.memory.set_word(self.layout.device_event, self.place_word(place));
            }
            _ => self.memory.set_word(self.layout.device_event, input.word()),
        }
    }
}
