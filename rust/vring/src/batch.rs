//! The batches that `execute` waits for.

use shm::Pin;

use crate::queue_error::QueueError;
use crate::request::{Limits, Request};
use crate::slots::STATUS_PENDING;

/// A batch in progress. What of it has not been submitted yet waits in the backlog of the queue.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) requests: Vec<Request>,
    /// By request: what keeps its data's region open until it is submitted.
    pub(crate) pins: Vec<Option<Pin>>,
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
    fn new(requests: Vec<Request>, pins: Vec<Option<Pin>>, limits: Limits) -> Self {
        let statuses = vec![STATUS_PENDING; requests.len()];
        Self {
            requests,
            pins,
            limits,
            submitted: 0,
            failed: None,
            statuses,
            in_flight: 0,
            completed: 0,
            closed: false,
        }
    }

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
    place: usize,
    number: u64,
}

/// All batches that have requests in flight or an owner who waits.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    places: Vec<Option<(u64, Batch)>>,
    opened: u64,
}

impl Batches {
    pub(crate) fn open(
        &mut self,
        requests: Vec<Request>,
        pins: Vec<Option<Pin>>,
        limits: Limits,
    ) -> BatchId {
        self.opened += 1;
        let entry = Some((self.opened, Batch::new(requests, pins, limits)));
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
        BatchId { place, number: self.opened }
    }

    pub(crate) fn get_mut(&mut self, id: BatchId) -> Option<&mut Batch> {
        match self.places.get_mut(id.place)? {
            Some((number, batch)) if *number == id.number => Some(batch),
            _ => None,
        }
    }

    /// Request `index` of the batch has come back.
    pub(crate) fn complete(&mut self, id: BatchId, index: usize, status: u8) {
        let Some(batch) = self.get_mut(id) else { return };
        batch.in_flight = batch.in_flight.saturating_sub(1);
        batch.completed += 1;
        if let Some(place) = batch.statuses.get_mut(index) {
            *place = status;
        }
        self.drop_if_done(id);
    }

    /// Its owner no longer waits; the statuses so far.
    pub(crate) fn close(&mut self, id: BatchId) -> Vec<u8> {
        let Some(batch) = self.get_mut(id) else { return Vec::new() };
        batch.closed = true;
        batch.pins.clear();
        let statuses = std::mem::take(&mut batch.statuses);
        self.drop_if_done(id);
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

    fn drop_if_done(&mut self, id: BatchId) {
        if self.get_mut(id).is_some_and(|batch| batch.closed && batch.in_flight == 0) {
            self.places[id.place] = None;
        }
    }
}
