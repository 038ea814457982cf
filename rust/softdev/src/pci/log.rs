//! What the driver did to the registers, and what of it was wrong.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shm::Width;

/// The latest accesses that are kept.
const ACCESSES_MAX: usize = 1 << 14;

/// The first violations that are kept: those after them are mostly their echoes.
const VIOLATIONS_MAX: usize = 64;

/// One load or store of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// From the start of the BAR, in bytes.
    pub offset: usize,
    /// How wide it was.
    pub width: Width,
    /// What was read or written.
    pub value: u32,
    /// Whether it was a store.
    pub is_write: bool,
}

#[derive(Debug, Default)]
struct Entries {
    accesses: VecDeque<Access>,
    access_count: u64,
    violations: Vec<String>,
    violations_left_out: u64,
}

/// See the module. Its lock is the last that anybody takes.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Entries>);

impl Log {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn access(&self, access: Access) {
        let mut entries = self.lock();
        entries.access_count += 1;
        if entries.accesses.len() == ACCESSES_MAX {
            entries.accesses.pop_front();
        }
        entries.accesses.push_back(access);
    }

    pub(super) fn violation(&self, what: String) {
        let mut entries = self.lock();
        if entries.violations.len() < VIOLATIONS_MAX {
            entries.violations.push(what);
        } else {
            entries.violations_left_out += 1;
        }
    }

    pub(super) fn accesses(&self) -> Vec<Access> {
        self.lock().accesses.iter().copied().collect()
    }

    pub(super) fn access_count(&self) -> u64 {
        self.lock().access_count
    }

    pub(super) fn violations(&self) -> Vec<String> {
        let entries = self.lock();
        let mut violations = entries.violations.clone();
        if entries.violations_left_out > 0 {
            violations.push(format!("and {} more", entries.violations_left_out));
        }
        violations
    }

    pub(super) fn clear(&self) {
        *self.lock() = Entries::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_accesses_and_the_first_violations_are_kept_and_all_are_counted() {
        let log = Log::default();
        for value in 0..ACCESSES_MAX as u32 + 5 {
            log.access(Access { offset: 0, width: Width::Bits32, value, is_write: true });
        }
        assert_eq!(log.access_count(), ACCESSES_MAX as u64 + 5);
        assert_eq!(log.accesses().len(), ACCESSES_MAX);
        assert_eq!(log.accesses().first().map(|access| access.value), Some(5));
        (0..VIOLATIONS_MAX + 3).for_each(|n| log.violation(n.to_string()));
        assert_eq!(log.violations().len(), VIOLATIONS_MAX + 1);
        assert_eq!(log.violations().last().map(String::as_str), Some("and 3 more"));
        log.clear();
        assert_eq!((log.access_count(), log.violations().len()), (0, 0));
    }
}
