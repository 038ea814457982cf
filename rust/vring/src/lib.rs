//! vring
