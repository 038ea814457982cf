//! The batches that `execute` waits for.

use crate::slots::STATUS_PENDING;

/// A batch in progress.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    statuses: Vec<u8>,
    in_flight: usize,
    completed: usize,
    /// Its owner no longer waits; what is still in flight is forgotten when it comes back.
    closed: bool,
}

impl Batch {
    pub(crate) fn is_complete(&self) -> bool {
        self.completed == self.statuses.len()
    }

    pub(crate) fn completed_count(&self) -> usize {
        self.completed
    }
}

/// All batches, by a small number that is used again when a batch has come to its end.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    batches: Vec<Option<Batch>>,
}

impl Batches {
    /// A batch of `count` requests; its number.
    pub(crate) fn open(&mut self, count: usize) -> usize {
        let batch = Batch { statuses: vec![STATUS_PENDING; count], ..Batch::default() };
        match self.batches.iter().position(Option::is_none) {
            Some(number) => {
                self.batches[number] = Some(batch);
                number
            }
            None => {
                self.batches.push(Some(batch));
                self.batches.len() - 1
            }
        }
    }

    pub(crate) fn get(&self, number: usize) -> Option<&Batch> {
        self.batches.get(number)?.as_ref()
    }

    /// `count` more of its requests are on their way.
    pub(crate) fn add_in_flight(&mut self, number: usize, count: usize) {
        if let Some(Some(batch)) = self.batches.get_mut(number) {
            batch.in_flight += count;
        }
    }

    /// Its request `index` has come back.
    pub(crate) fn complete(&mut self, number: usize, index: usize, status: u8) {
        let Some(Some(batch)) = self.batches.get_mut(number) else { return };
        batch.in_flight = batch.in_flight.saturating_sub(1);
        batch.completed += 1;
        if let Some(place) = batch.statuses.get_mut(index) {
            *place = status;
        }
        if batch.closed && batch.in_flight == 0 {
            self.batches[number] = None;
        }
    }

    /// Its owner no longer waits; the statuses so far.
    pub(crate) fn close(&mut self, number: usize) -> Vec<u8> {
        let Some(Some(batch)) = self.batches.get_mut(number) else { return Vec::new() };
        batch.closed = true;
        let statuses = std::mem::take(&mut batch.statuses);
        if batch.in_flight == 0 {
            self.batches[number] = None;
        }
        statuses
    }
}
