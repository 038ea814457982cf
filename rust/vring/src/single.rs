//! Requests that are sent alone, each with a caller who waits for it: what has come back of them.
//!
//! They are numbered in the order of their submission, and no number is used twice. Few are on their
//! way at once, one for each thread that waits, so they are looked up one by one.

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Singles {
    /// The number of the next one.
    next: u64,
    /// What has come back and was not fetched yet, with its status.
    done: Vec<(u64, u8)>,
    /// On their way, and nobody waits for them any more.
    forgotten: Vec<u64>,
    /// What was on its way at a reset will not come back: all numbers below this one.
    lost_below: u64,
}

impl Singles {
    /// The number that the next request will have, once it `was_sent`.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn note_sent(&mut self) {
        self.next += 1;
    }

    /// A request has come back.
    pub(crate) fn complete(&mut self, number: u64, status: u8) {
        match self.forgotten.iter().position(|&forgotten| forgotten == number) {
            Some(place) => drop(self.forgotten.swap_remove(place)),
            None => self.done.push((number, status)),
        }
    }

    /// The status of a request, if it has come back; it is told once.
    pub(crate) fn fetch(&mut self, number: u64) -> Option<u8> {
        let place = self.done.iter().position(|&(done, _)| done == number)?;
        Some(self.done.swap_remove(place).1)
    }

    /// Whether a reset came before its completion.
    pub(crate) fn is_lost(&self, number: u64) -> bool {
        number < self.lost_below
    }

    /// Nobody waits for it any more.
    pub(crate) fn forget(&mut self, number: u64) {
        if self.fetch(number).is_none() && !self.is_lost(number) {
            self.forgotten.push(number);
        }
    }

    /// After a reset: nothing that is on its way will come back.
    pub(crate) fn lose_all(&mut self) {
        self.lost_below = self.next;
        self.forgotten.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(singles: &mut Singles) -> u64 {
        let number = singles.next();
        singles.note_sent();
        number
    }

    #[test]
    fn each_gets_its_own_status_once_in_whatever_order_they_come_back() {
        let mut singles = Singles::default();
        let numbers = [(); 3].map(|()| send(&mut singles));
        assert_eq!(numbers.map(|number| singles.fetch(number)), [None; 3]);
        singles.complete(numbers[2], 7);
        singles.complete(numbers[0], 5);
        assert_eq!(numbers.map(|number| singles.fetch(number)), [Some(5), None, Some(7)]);
        singles.complete(numbers[1], 6);
        assert_eq!(numbers.map(|number| singles.fetch(number)), [None, Some(6), None]);
    }

    #[test]
    fn what_nobody_waits_for_leaves_nothing_behind() {
        let mut singles = Singles::default();
        let [late, early, lost] = [(); 3].map(|()| send(&mut singles));
        singles.forget(late);
        singles.complete(late, 1);
        singles.complete(early, 2);
        singles.forget(early);
        assert!(singles.done.is_empty() && singles.forgotten.is_empty());
        singles.forget(lost);
        singles.lose_all();
        assert!(singles.done.is_empty() && singles.forgotten.is_empty());
    }

    #[test]
    fn a_reset_loses_what_is_on_its_way_and_nothing_else() {
        let mut singles = Singles::default();
        let [done, lost] = [(); 2].map(|()| send(&mut singles));
        singles.complete(done, 3);
        singles.lose_all();
        assert_eq!(singles.fetch(done), Some(3));
        assert!(singles.fetch(lost).is_none() && singles.is_lost(lost));
        singles.forget(lost);
        let after = send(&mut singles);
        assert!(!singles.is_lost(after));
        singles.complete(after, 4);
        assert_eq!(singles.fetch(after), Some(4));
        assert!(singles.forgotten.is_empty());
    }
}
