//! The batches that `execute` waits for.

use std::mem;

use crate::queue_error::QueueError;
use crate::request::Limits;
use crate::slots::{Checked, STATUS_PENDING};

/// A batch in progress. What of it has not been submitted yet waits in the backlog of the queue.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) requests: Vec<Checked>,
    /// What the requests were checked against.
    pub(crate) limits: Limits,
    /// How many of the requests, from the front, have been submitted.
    pub(crate) submitted: usize,
    /// Why the rest of it will never be completed.
    pub(crate) failed: Option<QueueError>,
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

    /// One more of its requests is on its way.
    pub(crate) fn note_submitted(&mut self) {
        self.submitted += 1;
        self.in_flight += 1;
    }
}

/// A batch, by a place that is used again and a number that never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchId {
    place: u32,
    number: u64,
}

impl BatchId {
    pub(crate) fn place(self) -> u32 {
        self.place
    }
}

/// All batches that have requests in flight or an owner who waits.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    places: Vec<Option<(u64, Batch)>>,
    opened: u64,
}

impl Batches {
    /// A batch of these requests, which are taken out of the vector, with its memory.
    pub(crate) fn open(&mut self, requests: &mut Vec<Checked>, limits: Limits) -> BatchId {
        self.opened += 1;
        let mut batch = Batch { limits, ..Batch::default() };
        mem::swap(&mut batch.requests, requests);
        batch.statuses.resize(batch.requests.len(), STATUS_PENDING);
        let entry = Some((self.opened, batch));
        let place = match self.places.iter().position(Option::is_none) {
            Some(place) => {
                self.places[place] = entry;
                place
            }
            None => {
                self.places.push(entry);
                self.places.len() - 1
            }
        };
        BatchId { place: place as u32, number: self.opened }
    }

    pub(crate) fn get_mut(&mut self, id: BatchId) -> Option<&mut Batch> {
        match self.places.get_mut(id.place as usize)? {
            Some((number, batch)) if *number == id.number => Some(batch),
            _ => None,
        }
    }

    /// Request `index` of the batch in a place has come back. It is that batch's: a place is kept
    /// as long as requests of its batch are in flight.
    pub(crate) fn complete(&mut self, place: u32, index: usize, status: u8) {
        let Some((_, batch)) = &mut self.places[place as usize] else { return };
        batch.in_flight = batch.in_flight.saturating_sub(1);
        batch.completed += 1;
        if let Some(place) = batch.statuses.get_mut(index) {
            *place = status;
        }
        self.drop_if_done(place);
    }

    /// Its owner no longer waits; the statuses so far. `release` gets the requests that will not be
    /// submitted any more.
    pub(crate) fn close(&mut self, id: BatchId, release: impl FnMut(&Checked)) -> Vec<u8> {
        let Some(batch) = self.get_mut(id) else { return Vec::new() };
        batch.closed = true;
        batch.requests[batch.submitted..].iter().for_each(release);
        batch.requests.clear();
        let statuses = mem::take(&mut batch.statuses);
        self.drop_if_done(id.place);
        statuses
    }

    /// After a reset: nothing is in flight any more, and what was not completed never will be.
    pub(crate) fn fail_all(&mut self, why: &QueueError) {
        for place in &mut self.places {
            if let Some((_, batch)) = place {
                batch.in_flight = 0;
                if batch.closed {
                    *place = None;
                } else if !batch.is_complete() {
                    batch.failed = Some(why.clone());
                }
            }
        }
    }

    fn drop_if_done(&mut self, place: u32) {
        let place = &mut self.places[place as usize];
        if place.as_ref().is_some_and(|(_, batch)| batch.closed && batch.in_flight == 0) {
            *place = None;
        }
    }
}
