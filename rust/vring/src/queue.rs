//! A request queue that many threads may use: batches in and out, a doorbell, and a way to wait.
//!
//! One lock guards the ring, held only for ring work, never while waiting and never while calling
//! back. One waiter at a time sits in epoll, reaps for all when it wakes, and hands the role on;
//! the others wait on a condition variable. No wait is longer than [`TICK`], so that each caller
//! can look at its deadline and at signals.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shm::{DmaSpace, Doorbell, EventFd, Pin, Poller, Ready, Watch};

use crate::batch::{Batch, Batches};
use crate::error::{Broken, LayoutError, PushError};
use crate::layout::SplitLayout;
use crate::request::{Completion, Limits, Request, RequestError};
use crate::slots::{Finished, RequestSlots};
use crate::split::SplitQueue;

/// The longest uninterrupted wait.
pub const TICK: Duration = Duration::from_millis(100);

const INTERRUPT: u64 = 0;
const HANG_UP: u64 = 1;
const WAKE: u64 = 2;

/// Why a queue did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// A record was refused; nothing of the call was submitted.
    Request {
        /// Which, from 0.
        index: usize,
        /// Why.
        error: RequestError,
    },
    /// The device broke the rules of the ring.
    Broken(Broken),
    /// The device has gone, or the queue was given up; the text says why.
    Gone(String),
    /// The device was reset while the call waited.
    Reset,
    /// Time is up.
    Timeout {
        /// Records that were completed.
        completed: usize,
        /// Records of the call.
        total: usize,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { index, error } => write!(f, "request {index}: {error}"),
            Self::Broken(broken) => write!(f, "the device broke the rules of the ring: {broken}"),
            Self::Gone(why) => f.write_str(why),
            Self::Reset => f.write_str("the device was reset while the request was in flight"),
            Self::Timeout { completed, total } => write!(
                f,
                "timed out with {completed} of {total} requests completed; the device may still \
                 use the buffers of the others until it is reset"
            ),
        }
    }
}

impl std::error::Error for QueueError {}

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// Of `submit_many`: its completion goes to `reap_many`.
    Token(u64),
    /// Of `execute`: its status goes into a batch.
    Batch { batch: usize, index: usize },
}

#[derive(Debug)]
struct State {
    slots: RequestSlots<Owner>,
    limits: Limits,
    batches: Batches,
    /// Completions that a waiter reaped and `reap_many` has yet to hand out.
    finished: VecDeque<Completion>,
    /// Somebody sits in epoll.
    waiter: bool,
    gone: Option<String>,
    /// Counts reclaims; a batch of an earlier epoch will never be completed.
    epoch: u64,
    kick_due: bool,
    kick_count: u64,
}

impl State {
    fn check(&self) -> Result<(), QueueError> {
        match (&self.gone, self.slots.ring().broken()) {
            (Some(why), _) => Err(QueueError::Gone(why.clone())),
            (None, Some(broken)) => Err(QueueError::Broken(broken)),
            (None, None) => Ok(()),
        }
    }

    /// Reap all that is ready; completions of `submit_many` go to `out` while it has room.
    fn reap(&mut self, limit: usize, mut out: impl FnMut(Completion)) -> Result<usize, Broken> {
        let (batches, mut handed) = (&mut self.batches, 0);
        let finished = &mut self.finished;
        self.slots.reap(usize::MAX, |Finished { owner, written, status }| match owner {
            Owner::Token(token) => {
                let completion = Completion { token, written, status };
                if handed < limit {
                    out(completion);
                    handed += 1;
                } else {
                    finished.push_back(completion);
                }
            }
            Owner::Batch { batch, index } => batches.complete(batch, index, status),
        })?;
        Ok(handed)
    }
}

