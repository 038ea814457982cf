//! A packed ring in plain bytes, as its driver writes it and as a device has to read it
//! (VIRTIO 1.4, 2.8 Packed Virtqueues). Places are counted from the start and never wrap.

use std::ops::Range;

use softdev::feature;

use super::request::Part;
use super::{
    BASE, Breach, DESCRIPTORS, DEVICE_AREA, DRIVER_AREA, Format, Memory, SIZE_MAX, Shape, TABLES,
    Taken, Wish, double, is_shown_in_order, long, some_descriptor, word,
};
use crate::fuzz::input::Input;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const OWNER: u16 = AVAIL | USED;

const DRIVER_EVENT: usize = DRIVER_AREA;
const DEVICE_EVENT: usize = DEVICE_AREA;

#[derive(Clone, Debug)]
pub(in crate::fuzz) struct Packed {
    shape: Shape,
    memory: Memory,
    /// The driver's: chains so far, where the next one goes, and flags that it has yet to write.
    offered: u16,
    next: u64,
    hidden: Vec<(usize, u16)>,
    /// The device's: up to where it has taken, and used.
    taken: u64,
    used: u64,
}

/// One descriptor's bytes.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    length: u32,
    id: u16,
    flags: u16,
}

impl Packed {
    fn size(&self) -> u64 {
        self.shape.size.into()
    }

    fn counter(&self, place: u64) -> bool {
        (place / self.size()).is_multiple_of(2)
    }

    fn at(&self, place: u64) -> usize {
        DESCRIPTORS + 16 * (place % self.size()) as usize
    }

    fn place_word(&self, place: u64) -> u16 {
        (place % self.size()) as u16 | u16::from(self.counter(place)) << 15
    }

    fn descriptor(&self, at: usize) -> Descriptor {
        let bytes = self.memory.sixteen(at);
        let (address, length) = (long(&bytes, 0), double(&bytes, 8));
        Descriptor { address, length, id: word(&bytes, 12), flags: word(&bytes, 14) }
    }

    /// All but the flags of a descriptor.
    fn put(&self, at: usize, address: u64, length: u32, id: u16) {
        self.memory.write(at, &address.to_le_bytes());
        self.memory.write(at + 8, &length.to_le_bytes());
        self.memory.write(at + 12, &id.to_le_bytes());
    }

    fn word(&self, at: usize) -> u16 {
        self.memory.first.word(at)
    }

    fn set_word(&self, at: usize, value: u16) {
        self.memory.first.set_word(at, value);
    }

    /// Whether the driver has made this place available, which is not a lap ahead.
    fn is_available(&self, place: u64) -> bool {
        let flags = self.word(self.at(place) + 14);
        let due = if self.counter(place) { AVAIL } else { USED };
        place < self.used + self.size() && flags & OWNER == due
    }

    fn walk_table(&self, pointer: Descriptor, chain: &mut Taken) -> Result<(), Breach> {
        let Descriptor { address, length, flags, .. } = pointer;
        let too_long = length / 16 > self.shape.size.into();
        let misplaced = flags & NEXT != 0 || chain.slots > 1 || !self.shape.indirect;
        if misplaced || length == 0 || length % 16 != 0 || too_long {
            return Err(Breach);
        }
        let table = self.memory.resolve(address, length.into()).ok_or(Breach)?;
        chain.reads.push(table.clone());
        for at in table.step_by(16) {
            let entry = self.descriptor(at);
            if entry.flags & !WRITE != 0 {
                return Err(Breach);
            }
            let part = (entry.address, entry.length, entry.flags & WRITE != 0);
            chain.append(&self.memory, part, self.shape.size)?;
        }
        Ok(())
    }

    fn walk(&mut self) -> Result<Taken, Breach> {
        let mut chain = Taken::default();
        loop {
            if !self.is_available(self.taken) {
                return Err(Breach);
            }
            let descriptor = self.descriptor(self.at(self.taken));
            self.taken += 1;
            chain.slots += 1;
            chain.head = descriptor.id;
            if descriptor.flags & INDIRECT != 0 {
                self.walk_table(descriptor, &mut chain)?;
                return Ok(chain);
            }
            let part = (descriptor.address, descriptor.length, descriptor.flags & WRITE != 0);
            chain.append(&self.memory, part, self.shape.size)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(chain);
            }
        }
    }
}

impl Format for Packed {
    const FEATURES: u64 = 1 << feature::RING_PACKED;

    fn size(byte: u8) -> u16 {
        1 + u16::from(byte) % SIZE_MAX
    }

    fn new(shape: Shape, memory: Memory) -> Self {
        Self { shape, memory, offered: 0, next: 0, hidden: Vec::new(), taken: 0, used: 0 }
    }

