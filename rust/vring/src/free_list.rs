//! Which descriptors are free, in memory that the device cannot reach.

/// Descriptors linked in private memory. The links of a chain stay while it is in use, so that it
/// can be walked and freed without a look at the table that the device can write.
#[derive(Debug)]
pub(crate) struct FreeList {
    next: Vec<u16>,
    first: u16,
    count: u16,
}

impl FreeList {
    /// All free, to be taken in the order of the table.
    pub(crate) fn new(size: u16) -> Self {
        let next = (1..size).chain([0]).collect();
        Self { next, first: 0, count: size }
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// What `take` will return next (stale if none is free).
    #[inline]
    pub(crate) fn peek(&self) -> u16 {
        self.first
    }

    /// The descriptor after `index`, in a chain or among the free ones.
    #[inline]
    pub(crate) fn next(&self, index: u16) -> u16 {
        self.next[usize::from(index)]
    }

    /// Take a chain whose last descriptor is `last`: what `next` led to from `peek` in `count` steps.
    #[inline]
    pub(crate) fn take_through(&mut self, last: u16, count: u16) {
        self.first = self.next(last);
        self.count -= count;
    }

    /// Put a chain back in front, so that it is taken next, in the same order.
    #[inline]
    pub(crate) fn give_back(&mut self, head: u16, count: u16) {
        let mut last = head;
        for _ in 1..count {
            last = self.next(last);
        }
        self.next[usize::from(last)] = self.first;
        self.first = head;
        self.count += count;
    }
}
