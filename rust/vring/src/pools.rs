//! The slot pools of a queue, and whose a chain is.

use crate::pool::{Pool, PoolWay, SlotStatus};
use crate::queue_error::QueueError;
use crate::request::Limits;
use crate::ring::{Ring, Used};

/// A pool of a queue, by a place that is used again and a number that never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolId {
    place: u32,
    number: u64,
}

/// Whose the chain of a head is.
#[derive(Clone, Copy, Debug)]
struct Owner {
    /// Of the pool.
    place: u32,
    slot: u32,
}

/// Of no pool.
const NOBODY: Owner = Owner { place: u32::MAX, slot: 0 };

/// The pools of a queue.
#[derive(Debug)]
pub(crate) struct Pools {
    places: Vec<Option<(u64, Box<Pool>)>>,
    opened: u64,
    by_head: Box<[Owner]>,
    /// Completions that nobody has taken.
    parked: usize,
    /// The device gave back the last request of one that was dropped.
    sweep_due: bool,
}

impl Pools {
    pub(crate) fn new(size: u16) -> Self {
        let by_head = vec![NOBODY; size.into()].into();
        Self { places: Vec::new(), opened: 0, by_head, parked: 0, sweep_due: false }
    }

    /// Keep a new pool.
    pub(crate) fn add(&mut self, pool: Pool) -> PoolId {
        let free = self.places.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        let id = PoolId { place: place as u32, number: self.opened };
        self.opened += 1;
        for (slot, head) in pool.reserved_heads() {
            self.by_head[usize::from(head)] = Owner { place: id.place, slot };
        }
        self.places[place] = Some((id.number, Box::new(pool)));
        id
    }

    /// One that was dropped is there for the device alone.
    fn get(&self, id: PoolId) -> Option<&Pool> {
        match self.places.get(id.place as usize)? {
            Some((number, pool)) if *number == id.number && !pool.dropped => Some(pool),
            _ => None,
        }
    }

    /// Requests that the device owns, or whose completion nobody has taken.
    pub(crate) fn in_flight_count(&self) -> usize {
        self.all().map(Pool::owned_count).sum::<usize>() + self.parked
    }

    /// Of these, those whose completion nobody will take.
    pub(crate) fn forgotten_count(&self) -> usize {
        self.all().filter(|pool| pool.forgotten).map(Pool::owned_count).sum()
    }

    /// Completions that nobody has taken.
    #[inline]
    pub(crate) fn parked_count(&self) -> usize {
        self.parked
    }

    fn all(&self) -> impl Iterator<Item = &Pool> {
        self.places.iter().flatten().map(|(_, pool)| &**pool)
    }

    /// Of one pool: requests that the device owns, and completions that nobody has taken.
    pub(crate) fn counts(&self, id: PoolId) -> (usize, usize) {
        self.get(id).map_or((0, 0), |pool| (pool.owned_count(), pool.parked_count()))
    }

    /// Of one pool: requests that a reset lost, and of which nobody has been told.
    pub(crate) fn lost_count(&self, id: PoolId) -> usize {
        self.get(id).map_or(0, Pool::lost_count)
    }

    pub(crate) fn way(&self, id: PoolId) -> Option<PoolWay> {
        self.get(id).map(Pool::way)
    }

    /// An error if the pool can never be submitted to again.
    pub(crate) fn check(&self, id: PoolId) -> Result<(), QueueError> {
        let pool = self.get(id).ok_or_else(closed)?;
        pool.dead.clone().map_or(Ok(()), Err)
    }

    /// The same, for who tells the user of it.
    pub(crate) fn refuse_if_dead(&mut self, id: PoolId) -> Result<(), QueueError> {
        match self.places.get_mut(id.place as usize) {
            Some(Some((number, pool))) if *number == id.number && !pool.dropped => {
                pool.refuse_if_dead()
            }
            _ => Err(closed()),
        }
    }

    /// Push requests of a pool (see [`Pool::push_all`]). After an error nothing is pushed.
    #[inline]
    pub(crate) fn push_all<R: Ring>(
        &mut self,
        id: PoolId,
        ring: &mut R,
        limits: &Limits,
        held_up: bool,
        requests: impl Iterator<Item = (u32, u64)>,
    ) -> Result<usize, QueueError> {
        let Self { places, by_head, .. } = self;
        let pool = match places.get_mut(id.place as usize) {
            Some(Some((number, pool))) if *number == id.number => pool,
            _ => return Err(closed()),
        };
        pool.check(limits)?;
        let note = |head: u16, slot| {
            by_head[usize::from(head)] = Owner { place: id.place, slot };
        };
        let (index, slot, error) = match pool.push_all(ring, limits, held_up, requests, note) {
            Ok(count) => {
                pool.note_published(count);
                return Ok(count);
            }
            Err(refused) => refused,
        };
        ring.withdraw(|head| {
            let owner = &mut by_head[usize::from(head)];
            pool.take_back(owner.slot);
            if !pool.is_reserved() {
                *owner = NOBODY;
            }
        });
        Err(QueueError::Request { index, error: pool.refuse(slot, error) })
    }

