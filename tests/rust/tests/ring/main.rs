//! The driver's half of a ring alone, both formats, against a device that the test plays word by
//! word: what a device may do, and what it may not.
//!
//! `ahead`: notifications of more than the next chain. `in_order`: batches that one used element
//! returns. `order`: which descriptors and buffer ids chains get. `reserved`: chains that keep theirs.
//! `breaches`: words that no device should write.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod ahead;
mod bench;
mod breaches;
mod in_order;
mod order;
mod reserved;
