//! A split ring in plain bytes, as its driver writes it and as a device has to read it
//! (VIRTIO 1.4, 2.7 Split Virtqueues).

use std::ops::Range;

use super::request::Part;
use super::{
    BASE, Breach, DESCRIPTORS, DEVICE_AREA, DRIVER_AREA, Format, Memory, Shape, TABLES, Taken,
    Wish, double, is_shown_in_order, long, some_descriptor, word,
};
use crate::fuzz::input::Input;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const AVAILABLE_FLAGS: usize = DRIVER_AREA;
const AVAILABLE_INDEX: usize = DRIVER_AREA + 2;
const USED_FLAGS: usize = DEVICE_AREA;
const USED_INDEX: usize = DEVICE_AREA + 2;

#[derive(Clone, Debug)]
pub(in crate::fuzz) struct Split {
    shape: Shape,
    memory: Memory,
    /// The driver's: chains and descriptors so far, chains that it has shown.
    offered: u16,
    descriptors: u64,
    /// The device's: chains that it has seen, taken and given back, and descriptors of these.
    seen: u16,
    taken: u16,
    used: u16,
    returned: u64,
    /// In order, the descriptor at which the next chain starts.
    next_head: u16,
}

/// One descriptor's bytes.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Split {
    fn descriptor(&self, at: usize) -> Descriptor {
        let bytes = self.memory.sixteen(at);
        let (address, length) = (long(&bytes, 0), double(&bytes, 8));
        Descriptor { address, length, flags: word(&bytes, 12), next: word(&bytes, 14) }
    }

    fn put(&self, at: usize, part: &Part, flags: u16, next: u16) {
        let Part { address, length, device_writes } = *part;
        let flags = if device_writes { flags | WRITE } else { flags };
        self.memory.write(at, &address.to_le_bytes());
        self.memory.write(at + 8, &length.to_le_bytes());
        self.memory.write(at + 12, &flags.to_le_bytes());
        self.memory.write(at + 14, &next.to_le_bytes());
    }

    /// Link `parts` from `first` on, modulo `count`, in a table at `start`.
    fn link(&self, parts: &[Part], start: usize, first: u64, count: u64) {
        let index = |n: usize| (first + n as u64) % count;
        for (n, part) in parts.iter().enumerate() {
            let more = n + 1 < parts.len();
            let (flags, next) = if more { (NEXT, index(n + 1) as u16) } else { (0, 0) };
            self.put(start + 16 * index(n) as usize, part, flags, next);
        }
    }

    fn size(&self) -> usize {
        self.shape.size.into()
    }

    fn slot(&self, number: u16) -> usize {
        usize::from(number) % self.size()
    }

    fn available_entry(&self, number: u16) -> usize {
        DRIVER_AREA + 4 + 2 * self.slot(number)
    }

    fn used_entry(&self, number: u16) -> usize {
        DEVICE_AREA + 4 + 8 * self.slot(number)
    }

    fn used_event(&self) -> usize {
        DRIVER_AREA + 4 + 2 * self.size()
    }

    fn avail_event(&self) -> usize {
        DEVICE_AREA + 4 + 8 * self.size()
    }

    fn word(&self, at: usize) -> u16 {
        self.memory.first.word(at)
    }

    fn set_word(&self, at: usize, value: u16) {
        self.memory.first.set_word(at, value);
    }

    /// Whether a chain may go on from one descriptor to the next.
    fn check_order(&self, index: u16, expected: u16) -> Result<(), Breach> {
        if self.shape.in_order && index != expected { Err(Breach) } else { Ok(()) }
    }

    fn walk_table(&self, pointer: Descriptor, chain: &mut Taken) -> Result<(), Breach> {
        let Descriptor { address, length, flags, .. } = pointer;
        if !self.shape.indirect || flags & NEXT != 0 || length == 0 || length % 16 != 0 {
            return Err(Breach);
        }
        let table = self.memory.resolve(address, length.into()).ok_or(Breach)?;
        chain.reads.push(table.clone());
        let mut index: u16 = 0;
        loop {
            if u32::from(index) >= length / 16 {
                return Err(Breach);
            }
            let entry = self.descriptor(table.start + 16 * usize::from(index));
            if entry.flags & INDIRECT != 0 {
                return Err(Breach);
            }
            let part = (entry.address, entry.length, entry.flags & WRITE != 0);
            chain.append(&self.memory, part, self.shape.size)?;
            if entry.flags & NEXT == 0 {
                return Ok(());
            }
            self.check_order(entry.next, index.wrapping_add(1))?;
            index = entry.next;
        }
    }

    fn walk(&mut self, head: u16) -> Result<Taken, Breach> {
        let mut chain = Taken { head, ..Taken::default() };
        self.check_order(head, self.next_head)?;
        let mut index = head;
        loop {
            if index >= self.shape.size {
                return Err(Breach);
            }
            let descriptor = self.descriptor(DESCRIPTORS + 16 * usize::from(index));
            self.next_head = (index + 1) % self.shape.size;
            chain.slots += 1;
            if descriptor.flags & INDIRECT != 0 {
                self.walk_table(descriptor, &mut chain)?;
                return Ok(chain);
            }
            let part = (descriptor.address, descriptor.length, descriptor.flags & WRITE != 0);
            chain.append(&self.memory, part, self.shape.size)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(chain);
            }
            self.check_order(descriptor.next, self.next_head)?;
            index = descriptor.next;
        }
    }
}

impl Format for Split {
    const FEATURES: u64 = 0;

    fn size(byte: u8) -> u16 {
        1 << (byte % 7)
    }

