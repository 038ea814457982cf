//! Helpers of the Rust tests.

mod clause;

pub use clause::{ClauseGuard, MAX_CLAUSES_PER_TEST};
