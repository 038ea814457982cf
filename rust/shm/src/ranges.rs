//! First-fit allocation of byte ranges, with neighbours joined again when they are given back.

use std::collections::BTreeMap;

/// The free ranges of one mapping: start to length, never adjacent to each other.
#[derive(Debug)]
pub(crate) struct FreeRanges {
    ranges: BTreeMap<usize, usize>,
    free_bytes: usize,
}

impl FreeRanges {
    pub(crate) fn new(length: usize) -> Self {
        Self { ranges: BTreeMap::from([(0, length)]), free_bytes: length }
    }

    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    /// The start of `length` bytes aligned to `align`, a power of two.
    pub(crate) fn take(&mut self, length: usize, align: usize) -> Option<usize> {
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
        Some(aligned)
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
    use super::FreeRanges;

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut free = FreeRanges::new(4096);
        let taken: Vec<_> = (0..4).map(|_| free.take(1024, 64)).collect();
        assert_eq!(taken, [Some(0), Some(1024), Some(2048), Some(3072)]);
        assert_eq!(free.take(1, 1), None);
        for start in [1024, 3072, 0, 2048] {
            free.give_back(start, 1024);
        }
        assert_eq!((free.free_bytes(), free.take(4096, 4096)), (4096, Some(0)));
    }

    #[test]
    fn alignment_leaves_the_bytes_before_it_free() {
        let mut free = FreeRanges::new(8192);
        assert_eq!(free.take(10, 1), Some(0));
        assert_eq!(free.take(100, 4096), Some(4096));
        assert_eq!(free.take(4086, 1), Some(10));
        assert_eq!(free.free_bytes(), 8192 - 10 - 100 - 4086);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let mut free = FreeRanges::new(4096);
        assert_eq!(free.take(usize::MAX, 64), None);
        assert_eq!(free.take(4097, 1), None);
    }
}
