//! What is measured of a driver's half.

use crate::Outcome;

/// What a request is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Data that the device writes.
    One,
    /// Header, data that the device writes, status: a block device's read.
    Three,
    /// The same in an indirect table, so that it takes one descriptor of the ring.
    ThreeIndirect,
}

impl Shape {
    /// Descriptors of one request, those in a table included.
    pub fn descriptors(self) -> usize {
        if self == Self::One { 1 } else { 3 }
    }

    /// Entries of each indirect table; 0: there are none.
    pub fn table_size(self) -> usize {
        if self == Self::ThreeIndirect { 3 } else { 0 }
    }

    /// Descriptors of the ring itself that one request takes.
    pub fn slots(self) -> usize {
        if self == Self::Three { 3 } else { 1 }
    }
}

/// A driver's half of a ring, with requests to put on it.
pub trait Driver: Send {
    /// Make `count` requests available, in one step where the crate can; whether the device is to
    /// be notified.
    fn submit(&mut self, count: usize) -> Outcome<bool>;

    /// Take back what the device has used; how many.
    fn reap(&mut self) -> Outcome<usize>;

    /// Ask for a notification of the next used chain, and then for none.
    fn arm_and_disarm(&mut self) -> Outcome<()>;
}