    fn offer(&mut self, parts: &[Part], indirect: bool) -> bool {
        let needed = if indirect { 1 } else { parts.len() as u64 };
        if self.next + needed > self.used + self.size() {
            return false;
        }
        let id = self.offered % self.shape.size;
        let write = |part: &Part| if part.device_writes { WRITE } else { 0 };
        let owner = |place: u64| if self.counter(place) { AVAIL } else { USED };
        let mut hidden = Vec::new();
        if indirect {
            // No alignment is asked for.
            let number = usize::from(self.offered);
            let table = TABLES + 256 * (number % 8) + usize::from(number % 3 == 2);
            for (at, part) in (table..).step_by(16).zip(parts) {
                self.put(at, part.address, part.length, 0);
                self.memory.write(at + 14, &write(part).to_le_bytes());
            }
            let at = self.at(self.next);
            self.put(at, BASE + table as u64, 16 * parts.len() as u32, id);
            hidden.push((at + 14, INDIRECT | owner(self.next)));
        } else {
            for (n, part) in parts.iter().enumerate() {
                let place = self.next + n as u64;
                self.put(self.at(place), part.address, part.length, id);
                let next = if n + 1 < parts.len() { NEXT } else { 0 };
                hidden.push((self.at(place) + 14, write(part) | next | owner(place)));
            }
        }
        self.hidden.extend(hidden);
        self.next += needed;
        self.offered = self.offered.wrapping_add(1);
        true
    }

    fn publish(&mut self) {
        for (at, flags) in std::mem::take(&mut self.hidden) {
            self.set_word(at, flags);
        }
    }

    fn poll(&mut self) -> Result<(), Breach> {
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Taken>, Breach> {
        if !self.is_available(self.taken) {
            return Ok(None);
        }
        self.walk().map(Some)
    }

    fn check_used(&mut self, chains: &[Taken]) -> (Vec<Range<usize>>, Option<Wish>) {
        if chains.is_empty() {
            return (Vec::new(), Some(Wish::Never));
        }
        let first = self.used;
        // Where each chain begins.
        let mut places = vec![first];
        places.extend(chains.iter().scan(first, |place, chain| {
            *place += chain.slots;
            Some(*place)
        }));
        let is_at = |n: usize, chain: usize| {
            let Descriptor { length, id, flags, .. } = self.descriptor(self.at(places[n]));
            let owner = if self.counter(places[n]) { OWNER } else { 0 };
            let Taken { writable, head, .. } = chains[chain];
            (length, id, flags) == (writable as u32, head, owner | WRITE)
        };
        let all = 0..chains.len();
        if self.shape.in_order {
            assert!(is_shown_in_order(chains.len(), is_at), "the used descriptors of {chains:?}");
        } else {
            all.clone()
                .for_each(|n| assert!(is_at(n, n), "the used descriptor of {:?}", chains[n]));
        }
        let at = |n: usize| self.at(places[n]);
        let written = all.map(|n| at(n) + 8..at(n) + 16).collect();
        let last = places[chains.len()];
        let event = self.word(DRIVER_EVENT);
        let wish = match self.word(DRIVER_EVENT + 2) & 3 {
            1 => Some(Wish::Never),
            2 if self.shape.event_idx => {
                let exists = event & 0x7fff < self.shape.size;
                let passed = (first..last).any(|place| self.place_word(place) == event);
                exists.then_some(if passed { Wish::Once } else { Wish::Never })
            }
            _ => Some(Wish::Always),
        };
        self.used = last;
        (written, wish)
    }

    fn check_armed(&self) -> Vec<Range<usize>> {
        let flags = self.word(DEVICE_EVENT + 2);
        if self.shape.event_idx {
            let place = self.place_word(self.taken);
            assert_eq!((self.word(DEVICE_EVENT), flags), (place, 2), "the wish for kicks");
            vec![DEVICE_EVENT..DEVICE_EVENT + 4]
        } else {
            assert_eq!(flags, 0, "the wish for kicks");
            vec![DEVICE_EVENT + 2..DEVICE_EVENT + 4]
        }
    }

    fn forgive(&mut self, chain: &Taken) {
        self.used += chain.slots;
    }

    fn device_words(&self) -> Vec<Range<usize>> {
        let descriptors = (0..self.size()).map(|place| self.at(place) + 8..self.at(place) + 16);
        descriptors.chain([DEVICE_EVENT..DEVICE_EVENT + 4]).collect()
    }

    fn damage(&mut self, argument: u8, input: &mut Input<'_>) {
        let byte = input.byte();
        let recent = self.next.saturating_sub(1 + u64::from(byte & 7));
        let at = self.at(recent);
        let owner = if self.counter(recent) { AVAIL } else { USED };
        match argument {
            0..=2 => {
                self.memory.write(at, &some_descriptor(input));
                let flags = self.word(at + 14) & !OWNER;
                self.set_word(at + 14, flags | owner);
            }
            3 | 4 => self.set_word(at + 14, u16::from(byte >> 3 & 7) | owner),
            5 => self.set_word(at + 14, u16::from(byte >> 3 & 7) | (owner ^ OWNER)),
            6 => self.set_word(at + 14, input.word()),
            7 => self.memory.write(at + 8, &u32::from(input.byte()).to_le_bytes()),
            8 => self.set_word(at + 12, input.word()),
            // What was never offered is available all the same.
            9 | 10 => {
                let place = self.next + u64::from(byte & 3);
                let at = self.at(place);
                self.memory.write(at, &some_descriptor(input));
                let flags = u16::from(byte >> 2 & 7);
                self.set_word(at + 14, flags | if self.counter(place) { AVAIL } else { USED });
            }
            11 => self.set_word(DRIVER_EVENT + 2, byte.into()),
            12 => self.set_word(DRIVER_EVENT + 2, 2),
            13 => {
                let place = self.used + u64::from(byte) % (2 * self.size());
                self.set_word(DRIVER_EVENT, self.place_word(place));
            }
            14 => self.set_word(DRIVER_EVENT, input.word()),
            _ => self.memory.write(self.at(byte.into()), &some_descriptor(input)),
        }
    }
}
