//! The state of a request queue: slots, batches, the backlog. Everything that needs no waiting.

use std::collections::VecDeque;

use shm::Pin;

use crate::batch::{Batch, BatchId, Batches};
use crate::error::PushError;
use crate::pace::{Pace, Spin};
use crate::pool::{Pool, SlotStatus};
use crate::pools::{PoolId, Pools};
use crate::queue_error::QueueError;
use crate::request::{Completion, Limits, Request};
use crate::ring::Ring;
use crate::single::Singles;
use crate::slots::{Finished, RequestSlots};

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// Of `submit_many`: its completion goes to `reap_many`.
    Token(u64),
    /// Of `execute`: its status goes into a batch.
    Batch { batch: BatchId, index: usize },
    /// Sent alone, by this number.
    Single(u64),
}

/// What the lock of a queue guards.
#[derive(Debug)]
pub(crate) struct State<R: Ring> {
    pub(crate) slots: RequestSlots<R, Owner>,
    pub(crate) pools: Pools,
    pub(crate) limits: Limits,
    pub(crate) batches: Batches,
    pub(crate) singles: Singles,
    /// Batches of which not all has been submitted, in the order of their arrival.
    pub(crate) backlog: VecDeque<BatchId>,
    /// Completions that a waiter reaped and `reap_many` has yet to hand out.
    pub(crate) finished: VecDeque<Completion>,
    /// Somebody sits in epoll.
    pub(crate) waiter: bool,
    /// The ring is looked at, and no interrupt asked for: by choice, or because there is none.
    pub(crate) polling: bool,
    /// For a queue that polls.
    pub(crate) pace: Pace,
    /// For what comes first, in either case.
    pub(crate) spin: Spin,
    /// The waiter in epoll asked for an interrupt further ahead than the next completion.
    pub(crate) far: bool,
    /// How many wait for the one in epoll.
    pub(crate) sleepers: usize,
    /// `arm` asked for an interrupt, and nothing was reaped since: a waiter leaves it on.
    pub(crate) armed_by_owner: bool,
    /// Why the queue was given up; it stays so.
    pub(crate) gone: Option<String>,
    pub(crate) kick_due: bool,
    pub(crate) kick_count: u64,
}

impl<R: Ring> State<R> {
    pub(crate) fn check(&self) -> Result<(), QueueError> {
        match (&self.gone, self.slots.ring().broken()) {
            (Some(why), _) => Err(QueueError::Gone(why.clone())),
            (None, Some(broken)) => Err(QueueError::Broken(broken)),
            (None, None) => Ok(()),
        }
    }

    /// Something was submitted or came back.
    pub(crate) fn note_news(&mut self) {
        self.pace.restart();
        self.spin.restart();
    }

    /// Completions that nobody has taken: of submitted requests, and of pools.
    pub(crate) fn kept_count(&self) -> usize {
        self.finished.len() + self.pools.parked_count()
    }

    pub(crate) fn give_up(&mut self, why: impl Into<String>) {
        // The first reason is the best one.
        self.gone.get_or_insert_with(|| why.into());
    }

    /// Check all requests before any is submitted; pins for those that have data.
    pub(crate) fn check_all(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Option<Pin>>, QueueError> {
        let (slots, limits) = (&mut self.slots, &self.limits);
        let check = |(index, request)| {
            let checked = slots.check(request, limits);
            checked.map_err(|error| QueueError::Request { index, error })
        };
        requests.iter().enumerate().map(check).collect()
    }

    /// Reap all that is ready; completions of `submit_many` go to `out` while it has room. How
    /// many were reaped, and how many of them went to `out`. A breach of the rules stays noted in
    /// the ring, and is told by the next check.
    pub(crate) fn reap(&mut self, limit: usize, mut out: impl FnMut(Completion)) -> (usize, usize) {
        let Self { slots, pools, batches, singles, finished, .. } = self;
        let mut handed = 0;
        let is_pools = |used| pools.complete(used, None, |_, _| false);
        let reaped = slots.reap(usize::MAX, is_pools, |done| match done.owner {
            Owner::Token(token) if handed < limit => {
                out(Completion { token, written: done.written, status: done.status });
                handed += 1;
            }
            _ => keep(done, batches, singles, finished),
        });
        pools.sweep(slots.ring_mut());
        (reaped.unwrap_or(0), handed)
    }

    /// The same, but completions of one pool go to `out`, which says whether it took them.
    #[inline]
    pub(crate) fn reap_pool(
        &mut self,
        id: PoolId,
        pool: &mut Pool,
        mut out: impl FnMut(&mut Pool, SlotStatus) -> bool,
    ) -> usize {
        let Self { slots, pools, batches, singles, finished, .. } = self;
        let is_pools = |used| pools.complete(used, Some((id, &mut *pool)), &mut out);
        let reaped =
            slots.reap(usize::MAX, is_pools, |done| keep(done, batches, singles, finished));
        pools.sweep(slots.ring_mut());
        reaped.unwrap_or(0)
    }

    /// Push of the backlog what fits, in order; nothing once the queue was given up, as another
    /// may have its place at the device.
    pub(crate) fn push_backlog(&mut self) {
        if self.gone.is_some() {
            return;
        }
        while let Some(&id) = self.backlog.front() {
            if self.push_rest(id) == Rest::Waits {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Push of a batch what fits.
    fn push_rest(&mut self, id: BatchId) -> Rest {
        let Some(batch) = self.batches.get_mut(id) else { return Rest::Gone };
        if batch.limits != self.limits
            && let Err(error) = check_again(&self.slots, batch, &self.limits)
        {
            batch.failed = Some(error);
            return Rest::Gone;
        }
        while let Some(request) = batch.requests.get(batch.submitted) {
            let index = batch.submitted;
            let pin = batch.pins[index].take();
            let owner = Owner::Batch { batch: id, index };
            match self.slots.push(request, pin, &batch.limits, owner) {
                Ok(()) => batch.note_submitted(),
                Err((PushError::Full { .. }, unused)) => {
                    batch.pins[index] = unused;
                    return Rest::Waits;
                }
                Err((error, _)) => {
                    batch.failed = Some(of_push(error));
                    return Rest::Gone;
                }
            }
        }
        Rest::Gone
    }
}

/// Keep what came back for whoever waits for it, or will ask.
fn keep(
    done: Finished<Owner>,
    batches: &mut Batches,
    singles: &mut Singles,
    finished: &mut VecDeque<Completion>,
) {
    let Finished { owner, written, status } = done;
    match owner {
        Owner::Token(token) => finished.push_back(Completion { token, written, status }),
        Owner::Batch { batch, index } => batches.complete(batch, index, status),
        Owner::Single(number) => singles.complete(number, status),
    }
}

/// What is left of a batch in the backlog.
#[derive(PartialEq, Eq)]
enum Rest {
    /// Nothing, or nothing that could be submitted.
    Gone,
    /// Something that does not fit now.
    Waits,
}

/// The limits have changed since the batch was checked (the disk may have shrunk).
fn check_again<R: Ring>(
    slots: &RequestSlots<R, Owner>,
    batch: &mut Batch,
    limits: &Limits,
) -> Result<(), QueueError> {
    for (index, request) in batch.requests.iter().enumerate().skip(batch.submitted) {
        let checked = slots.check_limits(request, limits);
        checked.map_err(|error| QueueError::Request { index, error })?;
    }
    batch.limits = *limits;
    Ok(())
}

pub(crate) fn of_push(error: PushError) -> QueueError {
    match error {
        PushError::Broken(broken) => QueueError::Broken(broken),
        other => QueueError::Gone(other.to_string()),
    }
}
