//! A request queue that many threads may use: batches in and out, a doorbell, and a way to wait.
//!
//! One lock guards the ring, held only for ring work, never while waiting and never while calling
//! back. One waiter at a time sits in epoll, reaps for all when it wakes, and hands the role on;
//! the others wait on a condition variable. No wait is longer than [`TICK`], so that each caller
//! can look at its deadline and at signals. Before it sleeps, a wait looks at the ring for a moment
//! if that has paid of late (`pace`); and it asks to be woken no sooner than there can be something
//! for it to do ([`BlockQueue::lacks`]).
//!
//! Batches that do not fit wait in a backlog and are submitted in the order of their arrival, by
//! whoever reaps next; nothing overtakes them.

mod pools;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shm::{Claim, DmaSpace, Doorbell, EventFd, Poller, Ready, Watch};

use crate::batch::{BatchId, Batches};
use crate::pace::{LONGEST_SPIN, Pace, Spin, Step};
use crate::pools::Pools;
use crate::queue_error::{NewQueueError, QueueError};
use crate::queue_state::{Owner, State};
use crate::request::{Completion, Limits, Request};
use crate::ring::Ring;
use crate::single::Singles;
use crate::slots::RequestSlots;

/// The longest uninterrupted wait.
pub const TICK: Duration = Duration::from_millis(100);

/// Rounds of doing nothing between two looks, when others may have the lock.
const LOOK_PAUSE: usize = 32;
/// The same in a spin before a sleep.
const SPIN_PAUSE: usize = 8;
/// The same where a single completion is looked for, which is to be found at once.
const SHORT_PAUSE: usize = 4;

/// What waits for room is submitted when one part in so many of what is in flight has come back.
const REFILL_PART: u16 = 4;

/// A spin looks for no more completions than this: so many come in time from a device that is worth
/// to be looked at, and a batch of them costs both sides less than one by one.
const SPIN_MOST: u16 = 8;

/// Of a pool whose queue was reset, and goes on.
const POOL_LOST: &str = "the queue was reset, and the slot pool is lost; make a new one";

const INTERRUPT: u64 = 0;
const HANG_UP: u64 = 1;
const WAKE: u64 = 2;

/// How a queue reaches its device.
#[derive(Debug, Default)]
pub struct Wires {
    /// Notifies the device.
    pub doorbell: Arc<Doorbell>,
    /// Signalled by the device; never read. `None`: the ring is looked at instead.
    pub interrupt: Option<OwnedFd>,
    /// Hangs up when the device has gone.
    pub hangup: Option<OwnedFd>,
}

/// A block request queue on a ring of either format.
#[derive(Debug)]
pub struct BlockQueue<R: Ring> {
    state: Mutex<State<R>>,
    turn: Condvar,
    /// Where the waiter sits.
    poller: Poller,
    /// What the owner's event loop watches. One of its own, as a wait takes edges away.
    watch: Poller,
    /// Wakes the waiter in epoll: the queue was given up, or its request reaped by another.
    wake: EventFd,
    /// Wakes the owner's event loop: a waiter reaped what is the loop's.
    handed_over: EventFd,
    /// Who waits for something now, in whatever way.
    waiting: AtomicUsize,
    size: u16,
    layout: R::Layout,
    /// The pollers watch some of these, and do not own them.
    wires: Wires,
}

/// A batch that was begun; its owner brings it to its end with [`BlockQueue::finish`], or gives
/// it up with [`BlockQueue::end`].
#[must_use]
#[derive(Debug)]
pub struct Execution {
    batch: BatchId,
    count: usize,
}

/// A request that was sent alone; its owner fetches its status with [`BlockQueue::finish_single`],
/// or gives it up with [`BlockQueue::forget`].
#[must_use]
#[derive(Debug)]
pub struct Single(u64);

