//! What a ring of either format must remember, in the plainest way.

use std::collections::VecDeque;

use shm::Segment;
use vring::{Broken, PushError, RingOptions, Used};

use super::judge_shape;

/// A chain that was pushed.
#[derive(Clone, Debug)]
pub(in crate::fuzz) struct Chain {
    pub(in crate::fuzz) head: u16,
    /// Descriptors of the ring that it takes.
    pub(in crate::fuzz) slots: u16,
    /// Which, on a split ring.
    pub(in crate::fuzz) indices: Vec<u16>,
    /// Address, length and whether the device writes it.
    pub(in crate::fuzz) parts: Vec<(u64, u32, bool)>,
    pub(in crate::fuzz) writable: u64,
    /// Whether the device has used it, when it behaved.
    pub(in crate::fuzz) answered: bool,
}

impl Chain {
    pub(in crate::fuzz) fn new(
        head: u16,
        slots: u16,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Self {
        let parts = |segments: &[Segment], device_writes: bool| {
            let part = |segment: &Segment| (segment.addr(), segment.len(), device_writes);
            segments.iter().map(part).collect::<Vec<_>>()
        };
        Self {
            head,
            slots,
            indices: Vec::new(),
            parts: [parts(readable, false), parts(writable, true)].concat(),
            writable: writable.iter().map(|segment| u64::from(segment.len())).sum(),
            answered: false,
        }
    }

    /// One of one writable byte, whose place in memory nobody looks at.
    pub(in crate::fuzz) fn unseen(head: u16) -> Self {
        let (indices, parts) = (Vec::new(), Vec::new());
        Self { head, slots: 1, indices, parts, writable: 1, answered: false }
    }

    pub(in crate::fuzz) fn is_indirect(&self) -> bool {
        usize::from(self.slots) < self.parts.len()
    }
}

/// Counts are since the ring was made or reclaimed, and never wrap.
#[derive(Debug)]
pub(in crate::fuzz) struct Model {
    pub(in crate::fuzz) size: u16,
    pub(in crate::fuzz) tables: u16,
    pub(in crate::fuzz) options: RingOptions,
    pub(in crate::fuzz) unpublished: Vec<Chain>,
    /// In the order in which they were made available.
    pub(in crate::fuzz) outstanding: VecDeque<Chain>,
    pub(in crate::fuzz) chains_pushed: u64,
    pub(in crate::fuzz) chains_published: u64,
    pub(in crate::fuzz) chains_used: u64,
    pub(in crate::fuzz) slots_pushed: u64,
    pub(in crate::fuzz) slots_published: u64,
    pub(in crate::fuzz) slots_used: u64,
    /// In order: chains that a used element has returned and that were not handed out, and what it
    /// said of the last one.
    pub(in crate::fuzz) left: usize,
    last: Option<u32>,
    pub(in crate::fuzz) clamped: u64,
    pub(in crate::fuzz) broken: Option<Broken>,
}

impl Model {
    pub(in crate::fuzz) fn new(size: u16, tables: u16, options: RingOptions) -> Self {
        Self {
            size,
            tables,
            options,
            unpublished: Vec::new(),
            outstanding: VecDeque::new(),
            chains_pushed: 0,
            chains_published: 0,
            chains_used: 0,
            slots_pushed: 0,
            slots_published: 0,
            slots_used: 0,
            left: 0,
            last: None,
            clamped: 0,
            broken: None,
        }
    }

    pub(in crate::fuzz) fn free(&self) -> u16 {
        let taken = self.unpublished.iter().chain(&self.outstanding).map(|chain| chain.slots);
        self.size - taken.sum::<u16>()
    }

