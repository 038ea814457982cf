//! Helpers of the Rust tests.

mod clause;
#[cfg(not(loom))]
pub mod fuzz;
#[cfg(loom)]
#[allow(clippy::unwrap_used)] // tests
pub mod models;

pub use clause::{ClauseGuard, MAX_CLAUSES_PER_TEST};