impl<R: Ring> BlockQueue<R> {
    /// A queue on `ring`, with its slots in `slots`. Interrupts start switched off.
    pub fn new(
        mut ring: R,
        space: DmaSpace,
        slots: Claim,
        limits: Limits,
        legacy: bool,
        wires: Wires,
    ) -> Result<Self, NewQueueError> {
        let (poller, watch) = (Poller::new()?, Poller::new()?);
        let (wake, handed_over) = (EventFd::new()?, EventFd::new()?);
        poller.add(&wake, WAKE, Watch::Edge)?;
        watch.add(&handed_over, WAKE, Watch::Edge)?;
        for poller in [&poller, &watch] {
            if let Some(fd) = &wires.interrupt {
                poller.add(fd, INTERRUPT, Watch::Edge)?;
            }
            if let Some(fd) = &wires.hangup {
                poller.add(fd, HANG_UP, Watch::HangUp)?;
            }
        }
        let (size, layout) = (ring.size(), *ring.layout());
        ring.disarm();
        let state = State {
            pools: Pools::new(size),
            slots: RequestSlots::new(ring, space, slots, legacy)?,
            limits,
            batches: Batches::default(),
            singles: Singles::default(),
            backlog: VecDeque::new(),
            loaded: Vec::new(),
            finished: VecDeque::new(),
            waiter: false,
            polling: wires.interrupt.is_none(),
            pace: Pace::default(),
            spin: Spin::default(),
            far: false,
            sleepers: 0,
            armed_by_owner: false,
            gone: None,
            kick_due: false,
            kick_count: 0,
        };
        Ok(Self {
            state: Mutex::new(state),
            turn: Condvar::new(),
            poller,
            watch,
            wake,
            handed_over,
            waiting: AtomicUsize::new(0),
            size,
            layout,
            wires,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the parts of the ring lie.
    pub fn layout(&self) -> &R::Layout {
        &self.layout
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Requests of the longest shape that fit at once.
    pub fn depth(&self) -> usize {
        let state = self.lock();
        state.slots.depth(&state.limits)
    }

    /// Requests that the device owns, or whose completion nobody has taken.
    pub fn in_flight(&self) -> usize {
        let state = self.lock();
        state.slots.in_flight_count() + state.finished.len() + state.pools.in_flight_count()
    }

    /// Why the queue can no longer be used, if so.
    pub fn broken(&self) -> Option<String> {
        self.lock().check().err().map(|error| error.to_string())
    }

    /// Completions whose length was larger than the chain's writable part.
    pub fn clamped_count(&self) -> u64 {
        self.lock().slots.ring().clamped_count()
    }

    /// How often the device was notified, or was to be by the owner.
    pub fn kick_count(&self) -> u64 {
        self.lock().kick_count
    }

    /// What requests may ask for.
    pub fn limits(&self) -> Limits {
        self.lock().limits
    }

    /// Change what requests may ask for from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// An epoll descriptor for the owner's event loop: readable, once armed, with a completion or
    /// a hang-up.
    pub fn poll_fd(&self) -> RawFd {
        self.watch.as_raw_fd()
    }

    /// For a queue without a doorbell: whether a kick is due, and forget it.
    pub fn take_kick(&self) -> bool {
        std::mem::take(&mut self.lock().kick_due)
    }

    /// Make what was pushed visible, and ring if the device wants that.
    fn publish(&self, state: &mut State<R>) {
        state.note_news();
        // One that was given up stays away from the wires: its place may be another's by now. A
        // broken ring has nothing to publish; the next check tells of it.
        if state.gone.is_some() || state.slots.ring_mut().publish() != Ok(true) {
            return;
        }
        state.kick_count += 1;
        match self.wires.doorbell.ring(state.slots.ring().next_available()) {
            Ok(rung) => state.kick_due |= !rung,
            Err(error) => {
                state.give_up(format!("the device cannot be notified: {error}"));
                self.wake_sleepers(state);
            }
        }
    }

    /// Submit from the front as many as fit; how many. None while batches wait for room.
    pub fn submit_many(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<usize, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        state.load(requests)?;
        let pushed = state.push_loaded(|request| Owner::Token(request.token));
        self.publish(state);
        pushed
    }

    /// Hand at most `limit` completions of submitted requests to `out`; how many there were.
    pub fn reap_many(
        &self,
        limit: usize,
        mut out: impl FnMut(Completion),
    ) -> Result<usize, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let earlier = state.finished.len().min(limit);
        state.finished.drain(..earlier).for_each(&mut out);
        let mut count = earlier;
        if earlier < limit {
            // Also of a device that has gone: what it finished before that is finished.
            let (reaped, handed) = state.reap(limit - earlier, out);
            count += handed;
            self.after_reap(state, reaped);
        }
        if count > 0 {
            state.note_handed(|state| state.pools.in_flight_count());
        } else if limit > 0 {
            state.check()?;
        }
        Ok(count)
    }

    /// Reap all that is ready, to whomever it belongs.
    fn reap_for_all(&self, state: &mut State<R>) {
        if !state.slots.ring().has_used() {
            return;
        }
        let kept_before = state.kept_count();
        let (reaped, _) = state.reap(0, |_| ());
        self.hand_over(state, kept_before);
        self.after_reap(state, reaped);
    }

    /// More was kept than before for those who have yet to ask, perhaps in an event loop.
    fn hand_over(&self, state: &State<R>, kept_before: usize) {
        if state.armed_by_owner && state.kept_count() > kept_before {
            // The device may have been told since that nobody waits for this one. If the signal
            // fails, the loop finds out with the next interrupt.
            let _ = self.handed_over.signal();
        }
    }

    /// There is room now, and perhaps news for those who wait.
    fn after_reap(&self, state: &mut State<R>, reaped: usize) {
        if reaped == 0 {
            return;
        }
        state.note_news();
        if !state.backlog.is_empty() {
            state.push_backlog();
            self.publish(state);
        }
        self.wake_sleepers(state);
        if state.waiter && state.armed_by_owner {
            // The owner's `arm` may have moved the event behind what the waiter waits for.
            let _ = self.wake.signal();
        }
    }

    /// Begin a batch: check all of it, submit what fits.
    pub fn begin(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Execution, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        state.load(requests)?;
        let (batch, count) = state.open_loaded();
        self.publish(state);
        Ok(Execution { batch, count })
    }

    /// Look whether a batch is complete: then its statuses, and it has come to its end.
    pub fn advance(&self, execution: &Execution) -> Result<Option<Vec<u8>>, QueueError> {
        let mut state = self.lock();
        self.reap_for_all(&mut state);
        execution.look(&mut state)
    }

    /// Look at the batch again and again for a moment, if that has paid of late; its statuses if it
    /// is complete.
    pub fn spin(&self, execution: &Execution) -> Result<Option<Vec<u8>>, QueueError> {
        self.spin_for(execution)
    }

    /// Wait until a batch is complete; its statuses. `tick` is called about every [`TICK`], and
    /// when a signal came, with nothing locked; its error ends the wait. After an error the batch
    /// is still there, for [`Self::end`].
    pub fn finish<E: From<QueueError>>(
        &self,
        execution: &Execution,
        deadline: Option<Instant>,
        tick: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        self.wait_for(execution, deadline, tick)
    }

    /// Check one request and send it at once; `None` if it has to wait for room, or for others.
    pub fn send(&self, request: &Request) -> Result<Option<Single>, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        state.load([*request])?;
        let number = state.singles.next();
        if state.push_loaded(|_| Owner::Single(number))? == 0 {
            return Ok(None);
        }
        state.singles.note_sent();
        self.publish(state);
        Ok(Some(Single(number)))
    }

    /// As [`Self::spin`], for a single request; its status if it is complete.
    pub fn spin_single(&self, single: &Single) -> Result<Option<u8>, QueueError> {
        self.spin_for(single)
    }

    /// As [`Self::finish`], for a single request; its status. After an error it is to be forgotten.
    pub fn finish_single<E: From<QueueError>>(
        &self,
        single: &Single,
        deadline: Option<Instant>,
        tick: impl FnMut() -> Result<(), E>,
    ) -> Result<u8, E> {
        self.wait_for(single, deadline, tick)
    }

    /// Give a single request up: what the device still owns of it stays pinned until it comes back.
    pub fn forget(&self, single: Single) {
        self.lock().singles.forget(single.0);
    }

    /// Look again and again, as long as what is lacked comes within the time that has paid of late,
    /// and for [`LONGEST_SPIN`] in all.
    fn spin_for<A: Awaited<R>>(&self, awaited: &A) -> Result<Option<A::Outcome>, QueueError> {
        let mut guard = self.lock();
        let mut started = None;
        loop {
            let state = &mut *guard;
            self.reap_for_all(state);
            if let Some(outcome) = awaited.look(state)? {
                return Ok(Some(outcome));
            }
            let spent = started.map_or(Duration::ZERO, |first: Instant| first.elapsed());
            let spin = state.spin.budget().min(LONGEST_SPIN.saturating_sub(spent));
            if spin.is_zero() {
                return Ok(None);
            }
            let lacks = self.lacks(state, awaited);
            drop(guard);
            let start = Instant::now();
            started.get_or_insert(start);
            guard = self.look_again(start, spin, lacks);
        }
    }

    /// Wait until there is what is awaited, by the clock of `deadline`; `tick` as in
    /// [`Self::finish`].
    fn wait_for<A: Awaited<R>, E: From<QueueError>>(
        &self,
        awaited: &A,
        deadline: Option<Instant>,
        tick: impl FnMut() -> Result<(), E>,
    ) -> Result<A::Outcome, E> {
        let _waiting = Waiting::new(&self.waiting);
        let mut ticker = Ticker::new(tick);
        loop {
            let mut guard = self.lock();
            self.reap_for_all(&mut guard);
            if let Some(outcome) = awaited.look(&mut guard)? {
                return Ok(outcome);
            }
            let Some(wait) = remaining(deadline) else { return Ok(awaited.timed_out(&mut guard)?) };
            let lacks = self.lacks(&mut guard, awaited);
            ticker.after(self.wait_turn(guard, wait, lacks))?;
        }
    }

    /// How many completions have to come before it is worth while to be woken.
    ///
    /// One, if anybody else waits: what he lacks is not asked. Who waits alone lacks what is left of
    /// his batch. Where something waits for room as well, that is to be refilled in time: as soon as
    /// a part of what the device has has come back, whichever part. A request that takes long delays
    /// that by nothing, as any of the others count. Should so many take long that the rest does not
    /// suffice, then these keep the device busy with all but that part of what fits; and about every
    /// [`TICK`] each wait looks for itself.
    fn lacks<A: Awaited<R>>(&self, state: &mut State<R>, awaited: &A) -> u16 {
        // Who comes later finds the waiter and wakes him (`wait_turn`, `arm`).
        if self.waiting.load(Relaxed) > 1 || state.armed_by_owner {
            return 1;
        }
        let outstanding = state.slots.ring().outstanding_count();
        let most = if state.backlog.is_empty() { outstanding } else { outstanding / REFILL_PART };
        let lacks = awaited.lacks(state).min(most.into()).max(1);
        u16::try_from(lacks).unwrap_or(1)
    }

    /// Give a batch up; the statuses so far. What of it was not submitted never will be; what the
    /// device still owns stays pinned until it comes back, and is then forgotten.
    pub fn end(&self, execution: Execution) -> Vec<u8> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let statuses = state.close(execution.batch);
        state.backlog.retain(|&waiting| waiting != execution.batch);
        // It may have been what the others waited behind.
        if state.check().is_ok() && !state.backlog.is_empty() {
            state.push_backlog();
            self.publish(state);
        }
        self.wake_sleepers(state);
        statuses
    }

    /// As [`Self::spin`], for [`Self::wait`].
    pub fn spin_wait(&self) -> Result<Option<bool>, QueueError> {
        self.spin_for(&Anything)
    }

    /// Wait until there is something to reap (or an error to tell); false when time is up, and at
    /// once if nothing is in flight. `tick` as in [`Self::finish`].
    pub fn wait<E: From<QueueError>>(
        &self,
        deadline: Option<Instant>,
        tick: impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        self.wait_for(&Anything, deadline, tick)
    }

    /// Whether waits look at the ring instead of asking for an interrupt.
    pub fn polling(&self) -> bool {
        self.lock().polling
    }

    /// Let waits look at the ring, and never ask for an interrupt; or ask for one again. Whether
    /// that can be: a device that gives none is polled in any case. Who polls by choice looks for
    /// 1 ms before he naps, and else for 50 us.
    pub fn set_polling(&self, polling: bool) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        if self.wires.interrupt.is_none() {
            return polling;
        }
        state.polling = polling;
        state.pace.restart();
        if polling {
            state.slots.ring_mut().disarm();
        }
        drop(guard);
        // Who waits goes on in the other way, and the owner's event loop looks again.
        self.wake_all();
        true
    }

