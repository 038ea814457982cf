//! The device half, driven by a driver that is written out by hand: it can also do what no driver
//! may do.

// The helpers are tests too, and a failed unwrap is how they fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod any_ring;
mod bar;
mod driver;
mod faults;
mod faults_by_format;
mod files;
mod framing;
mod hostile_driver;
mod hostile_packed;
mod in_order;
mod life_cycle;
mod notifications;
mod pci;
mod pci_interrupts;
mod pci_queue_reset;
mod queue_reset;
mod requests;
mod write_cache;
