//! What can go wrong with a ring, and what to do about it.

use std::fmt;

/// Numbers that make no ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// Not a power of two from 1 to 32768.
    QueueSize(usize),
    /// Not a number from 1 to 32768.
    PackedQueueSize(usize),
    /// Not a power of two from 4 on.
    LegacyAlign(usize),
    /// More entries in an indirect table than the queue has descriptors.
    IndirectTableSize {
        /// Asked for.
        table: usize,
        /// The queue size.
        size: usize,
    },
    /// The region is too short for the ring.
    RegionLength {
        /// Bytes that the ring needs.
        needed: usize,
        /// Bytes of the region.
        available: usize,
    },
    /// The region's device address is not aligned as the ring needs it.
    RegionAlign {
        /// Where the device sees the region.
        address: u64,
        /// Alignment that it needs.
        align: usize,
    },
    /// The ring was said to be zeroed, but its indices, or flags, are not 0.
    NotZeroed,
    /// The queue is too small for a block request.
    TooSmall {
        /// The queue size.
        size: u16,
        /// Descriptors that a request needs.
        needed: usize,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueSize(size) => {
                write!(f, "queue size {size} is not a power of two from 1 to 32768")
            }
            Self::PackedQueueSize(size) => {
                write!(f, "queue size {size} is not a number from 1 to 32768")
            }
            Self::LegacyAlign(align) => {
                write!(f, "legacy alignment {align} is not a power of two from 4 on")
            }
            Self::IndirectTableSize { table, size } => {
                write!(f, "indirect table size {table} is not within 0 and the queue size {size}")
            }
            Self::RegionLength { needed, available } => {
                write!(f, "the ring needs {needed} bytes, the region has {available}")
            }
            Self::RegionAlign { address, align } => {
                write!(f, "the region's device address {address:#x} is not a multiple of {align}")
            }
            Self::NotZeroed => {
                f.write_str("the ring's memory is not zeroed: give it a region fresh from alloc")
            }
            Self::TooSmall { size, needed } => {
                write!(f, "queue size {size} is too small: a request needs {needed} descriptors")
            }
        }
    }
}

impl std::error::Error for LayoutError {}

/// How the device broke the rules. The ring is of no use until a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The used index counts more chains than are outstanding.
    UsedIndexAhead {
        /// What the device wrote.
        index: u16,
        /// How far it is ahead.
        ahead: u16,
        /// Chains outstanding.
        outstanding: u16,
    },
    /// A packed descriptor that is used, although none is available.
    UsedNotAvailable {
        /// Where in the descriptor ring.
        slot: u16,
    },
    /// A used id that names no descriptor.
    IdOutOfRange {
        /// What the device wrote.
        id: u32,
        /// The queue size.
        size: u16,
    },
    /// A used id that names no chain of which the device has the use.
    IdNotOutstanding {
        /// What the device wrote.
        id: u32,
    },
    /// With IN_ORDER on a split ring: one used element returns more chains than the used index was
    /// moved by.
    BatchTooLong {
        /// The chain that the element names, the last one.
        head: u16,
        /// Chains from the oldest outstanding one to that one.
        batch: u16,
        /// By how much the used index was moved.
        ready: u16,
    },
    /// In strict mode: the device claims to have written more than there is to write.
    LengthTooLarge {
        /// What the device wrote.
        length: u32,
        /// Writable bytes of the chain.
        writable: u64,
        /// The chain.
        head: u16,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsedIndexAhead { index, ahead, outstanding } => write!(
                f,
                "used index {index} is {ahead} ahead of the {outstanding} chains outstanding"
            ),
            Self::UsedNotAvailable { slot } => {
                write!(f, "descriptor {slot} is marked used, but no chain is outstanding")
            }
            Self::IdOutOfRange { id, size } => {
                write!(f, "used id {id} is out of range, the queue size is {size}")
            }
            Self::IdNotOutstanding { id } => write!(f, "used id {id} is not outstanding"),
            Self::BatchTooLong { head, batch, ready } => write!(
                f,
                "the device used chains up to head {head}, {batch} of them, but moved the used \
                 index by {ready}"
            ),
            Self::LengthTooLarge { length, writable, head } => write!(
                f,
                "used length {length} is larger than the {writable} writable bytes of chain {head}"
            ),
        }
    }
}

impl std::error::Error for Broken {}

/// Why a chain was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// It has no segment.
    Empty,
    /// More segments than the queue has descriptors: it never fits.
    TooManySegments {
        /// Segments of the chain.
        count: usize,
        /// The queue size.
        size: u16,
    },
    /// More than 2^32 bytes in all: it never fits.
    TooManyBytes(u64),
    /// It does not fit now.
    Full {
        /// Descriptors that the chain needs.
        needed: u16,
        /// Descriptors that are free.
        free: u16,
    },
    /// The device broke the rules before.
    Broken(Broken),
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the chain is empty: it needs at least one segment"),
            Self::TooManySegments { count, size } => {
                write!(f, "the chain has {count} segments, the queue size is {size}")
            }
            Self::TooManyBytes(bytes) => {
                write!(f, "the chain has {bytes} bytes, the ring takes at most 4294967296")
            }
            Self::Full { needed, free } => {
                write!(f, "the chain needs {needed} descriptors, {free} are free")
            }
            Self::Broken(broken) => broken.fmt(f),
        }
    }
}

impl std::error::Error for PushError {}