    /// Ask for an interrupt at the next completion, before waiting on [`Self::poll_fd`]; whether
    /// there is something to reap already. It stays asked for, whatever other threads do, until
    /// `reap_many` finds something while no pool has anything in flight, or `pool_reap` while nobody
    /// else has. A queue that polls asks for none.
    pub fn arm(&self) -> Result<bool, QueueError> {
        let mut state = self.lock();
        // What woke the caller is taken out: else the descriptor would stay readable, and an
        // event loop that watches it would spin.
        let ready = self.watch.wait(Duration::ZERO);
        Self::note(&mut state, ready);
        self.handed_over.drain();
        state.check()?;
        state.armed_by_owner = true;
        self.bring_forward(&mut state);
        if state.polling {
            // What a waiter reaps for the caller is still told to the loop.
            return Ok(state.slots.ring().has_used() || state.kept_count() > 0);
        }
        let more = state.slots.ring_mut().arm().map_err(QueueError::Broken)?;
        Ok(more || state.kept_count() > 0)
    }

    /// The waiter, if he asked to be woken further ahead, asks for the next completion from now on.
    fn bring_forward(&self, state: &mut State<R>) {
        if std::mem::take(&mut state.far) {
            // If it fails, he does so at his next tick.
            let _ = self.wake.signal();
        }
    }

