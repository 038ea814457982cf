//! Places in a packed ring, which flip the wrap counter behind its last slot.

use crate::event::event_passed;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The wrap counter, as an event suppression structure or a notification has it.
const WRAP: u16 = 1 << 15;

/// A place in the ring, and in which lap (VIRTIO 1.4, 2.8.1 Driver and Device Ring Wrap Counters).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: u16,
    wrap: bool,
}

impl Position {
    pub(super) const START: Self = Self { offset: 0, wrap: true };

    #[inline]
    pub(super) fn slot(self) -> usize {
        usize::from(self.offset)
    }

    /// AVAIL and USED of a descriptor that becomes available here.
    #[inline]
    pub(super) fn available(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// Whether a descriptor with these flags is one that the device has used here.
    #[inline]
    pub(super) fn is_used(self, flags: u16) -> bool {
        flags & (AVAIL | USED) == if self.wrap { AVAIL | USED } else { 0 }
    }

    /// As an event suppression structure, or a notification, says it.
    #[inline]
    pub(super) fn word(self) -> u16 {
        if self.wrap { self.offset | WRAP } else { self.offset }
    }

    /// `count` slots further on, at most one lap.
    #[inline]
    pub(super) fn after(self, count: u16, size: u16) -> Self {
        let offset = self.offset + count;
        if offset < size {
            Self { offset, ..self }
        } else {
            Self { offset: offset - size, wrap: !self.wrap }
        }
    }
}

/// Whether a batch of `count` descriptors, after which `next` is the next position, passed the
/// position that `event` names: one of the other lap lies `size` slots back.
/// VIRTIO 1.4, 2.8.10 Driver and Device Event Suppression, for a batch.
#[inline]
pub(super) fn batch_passed(next: Position, count: u16, size: u16, event: u16) -> bool {
    let offset = event & !WRAP;
    let this_lap = (event & WRAP != 0) == next.wrap;
    let event = if this_lap { offset } else { offset.wrapping_sub(size) };
    event_passed(next.offset.wrapping_sub(count), next.offset, event)
}

#[cfg(test)]
mod tests {
    use super::{Position, batch_passed};

    #[test]
    fn the_wrap_counter_flips_behind_the_last_slot_of_any_ring() {
        for size in [1, 2, 3, 7, 256, 32_767, 32_768] {
            let mut position = Position::START;
            for lap in 0..3 {
                for offset in 0..size {
                    assert_eq!(position, Position { offset, wrap: lap % 2 == 0 });
                    assert_eq!(position.after(size, size), Position { offset, wrap: lap % 2 != 0 });
                    position = position.after(1, size);
                }
            }
        }
    }

    /// Position `number` slots after the start.
    fn at(number: u32, size: u16) -> Position {
        let (lap, offset) = (number / u32::from(size), (number % u32::from(size)) as u16);
        Position { offset, wrap: lap.is_multiple_of(2) }
    }

    #[test]
    fn exactly_the_descriptors_of_a_batch_pass_an_event_within_a_lap_of_it() {
        for size in [1_u16, 2, 3, 8, 13] {
            for start in 0..4 * u32::from(size) {
                for count in 1..=size {
                    let next = start + u32::from(count);
                    for event in next.saturating_sub(u32::from(size))..next + u32::from(size) {
                        let passed =
                            batch_passed(at(next, size), count, size, at(event, size).word());
                        let expected = (start..next).contains(&event);
                        assert_eq!(passed, expected, "{size}: {start}..{next}, {event}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_event_test_holds_in_the_largest_ring() {
        let size = 32_768;
        let passed = |next, count, event| batch_passed(at(next, size), count, size, event);
        for next in [40_000, 65_536, 65_537, 98_304] {
            let event = |number| at(number, size).word();
            assert!(passed(next, size, event(next - 1)));
            assert!(passed(next, size, event(next - u32::from(size))));
            assert!(passed(next, 1, event(next - 1)));
            assert!(!passed(next, 1, event(next - 2)));
            assert!(!passed(next, 1, event(next)));
        }
    }
}
