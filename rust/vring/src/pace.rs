//! How often, and for how long, a device is looked at by those who wait for it.

use std::time::Duration;

/// How long the first look lasts if the device gives no interrupt. A fast one answers meanwhile.
const LOOK: Duration = Duration::from_micros(50);
/// The same on a queue that is polled by choice: who chose that pays with a processor for not
/// sleeping, and a nap would last longer than an interrupt takes.
const LONG_LOOK: Duration = Duration::from_millis(1);
const SHORTEST_NAP: Duration = Duration::from_micros(50);
/// Bounds what a nap adds to a request that took long, and costs a processor next to nothing.
const LONGEST_NAP: Duration = Duration::from_millis(1);

/// What a waiter does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look all the time, for so long.
    Look(Duration),
    /// Sleep, then look once.
    Nap(Duration),
}

/// Waiting without an interrupt: a look, then naps that grow to a bound, until there is news.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last_nap: Option<Duration>,
    looked: bool,
}

impl Pace {
    /// `by_choice`: whether the device could interrupt as well.
    pub(crate) fn step(&mut self, by_choice: bool) -> Step {
        if !self.looked {
            self.looked = true;
            return Step::Look(if by_choice { LONG_LOOK } else { LOOK });
        }
        let nap = self.last_nap.map_or(SHORTEST_NAP, |last| (2 * last).min(LONGEST_NAP));
        self.last_nap = Some(nap);
        Step::Nap(nap)
    }

    /// Something was submitted or came back.
    pub(crate) fn restart(&mut self) {
        *self = Self::default();
    }
}

/// The longest spin before a sleep; nobody else can run Python meanwhile. Giving the interpreter's
/// lock up, sleeping, and being woken costs about as much as a fast device takes to answer.
pub(crate) const LONGEST_SPIN: Duration = Duration::from_micros(20);
/// What would be shorter is not worth while.
const SHORTEST_SPIN: Duration = Duration::from_micros(1);
/// How many waits go without a spin until one is tried again: the first time, and at most.
const FIRST_PROBE: u32 = 64;
const LAST_PROBE: u32 = 4096;

/// How long a wait looks at the ring before it sleeps: longer where that pays, shorter where it does
/// not, and then not at all but for a rare probe. So on a processor that the device shares, which
/// cannot answer while it is looked at, hardly anything is spent on looking.
#[derive(Debug)]
pub(crate) struct Spin {
    limit: Duration,
    /// It was in vain, and there was no news since.
    spent: bool,
    /// Waits without a spin since the last probe, and how many there are to be.
    skipped: u32,
    probe_after: u32,
}

impl Default for Spin {
    fn default() -> Self {
        Self { limit: LONGEST_SPIN, spent: false, skipped: 0, probe_after: FIRST_PROBE }
    }
}

impl Spin {
    /// For how long to look now; not at all if it was in vain since the last news.
    pub(crate) fn budget(&mut self) -> Duration {
        if self.spent {
            return Duration::ZERO;
        }
        if !self.limit.is_zero() {
            return self.limit;
        }
        self.skipped += 1;
        if self.skipped < self.probe_after {
            self.spent = true;
            return Duration::ZERO;
        }
        self.skipped = 0;
        LONGEST_SPIN
    }

    /// Whether what was looked for came in time.
    pub(crate) fn note(&mut self, paid: bool) {
        self.spent = !paid;
        match (paid, self.limit.is_zero()) {
            (true, true) => (self.limit, self.probe_after) = (LONGEST_SPIN, FIRST_PROBE),
            (true, false) => self.limit = (2 * self.limit).min(LONGEST_SPIN),
            (false, true) => self.probe_after = (2 * self.probe_after).min(LAST_PROBE),
            (false, false) => {
                // By less than a success lengthens it: one that is late now and then is no reason.
                let less = self.limit * 3 / 4;
                self.limit = if less < SHORTEST_SPIN { Duration::ZERO } else { less };
            }
        }
    }

    /// Something was submitted or came back.
    pub(crate) fn restart(&mut self) {
        self.spent = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a wait does: it looks if that is worth while, and sleeps until there is news.
    fn wait(spin: &mut Spin, paid: bool) -> Duration {
        let looked = spin.budget();
        if !looked.is_zero() {
            spin.note(paid);
        }
        if looked.is_zero() || !paid {
            assert_eq!(spin.budget(), Duration::ZERO, "one spin is enough for a sleep");
        }
        spin.restart();
        looked
    }

    #[test]
    fn a_spin_that_does_not_pay_is_shortened_to_nothing_but_a_rare_probe() {
        let spin = &mut Spin::default();
        let spins: Vec<Duration> =
            std::iter::from_fn(|| Some(wait(spin, false)).filter(|spin| !spin.is_zero())).collect();
        assert_eq!(spins.first(), Some(&LONGEST_SPIN));
        assert!(spins.is_sorted_by(|longer, shorter| longer > shorter), "{spins:?}");
        assert!(spins.iter().sum::<Duration>() < 5 * LONGEST_SPIN, "{spins:?}");
        for probe_after in [64, 128, 256, 512, 1024, 2048, 4096, 4096] {
            // The first of the waits without a spin, of those before the first probe, is above.
            for _ in if probe_after == FIRST_PROBE { 2 } else { 1 }..probe_after {
                assert_eq!(wait(spin, false), Duration::ZERO);
            }
            assert_eq!(wait(spin, false), LONGEST_SPIN, "after {probe_after}");
        }
        assert!(LONGEST_SPIN / LAST_PROBE < Duration::from_nanos(10), "next to nothing a wait");
    }

    #[test]
    fn a_spin_that_pays_is_lengthened_to_its_bound() {
        let spin = &mut Spin::default();
        assert_eq!([(); 3].map(|()| wait(spin, true)), [LONGEST_SPIN; 3]);
        let missed = [(); 6].map(|()| wait(spin, false));
        assert!(missed[5] < LONGEST_SPIN / 4, "{missed:?}");
        assert!(wait(spin, true) < LONGEST_SPIN / 5);
        assert!(wait(spin, true) > LONGEST_SPIN / 4);
        assert!(wait(spin, true) > LONGEST_SPIN / 2);
        assert_eq!([(); 3].map(|()| wait(spin, true)), [LONGEST_SPIN; 3]);
    }

    #[test]
    fn a_probe_that_pays_brings_the_spin_back() {
        let spin = &mut Spin::default();
        while !wait(spin, false).is_zero() {}
        let waits = 1 + (2..=FIRST_PROBE).take_while(|_| wait(spin, true).is_zero()).count();
        assert_eq!(waits, FIRST_PROBE as usize - 1);
        assert_eq!([(); 3].map(|()| wait(spin, true)), [LONGEST_SPIN; 3]);
    }

    #[test]
    fn naps_follow_a_look_and_grow_to_a_bound_until_there_is_news() {
        let mut pace = Pace::default();
        for (by_choice, look) in [(false, LOOK), (true, LONG_LOOK), (false, LOOK)] {
            assert_eq!(pace.step(by_choice), Step::Look(look));
            let micros = [50, 100, 200, 400, 800, 1000, 1000, 1000];
            for nap in micros.map(Duration::from_micros) {
                assert_eq!(pace.step(by_choice), Step::Nap(nap));
            }
            pace.restart();
        }
    }

    #[test]
    fn a_queue_that_is_polled_by_choice_looks_for_longer_than_the_longest_nap_of_any_other() {
        assert!(LONG_LOOK >= LONGEST_NAP && LONG_LOOK > 10 * LOOK);
    }
}