    /// Wait once, for at most `wait`, until `lacks` completions have come: by looking where that
    /// pays, then in epoll if nobody else does, else for the one who does. Whether something came
    /// of it.
    fn wait_turn(&self, mut state: MutexGuard<'_, State<R>>, wait: Duration, lacks: u16) -> bool {
        if state.waiter {
            self.bring_forward(&mut state);
            state.sleepers += 1;
            let waited = self.turn.wait_timeout(state, wait);
            let (mut state, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
            state.sleepers -= 1;
            return !outcome.timed_out();
        }
        let spin = state.spin.budget();
        if !spin.is_zero() {
            state.waiter = true;
            drop(state);
            let mut state = self.look_again(Instant::now(), spin.min(wait), lacks);
            state.waiter = false;
            self.wake_sleepers(&state);
            return true;
        }
        if state.polling {
            return self.poll_turn(state, wait);
        }
        if state.slots.ring_mut().arm_ahead(lacks) != Ok(false) {
            Self::disarm(&mut state);
            return true;
        }
        (state.waiter, state.far) = (true, lacks > 1);
        drop(state);
        let ready = self.poller.wait(wait);
        let mut state = self.lock();
        (state.waiter, state.far) = (false, false);
        Self::disarm(&mut state);
        let came = Self::note(&mut state, ready);
        // The role is free again; whoever still waits takes it.
        self.wake_sleepers(&state);
        came
    }

    /// The same for a queue that polls: a look or a nap. A nap that was cut short
    /// brings something, or comes of a signal.
    fn poll_turn(&self, mut state: MutexGuard<'_, State<R>>, wait: Duration) -> bool {
        let step = state.pace.step(self.wires.interrupt.is_some());
        state.waiter = true;
        drop(state);
        let (mut state, came) = match step {
            Step::Look(look) => (self.look(look.min(wait)), true),
            Step::Nap(nap) => {
                let (nap, start) = (nap.min(wait), Instant::now());
                let ready = self.poller.wait(nap);
                let whole = start.elapsed() >= nap;
                let mut state = self.lock();
                let came = Self::note(&mut state, ready);
                (state, came || whole)
            }
        };
        state.waiter = false;
        // The role is free again; whoever still waits takes it.
        self.wake_sleepers(&state);
        came
    }

    /// Look until so many chains were used (or [`SPIN_MOST`]), but not for longer than `spin`, and
    /// note whether that paid; locked again.
    fn look_again(&self, start: Instant, spin: Duration, lacks: u16) -> MutexGuard<'_, State<R>> {
        let lacks = lacks.min(SPIN_MOST);
        let pause = if lacks > 1 { SPIN_PAUSE } else { SHORT_PAUSE };
        loop {
            for _ in 0..pause {
                std::hint::spin_loop();
            }
            let mut state = self.lock();
            let paid = state.slots.ring().has_used_many(lacks);
            if paid || start.elapsed() >= spin {
                state.spin.note(paid);
                return state;
            }
        }
    }

