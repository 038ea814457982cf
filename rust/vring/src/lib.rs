//! The driver's half of virtqueues, and of the block requests on them.
//!
//! Reading order: `ring` says what a ring is, `layout` where it lies; `ledger` and `numbers` are what
//! the driver remembers; `split` and `packed` are the formats, `in_order` a variant of both. Then
//! `request`, `slots`, `batch` and `single`, `pool` and `pools`, `queue_state` and `queue`. No Python and
//! no unsafe code; every access to shared memory goes through `shm`.

#![forbid(unsafe_code)]

#[cfg(not(loom))]
mod batch;
mod error;
mod event;
mod in_order;
mod layout;
mod ledger;
mod numbers;
#[cfg(not(loom))]
mod pace;
mod packed;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod pools;
#[cfg(not(loom))]
mod queue;
#[cfg(not(loom))]
mod queue_error;
#[cfg(not(loom))]
mod queue_state;
pub mod request;
mod ring;
#[cfg(not(loom))]
mod single;
#[cfg(not(loom))]
mod slots;
mod split;

pub use error::{Broken, LayoutError, PushError};
pub use event::event_passed;
pub use layout::{DESCRIPTOR_BYTES, PackedLayout, QUEUE_SIZE_MAX, SplitLayout};
pub use packed::PackedQueue;
#[cfg(not(loom))]
pub use pool::{PoolShape, PoolWay};
#[cfg(not(loom))]
pub use pools::PoolId;
#[cfg(not(loom))]
pub use queue::{BlockQueue, Execution, Single, TICK, Wires};
#[cfg(not(loom))]
pub use queue_error::{NewQueueError, QueueError};
pub use ring::{FixedTable, Ring, RingOptions, Used};
#[cfg(not(loom))]
pub use slots::{STATUS_OK, STATUS_PENDING, slots_length};
pub use split::SplitQueue;
