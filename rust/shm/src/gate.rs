//! Who is inside: a count of the calls that use something, which can be shut.
//!
//! Entering and leaving is one step on one atomic word; the lock is for those who shut the gate,
//! for those who wait until it is empty, and for those who are refused.

#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicU64};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicU64};
use std::time::Duration;

/// The word: bit 0 shut, bit 1 somebody waits for it to empty, bits 2-23 how many are inside, and
/// bits 24-63 how many have ever been let in, which wraps around.
const SHUT: u64 = 1;
const AWAITED: u64 = 1 << 1;
const INSIDE: u64 = 1 << 2;
const INSIDE_MAX: u64 = (1 << 22) - 1;
const ENTRY: u64 = 1 << 24;

const fn inside_of(word: u64) -> u64 {
    word >> 2 & INSIDE_MAX
}

const fn entries_of(word: u64) -> u64 {
    word >> 24
}

#[derive(Debug)]
struct State {
    /// Why nobody is let in; there is one while SHUT is set.
    refusal: Option<String>,
    /// How many wait for it to empty; AWAITED is set while there are any.
    waiters: usize,
}

/// See the module. A shut gate lets nobody in, and those inside go on.
#[derive(Debug)]
pub struct Gate {
    word: AtomicU64,
    state: Mutex<State>,
    emptied: Condvar,
}

impl Gate {
    /// A gate that is shut.
    pub fn new(refusal: String) -> Self {
        Self {
            word: AtomicU64::new(SHUT),
            state: Mutex::new(State { refusal: Some(refusal), waiters: 0 }),
            emptied: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Go in, or be told why not.
    pub fn enter(&self) -> Result<(), String> {
        loop {
            let go_in = |word| {
                let has_room = word & SHUT == 0 && inside_of(word) < INSIDE_MAX;
                has_room.then_some(word.wrapping_add(ENTRY + INSIDE))
            };
            match self.word.fetch_update(AcqRel, Acquire, go_in) {
                Ok(_) => return Ok(()),
                Err(word) if word & SHUT == 0 => {
                    return Err(format!("{INSIDE_MAX} calls are inside already"));
                }
                Err(_) => {}
            }
            // Whoever shut it holds the lock until the refusal is there; opened since, it lets in.
            if let Some(refusal) = self.refusal() {
                return Err(refusal);
            }
        }
    }

    /// Come out; once for each time of going in.
    pub fn leave(&self) {
        let go_out = |word| (inside_of(word) > 0).then(|| word - INSIDE);
        let left = self.word.fetch_update(AcqRel, Acquire, go_out);
        if left.is_ok_and(|before| inside_of(before) == 1 && before & AWAITED != 0) {
            // With the lock: who has seen somebody inside is in the wait by now, and is woken.
            drop(self.lock());
            self.emptied.notify_all();
        }
    }

    /// How many are inside.
    pub fn inside(&self) -> u64 {
        inside_of(self.word.load(Acquire))
    }

    /// How many have ever been let in, modulo 2^40.
    pub fn entries(&self) -> u64 {
        entries_of(self.word.load(Acquire))
    }

    /// Why nobody is let in; `None` while it is open.
    pub fn refusal(&self) -> Option<String> {
        self.lock().refusal.clone()
    }

    /// Be told as by `enter`, and stay outside.
    pub fn check(&self) -> Result<(), String> {
        let shut = self.word.load(Acquire) & SHUT != 0;
        self.refusal_if(shut).map_or(Ok(()), Err)
    }

    fn refusal_if(&self, shut: bool) -> Option<String> {
        if shut { self.refusal() } else { None }
    }

    /// Let everybody in.
    pub fn open(&self) {
        let mut state = self.lock();
        state.refusal = None;
        self.word.fetch_and(!SHUT, AcqRel);
    }

    /// Let nobody in any more.
    pub fn shut(&self, refusal: String) {
        let mut state = self.lock();
        state.refusal = Some(refusal);
        self.word.fetch_or(SHUT, AcqRel);
    }

    /// Shut it if nobody is inside, and nobody was let in since `entries` was read; whether it did.
    pub fn shut_if_unused_since(&self, entries: u64, refusal: String) -> bool {
        let mut state = self.lock();
        let shut_it = |word| {
            let unused = inside_of(word) == 0 && entries_of(word) == entries;
            unused.then_some(word | SHUT)
        };
        let done = self.word.fetch_update(AcqRel, Acquire, shut_it).is_ok();
        if done {
            state.refusal = Some(refusal);
        }
        done
    }

    /// Wait until nobody is inside, for at most `limit`, or less if something else wakes us;
    /// whether nobody is.
    pub fn wait_empty(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        state.waiters += 1;
        // Set before the count is looked at: who leaves later sees it.
        if inside_of(self.word.fetch_or(AWAITED, AcqRel)) > 0 {
            let waited = self.emptied.wait_timeout(state, limit);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiters -= 1;
        if state.waiters == 0 {
            self.word.fetch_and(!AWAITED, AcqRel);
        }
        drop(state);
        self.inside() == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn open_gate() -> Gate {
        let gate = Gate::new("new".into());
        gate.open();
        gate
    }

    #[test]
    fn leaving_more_often_than_entering_counts_for_nothing() {
        let gate = open_gate();
        gate.leave();
        assert_eq!((gate.inside(), gate.entries()), (0, 0));
        assert_eq!(gate.check(), Ok(()));
    }

    #[test]
    fn the_count_of_entries_wraps_around_and_touches_nothing_else() {
        let gate = open_gate();
        gate.word.fetch_or(u64::MAX << 24, AcqRel);
        assert_eq!(gate.enter(), Ok(()));
        assert_eq!((gate.inside(), gate.entries()), (1, 0));
        gate.leave();
        assert!(gate.shut_if_unused_since(0, "wrapped".into()));
        assert_eq!(gate.enter(), Err("wrapped".into()));
    }

    #[test]
    fn a_full_gate_lets_nobody_in() {
        let gate = open_gate();
        gate.word.fetch_or(INSIDE_MAX << 2, AcqRel);
        assert_eq!(gate.enter(), Err("4194303 calls are inside already".into()));
        assert_eq!((gate.inside(), gate.entries()), (INSIDE_MAX, 0));
        gate.leave();
        assert_eq!(gate.enter(), Ok(()));
    }
}