    /// Look until something was used, or for so long; locked again.
    fn look(&self, look: Duration) -> MutexGuard<'_, State<R>> {
        let start = Instant::now();
        loop {
            let state = self.lock();
            if state.slots.ring().has_used() || start.elapsed() >= look {
                return state;
            }
            drop(state);
            if self.wires.interrupt.is_some() {
                // A long look, by choice: the device may need this very processor to answer.
                std::thread::yield_now();
            }
            for _ in 0..LOOK_PAUSE {
                std::hint::spin_loop();
            }
        }
    }

    /// Interrupts are off while nobody sleeps, unless the owner's event loop does.
    fn disarm(state: &mut State<R>) {
        if !state.armed_by_owner {
            state.slots.ring_mut().disarm();
        }
    }

    /// Note what epoll found; whether it found anything.
    fn note(state: &mut State<R>, ready: io::Result<impl Iterator<Item = Ready>>) -> bool {
        match ready {
            Ok(ready) => {
                let mut found = false;
                for ready in ready {
                    found = true;
                    if ready.token == HANG_UP {
                        state.give_up("the device hung up; close the disk and open it again");
                    }
                }
                found
            }
            Err(error) => {
                state.give_up(format!("waiting for the device failed: {error}"));
                true
            }
        }
    }

    /// Give the queue up for good: every waiter and every later call gets an error with this
    /// reason (or an earlier one).
    pub fn abort(&self, reason: String) {
        self.lock().give_up(reason);
        self.wake_all();
    }

    /// Only if there are any: waking nobody is a system call, too.
    fn wake_sleepers(&self, state: &State<R>) {
        if state.sleepers > 0 {
            self.turn.notify_all();
        }
    }

    fn wake_all(&self) {
        self.turn.notify_all();
        // If it fails, the waiter finds out at its next tick.
        let _ = self.wake.signal();
        let _ = self.handed_over.signal();
    }

    /// After a confirmed reset only: forget all requests in flight; the tokens of those that were
    /// submitted and never completed. Completions that nobody has taken are kept, and a queue that
    /// was given up stays so; apart from that it is as new.
    pub fn reclaim(&self) -> Vec<u64> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut lost = Vec::new();
        state.slots.reclaim(|owner| {
            if let Owner::Token(token) = owner {
                lost.push(token);
            }
        });
        state.slots.ring_mut().disarm();
        let why = state.gone.clone().map_or(QueueError::Reset, QueueError::Gone);
        state.batches.fail_all(&why);
        state.singles.lose_all();
        state.pools.reclaim(&match why {
            QueueError::Reset => QueueError::State(POOL_LOST.into()),
            gone => gone,
        });
        state.backlog.clear();
        state.armed_by_owner = false;
        state.kick_due = false;
        drop(guard);
        self.wake_all();
        lost
    }
}

