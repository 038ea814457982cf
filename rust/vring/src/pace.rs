//! How often a device is looked at by those who wait without an interrupt.

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

#[cfg(test)]
mod tests {
    use super::*;

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
