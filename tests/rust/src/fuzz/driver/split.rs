//! A split ring in plain bytes (VIRTIO 1.4, 2.7 Split Virtqueues).

use std::ops::Range;

use vring::{Broken, LayoutError, SplitLayout, SplitQueue, Used};

use super::Format;
use super::model::{Chain, Model};
use crate::fuzz::bytes::Bytes;
use crate::fuzz::input::Input;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The device's view of a split ring.
#[derive(Debug)]
pub(in crate::fuzz) struct Split {
    memory: Bytes,
    address: u64,
    layout: SplitLayout,
}

impl Split {
    fn size(&self) -> usize {
        self.layout.size.into()
    }

    fn descriptor(&self, index: u16) -> Range<usize> {
        let start = self.layout.descriptors + 16 * usize::from(index);
        start..start + 16
    }

    fn table(&self, head: u16) -> Range<usize> {
        let length = 16 * usize::from(self.layout.indirect_table_size);
        let start = self.layout.indirect + usize::from(head) * length;
        start..start + length
    }

    fn available_index(&self) -> usize {
        self.layout.available + 2
    }

    fn available_entry(&self, number: u64) -> usize {
        self.layout.available + 4 + 2 * (number as usize % self.size())
    }

    fn used_event(&self) -> usize {
        self.layout.available + 4 + 2 * self.size()
    }

    fn used_index(&self) -> usize {
        self.layout.used + 2
    }

    fn used_entry(&self, number: u16) -> usize {
        self.layout.used + 4 + 8 * (usize::from(number) % self.size())
    }

    fn avail_event(&self) -> usize {
        self.layout.used + 4 + 8 * self.size()
    }

    /// One descriptor as its 16 bytes say: address, length, flags, next.
    fn load(&self, at: usize) -> (u64, u32, u16, u16) {
        let memory = &self.memory;
        (memory.long(at), memory.double(at + 8), memory.word(at + 12), memory.word(at + 14))
    }

    /// How many used elements there are that the driver has not taken, as the index says.
    fn ready(&self, model: &Model) -> u16 {
        self.memory.word(self.used_index()).wrapping_sub(model.chains_used as u16)
    }

    /// The parts of `chain` from the descriptor at `first` on, each next one where `place` says.
    fn check_list(&self, chain: &Chain, first: u16, place: impl Fn(u16) -> usize) -> Vec<u16> {
        let mut indices = vec![first];
        let last = chain.parts.len() - 1;
        for (n, &(address, length, device_writes)) in chain.parts.iter().enumerate() {
            let expected = if device_writes { WRITE } else { 0 } | if n < last { NEXT } else { 0 };
            let (addr, len, flags, next) = self.load(place(indices[n]));
            assert_eq!((addr, len, flags), (address, length, expected), "part {n} of {chain:?}");
            if n < last {
                indices.push(next);
            }
        }
        indices
    }
}

impl Format for Split {
    type Queue = SplitQueue;

    const INDICES_WRAP: bool = true;

    fn layout(size: u8, tables: u16, legacy: bool) -> Result<SplitLayout, LayoutError> {
        let align = legacy.then_some(if size & 0x80 == 0 { 4096 } else { 4 });
        SplitLayout::new(1 << (size % 9), align, tables.into())
    }

    fn extent(layout: &SplitLayout) -> (usize, usize) {
        (layout.length, layout.align)
    }

    fn new(memory: Bytes, address: u64, layout: SplitLayout) -> Self {
        Self { memory, address, layout }
    }

    fn areas(&self) -> Vec<Range<usize>> {
        let (layout, size) = (&self.layout, self.size());
        let tables = 16 * size * usize::from(layout.indirect_table_size);
        vec![
            layout.descriptors..layout.descriptors + 16 * size,
            layout.available..self.used_event() + 2,
            layout.used..self.avail_event() + 2,
            layout.length - tables..layout.length,
        ]
    }

    fn check_pushed(&self, model: &Model, chain: &mut Chain) -> Vec<Range<usize>> {
        let mut written = Vec::new();
        if chain.is_indirect() {
            let table = self.table(chain.head);
            let (addr, len, flags, _) = self.load(self.descriptor(chain.head).start);
            assert_eq!(addr, self.address + table.start as u64, "where the table is");
            assert_eq!((len as usize, flags), (16 * chain.parts.len(), INDIRECT));
            self.check_list(chain, 0, |index| table.start + 16 * usize::from(index));
            written.push(table);
            chain.indices = vec![chain.head];
        } else {
            let list = self.check_list(chain, chain.head, |index| {
                assert!(index < self.layout.size, "descriptor {index} is linked");
                self.descriptor(index).start
            });
            chain.indices = list;
        }
        if model.options.in_order {
            let in_turn = |pair: &[u16]| pair[1] == (pair[0] + 1) % self.layout.size;
            assert!(chain.indices.windows(2).all(in_turn), "{:?}", chain.indices);
        }
        let others = || model.unpublished.iter().chain(&model.outstanding);
        for (n, index) in chain.indices.iter().enumerate() {
            let taken = others().any(|other| other.indices.contains(index));
            assert!(!taken && !chain.indices[..n].contains(index), "descriptor {index} is taken");
            written.push(self.descriptor(*index));
        }
        let entry = self.available_entry(model.chains_pushed);
        assert_eq!(self.memory.word(entry), chain.head, "the available entry");
        written.push(entry..entry + 2);
        written
    }

