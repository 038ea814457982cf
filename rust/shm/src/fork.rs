//! Knowing whether we are still in the process that made an object.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static WATCH: Once = Once::new();

extern "C" fn in_child() {
    // Async-signal-safe: one atomic addition.
    GENERATION.fetch_add(1, Relaxed);
}

/// The process that made an object; cheap to ask (no system call).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u32);

impl Owner {
    /// The present process.
    pub fn here() -> Self {
        WATCH.call_once(|| {
            // SAFETY: the handler is a plain function that lives as long as the program and does
            // only what is allowed between fork and exec.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
        Self(GENERATION.load(Relaxed))
    }

    /// Whether no fork lies between the making of this and the present.
    #[inline(always)]
    pub fn is_here(self) -> bool {
        self.0 == GENERATION.load(Relaxed)
    }
}
