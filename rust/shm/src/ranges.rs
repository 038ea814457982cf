//! First-fit allocation of byte ranges, with neighbours joined again when they are given back.

use std::collections::BTreeMap;

/// The free ranges of one mapping: start to length, never adjacent to each other.
#[derive(Debug)]
pub(crate) struct FreeRanges {
    ranges: BTreeMap<usize, usize>,
    free_bytes: usize,
    /// Nothing from here on has ever been given out.
    fresh_from: usize,
}

/// A range that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) start: usize,
    /// Bytes from the start on that somebody may have written; the rest is as it was mapped.
    pub(crate) used: usize,
}

impl FreeRanges {
    /// `length` free bytes, of which those from `fresh_from` on are still zero.
    pub(crate) fn new(length: usize, fresh_from: usize) -> Self {
        Self { ranges: BTreeMap::from([(0, length)]), free_bytes: length, fresh_from }
    }

    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    /// `length` bytes aligned to `align`, a power of two.
    pub(crate) fn take(&mut self, length: usize, align: usize) -> Option<Taken> {
        let fits = |(&start, &available): (&usize, &usize)| {
            let aligned = start.next_multiple_of(align);
            let end = aligned.checked_add(length)?;
            (end <= start + available).then_some((start, available, aligned))
        };
        let (start, available, aligned) = self.ranges.iter().find_map(fits)?;
        self.ranges.remove(&start);
        if aligned > start {
            self.ranges.insert(start, aligned - start);
        }
        let (end, range_end) = (aligned + length, start + available);
        if end < range_end {
            self.ranges.insert(end, range_end - end);
        }
        self.free_bytes -= length;
        let used = self.fresh_from.saturating_sub(aligned).min(length);
        self.fresh_from = self.fresh_from.max(end);
        Some(Taken { start: aligned, used })
    }

    /// Give back what `take` gave.
    pub(crate) fn give_back(&mut self, mut start: usize, mut length: usize) {
        self.free_bytes += length;
        if let Some((&before, &before_length)) = self.ranges.range(..start).next_back()
            && before + before_length == start
        {
            self.ranges.remove(&before);
            (start, length) = (before, before_length + length);
        }
        if let Some(after_length) = self.ranges.remove(&(start + length)) {
            length += after_length;
        }
        self.ranges.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::{FreeRanges, Taken};

    fn start(free: &mut FreeRanges, length: usize, align: usize) -> Option<usize> {
        free.take(length, align).map(|taken| taken.start)
    }

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut free = FreeRanges::new(4096, 0);
        let taken: Vec<_> = (0..4).map(|_| start(&mut free, 1024, 64)).collect();
        assert_eq!(taken, [Some(0), Some(1024), Some(2048), Some(3072)]);
        assert_eq!(free.take(1, 1), None);
        for start in [1024, 3072, 0, 2048] {
            free.give_back(start, 1024);
        }
        assert_eq!((free.free_bytes(), start(&mut free, 4096, 4096)), (4096, Some(0)));
    }

    #[test]
    fn alignment_leaves_the_bytes_before_it_free() {
        let mut free = FreeRanges::new(8192, 0);
        assert_eq!(start(&mut free, 10, 1), Some(0));
        assert_eq!(start(&mut free, 100, 4096), Some(4096));
        assert_eq!(start(&mut free, 4086, 1), Some(10));
        assert_eq!(free.free_bytes(), 8192 - 10 - 100 - 4086);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let mut free = FreeRanges::new(4096, 0);
        assert_eq!(free.take(usize::MAX, 64), None);
        assert_eq!(free.take(4097, 1), None);
    }

    #[test]
    fn what_was_given_out_before_counts_as_used() {
        let mut free = FreeRanges::new(4096, 0);
        assert_eq!(free.take(1000, 8), Some(Taken { start: 0, used: 0 }));
        free.give_back(0, 1000);
        assert_eq!(free.take(3000, 8), Some(Taken { start: 0, used: 1000 }));
        free.give_back(0, 3000);
        assert_eq!(free.take(100, 8), Some(Taken { start: 0, used: 100 }));
        assert_eq!(FreeRanges::new(64, 64).take(64, 8), Some(Taken { start: 0, used: 64 }));
    }
}
