//! The modern PCI face of the device: the registers of VIRTIO 1.4, 4.1.4, in one modelled BAR.
//!
//! The face is strict. Where a driver may be lax, or a device forgiving, it is not: what a driver
//! may not do is recorded (`violations`) and has no effect, and every access is recorded as well
//! (`accesses`), so that tests can say what a driver did and what it left alone.
//!
//! The device behind it is the same as without a face. Reading order: `fields` (where everything
//! lies), `interrupts`, `common` (the state of the common configuration), `face` (what an access
//! does), `log`.

mod common;
mod face;
mod fields;
mod interrupts;
mod log;
mod options;

pub use face::PciFace;
pub use fields::Structure;
pub use log::Access;
pub use options::PciFaceOptions;
