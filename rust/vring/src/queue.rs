//! A request queue that many threads may use: batches in and out, a doorbell, and a way to wait.
//!
//! One lock guards the ring, held only for ring work, never while waiting and never while calling
//! back. One waiter at a time sits in epoll, reaps for all when it wakes, and hands the role on;
//! the others wait on a condition variable. No wait is longer than [`TICK`], so that each caller
//! can look at its deadline and at signals.
//!
//! Batches that do not fit wait in a backlog and are submitted in the order of their arrival, by
//! whoever reaps next; nothing overtakes them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shm::{Claim, DmaSpace, Doorbell, EventFd, Poller, Ready, Watch};

use crate::batch::{BatchId, Batches};
use crate::error::PushError;
use crate::pace::{Pace, Step};
use crate::queue_error::{NewQueueError, QueueError};
use crate::queue_state::{Owner, State, of_push};
use crate::request::{Completion, Limits, Request};
use crate::ring::Ring;
use crate::slots::RequestSlots;

/// The longest uninterrupted wait.
pub const TICK: Duration = Duration::from_millis(100);

/// Rounds of doing nothing between two looks, when others may have the lock.
const LOOK_PAUSE: usize = 32;

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
            slots: RequestSlots::new(ring, space, slots, legacy)?,
            limits,
            batches: Batches::default(),
            backlog: VecDeque::new(),
            finished: VecDeque::new(),
            waiter: false,
            polling: wires.interrupt.is_none(),
            pace: Pace::default(),
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
        state.slots.in_flight_count() + state.finished.len()
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
        state.pace.restart();
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
    pub fn submit_many(&self, requests: &[Request]) -> Result<usize, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        let pins = state.check_all(requests)?;
        if !state.backlog.is_empty() {
            return Ok(0);
        }
        let mut count = 0;
        let mut failed = None;
        for (request, pin) in requests.iter().zip(pins) {
            let owner = Owner::Token(request.token);
            match state.slots.push(request, pin, &state.limits, owner) {
                Ok(()) => count += 1,
                Err((PushError::Full { .. }, _)) => break,
                Err((error, _)) => {
                    failed = Some(of_push(error));
                    break;
                }
            }
        }
        self.publish(state);
        // What was accepted is on its way; the caller must know of it first.
        failed.filter(|_| count == 0).map_or(Ok(count), Err)
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
            state.armed_by_owner = false;
            if !state.waiter {
                state.slots.ring_mut().disarm();
            }
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
        let handed_over = state.finished.len();
        let (reaped, _) = state.reap(0, |_| ());
        if state.armed_by_owner && state.finished.len() > handed_over {
            // The device may have been told since that nobody waits for this one. If the signal
            // fails, the loop finds out with the next interrupt.
            let _ = self.handed_over.signal();
        }
        self.after_reap(state, reaped);
    }

    /// There is room now, and perhaps news for those who wait.
    fn after_reap(&self, state: &mut State<R>, reaped: usize) {
        if reaped == 0 {
            return;
        }
        state.pace.restart();
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
    pub fn begin(&self, requests: Vec<Request>) -> Result<Execution, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        let pins = state.check_all(&requests)?;
        let count = requests.len();
        let batch = state.batches.open(requests, pins, state.limits);
        state.backlog.push_back(batch);
        state.push_backlog();
        self.publish(state);
        Ok(Execution { batch, count })
    }

    /// Look whether a batch is complete: then its statuses, and it has come to its end.
    pub fn advance(&self, execution: &Execution) -> Result<Option<Vec<u8>>, QueueError> {
        self.advance_locked(&mut self.lock(), execution)
    }

    fn advance_locked(
        &self,
        state: &mut State<R>,
        execution: &Execution,
    ) -> Result<Option<Vec<u8>>, QueueError> {
        self.reap_for_all(state);
        let id = execution.batch;
        let Some(batch) = state.batches.get_mut(id) else { return Err(QueueError::Reset) };
        if batch.is_complete() {
            return Ok(Some(state.batches.close(id)));
        }
        if let Some(error) = &batch.failed {
            return Err(error.clone());
        }
        state.check()?;
        Ok(None)
    }

    /// Look at the batch again and again for at most `spin`; its statuses if it is complete.
    pub fn spin(
        &self,
        execution: &Execution,
        spin: Duration,
    ) -> Result<Option<Vec<u8>>, QueueError> {
        let start = Instant::now();
        loop {
            let statuses = self.advance(execution)?;
            if statuses.is_some() || start.elapsed() >= spin {
                return Ok(statuses);
            }
            std::hint::spin_loop();
        }
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
        let mut ticker = Ticker::new(tick);
        loop {
            let mut guard = self.lock();
            if let Some(statuses) = self.advance_locked(&mut guard, execution)? {
                return Ok(statuses);
            }
            let Some(wait) = remaining(deadline) else {
                let batch = guard.batches.get_mut(execution.batch);
                let completed = batch.map_or(0, |batch| batch.completed_count());
                return Err(QueueError::Timeout { completed, total: execution.count }.into());
            };
            ticker.after(self.wait_turn(guard, wait))?;
        }
    }

    /// Give a batch up; the statuses so far. What of it was not submitted never will be; what the
    /// device still owns stays pinned until it comes back, and is then forgotten.
    pub fn end(&self, execution: Execution) -> Vec<u8> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let statuses = state.batches.close(execution.batch);
        state.backlog.retain(|&waiting| waiting != execution.batch);
        // It may have been what the others waited behind.
        if state.check().is_ok() && !state.backlog.is_empty() {
            state.push_backlog();
            self.publish(state);
        }
        self.wake_sleepers(state);
        statuses
    }

    /// Wait until there is something to reap (or an error to tell); false when time is up, and at
    /// once if nothing is in flight. `tick` as in [`Self::finish`].
    pub fn wait<E: From<QueueError>>(
        &self,
        deadline: Option<Instant>,
        tick: impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut ticker = Ticker::new(tick);
        loop {
            let mut guard = self.lock();
            self.reap_for_all(&mut guard);
            if !guard.finished.is_empty() || guard.check().is_err() {
                return Ok(true);
            }
            if guard.slots.in_flight_count() == 0 {
                return Ok(false);
            }
            let Some(wait) = remaining(deadline) else { return Ok(false) };
            ticker.after(self.wait_turn(guard, wait))?;
        }
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
    /// there is something to reap already. It stays asked for until `reap_many` finds something,
    /// whatever other threads do. A queue that polls asks for none.
    pub fn arm(&self) -> Result<bool, QueueError> {
        let mut state = self.lock();
        // What woke the caller is taken out: else the descriptor would stay readable, and an
        // event loop that watches it would spin.
        let ready = self.watch.wait(Duration::ZERO).map(Iterator::collect);
        Self::note(&mut state, ready);
        self.handed_over.drain();
        state.check()?;
        state.armed_by_owner = true;
        if state.polling {
            // What a waiter reaps for the caller is still told to the loop.
            return Ok(state.slots.ring().has_used() || !state.finished.is_empty());
        }
        let more = state.slots.ring_mut().arm().map_err(QueueError::Broken)?;
        Ok(more || !state.finished.is_empty())
    }

    /// Wait once, for at most `wait`: in epoll if nobody else does, else for the one who does.
    /// Whether something came of it.
    fn wait_turn(&self, mut state: MutexGuard<'_, State<R>>, wait: Duration) -> bool {
        if state.waiter {
            state.sleepers += 1;
            let waited = self.turn.wait_timeout(state, wait);
            let (mut state, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
            state.sleepers -= 1;
            return !outcome.timed_out();
        }
        if state.polling {
            return self.poll_turn(state, wait);
        }
        if state.slots.ring_mut().arm() != Ok(false) {
            Self::disarm(&mut state);
            return true;
        }
        state.waiter = true;
        drop(state);
        let ready = self.poller.wait(wait).map(Iterator::collect);
        let mut state = self.lock();
        state.waiter = false;
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
                let ready = self.poller.wait(nap).map(Iterator::collect);
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
    fn note(state: &mut State<R>, ready: io::Result<Vec<Ready>>) -> bool {
        match ready {
            Ok(ready) => {
                if ready.iter().any(|ready| ready.token == HANG_UP) {
                    state.give_up("the device hung up; close the disk and open it again");
                }
                !ready.is_empty()
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
        state.backlog.clear();
        state.armed_by_owner = false;
        state.kick_due = false;
        drop(guard);
        self.wake_all();
        lost
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
