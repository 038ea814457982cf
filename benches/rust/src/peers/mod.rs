//! Rings of other crates, for the same device. Their interfaces demand unsafe code, which stands
//! here and nowhere else in the benchmarks.

mod virtio_driver;
mod virtio_drivers;

pub use virtio_driver::{virtio_driver_packed, virtio_driver_split};
pub use virtio_drivers::virtio_drivers_split;