/// How a queue reaches its device. `None` where that is left to the owner.
#[derive(Debug, Default)]
pub struct Wires {
    /// Signalled to notify the device.
    pub kick: Option<OwnedFd>,
    /// Signalled by the device; never read.
    pub interrupt: Option<OwnedFd>,
    /// Hangs up when the device has gone.
    pub hangup: Option<OwnedFd>,
}

/// A block request queue on a split ring.
#[derive(Debug)]
pub struct BlockQueue {
    state: Mutex<State>,
    turn: Condvar,
    doorbell: Doorbell,
    poller: Poller,
    /// Wakes the waiter in epoll when the queue is given up.
    wake: EventFd,
    layout: SplitLayout,
    /// Watched by `poller`, which does not own them.
    _watched: Wires,
}

/// What `execute` waits for; see [`BlockQueue::begin`].
#[derive(Debug)]
pub struct Execution {
    requests: Vec<Request>,
    /// By request: what keeps its data's region open until the request is submitted.
    pins: Vec<Option<Pin>>,
    submitted: usize,
    batch: usize,
    epoch: u64,
}

impl BlockQueue {
    /// Bytes that the slots of a queue of `size` need.
    pub fn slots_length(size: usize) -> usize {
        RequestSlots::<Owner>::length(size)
    }

