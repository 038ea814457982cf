//! Memory that a virtio device and its driver share, and the few ways to touch it.
//!
//! All unsafe code of the package lives here (but for the buffer protocol of the Python binding).
//! What it offers is safe: bounds-checked spans, ring words and records as relaxed atomics of one
//! width, payload copies, device registers, doorbells, fences by name, eventfds, epoll.
//!
//! Under `cfg(loom)` memory is a set of loom cells, one for each field, so that loom can run the
//! very ring code that ships.

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("vioblk's fences are written for Linux on x86-64 and aarch64 (little-endian) only");

#[cfg(not(loom))]
pub mod copy;
mod doorbell;
mod error;
#[cfg_attr(loom, path = "eventfd_loom.rs")]
mod eventfd;
pub mod fence;
pub mod fork;
#[cfg(not(loom))]
mod frames;
pub mod gate;
mod handles;
#[cfg_attr(loom, path = "memory_loom.rs")]
mod memory;
mod mmio;
#[cfg(not(loom))]
mod poller;
mod ranges;
mod record;
mod space;
mod span;

#[cfg(not(loom))]
pub use doorbell::FileDoorbell;
pub use doorbell::{Doorbell, DoorbellError, MmioDoorbell, Notification};
pub use error::{OutOfBounds, SpaceError};
pub use eventfd::EventFd;
#[cfg(not(loom))]
pub use eventfd::duplicate_fd;
#[cfg(not(loom))]
pub use frames::{FRAME_BYTES, Frames};
pub use memory::{Memory, PackedDescriptors, Record, Records, Words};
pub use mmio::{MmioWindow, RegisterError, RegisterModel, Width};
#[cfg(not(loom))]
pub use poller::{Poller, Ready, Watch};
pub use record::{
    AvailableElement, Descriptor, PackedBody, PackedDescriptor, PackedUsed, UsedElement,
};
pub use space::{Claim, DmaSpace, Held, HeldRegions, Mapping, Pin, Region, Segment};
pub use span::Span;
