//! The numbers by which records name regions, none of which is ever given out twice.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// A handle is a slot index and, above it, the slot's generation.
const INDEX_BITS: u32 = 20;
const SLOTS_MAX: u32 = 1 << INDEX_BITS;
const GENERATIONS: u32 = 1 << (32 - INDEX_BITS);

/// Tables made so far.
static TABLES: AtomicU32 = AtomicU32::new(0);
/// Odd, so that the first 2^32 tables have masks of their own; and with bits all over, so that a
/// handle of another table is far from all that this one has given out.
const MASK_STEP: u32 = 0x9e37_79b9;

/// A handle and where its entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) handle: u32,
    slot: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Weak<T>,
}

/// Handles in use, and slots that may be used again: the longest unused first, each until its
/// generations are used up.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    slots: Vec<Slot<T>>,
    free: VecDeque<u32>,
    slots_max: u32,
    generations: u32,
    /// Laid over every handle, so that one of another disk names nothing here.
    mask: u32,
}

/// The slot that a handle without its mask is about. Of the handles that name something at a time
/// no two have the same one.
#[inline(always)]
pub(crate) fn slot_of(number: u32) -> usize {
    (number & (SLOTS_MAX - 1)) as usize
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        let mask = TABLES.fetch_add(1, Relaxed).wrapping_mul(MASK_STEP);
        Self { mask, ..Self::with_limits(SLOTS_MAX, GENERATIONS) }
    }
}

impl<T> Handles<T> {
    /// Smaller limits than the default ones, for tests.
    pub(crate) fn with_limits(slots_max: u32, generations: u32) -> Self {
        Self { slots: Vec::new(), free: VecDeque::new(), slots_max, generations, mask: 0 }
    }

    /// A handle that nothing has had yet; `None` if there is none left.
    pub(crate) fn reserve(&mut self) -> Option<Reserved> {
        if let Some(slot) = self.free.pop_front() {
            let generation = self.slots.get(slot as usize)?.generation;
            return Some(Reserved { handle: (generation << INDEX_BITS | slot) ^ self.mask, slot });
        }
        let slot = u32::try_from(self.slots.len()).ok().filter(|&slot| slot < self.slots_max)?;
        self.slots.push(Slot { generation: 0, entry: Weak::new() });
        Some(Reserved { handle: slot ^ self.mask, slot })
    }

    /// What is laid over every handle of this table.
    pub(crate) fn mask(&self) -> u32 {
        self.mask
    }

    /// Say what a reserved handle names.
    pub(crate) fn name(&mut self, reserved: Reserved, entry: Weak<T>) {
        if let Some(slot) = self.slots.get_mut(reserved.slot as usize) {
            slot.entry = entry;
        }
    }

    /// What `handle` names, if that still lives.
    pub(crate) fn get(&self, handle: u32) -> Option<Arc<T>> {
        let number = handle ^ self.mask;
        let slot = self.slots.get(slot_of(number))?;
        (slot.generation == number >> INDEX_BITS).then(|| slot.entry.upgrade())?
    }

    /// The handle names nothing any more, and never will again.
    pub(crate) fn release(&mut self, reserved: Reserved) {
        let Some(slot) = self.slots.get_mut(reserved.slot as usize) else { return };
        slot.entry = Weak::new();
        if slot.generation + 1 < self.generations {
            slot.generation += 1;
            self.free.push_back(reserved.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_handle_is_given_out_twice_and_the_last_one_is_followed_by_none() {
        let mut handles = Handles::<()>::with_limits(3, 4);
        let mut seen = Vec::new();
        while let Some(reserved) = handles.reserve() {
            assert!(!seen.contains(&reserved.handle), "{:#x} again", reserved.handle);
            seen.push(reserved.handle);
            handles.release(reserved);
        }
        assert_eq!(seen.len(), 3 * 4);
    }

    #[test]
    fn a_full_table_refuses_and_takes_again_what_is_released() {
        let mut handles = Handles::<()>::with_limits(2, 4);
        let (Some(first), Some(second)) = (handles.reserve(), handles.reserve()) else {
            panic!("two slots");
        };
        assert_eq!(handles.reserve(), None);
        handles.release(second);
        handles.release(first);
        let reused = [handles.reserve(), handles.reserve()].map(|r| r.map(|r| r.slot));
        assert_eq!(reused, [Some(second.slot), Some(first.slot)], "the longest unused first");
    }

    #[test]
    fn a_handle_of_another_table_names_nothing() {
        let entry = Arc::new(7);
        let (mut one, other) = (Handles::default(), &mut Handles::default());
        for _ in 0..100 {
            let (Some(mine), Some(theirs)) = (one.reserve(), other.reserve()) else {
                panic!("handles are free");
            };
            one.name(mine, Arc::downgrade(&entry));
            other.name(theirs, Arc::downgrade(&entry));
            assert_eq!(one.get(theirs.handle), None);
            assert_eq!(other.get(mine.handle), None);
        }
    }

    #[test]
    fn a_stale_handle_names_nothing() {
        let mut handles = Handles::with_limits(1, 2);
        let entry = Arc::new(7);
        for _ in 0..2 {
            let Some(reserved) = handles.reserve() else { panic!("a handle is free") };
            handles.name(reserved, Arc::downgrade(&entry));
            assert_eq!(handles.get(reserved.handle), Some(Arc::clone(&entry)));
            handles.release(reserved);
            assert_eq!(handles.get(reserved.handle), None);
        }
    }
}