    /// A pool, on its own while its completions are taken; `put_back` has to follow.
    #[inline]
    pub(crate) fn take(&mut self, id: PoolId) -> Option<Box<Pool>> {
        let place = self.places.get_mut(id.place as usize)?;
        if place.as_ref().is_none_or(|(number, _)| *number != id.number) {
            return None;
        }
        place.take().map(|(_, pool)| pool)
    }

    #[inline]
    pub(crate) fn put_back(&mut self, id: PoolId, pool: Box<Pool>) {
        self.places[id.place as usize] = Some((id.number, pool));
    }

    /// So many parked completions were taken.
    pub(crate) fn note_taken(&mut self, count: usize) {
        self.parked -= count;
    }

    /// A chain was used that is no request's of another kind. Its completion is parked, unless it is
    /// one of `mine`, which was taken out: those go to `each`, with their pool, which says whether it
    /// kept it.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        used: Used,
        mine: Option<(PoolId, &mut Pool)>,
        each: impl FnOnce(&mut Pool, SlotStatus) -> bool,
    ) {
        let head = usize::from(used.head);
        let Owner { place, slot } = self.by_head[head];
        if place == NOBODY.place {
            return;
        }
        let pool = match (mine, self.places.get_mut(place as usize)) {
            (Some((id, pool)), _) if id.place == place => {
                let status = pool.complete(slot, used);
                if !pool.is_reserved() {
                    self.by_head[head] = NOBODY;
                }
                if !each(pool, (slot, status)) {
                    pool.park((slot, status));
                    self.parked += 1;
                }
                return;
            }
            (_, Some(Some((_, pool)))) => pool,
            // No pool goes while the device owns a chain of it.
            _ => return,
        };
        let status = pool.complete(slot, used);
        if !pool.is_reserved() {
            self.by_head[head] = NOBODY;
        }
        if !pool.forgotten {
            pool.park((slot, status));
            self.parked += 1;
            return;
        }
        pool.hand_out(slot);
        self.sweep_due |= pool.dropped && pool.owned_count() == 0;
    }

    /// Let go of those that were dropped, once the device owns nothing of them.
    #[inline]
    pub(crate) fn sweep<R: Ring>(&mut self, ring: &mut R) {
        if self.sweep_due {
            self.sweep_now(ring);
        }
    }

    #[cold]
    fn sweep_now<R: Ring>(&mut self, ring: &mut R) {
        self.sweep_due = false;
        let Self { places, by_head, .. } = self;
        for place in places {
            if let Some((_, pool)) = place
                && pool.dropped
                && pool.owned_count() == 0
            {
                pool.release(ring, |head| by_head[usize::from(head)] = NOBODY);
                *place = None;
            }
        }
    }

    /// Nobody names the pool any more.
    pub(crate) fn drop_pool<R: Ring>(&mut self, id: PoolId, ring: &mut R) {
        let Some(mut pool) = self.take(id) else { return };
        self.parked -= pool.forget();
        pool.dropped = true;
        self.put_back(id, pool);
        self.sweep_now(ring);
    }

    /// All of them are of no more use, and what they have in flight is forgotten when it comes back.
    pub(crate) fn end(&mut self, why: &QueueError) {
        for (_, pool) in self.places.iter_mut().flatten() {
            pool.dead.get_or_insert_with(|| why.clone());
            self.parked -= pool.forget();
        }
    }

    /// After a confirmed reset only: the ring has forgotten all chains. Completions that nobody has
    /// taken are kept.
    pub(crate) fn reclaim(&mut self, why: &QueueError) {
        self.by_head.fill(NOBODY);
        for place in &mut self.places {
            if let Some((_, pool)) = place {
                pool.end(why.clone());
                if pool.dropped {
                    *place = None;
                }
            }
        }
    }
}

/// Of a pool that is not there any more.
pub(crate) fn closed() -> QueueError {
    QueueError::State("the slot pool has been closed".into())
}
