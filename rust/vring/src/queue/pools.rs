//! Slot pools on a queue: see [`crate::pool`].

use std::time::Instant;

use shm::{Claim, Pin};

use super::{Awaited, BlockQueue};
use crate::pool::{Pool, PoolMemory, PoolShape, PoolWay};
use crate::pools::{PoolId, closed};
use crate::queue_error::QueueError;
use crate::queue_state::State;
use crate::ring::Ring;
use crate::slots::STATUS_OK;

impl<R: Ring> BlockQueue<R> {
    /// Bytes that the frames of a pool need.
    pub fn pool_frames_length(&self, shape: PoolShape) -> usize {
        shape.frames_length(&self.lock().limits)
    }

    /// Make a pool with its buffers, one behind the other, in `buffer`. Where the ring has room for
    /// it, and for one other request as well, each slot has descriptors to itself.
    pub fn open_pool(
        &self,
        shape: PoolShape,
        buffer: Pin,
        frames: Claim,
    ) -> Result<PoolId, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        let State { slots, pools, limits, .. } = state;
        slots.check_limits(&shape.request(), limits).map_err(QueueError::Shape)?;
        let (room_to_leave, reliable) = (slots.longest(limits), slots.lengths_are_reliable());
        let memory = PoolMemory { buffer, frames };
        let pool = Pool::new(slots.ring_mut(), shape, memory, limits, room_to_leave, reliable)?;
        Ok(pools.add(pool))
    }

    /// How the requests of a pool reach the ring; None once it is closed.
    pub fn pool_way(&self, id: PoolId) -> Option<PoolWay> {
        self.lock().pools.way(id)
    }

    /// Requests of a pool that the device owns, or whose completion nobody has taken, or that a
    /// reset lost before [`Self::pool_submit`] or [`Self::pool_reap`] has told why.
    pub fn pool_in_flight(&self, id: PoolId) -> usize {
        let state = self.lock();
        let (owned, parked) = state.pools.counts(id);
        owned + parked + state.pools.lost_count(id)
    }

    /// Submit requests, each a slot and a byte offset on the disk, each asked for once. All are
    /// checked before anything is sent; how many there was room for, from the front. (With
    /// descriptors of its own, for all of them; else for none while batches wait for room.)
    #[inline]
    pub fn pool_submit(
        &self,
        id: PoolId,
        requests: impl Iterator<Item = (u32, u64)>,
    ) -> Result<usize, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.pools.refuse_if_dead(id)?;
        state.check()?;
        let State { slots, pools, limits, backlog, .. } = state;
        let held_up = !backlog.is_empty();
        let count = pools.push_all(id, slots.ring_mut(), limits, held_up, requests)?;
        if count > 0 {
            self.publish(state);
        }
        Ok(count)
    }

    /// Hand at most `limit` completions of a pool to `out`: where it goes, slot and status. Without
    /// `with_failed` what did not succeed stays, and once there is nothing else, is told one by one
    /// as the error.
    #[inline]
    pub fn pool_reap(
        &self,
        id: PoolId,
        limit: usize,
        with_failed: bool,
        mut out: impl FnMut(usize, u32, u8),
    ) -> Result<usize, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(mut pool) = state.pools.take(id) else { return Err(closed()) };
        let earlier =
            pool.take_parked(limit, !with_failed, |index, (slot, status)| out(index, slot, status));
        state.pools.note_taken(earlier);
        let mut count = earlier;
        if count < limit && pool.owned_count() > 0 && !pool.forgotten {
            let kept_before = state.kept_count();
            let reaped = state.reap_pool(id, &mut pool, |pool, (slot, status)| {
                if count == limit || status != STATUS_OK && !with_failed {
                    return false;
                }
                pool.hand_out(slot);
                out(count, slot, status);
                count += 1;
                true
            });
            self.hand_over(state, kept_before);
            self.after_reap(state, reaped);
        }
        let failed = (count == 0 && limit > 0).then(|| pool.take_failed()).flatten();
        state.pools.note_taken(failed.is_some().into());
        state.pools.put_back(id, pool);
        if let Some((slot, status)) = failed {
            return Err(QueueError::SlotFailed { slot, status });
        }
        if count > 0 {
            state.note_handed(|state| {
                let (owned, parked) = state.pools.counts(id);
                let general = state.slots.in_flight_count() + state.finished.len();
                general + state.pools.in_flight_count() - (owned + parked)
            });
        } else if limit > 0 {
            state.pools.refuse_if_dead(id)?;
            state.check()?;
        }
        Ok(count)
    }

    /// Wait until [`Self::pool_reap`] has something to hand out (or an error to tell); false when
    /// time is up, and at once if nothing of the pool is in flight. `tick` as in [`Self::finish`].
    pub fn pool_wait<E: From<QueueError>>(
        &self,
        id: PoolId,
        deadline: Option<Instant>,
        tick: impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        self.wait_for(&OfPool(id), deadline, tick)
    }

    /// As [`Self::spin`], for [`Self::pool_wait`].
    pub fn spin_pool_wait(&self, id: PoolId) -> Result<Option<bool>, QueueError> {
        self.spin_for(&OfPool(id))
    }

    /// Give up a pool of which nothing is in flight, or whose queue is of no more use: its
    /// descriptors are free again. Its memory stays pinned while the device may own some of it.
    pub fn close_pool(&self, id: PoolId) -> Result<(), QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let usable = state.check().is_ok() && state.pools.check(id).is_ok();
        let (owned, parked) = state.pools.counts(id);
        if usable && owned + parked > 0 {
            let count = owned + parked;
            let requests = if count == 1 { "request" } else { "requests" };
            let why = format!("{count} {requests} of the slot pool in flight, or not reaped; reap");
            return Err(QueueError::State(format!("{why} what there is, then close it")));
        }
        self.drop_locked(state, id);
        Ok(())
    }

    /// Give a pool up, whatever is in flight: that is forgotten when it comes back, and only then
    /// its descriptors are free, and its memory unpinned.
    pub fn drop_pool(&self, id: PoolId) {
        self.drop_locked(&mut self.lock(), id);
    }

    fn drop_locked(&self, state: &mut State<R>, id: PoolId) {
        state.pools.drop_pool(id, state.slots.ring_mut());
        // There may be room for others now.
        if !state.backlog.is_empty() && state.check().is_ok() {
            state.push_backlog();
            self.publish(state);
        }
        self.wake_all();
    }

    /// All pools are of no more use: every later call says why, and what is in flight is forgotten
    /// when it comes back.
    pub fn end_pools(&self, why: String) {
        self.lock().pools.end(&QueueError::State(why));
        self.wake_all();
    }
}

/// Something of a pool to hand out, be it an error; whether that came.
struct OfPool(PoolId);

impl<R: Ring> Awaited<R> for OfPool {
    type Outcome = bool;

    fn look(&self, state: &mut State<R>) -> Result<Option<bool>, QueueError> {
        let (owned, parked) = state.pools.counts(self.0);
        if parked > 0 || state.pools.check(self.0).is_err() || state.check().is_err() {
            return Ok(Some(true));
        }
        Ok((owned == 0).then_some(false))
    }

    fn lacks(&self, _: &mut State<R>) -> usize {
        1
    }

    fn timed_out(&self, _: &mut State<R>) -> Result<bool, QueueError> {
        Ok(false)
    }
}
