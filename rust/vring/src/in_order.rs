//! Chains that come back in the order in which they were made available (VIRTIO 1.4, 2.7.9 and
//! 2.8.8 In-order use of descriptors).
//!
//! As the order is known, nothing needs to be linked: numbers are taken one after the other, and
//! what was taken first is free first. And the device need not return each chain: one used element
//! returns the chain that it names and all before it, a *batch*. The device has used those that it
//! skipped completely.

use crate::ledger::{Chain, Ledger, Written};
use crate::ring::Used;

/// Numbers in turn, and the batch that is being handed out.
#[derive(Debug)]
pub(crate) struct Turn {
    size: u16,
    /// The number that is taken next.
    first: u16,
    /// The first number of the oldest chain, if there is one.
    oldest: u16,
    /// Chains of the batch that have yet to be handed out, from the oldest on.
    left: u16,
    /// What the device says of the batch's last chain.
    last: Written,
}

impl Turn {
    pub(crate) fn new(size: u16) -> Self {
        Self { size, first: 0, oldest: 0, left: 0, last: Written::default() }
    }

    #[inline]
    pub(crate) fn first(&self) -> u16 {
        self.first
    }

    #[inline]
    pub(crate) fn set_first(&mut self, number: u16) {
        self.first = number;
    }

    /// The number `count` steps after `number`; neither is larger than the queue size.
    #[inline]
    pub(crate) fn after(&self, number: u16, count: u16) -> u16 {
        let number = number + count;
        if number < self.size { number } else { number - self.size }
    }

    #[inline]
    pub(crate) fn is_amid_batch(&self) -> bool {
        self.left > 0
    }

    /// The device gave back `count` chains, and says this of the last one.
    #[inline]
    pub(crate) fn begin(&mut self, count: u16, last: Written) {
        self.left = count;
        self.last = last;
    }

    /// Hand at most `limit` chains of the batch to `each`, of which each has as many numbers as
    /// `numbers_of` says. How many there were, and how many descriptors they had.
    #[inline]
    pub(crate) fn hand_out(
        &mut self,
        limit: usize,
        ledger: &mut Ledger,
        numbers_of: impl Fn(Chain) -> u16,
        each: &mut impl FnMut(Used),
    ) -> (usize, u16) {
        let count = limit.min(self.left.into());
        let (mut head, mut descriptors) = (self.oldest, 0);
        for left in (usize::from(self.left) - count..self.left.into()).rev() {
            let chain = ledger.take(head);
            let written = if left > 0 { chain.all_written() } else { self.last };
            descriptors += chain.descriptors;
            each(written.of(head));
            head = self.after(head, numbers_of(chain));
        }
        self.oldest = head;
        self.left -= count as u16;
        ledger.settle(count, descriptors);
        (count, descriptors)
    }
}
