//! The state of a request queue: slots, batches, the backlog. Everything that needs no waiting.

use std::collections::VecDeque;

use crate::batch::{Batch, BatchId, Batches};
use crate::error::PushError;
use crate::pace::{Pace, Spin};
use crate::pool::{Pool, SlotStatus};
use crate::pools::{PoolId, Pools};
use crate::queue_error::QueueError;
use crate::request::{Completion, Limits, Request};
use crate::ring::Ring;
use crate::single::Singles;
use crate::slots::{Checked, Finished, RequestSlots};

/// Of a longer call the memory is not kept.
pub(crate) const LOADED_KEPT: usize = 4096;

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// Of `submit_many`: its completion goes to `reap_many`.
    Token(u64),
    /// Of `execute`: its status goes into a batch.
    Batch { place: u32, index: usize },
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
    /// The requests of the present call: used again, so that calls do not allocate.
    pub(crate) loaded: Vec<Checked>,
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
    /// `arm` asked for an interrupt, and nothing was handed out since (see `note_handed`): a waiter
    /// leaves it on.
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

    /// Whoever reaped was handed something, for which the owner's event loop may have asked to be
    /// told: it will ask again. But as long as `others` have something to come, it may have asked
    /// for theirs, and be told of nothing any more if interrupts went off now.
    pub(crate) fn note_handed(&mut self, others: impl FnOnce(&Self) -> usize) {
        self.armed_by_owner = self.armed_by_owner && others(self) > 0;
        if !self.armed_by_owner && !self.waiter {
            self.slots.ring_mut().disarm();
        }
    }

    pub(crate) fn give_up(&mut self, why: impl Into<String>) {
        // The first reason is the best one.
        self.gone.get_or_insert_with(|| why.into());
    }

    /// Copy requests and check them, all before any is submitted, and hold the regions of their
    /// data. After an error none is held.
    #[inline]
    pub(crate) fn load(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<(), QueueError> {
        let Self { slots, limits, loaded, .. } = self;
        loaded.clear();
        loaded.shrink_to(LOADED_KEPT);
        for request in requests {
            match slots.check(request, limits) {
                Ok(checked) => loaded.push(checked),
                Err(error) => {
                    loaded.iter().for_each(|checked| slots.release(checked));
                    return Err(QueueError::Request { index: loaded.len(), error });
                }
            }
        }
        Ok(())
    }

    /// Push of what was loaded, from the front, as many as fit; how many. None while batches wait
    /// for room.
    #[inline]
    pub(crate) fn push_loaded(
        &mut self,
        owner_of: impl Fn(&Request) -> Owner,
    ) -> Result<usize, QueueError> {
        let Self { slots, limits, loaded, .. } = self;
        let (mut count, mut failed) = (0, None);
        let first = if self.backlog.is_empty() { &loaded[..] } else { &[] };
        for checked in first {
            match slots.push(checked, limits, owner_of(checked.request())) {
                Ok(()) => count += 1,
                Err(PushError::Full { .. }) => break,
                Err(error) => {
                    failed = Some(of_push(error));
                    break;
                }
            }
        }
        loaded[count..].iter().for_each(|checked| slots.release(checked));
        // What was accepted is on its way; the caller must know of it first.
        failed.filter(|_| count == 0).map_or(Ok(count), Err)
    }

    /// Make a batch of what was loaded, behind those that wait, and push what fits. Which it is,
    /// and how many requests it has.
    pub(crate) fn open_loaded(&mut self) -> (BatchId, usize) {
        let count = self.loaded.len();
        let batch = self.batches.open(&mut self.loaded, self.limits);
        self.backlog.push_back(batch);
        self.push_backlog();
        (batch, count)
    }

    /// A batch has come to its end, good or bad: the statuses so far.
    pub(crate) fn close(&mut self, id: BatchId) -> Vec<u8> {
        let slots = &mut self.slots;
        self.batches.close(id, |checked| slots.release(checked))
    }

    /// Reap all that is ready; completions of `submit_many` go to `out` while it has room. How
    /// many were reaped, and how many of them went to `out`. A breach of the rules stays noted in
    /// the ring, and is told by the next check.
    #[inline]
    pub(crate) fn reap(&mut self, limit: usize, mut out: impl FnMut(Completion)) -> (usize, usize) {
        let Self { slots, pools, batches, singles, finished, .. } = self;
        let mut handed = 0;
        let of_pools = |used| pools.complete(used, None, |_, _| false);
        let reaped = slots.reap(usize::MAX, of_pools, |done| match done.owner {
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
        let of_pools = |used| pools.complete(used, Some((id, &mut *pool)), &mut out);
        let reaped =
            slots.reap(usize::MAX, of_pools, |done| keep(done, batches, singles, finished));
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
        while let Some(checked) = batch.requests.get(batch.submitted) {
            let owner = Owner::Batch { place: id.place(), index: batch.submitted };
            match self.slots.push(checked, &batch.limits, owner) {
                Ok(()) => batch.note_submitted(),
                Err(PushError::Full { .. }) => return Rest::Waits,
                Err(error) => {
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
        Owner::Batch { place, index } => batches.complete(place, index, status),
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
    for (index, checked) in batch.requests.iter().enumerate().skip(batch.submitted) {
        let permitted = slots.check_limits(checked.request(), limits);
        permitted.map_err(|error| QueueError::Request { index, error })?;
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