    /// What a push must come to: the descriptors of the ring that it takes.
    pub(in crate::fuzz) fn judge_push(
        &self,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<u16, PushError> {
        if let Some(broken) = self.broken {
            return Err(PushError::Broken(broken));
        }
        if let Some(error) = judge_shape(readable, writable, self.size) {
            return Err(error);
        }
        let segments = (readable.len() + writable.len()) as u16;
        let needed = if segments > 1 && segments <= self.tables { 1 } else { segments };
        let free = self.free();
        if needed > free { Err(PushError::Full { needed, free }) } else { Ok(needed) }
    }

    /// A head that a push may return: no chain has it, and in order it is the `next`th number.
    pub(in crate::fuzz) fn check_head(&self, head: u16, next: u64) {
        assert!(head < self.size, "head {head} in a ring of {}", self.size);
        let mut others = self.unpublished.iter().chain(&self.outstanding);
        assert!(others.all(|other| other.head != head), "head {head} has a chain already");
        if self.options.in_order {
            assert_eq!(u64::from(head), next % u64::from(self.size), "the head that is next");
        }
    }

    pub(in crate::fuzz) fn push(&mut self, chain: Chain) {
        self.chains_pushed += 1;
        self.slots_pushed += u64::from(chain.slots);
        self.unpublished.push(chain);
    }

    /// The chains that become available now.
    pub(in crate::fuzz) fn publish(&mut self) -> Vec<Chain> {
        self.chains_published = self.chains_pushed;
        self.slots_published = self.slots_pushed;
        std::mem::take(&mut self.unpublished)
    }

    pub(in crate::fuzz) fn withdraw(&mut self) -> Vec<u16> {
        self.chains_pushed = self.chains_published;
        self.slots_pushed = self.slots_published;
        self.unpublished.drain(..).rev().map(|chain| chain.head).collect()
    }

    pub(in crate::fuzz) fn reclaim(&mut self) -> Vec<u16> {
        let chains = self.unpublished.iter().chain(&self.outstanding);
        let mut heads: Vec<u16> = chains.map(|chain| chain.head).collect();
        heads.sort_unstable();
        let clamped = self.clamped;
        *self = Self { clamped, ..Self::new(self.size, self.tables, self.options) };
        heads
    }

    /// The ring is broken from here on. What was handed out before in the same call counts.
    pub(in crate::fuzz) fn breach(
        &mut self,
        used: Vec<Used>,
        broken: Broken,
    ) -> (Vec<Used>, Result<usize, Broken>) {
        self.broken = Some(broken);
        let outcome = if used.is_empty() { Err(broken) } else { Ok(used.len()) };
        (used, outcome)
    }

    /// Where the chain stands that the device says it has used, and how much it wrote there, if it
    /// says so.
    fn judge_used(
        &mut self,
        id: u32,
        length: Option<u32>,
        ready: Option<u16>,
    ) -> Result<(usize, Option<u32>), Broken> {
        let size = self.size;
        if id >= size.into() {
            return Err(Broken::IdOutOfRange { id, size });
        }
        let place = self.outstanding.iter().position(|chain| u32::from(chain.head) == id);
        let place = place.ok_or(Broken::IdNotOutstanding { id })?;
        let Chain { head, writable, .. } = self.outstanding[place];
        let claimed = length.unwrap_or(0);
        let too_large = u64::from(claimed) > writable;
        if too_large && self.options.strict {
            return Err(Broken::LengthTooLarge { length: claimed, writable, head });
        }
        let batch = place as u16 + 1;
        if let Some(ready) = ready.filter(|&ready| batch > ready) {
            return Err(Broken::BatchTooLong { head, batch, ready });
        }
        self.clamped += u64::from(too_large);
        Ok((place, length.map(|length| u64::from(length).min(writable) as u32)))
    }

    fn hand_out(&mut self, place: usize, written: Option<u32>) -> Option<Used> {
        let Chain { head, slots, .. } = self.outstanding.remove(place)?;
        self.chains_used += 1;
        self.slots_used += u64::from(slots);
        Some(Used { head, written: written.unwrap_or(0), written_given: written.is_some() })
    }

    /// The device says that it has used `id`, and wrote so many bytes, if it says that.
    pub(in crate::fuzz) fn use_chain(
        &mut self,
        id: u32,
        length: Option<u32>,
    ) -> Result<Option<Used>, Broken> {
        let (place, written) = self.judge_used(id, length, None)?;
        Ok(self.hand_out(place, written))
    }

    /// In order: it has used all chains up to `id`, at most `ready`.
    pub(in crate::fuzz) fn use_batch(
        &mut self,
        id: u32,
        length: Option<u32>,
        ready: Option<u16>,
    ) -> Result<(), Broken> {
        let (place, written) = self.judge_used(id, length, ready)?;
        (self.left, self.last) = (place + 1, written);
        Ok(())
    }

    /// In order: the oldest chain of those that were returned. All but the last of a batch were
    /// written completely.
    pub(in crate::fuzz) fn next_of_batch(&mut self) -> Option<Used> {
        self.left = self.left.checked_sub(1)?;
        let written = if self.left == 0 {
            self.last
        } else {
            let writable = self.outstanding.front()?.writable;
            Some(u32::try_from(writable).unwrap_or(u32::MAX))
        };
        self.hand_out(0, written)
    }

    /// The chains that an honest device has not used yet, by their place.
    pub(in crate::fuzz) fn unanswered(&self) -> Vec<usize> {
        let chains = self.outstanding.iter().enumerate();
        chains.filter(|(_, chain)| !chain.answered).map(|(place, _)| place).collect()
    }

    /// An honest device uses the chain at `place`; in order, all before it with it. Its head, and
    /// the chains and slots that its element stands for.
    pub(in crate::fuzz) fn answer(&mut self, place: usize) -> Option<(u16, u16, u64)> {
        let first = if self.options.in_order { 0 } else { place };
        let (mut count, mut slots) = (0, 0);
        for chain in self.outstanding.range_mut(first..=place) {
            if !chain.answered {
                count += 1;
                slots += u64::from(chain.slots);
            }
            chain.answered = true;
        }
        Some((self.outstanding.get(place)?.head, count, slots))
    }
}
