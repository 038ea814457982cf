//! The test at the heart of EVENT_IDX.

/// Whether moving an index from `old` to `new` passes `event`, modulo 65536: whether the entry
/// that the other side wants to hear of is among those that have just become visible.
/// VIRTIO 1.4, 2.7.10 Available Buffer Notification Suppression, for a batch.
#[inline]
pub fn event_passed(old: u16, new: u16, event: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::event_passed;

    #[test]
    fn exactly_the_entries_that_became_visible_pass_the_event() {
        for old in [0, 1, 100, 65_530, 65_535] {
            for count in [1_u16, 2, 7, 256, 32_768] {
                let new = u16::wrapping_add(old, count);
                for event in (0..=u16::MAX).step_by(1) {
                    let position = event.wrapping_sub(old);
                    assert_eq!(event_passed(old, new, event), position < count, "{old} {count}");
                }
            }
        }
    }
}
