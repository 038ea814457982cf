//! What the engine shares with the rest of the device without being locked.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use shm::EventFd;

use crate::counters::Counters;
use crate::faults::Faults;

/// How a transport passes notifications on, where it is not by an eventfd for each kind. Called
/// with the engine locked, so that it must wait for nobody.
pub(crate) trait Notifier: Send + Sync + fmt::Debug {
    /// Queue `queue` has used buffers.
    fn used_buffers(&self, queue: usize);
    /// The configuration has changed, or DEVICE_NEEDS_RESET is set.
    fn config_changed(&self);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Wires {
    /// Whether queues may be touched. Cleared to stop the engine in the middle of a pass.
    pub(crate) live: AtomicBool,
    /// Whether memory can be reached at all: a PCI function is told so.
    pub(crate) bus_master: AtomicBool,
    /// Takes the place of the eventfds.
    pub(crate) notifier: OnceLock<Arc<dyn Notifier>>,
    pub(crate) faults: Faults,
    counters: Mutex<Counters>,
    /// By queue: what the driver signals.
    pub(crate) kicks: Vec<EventFd>,
    /// By queue: what the device signals.
    pub(crate) interrupts: Vec<EventFd>,
}

impl Wires {
    pub(crate) fn new(queue_count: u16) -> std::io::Result<Self> {
        let events = || (0..queue_count).map(|_| EventFd::new()).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            live: AtomicBool::new(false),
            bus_master: AtomicBool::new(true),
            notifier: OnceLock::new(),
            faults: Faults::default(),
            counters: Mutex::default(),
            kicks: events()?,
            interrupts: events()?,
        })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Acquire) && self.bus_master.load(Acquire)
    }

    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signal the driver that queue `index` has used buffers, rightly or not.
    pub(crate) fn interrupt(&self, index: usize) {
        let Some(event) = self.interrupts.get(index) else { return };
        self.counters().interrupts += 1;
        match self.notifier.get() {
            Some(notifier) => notifier.used_buffers(index),
            // Our own eventfd cannot fail, and if it did the driver would time out.
            None => drop(event.signal()),
        }
    }
}
