//! The device's half: a virtio-blk device in this process.
//!
//! It is the other side of every test of the driver, so it takes nothing from the driver's half:
//! it parses rings and requests on its own, trusts no byte that a driver wrote, and never panics
//! over one. A driver that breaks the rules finds DEVICE_NEEDS_RESET set.
//!
//! Reading order: `ring` (chains out, used elements in), `block` (what a request asks for),
//! `storage` (where sectors live), `registers` (status, features, configuration), `engine` (one
//! pass over the queues), `service` (the thread, and turns between it and callers), `device` (the
//! handle that owns it all), `serving_bell` (a doorbell that needs no thread), `pci` (the same
//! device behind the registers of a PCI function).

#![forbid(unsafe_code)]
// The loom models run the ring with its view of memory, and nothing else of the device.
#![cfg_attr(loom, allow(dead_code))]

mod address_map;
pub mod ring;

#[cfg(not(loom))]
mod block;
#[cfg(not(loom))]
mod counters;
#[cfg(not(loom))]
mod device;
#[cfg(not(loom))]
mod engine;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod faults;
#[cfg(not(loom))]
mod options;
#[cfg(not(loom))]
mod pci;
#[cfg(not(loom))]
mod registers;
#[cfg(not(loom))]
mod service;
#[cfg(not(loom))]
mod serving_bell;
#[cfg(not(loom))]
pub mod storage;

pub use address_map::{AddressMap, Segment};
#[cfg(not(loom))]
pub use counters::Counters;
#[cfg(not(loom))]
pub use device::Device;
#[cfg(not(loom))]
pub use error::DeviceError;
#[cfg(not(loom))]
pub use faults::Fault;
#[cfg(not(loom))]
pub use options::DeviceOptions;
#[cfg(not(loom))]
pub use pci::{Access, PciFace, PciFaceOptions, Structure};
#[cfg(not(loom))]
pub use registers::{CONFIG_BYTES, QueueSetup, feature, status};
#[cfg(not(loom))]
pub use serving_bell::ServingBell;
