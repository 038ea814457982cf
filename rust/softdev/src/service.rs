//! The device at work: what its thread and its owner's calls share, and how they take turns.

use std::sync::atomic::{
    AtomicBool, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Release,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shm::{EventFd, Poller, Watch};

use crate::engine::{Engine, Wires};
use crate::error::DeviceError;
use crate::registers::Registers;
use crate::ring::Violation;

/// How long the rings are watched after the last chain before the thread goes to sleep: about as
/// long as a kick and a wake-up would take.
const LINGER: Duration = Duration::from_micros(50);

/// Looks at the rings between two looks at the clock.
const LOOKS: usize = 64;

/// A sleeping thread looks around this often, whatever happens.
const IDLE_WAIT: Duration = Duration::from_secs(30);

/// Watched beside the queues, whose tokens are their indices.
const CONTROL: u64 = u64::MAX;

/// What the handle and the thread share. Locks are taken in the order engine, registers, others.
pub(crate) struct Service {
    pub(crate) wires: Wires,
    pub(crate) engine: Mutex<Engine>,
    /// Callers who want the engine while the thread serves; it makes way for them.
    pub(crate) visitors: AtomicUsize,
    pub(crate) registers: Mutex<Registers>,
    /// What the driver did wrong when DEVICE_NEEDS_RESET was last set.
    pub(crate) violation: Mutex<Option<String>>,
    pub(crate) config_event: EventFd,
    /// Wakes the thread for anything but a kick.
    pub(crate) control: EventFd,
    pub(crate) closed: AtomicBool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is a mistake of ours elsewhere; the data stays usable, and a reset mends the rest.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// The engine, for anybody but the thread that serves.
    pub(crate) fn visit(&self) -> MutexGuard<'_, Engine> {
        self.visitors.fetch_add(1, AcqRel);
        let engine = lock(&self.engine);
        self.visitors.fetch_sub(1, AcqRel);
        engine
    }

    /// The engine, for the thread that serves. Locks are not fair, so it waits for visitors.
    fn attend(&self) -> MutexGuard<'_, Engine> {
        while self.visitors.load(Acquire) > 0 {
            thread::yield_now();
        }
        lock(&self.engine)
    }

    /// Stop serving for good, until a reset, and say why.
    pub(crate) fn demand_reset(&self, reason: String) {
        self.wires.live.store(false, Release);
        *lock(&self.violation) = Some(reason);
        let notify = lock(&self.registers).demand_reset();
        if notify {
            self.notify_config();
        }
    }

    pub(crate) fn notify_config(&self) {
        self.wires.counters().config_interrupts += 1;
        match self.wires.notifier.get() {
            Some(notifier) => notifier.config_changed(),
            // Our own eventfd cannot fail, and if it did the driver would still find the change.
            None => drop(self.config_event.signal()),
        }
    }

    pub(crate) fn condemn(&self, violation: Violation) {
        self.wires.counters().bad_chains += 1;
        self.demand_reset(violation.to_string());
    }

    /// One pass over the queues; how many chains were taken.
    pub(crate) fn serve(&self, engine: &mut Engine, limit: usize) -> usize {
        if !self.wires.is_live() {
            return 0;
        }
        engine.serve(&self.wires, limit).unwrap_or_else(|violation| {
            self.condemn(violation);
            0
        })
    }

    /// Take note of kicks of queue `index`, which also end delays.
    pub(crate) fn hear_kick(&self, engine: &mut Engine, index: usize) {
        let count = self.wires.kicks.get(index).map_or(0, EventFd::drain);
        if count > 0 {
            // The driver can add any number to its eventfd.
            let mut counters = self.wires.counters();
            counters.kicks = counters.kicks.saturating_add(count);
            drop(counters);
            if self.wires.is_live() {
                engine.hear_kicks(index, count, &self.wires);
            }
        }
    }

    /// The thread: sleep until a kick, serve, stay awake while chains keep coming.
    fn run(&self, poller: &Poller) {
        while !self.is_closed() {
            let ready = match poller.wait(IDLE_WAIT) {
                Ok(ready) => ready,
                Err(error) => {
                    return self.demand_reset(format!("the device cannot wait for kicks: {error}"));
                }
            };
            for each in ready {
                match usize::try_from(each.token) {
                    Ok(index) if each.token != CONTROL => {
                        self.hear_kick(&mut self.attend(), index);
                    }
                    _ => drop(self.control.drain()),
                }
            }
            self.serve_until_idle();
        }
    }

    fn serve_until_idle(&self) {
        while self.wires.is_live() {
            let served = self.serve(&mut self.attend(), usize::MAX);
            if served == 0 && !self.linger() && !self.arm() {
                return;
            }
        }
    }

    /// Watch the rings for a moment; whether anything came.
    fn linger(&self) -> bool {
        let engine = self.attend();
        let started = Instant::now();
        while engine.may_linger() && self.wires.is_live() {
            for _ in 0..LOOKS {
                if engine.pending() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if self.visitors.load(Acquire) > 0 || started.elapsed() > LINGER {
                return false;
            }
        }
        false
    }

    fn arm(&self) -> bool {
        let mut engine = self.attend();
        self.wires.is_live() && engine.arm()
    }
}

pub(crate) fn start_thread(service: &Arc<Service>) -> Result<JoinHandle<()>, DeviceError> {
    let poller = Poller::new()?;
    poller.add(&service.control, CONTROL, Watch::Readable)?;
    for (index, kick) in service.wires.kicks.iter().enumerate() {
        poller.add(kick, index as u64, Watch::Readable)?;
    }
    let service = Arc::clone(service);
    let thread = thread::Builder::new().name("vioblk-device".into());
    Ok(thread.spawn(move || service.run(&poller))?)
}