/// What somebody waits for.
trait Awaited<R: Ring> {
    type Outcome;

    /// Look whether it is there, among what was reaped.
    fn look(&self, state: &mut State<R>) -> Result<Option<Self::Outcome>, QueueError>;

    /// How many completions have to come at least before it can be there.
    fn lacks(&self, state: &mut State<R>) -> usize;

    /// Time is up, and it is not there.
    fn timed_out(&self, state: &mut State<R>) -> Result<Self::Outcome, QueueError>;
}

impl<R: Ring> Awaited<R> for Execution {
    type Outcome = Vec<u8>;

    fn look(&self, state: &mut State<R>) -> Result<Option<Vec<u8>>, QueueError> {
        let Some(batch) = state.batches.get_mut(self.batch) else { return Err(QueueError::Reset) };
        if batch.is_complete() {
            return Ok(Some(state.close(self.batch)));
        }
        if let Some(error) = &batch.failed {
            return Err(error.clone());
        }
        state.check()?;
        Ok(None)
    }

    fn lacks(&self, state: &mut State<R>) -> usize {
        let batch = state.batches.get_mut(self.batch);
        batch.map_or(0, |batch| self.count - batch.completed_count())
    }

    fn timed_out(&self, state: &mut State<R>) -> Result<Vec<u8>, QueueError> {
        let batch = state.batches.get_mut(self.batch);
        let completed = batch.map_or(0, |batch| batch.completed_count());
        Err(QueueError::Timeout { completed, total: self.count })
    }
}