    fn check_published(&self, model: &Model, batch: &[Chain]) -> Vec<Range<usize>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let index = self.available_index();
        assert_eq!(self.memory.word(index), model.chains_published as u16);
        vec![index..index + 2]
    }

    fn wants_kick(&self, model: &Model, batch: &[Chain]) -> Option<bool> {
        if !model.options.event_idx {
            return Some(self.memory.word(self.layout.used) & 1 == 0);
        }
        let event = self.memory.word(self.avail_event());
        let first = model.chains_published - batch.len() as u64;
        Some((first..model.chains_published).any(|number| number as u16 == event))
    }

    fn check_armed(&self, model: &Model, armed: bool) -> Vec<Range<usize>> {
        let seen = model.chains_used as u16;
        let (at, expected) = match (model.options.event_idx, armed) {
            (true, true) => (self.used_event(), seen),
            // As far away as can be: the index gets there last.
            (true, false) => (self.used_event(), seen.wrapping_sub(1)),
            (false, _) => (self.layout.available, u16::from(!armed)),
        };
        assert_eq!(self.memory.word(at), expected, "the wish for notifications");
        vec![at..at + 2]
    }

    fn next_number(&self, model: &Model) -> u64 {
        model.slots_pushed
    }

    fn next_available(&self, model: &Model) -> u16 {
        model.chains_published as u16
    }

    fn has_used(&self, model: &Model) -> bool {
        model.left > 0 || self.ready(model) != 0
    }

    fn reap(&self, model: &mut Model, limit: usize) -> (Vec<Used>, Result<usize, Broken>) {
        let (ready, outstanding) = (self.ready(model), model.outstanding.len() as u16);
        let mut used = Vec::new();
        if ready > outstanding {
            let index = self.memory.word(self.used_index());
            let ahead = ready - outstanding;
            let broken = Broken::UsedIndexAhead { index, ahead, outstanding };
            return model.breach(used, broken);
        }
        let ready_to = model.chains_used + u64::from(ready);
        while used.len() < limit {
            if let Some(chain) = model.next_of_batch() {
                used.push(chain);
                continue;
            }
            if model.chains_used >= ready_to {
                break;
            }
            let entry = self.used_entry(model.chains_used as u16);
            let (id, length) = (self.memory.double(entry), self.memory.double(entry + 4));
            let outcome = if model.options.in_order {
                let rest = (ready_to - model.chains_used) as u16;
                model.use_batch(id, Some(length), Some(rest)).map(|()| None)
            } else {
                model.use_chain(id, Some(length))
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
        let Some((head, count, _)) = model.answer(place) else { return };
        let index = self.memory.word(self.used_index());
        let entry = self.used_entry(index);
        self.memory.set_double(entry, head.into());
        self.memory.set_double(entry + 4, length);
        self.memory.set_word(self.used_index(), index.wrapping_add(count.max(1)));
    }

    fn store(&mut self, model: &Model, argument: u8, input: &mut Input<'_>) {
        let seen = model.chains_used as u16;
        let near = |center: u16, byte: u8| center.wrapping_add_signed(i16::from(byte as i8));
        match argument {
            0..=3 => self.memory.set_word(self.used_index(), near(seen, input.byte())),
            4 => self.memory.set_word(self.used_index(), input.word()),
            5..=9 => {
                let entry = self.used_entry(near(seen, argument - 5));
                let id = some_id(model, input);
                self.memory.set_double(entry, id);
                self.memory.set_double(entry + 4, some_length(input));
            }
            10 => self.memory.set_word(self.layout.used, input.byte().into()),
            11 => self.memory.set_word(self.layout.used, input.word()),
            12 | 13 => {
                let published = model.chains_published as u16;
                self.memory.set_word(self.avail_event(), near(published, input.byte()));
            }
            14 => self.memory.set_word(self.avail_event(), input.word()),
            // A whole batch at once.
            _ => {
                let count = u16::from(input.byte()) % (self.layout.size + 1);
                self.memory.set_word(self.used_index(), seen.wrapping_add(count));
            }
        }
    }
}

/// An id that could be one, mostly.
pub(super) fn some_id(model: &Model, input: &mut Input<'_>) -> u32 {
    let byte = input.byte();
    let number = usize::from(byte & 0x3f);
    match byte >> 6 {
        0 if !model.outstanding.is_empty() => {
            model.outstanding[number % model.outstanding.len()].head.into()
        }
        1 if !model.unpublished.is_empty() => {
            model.unpublished[number % model.unpublished.len()].head.into()
        }
        3 if byte == 0xff => input.double(),
        _ => u32::from(model.size).wrapping_add_signed((byte as i8).into()),
    }
}

pub(super) fn some_length(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        255 => u32::MAX,
        254 => input.double(),
        byte => u32::from(byte) * 3,
    }
}
