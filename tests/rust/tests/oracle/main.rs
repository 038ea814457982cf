//! The driver against a device's half that is not ours: the rust-vmm crate `virtio-queue`, on a
//! mapping of its own of the same memory. It shares no code with `vring`, nor with `softdev`, whose
//! authors are `vring`'s and may have read the specification wrong twice in the same way.
//!
//! `chains`: rings of every shape, walked descriptor by descriptor, completed in any order or, with
//! IN_ORDER, in theirs, the notifications of both sides predicted. `requests`: what `BlockQueue`
//! makes of block requests. `packed`: packed rings, as far as the crate goes.
//!
//! What version 0.18 of the crate, the newest, cannot tell: packed rings (it has the layout of their
//! descriptors, no queue; so the walk in `packed` is that of the test), batches of chains that one used entry returns (it writes an entry for
//! each; the others are made nonsense here), and whether a driver without EVENT_IDX wants an
//! interrupt (it always notifies, and never looks at NO_INTERRUPT). The flag is read here through
//! the crate's memory.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod chains;
mod device;
mod packed;
mod requests;
