//! The device's half: a virtio-blk device in this process.
//!
//! It is the other side of every test of the driver, so it takes nothing from the driver's half:
//! it parses rings and requests on its own, trusts no byte that a driver wrote, and never panics
//! over one. A driver that breaks the rules finds DEVICE_NEEDS_RESET set.
//!
//! Reading order: `ring` (chains out, used elements in), `block` (what a request asks for),
//! `storage` (where sectors live), `registers` (status, features, configuration), `engine` (one
//! pass over the queues), `device` (the thread and the handle that owns it all).

#![forbid(unsafe_code)]

mod address_map;
mod block;
mod counters;
mod device;
mod engine;
mod error;
mod faults;
mod registers;
pub mod ring;
pub mod storage;

pub use address_map::{AddressMap, Segment};
pub use counters::Counters;
pub use device::{Device, DeviceOptions};
pub use error::DeviceError;
pub use faults::Fault;
pub use registers::{CONFIG_BYTES, QueueSetup, feature, status};
