//! Which number is taken next: a descriptor of a split ring, or a buffer id of a packed one.
//!
//! What is free is noted here, in memory that the device cannot reach. Whether enough is free the
//! ledger knows, which counts descriptors.

use crate::in_order::Turn;

/// The numbers below the queue size, and in which order they are handed out.
#[derive(Debug)]
pub(crate) enum Numbers {
    /// What was freed last is taken next: it is still in the cache.
    LastFreedFirst(FreeList),
    /// One after the other, and around (IN_ORDER).
    InTurn(Turn),
}

impl Numbers {
    /// All free, to be taken in order from 0 on.
    pub(crate) fn new(size: u16, in_order: bool) -> Self {
        if in_order {
            Self::InTurn(Turn::new(size))
        } else {
            Self::LastFreedFirst(FreeList::new(size))
        }
    }

    /// The one that is taken next (stale if none is free).
    #[inline]
    pub(crate) fn first(&self) -> u16 {
        match self {
            Self::LastFreedFirst(list) => list.first,
            Self::InTurn(turn) => turn.first(),
        }
    }

    /// The one that is taken after `number`, or was.
    #[inline]
    pub(crate) fn after(&self, number: u16) -> u16 {
        match self {
            Self::LastFreedFirst(list) => list.after(number),
            Self::InTurn(turn) => turn.after(number, 1),
        }
    }

    /// Take what `after` led to, from `first` to `last`.
    #[inline]
    pub(crate) fn take_through(&mut self, last: u16) {
        match self {
            Self::LastFreedFirst(list) => list.first = list.after(last),
            Self::InTurn(turn) => turn.set_first(turn.after(last, 1)),
        }
    }

    /// As if the last chain had never taken its `count` numbers, from `first` on (0: it had them
    /// before, and keeps them).
    pub(crate) fn untake(&mut self, first: u16, count: u16) {
        match self {
            Self::LastFreedFirst(_) if count == 0 => (),
            Self::LastFreedFirst(list) => list.give_back(first, count),
            Self::InTurn(turn) => turn.set_first(first),
        }
    }

    /// Whether chains that the device gave back have yet to be handed out.
    #[inline]
    pub(crate) fn is_amid_batch(&self) -> bool {
        match self {
            Self::LastFreedFirst(_) => false,
            Self::InTurn(turn) => turn.is_amid_batch(),
        }
    }
}

/// Free numbers, linked. The links of a chain stay while it is in use, so that it can be walked and
/// freed without a look at the table that the device can write.
#[derive(Debug)]
pub(crate) struct FreeList {
    next: Vec<u16>,
    first: u16,
}

impl FreeList {
    fn new(size: u16) -> Self {
        Self { next: (1..size).chain([0]).collect(), first: 0 }
    }

    #[inline]
    fn after(&self, number: u16) -> u16 {
        self.next[usize::from(number)]
    }

    /// Put the `count` numbers of a chain back in front, so that they are taken next, in the same
    /// order.
    #[inline]
    pub(crate) fn give_back(&mut self, first: u16, count: u16) {
        let mut last = first;
        for _ in 1..count {
            last = self.after(last);
        }
        self.next[usize::from(last)] = self.first;
        self.first = first;
    }
}