    fn new(shape: Shape, memory: Memory) -> Self {
        Self {
            shape,
            memory,
            offered: 0,
            descriptors: 0,
            seen: 0,
            taken: 0,
            used: 0,
            returned: 0,
            next_head: 0,
        }
    }

    fn offer(&mut self, parts: &[Part], indirect: bool) -> bool {
        let size = u64::from(self.shape.size);
        let needed = if indirect { 1 } else { parts.len() as u64 };
        if self.descriptors + needed > self.returned + size {
            return false;
        }
        if indirect {
            // No alignment is asked for.
            let number = usize::from(self.offered);
            let table = TABLES + 256 * (number % 8) + usize::from(number % 3 == 2);
            self.link(parts, table, 0, u64::MAX);
            let (address, length) = (BASE + table as u64, 16 * parts.len() as u32);
            let pointer = Part { address, length, device_writes: false };
            let at = DESCRIPTORS + 16 * (self.descriptors % size) as usize;
            self.put(at, &pointer, INDIRECT, 0);
        } else {
            self.link(parts, DESCRIPTORS, self.descriptors, size);
        }
        self.set_word(self.available_entry(self.offered), (self.descriptors % size) as u16);
        self.descriptors += needed;
        self.offered = self.offered.wrapping_add(1);
        true
    }

    fn publish(&mut self) {
        self.set_word(AVAILABLE_INDEX, self.offered);
    }

    fn poll(&mut self) -> Result<(), Breach> {
        let index = self.word(AVAILABLE_INDEX);
        let (fresh, waiting) = (index.wrapping_sub(self.seen), index.wrapping_sub(self.taken));
        // Neither beyond the ring, nor back behind what was seen.
        if fresh > 0 && (waiting > self.shape.size || fresh > waiting) {
            return Err(Breach);
        }
        self.seen = index;
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Taken>, Breach> {
        if self.taken == self.seen {
            return Ok(None);
        }
        let head = self.word(self.available_entry(self.taken));
        self.taken = self.taken.wrapping_add(1);
        self.walk(head).map(Some)
    }

    fn check_used(&mut self, chains: &[Taken]) -> (Vec<Range<usize>>, Option<Wish>) {
        if chains.is_empty() {
            return (Vec::new(), Some(Wish::Never));
        }
        let first = self.used;
        let entry = |n: usize| self.used_entry(first.wrapping_add(n as u16));
        let is_at = |n: usize, chain: usize| {
            let element =
                (self.memory.first.double(entry(n)), self.memory.first.double(entry(n) + 4));
            element == (chains[chain].head.into(), chains[chain].writable as u32)
        };
        let all = 0..chains.len();
        if self.shape.in_order {
            assert!(is_shown_in_order(chains.len(), is_at), "the used elements of {chains:?}");
        } else {
            all.clone().for_each(|n| assert!(is_at(n, n), "the used element of {:?}", chains[n]));
        }
        let mut written: Vec<_> = all.map(|n| entry(n)..entry(n) + 8).collect();
        written.push(USED_INDEX..USED_INDEX + 2);
        self.used = first.wrapping_add(chains.len() as u16);
        self.returned += chains.iter().map(|chain| chain.slots).sum::<u64>();
        assert_eq!(self.word(USED_INDEX), self.used, "the used index");
        let event = self.word(self.used_event());
        let wish = match self.shape.event_idx {
            true if event.wrapping_sub(first) < chains.len() as u16 => Wish::Once,
            false if self.word(AVAILABLE_FLAGS) & 1 == 0 => Wish::Always,
            _ => Wish::Never,
        };
        (written, Some(wish))
    }

    fn check_armed(&self) -> Vec<Range<usize>> {
        let (at, expected) =
            if self.shape.event_idx { (self.avail_event(), self.seen) } else { (USED_FLAGS, 0) };
        assert_eq!(self.word(at), expected, "the wish for kicks");
        vec![at..at + 2]
    }

    fn forgive(&mut self, chain: &Taken) {
        self.returned += chain.slots;
    }

    fn device_words(&self) -> Vec<Range<usize>> {
        vec![DEVICE_AREA..self.avail_event() + 2]
    }

    fn damage(&mut self, argument: u8, input: &mut Input<'_>) {
        let byte = input.byte();
        let back = u64::from(byte & 7);
        let recent = self.descriptors.saturating_sub(1 + back) % u64::from(self.shape.size);
        let recent = DESCRIPTORS + 16 * recent as usize;
        let near = |center: u16, byte: u8| center.wrapping_add_signed((byte as i8).into());
        match argument {
            0..=2 => self.memory.write(recent, &some_descriptor(input)),
            3 | 4 => self.set_word(recent + 12, (byte >> 3).into()),
            5 | 6 => self.set_word(recent + 14, input.byte().into()),
            7 => self.memory.write(recent + 8, &u32::from(input.byte()).to_le_bytes()),
            8 => self.set_word(AVAILABLE_INDEX, near(self.offered, byte)),
            9 => self.set_word(AVAILABLE_INDEX, input.word()),
            10 => self.set_word(self.available_entry(self.taken), byte.into()),
            11 => self.set_word(self.available_entry(byte.into()), input.word()),
            12 => self.set_word(AVAILABLE_FLAGS, byte.into()),
            13 => self.set_word(self.used_event(), near(self.used, byte)),
            14 => self.set_word(self.used_event(), input.word()),
            _ => {
                let at = DESCRIPTORS + 16 * (usize::from(byte) % self.size());
                self.memory.write(at, &some_descriptor(input));
            }
        }
    }
}