    /// A queue on `ring`, with its slots in `slots`. Interrupts start switched off.
    pub fn new(
        mut ring: SplitQueue,
        space: DmaSpace,
        slots: Pin,
        limits: Limits,
        legacy: bool,
        mut wires: Wires,
    ) -> Result<Self, NewQueueError> {
        let poller = Poller::new()?;
        let wake = EventFd::new()?;
        poller.add(&wake, WAKE, Watch::Edge)?;
        if let Some(fd) = &wires.interrupt {
            poller.add(fd, INTERRUPT, Watch::Edge)?;
        }
        if let Some(fd) = &wires.hangup {
            poller.add(fd, HANG_UP, Watch::HangUp)?;
        }
        let kick = wires.kick.take().map(EventFd::from_fd);
        let layout = *ring.layout();
        ring.disarm();
        let state = State {
            slots: RequestSlots::new(ring, space, slots, legacy)?,
            limits,
            batches: Batches::default(),
            finished: VecDeque::new(),
            waiter: false,
            gone: None,
            epoch: 0,
            kick_due: false,
            kick_count: 0,
        };
        Ok(Self {
            state: Mutex::new(state),
            turn: Condvar::new(),
            doorbell: kick.map_or(Doorbell::None, Doorbell::EventFd),
            poller,
            wake,
            layout,
            _watched: wires,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the parts of the ring lie.
    pub fn layout(&self) -> &SplitLayout {
        &self.layout
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

    /// How often the device was notified.
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

    /// The epoll descriptor: readable with an interrupt or a hang-up.
    pub fn poll_fd(&self) -> RawFd {
        self.poller.as_raw_fd()
    }

    /// For a queue without a doorbell: whether a kick is due, and forget it.
    pub fn take_kick(&self) -> bool {
        std::mem::take(&mut self.lock().kick_due)
    }

    /// Check all requests before any is submitted; pins for those that have data.
    fn check(state: &State, requests: &[Request]) -> Result<Vec<Option<Pin>>, QueueError> {
        let check = |(index, request)| {
            let checked = state.slots.check(request, &state.limits);
            checked.map_err(|error| QueueError::Request { index, error })
        };
        requests.iter().enumerate().map(check).collect()
    }

    /// Push from the front as many as fit, publish once, ring at most once.
    fn submit(
        &self,
        state: &mut State,
        requests: &[Request],
        pins: &mut [Option<Pin>],
        owner: impl Fn(usize, &Request) -> Owner,
    ) -> Result<usize, QueueError> {
        let mut count = 0;
        for (request, pin) in requests.iter().zip(pins) {
            let owner = owner(count, request);
            match state.slots.push(request, pin.take(), &state.limits, owner) {
                Ok(()) => count += 1,
                Err((PushError::Full { .. }, unused)) => {
                    *pin = unused;
                    break;
                }
                Err((PushError::Broken(broken), _)) => return Err(QueueError::Broken(broken)),
                Err((error, _)) => return Err(QueueError::Gone(error.to_string())),
            }
        }
        if state.slots.ring_mut().publish().map_err(QueueError::Broken)? {
            self.kick(state);
        }
        Ok(count)
    }

    fn kick(&self, state: &mut State) {
        state.kick_count += 1;
        match self.doorbell.ring() {
            Ok(rung) => state.kick_due |= !rung,
            Err(error) => {
                state.gone = Some(format!("the device cannot be notified: {error}"));
                self.turn.notify_all();
            }
        }
    }

    /// Submit from the front as many as fit; how many.
    pub fn submit_many(&self, requests: &[Request]) -> Result<usize, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        let mut pins = Self::check(state, requests)?;
        self.submit(state, requests, &mut pins, |_, request| Owner::Token(request.token))
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
        if earlier == limit {
            return Ok(limit);
        }
        // Also of a device that has gone: what it finished before that is finished.
        let count = earlier + state.reap(limit - earlier, out).unwrap_or(0);
        self.turn.notify_all();
        if count == 0 {
            state.check()?;
        }
        Ok(count)
    }

    /// Begin a batch: check all of it, submit what fits.
    pub fn begin(&self, requests: Vec<Request>) -> Result<Execution, QueueError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check()?;
        let pins = Self::check(state, &requests)?;
        let batch = state.batches.open(requests.len());
        let mut execution = Execution { requests, pins, submitted: 0, batch, epoch: state.epoch };
        match self.submit_more(state, &mut execution) {
            Ok(()) => Ok(execution),
            Err(error) => {
                state.batches.close(batch);
                Err(error)
            }
        }
    }

    /// Submit what fits of the rest of a batch.
    fn submit_more(&self, state: &mut State, execution: &mut Execution) -> Result<(), QueueError> {
        let (batch, first) = (execution.batch, execution.submitted);
        let owner = |index, _: &Request| Owner::Batch { batch, index: first + index };
        let rest = &execution.requests[first..];
        let count = self.submit(state, rest, &mut execution.pins[first..], owner)?;
        state.batches.add_in_flight(batch, count);
        execution.submitted += count;
        Ok(())
    }

    /// Bring a batch forward without waiting; whether it is complete.
    pub fn advance(&self, execution: &mut Execution) -> Result<bool, QueueError> {
        let mut guard = self.lock();
        self.advance_locked(&mut guard, execution)
    }

    fn advance_locked(
        &self,
        state: &mut State,
        execution: &mut Execution,
    ) -> Result<bool, QueueError> {
        if execution.epoch != state.epoch {
            return Err(QueueError::Reset);
        }
        self.reap_for_all(state);
        let complete = state.batches.get(execution.batch).is_some_and(Batch::is_complete);
        if complete {
            return Ok(true);
        }
        state.check()?;
        if execution.submitted < execution.requests.len() && state.slots.ring().free_count() > 0 {
            self.submit_more(state, execution)?;
        }
        Ok(false)
    }

    /// Reap all that is ready, to whomever it belongs. A breach of the rules stays noted in the
    /// ring, and is told by the next check.
    fn reap_for_all(&self, state: &mut State) {
        if state.slots.ring().has_used() {
            let _ = state.reap(0, |_| ());
            self.turn.notify_all();
        }
    }

    /// Look at the batch again and again for at most `spin`; whether it is complete.
    pub fn spin(&self, execution: &mut Execution, spin: Duration) -> Result<bool, QueueError> {
        let start = Instant::now();
        loop {
            if self.advance(execution)? {
                return Ok(true);
            }
            if start.elapsed() >= spin {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// Wait until a batch is complete. `tick` is called about every [`TICK`], and when a signal
    /// came, with nothing locked; its error ends the wait.
    pub fn finish<E: From<QueueError>>(
        &self,
        execution: &mut Execution,
        deadline: Option<Instant>,
        tick: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut ticker = Ticker::new(tick);
        loop {
            let mut guard = self.lock();
            if self.advance_locked(&mut guard, execution)? {
                return Ok(());
            }
            let Some(wait) = remaining(deadline) else {
                let total = execution.requests.len();
                let completed =
                    guard.batches.get(execution.batch).map_or(0, Batch::completed_count);
                return Err(QueueError::Timeout { completed, total }.into());
            };
            ticker.after(self.wait_turn(guard, wait))?;
        }
    }

    /// The statuses of a batch, complete or not, which ends it: what the device still owns of it
    /// stays pinned until it comes back, and is then forgotten.
    pub fn end(&self, execution: Execution) -> Vec<u8> {
        let mut state = self.lock();
        if execution.epoch != state.epoch {
            return vec![crate::STATUS_PENDING; execution.requests.len()];
        }
        state.batches.close(execution.batch)
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

    /// Ask for an interrupt at the next completion, before waiting on [`Self::poll_fd`]; whether
    /// there is something to reap already.
    pub fn arm(&self) -> Result<bool, QueueError> {
        let mut state = self.lock();
        if !state.waiter {
            // What woke the caller is taken out: else the epoll descriptor would stay readable,
            // and an event loop that watches it would spin.
            let ready = self.poller.wait(Duration::ZERO).map(Iterator::collect);
            Self::note(&mut state, ready);
        }
        state.check()?;
        let more = state.slots.ring_mut().arm().map_err(QueueError::Broken)?;
        Ok(more || !state.finished.is_empty())
    }

    /// Wait once, for at most `wait`: in epoll if nobody else does, else for the one who does.
    /// Whether something came of it.
    fn wait_turn(&self, mut state: MutexGuard<'_, State>, wait: Duration) -> bool {
        if state.waiter {
            let waited = self.turn.wait_timeout(state, wait);
            return !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        }
        if state.slots.ring_mut().arm() != Ok(false) {
            state.slots.ring_mut().disarm();
            return true;
        }
        state.waiter = true;
        drop(state);
        let ready = self.poller.wait(wait).map(Iterator::collect);
        let mut state = self.lock();
        state.waiter = false;
        state.slots.ring_mut().disarm();
        let came = Self::note(&mut state, ready);
        // The role is free again; whoever still waits takes it.
        self.turn.notify_all();
        came
    }

    /// Note what epoll found; whether it found anything.
    fn note(state: &mut State, ready: io::Result<Vec<Ready>>) -> bool {
        match ready {
            Ok(ready) => {
                if ready.iter().any(|ready| ready.token == HANG_UP) && state.gone.is_none() {
                    state.gone = Some("the device hung up".into());
                }
                !ready.is_empty()
            }
            Err(error) => {
                state.gone = Some(format!("waiting for the device failed: {error}"));
                true
            }
        }
    }

    /// Give the queue up: every waiter and every later call gets an error with this reason.
    pub fn abort(&self, reason: String) {
        self.lock().gone = Some(reason);
        self.turn.notify_all();
        // If it fails, the waiter finds out at its next tick.
        let _ = self.wake.signal();
    }

    /// After a confirmed reset only: forget all requests. Returns the tokens of submitted ones
    /// that were never completed. The queue is as new afterwards.
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
        state.batches = Batches::default();
        state.gone = None;
        state.kick_due = false;
        state.epoch += 1;
        self.turn.notify_all();
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

/// Why a queue could not be made.
#[derive(Debug)]
pub enum NewQueueError {
    /// The ring or the slots do not fit.
    Layout(LayoutError),
    /// The system refused.
    Io(io::Error),
}

impl From<LayoutError> for NewQueueError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<io::Error> for NewQueueError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
