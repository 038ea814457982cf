//! Helpers of the Rust tests.
