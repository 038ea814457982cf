//! What the driver remembers of its chains, where the device cannot reach it: the same for both
//! formats of a ring.
//!
//! Chains are counted as they are pushed, published and reaped. What a device says of a chain is
//! judged here: whether there is one with that head, whether it was published, how long it is. As a
//! chain is forgotten when it is reaped, the device cannot return it twice.

use crate::error::{Broken, PushError};
use crate::ring::Used;

/// The number of a head that has no chain: no chain that was published has it.
const NO_CHAIN: u64 = u64::MAX;

/// What is remembered of a chain, by its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    /// How many chains were pushed before it, ever: it is published once that many and one are.
    number: u64,
    /// Writable bytes; all of 2^32, of which no used length can speak, are told as one less.
    writable: u32,
    /// Descriptors of the ring that are free when it comes back; 0 for one whose descriptors are
    /// reserved.
    pub(crate) descriptors: u16,
    /// The head of the chain that was pushed before it.
    before: u16,
}

impl Default for Chain {
    fn default() -> Self {
        Self { number: NO_CHAIN, writable: 0, descriptors: 0, before: 0 }
    }
}

impl Chain {
    /// What is said of a chain that the device has used completely.
    #[inline]
    pub(crate) fn all_written(self) -> Written {
        Written { bytes: self.writable, given: true }
    }
}

/// How much the device has written to a chain, and whether it said so.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    bytes: u32,
    given: bool,
}

impl Written {
    #[inline]
    pub(crate) fn of(self, head: u16) -> Used {
        Used { head, written: self.bytes, written_given: self.given }
    }
}

/// The chains of a ring, from `push` to `reap`.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// By head; as many as the queue size.
    chains: Box<[Chain]>,
    /// Descriptors that are free.
    free: u16,
    /// Descriptors that are kept for chains which are pushed again and again.
    reserved: u16,
    /// The head of the chain that was pushed last.
    newest: u16,
    /// Chains so far. Published ones that were not reaped are outstanding.
    pushed: u64,
    published: u64,
    reaped: u64,
    strict: bool,
    clamped: u64,
    broken: Option<Broken>,
}

impl Ledger {
    pub(crate) fn new(size: u16, strict: bool) -> Self {
        Self {
            chains: vec![Chain::default(); size.into()].into(),
            free: size,
            reserved: 0,
            newest: 0,
            pushed: 0,
            published: 0,
            reaped: 0,
            strict,
            clamped: 0,
            broken: None,
        }
    }

    #[inline]
    pub(crate) fn free(&self) -> u16 {
        self.free
    }

    pub(crate) fn reserved(&self) -> u16 {
        self.reserved
    }

    /// So many free descriptors are kept from now on.
    pub(crate) fn reserve(&mut self, descriptors: u16) {
        self.free -= descriptors;
        self.reserved += descriptors;
    }

    /// So many kept descriptors are free again.
    pub(crate) fn release(&mut self, descriptors: u16) {
        self.free += descriptors;
        self.reserved -= descriptors;
    }

    #[inline]
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    #[inline]
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    #[inline]
    pub(crate) fn reaped(&self) -> u64 {
        self.reaped
    }

    #[inline]
    pub(crate) fn outstanding(&self) -> u16 {
        (self.published - self.reaped) as u16
    }

    pub(crate) fn clamped(&self) -> u64 {
        self.clamped
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// An error, if the ring is broken.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Broken> {
        self.broken.map_or(Ok(()), Err)
    }

    /// From here on the ring is broken. `count` chains that were reaped before are handed out all
    /// the same.
    #[cold]
    pub(crate) fn breach(&mut self, broken: Broken, count: usize) -> Result<usize, Broken> {
        self.broken = Some(broken);
        if count == 0 { Err(broken) } else { Ok(count) }
    }

    /// Whether so many descriptors are free.
    #[inline]
    pub(crate) fn check_room(&self, needed: u16) -> Result<(), PushError> {
        let free = self.free;
        if needed > free { Err(PushError::Full { needed, free }) } else { Ok(()) }
    }

    /// A chain was written, and is not published.
    #[inline]
    pub(crate) fn add(&mut self, head: u16, descriptors: u16, writable: u64) {
        let (number, before) = (self.pushed, self.newest);
        let writable = u32::try_from(writable).unwrap_or(u32::MAX);
        self.chains[usize::from(head)] = Chain { number, writable, descriptors, before };
        self.free -= descriptors;
        self.newest = head;
        self.pushed += 1;
    }

    /// Forget the chain that was pushed last, unless it is published.
    pub(crate) fn withdraw(&mut self) -> Option<(u16, Chain)> {
        if self.pushed == self.published {
            return None;
        }
        let head = self.newest;
        let chain = std::mem::take(&mut self.chains[usize::from(head)]);
        self.free += chain.descriptors;
        self.newest = chain.before;
        self.pushed -= 1;
        Some((head, chain))
    }

    /// What was pushed is the device's from here on.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.published = self.pushed;
    }

    /// The chain that the device returns by this id, if it may.
    #[inline]
    pub(crate) fn find(&self, id: u32) -> Result<(u16, Chain), Broken> {
        let Some(&chain) = self.chains.get(id as usize) else {
            return Err(Broken::IdOutOfRange { id, size: self.chains.len() as u16 });
        };
        // A head without a chain has a number that none reaches.
        if chain.number >= self.published {
            return Err(Broken::IdNotOutstanding { id });
        }
        Ok((id as u16, chain))
    }

    /// How many chains a device that uses them in order returns with this outstanding one.
    #[inline]
    pub(crate) fn batch_through(&self, chain: Chain) -> u16 {
        (chain.number - self.reaped) as u16 + 1
    }

    /// Refuse, in strict mode, a length that is larger than the chain's writable part.
    #[inline]
    pub(crate) fn check_length(&self, head: u16, chain: Chain, length: u32) -> Result<(), Broken> {
        if self.strict && length > chain.writable {
            let writable = chain.writable.into();
            return Err(Broken::LengthTooLarge { length, writable, head });
        }
        Ok(())
    }

    /// The length, at most the chain's writable part; `None` where the device does not say.
    #[inline]
    pub(crate) fn clamp(&mut self, chain: Chain, length: Option<u32>) -> Written {
        let Some(length) = length else { return Written::default() };
        self.clamped += u64::from(length > chain.writable);
        Written { bytes: length.min(chain.writable), given: true }
    }

    /// Forget an outstanding chain; `settle` counts it.
    #[inline]
    pub(crate) fn take(&mut self, head: u16) -> Chain {
        std::mem::take(&mut self.chains[usize::from(head)])
    }

    /// `chains` were taken, which had so many descriptors in all.
    #[inline]
    pub(crate) fn settle(&mut self, chains: usize, descriptors: u16) {
        self.free += descriptors;
        self.reaped += chains as u64;
    }

    /// Forget all chains, and what was reserved; calls `each` with the heads that have a chain,
    /// ascending.
    pub(crate) fn reclaim(&mut self, mut each: impl FnMut(u16)) {
        let size = self.chains.len() as u16;
        for (head, chain) in (0..size).zip(&self.chains) {
            if chain.number != NO_CHAIN {
                each(head);
            }
        }
        *self = Self { clamped: self.clamped, ..Self::new(size, self.strict) };
    }
}
