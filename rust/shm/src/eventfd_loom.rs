//! loom's stand-in for eventfds: a counter with no order of its own, so that whoever relies on
//! the doorbell for order has to bring the fence.

use std::io;
use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter.
#[derive(Clone, Debug)]
pub struct EventFd(Arc<AtomicU64>);

impl EventFd {
    /// A new one, with nothing signalled.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(AtomicU64::new(0))))
    }

    /// Another handle of the same counter.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    /// Count one.
    pub fn signal(&self) -> io::Result<()> {
        self.0.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Signals since the last drain.
    pub fn drain(&self) -> u64 {
        self.0.swap(0, Relaxed)
    }
}