impl<R: Ring> Awaited<R> for Single {
    type Outcome = u8;

    fn look(&self, state: &mut State<R>) -> Result<Option<u8>, QueueError> {
        if let Some(status) = state.singles.fetch(self.0) {
            return Ok(Some(status));
        }
        if state.singles.is_lost(self.0) {
            return Err(state.gone.clone().map_or(QueueError::Reset, QueueError::Gone));
        }
        state.check()?;
        Ok(None)
    }

    fn lacks(&self, _: &mut State<R>) -> usize {
        1
    }

    fn timed_out(&self, _: &mut State<R>) -> Result<u8, QueueError> {
        Err(QueueError::Timeout { completed: 0, total: 1 })
    }
}

/// Something for `reap_many` to hand out, be it an error; whether that came. There is nothing to
/// wait for when nothing is in flight.
struct Anything;

impl<R: Ring> Awaited<R> for Anything {
    type Outcome = bool;

    fn look(&self, state: &mut State<R>) -> Result<Option<bool>, QueueError> {
        if !state.finished.is_empty() || state.check().is_err() {
            return Ok(Some(true));
        }
        // What was forgotten is waited for as well, by who drains the queue.
        let in_flight = state.slots.in_flight_count() + state.pools.forgotten_count();
        Ok((in_flight == 0).then_some(false))
    }

    fn lacks(&self, _: &mut State<R>) -> usize {
        1
    }

    fn timed_out(&self, _: &mut State<R>) -> Result<bool, QueueError> {
        Ok(false)
    }
}

/// Counted among those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Calls `tick` when a wait came to nothing (time, or a signal), and else about every [`TICK`]:
/// for Python it takes the interpreter's lock, which is too dear for every wake-up.
struct Ticker<T> {
    tick: T,
    last: Instant,
}

impl<E, T: FnMut() -> Result<(), E>> Ticker<T> {
    fn new(tick: T) -> Self {
        Self { tick, last: Instant::now() }
    }

    fn after(&mut self, something_came: bool) -> Result<(), E> {
        if something_came && self.last.elapsed() < TICK {
            return Ok(());
        }
        (self.tick)()?;
        self.last = Instant::now();
        Ok(())
    }
}

/// How long to wait at once; `None` when time is up.
fn remaining(deadline: Option<Instant>) -> Option<Duration> {
    let Some(deadline) = deadline else { return Some(TICK) };
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(TICK))
}
