//! What the benchmarks share: rings of every format and of other crates behind one interface, the
//! same device half for them all, and ways to make the two meet on one thread or on two.
//!
//! Reading order: `memory`, `device`, `driver`, `formats`, `peers`, `pair`, `duo`.

#![deny(unsafe_code)]

mod device;
mod driver;
mod duo;
mod formats;
mod memory;
mod pair;
#[allow(unsafe_code)] // the interfaces of other crates demand it
mod peers;

use std::error::Error;

pub use device::{Answers, Device};
pub use driver::{Driver, Shape};
pub use duo::Duo;
pub use formats::{Format, RingDriver};
pub use pair::{Pair, Subject, warm_up};
pub use peers::{virtio_driver_packed, virtio_driver_split, virtio_drivers_split};

/// Descriptors of every queue that is measured.
pub const QUEUE_SIZE: usize = 256;

/// Why a benchmark cannot go on.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What a benchmark comes to.
pub type Outcome<T> = Result<T, Failure>;
