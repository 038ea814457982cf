//! How often a device is looked at that gives no interrupt.

use std::time::Duration;

/// How long the first look lasts. A fast device answers meanwhile.
const LOOK: Duration = Duration::from_micros(50);
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
    pub(crate) fn step(&mut self) -> Step {
        if !self.looked {
            self.looked = true;
            return Step::Look(LOOK);
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
        for _ in 0..2 {
            assert_eq!(pace.step(), Step::Look(LOOK));
            let micros = [50, 100, 200, 400, 800, 1000, 1000, 1000];
            for nap in micros.map(Duration::from_micros) {
                assert_eq!(pace.step(), Step::Nap(nap));
            }
            pace.restart();
        }
    }
}
