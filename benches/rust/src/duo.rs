//! Two threads, each with a processor of its own.

use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::thread;

use core_affinity::CoreId;

use crate::Outcome;

/// Two processors: the caller's thread is bound to one of them, the device's to the other.
#[derive(Debug)]
pub struct Duo {
    for_device: CoreId,
}

impl Duo {
    /// Bind this thread to the first processor.
    pub fn new() -> Outcome<Self> {
        let processors = core_affinity::get_core_ids().unwrap_or_default();
        let [for_driver, for_device, ..] = processors[..] else {
            return Err("two threads need two processors".into());
        };
        if !core_affinity::set_for_current(for_driver) {
            return Err("this thread cannot be bound to a processor".into());
        }
        Ok(Self { for_device })
    }

    /// Run `work` while `serve` runs on the other thread, which is told to stop afterwards.
    pub fn run<T>(
        &self,
        serve: impl FnOnce(&AtomicBool) -> Outcome<()> + Send,
        work: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<T> {
        let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                let bound = core_affinity::set_for_current(self.for_device);
                ready.store(true, Release);
                if !bound {
                    return Err("the device's thread cannot be bound to a processor".into());
                }
                serve(&stop)
            });
            while !ready.load(Acquire) {
                thread::yield_now();
            }
            let done = work();
            stop.store(true, Relaxed);
            server.join().map_err(|_| "the device's thread panicked")??;
            done
        })
    }
}
