//! How a driver can break the rules of a ring.

use std::fmt;

use shm::OutOfBounds;

/// How a driver broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Display says what each means
pub enum Violation {
    AvailableIndexAhead { waiting: u16, size: u16 },
    IndexOutOfRange { index: u16, count: usize },
    ChainTooLong { size: u16 },
    TooManyHeldBack { size: u16 },
    OutOfOrder { index: u16, expected: u16 },
    ZeroLength { index: u16 },
    NotMapped { address: u64, length: u32 },
    ReadableAfterWritable { index: u16 },
    TooManyBytes,
    IndirectNotNegotiated,
    IndirectWithNext,
    IndirectNested,
    IndirectTableLength { length: u32 },
    ListNotAvailable { slot: u16 },
    TableEntryFlags { index: u16, flags: u16 },
    NoStatusByte,
    HeaderTooShort { length: u64 },
    Memory(OutOfBounds),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AvailableIndexAhead { waiting, size } => {
                write!(f, "the available index claims {waiting} chains in a ring of {size}")
            }
            Self::IndexOutOfRange { index, count } => {
                write!(f, "descriptor {index} was named, but there are {count}")
            }
            Self::ChainTooLong { size } => {
                write!(f, "a chain loops or has more descriptors than the queue size, {size}")
            }
            Self::TooManyHeldBack { size } => {
                write!(f, "more chains are held back than the ring has descriptors, {size}")
            }
            Self::OutOfOrder { index, expected } => {
                write!(f, "descriptor {index} was used with IN_ORDER where {expected} comes next")
            }
            Self::ZeroLength { index } => write!(f, "descriptor {index} describes no bytes"),
            Self::NotMapped { address, length } => {
                write!(f, "{length} bytes at {address:#x} are not memory of this device")
            }
            Self::ReadableAfterWritable { index } => {
                write!(f, "descriptor {index} is readable, but a writable one comes before it")
            }
            Self::TooManyBytes => f.write_str("a chain describes more than 2^32 bytes"),
            Self::IndirectNotNegotiated => {
                f.write_str("an indirect table was used without INDIRECT_DESC")
            }
            Self::IndirectWithNext => f.write_str("a descriptor has both INDIRECT and NEXT"),
            Self::IndirectNested => f.write_str("an indirect table names another one"),
            Self::IndirectTableLength { length } => {
                write!(f, "an indirect table of {length} bytes is not a number of descriptors")
            }
            Self::ListNotAvailable { slot } => {
                write!(f, "descriptor {slot} is not available, but those before it of its list are")
            }
            Self::TableEntryFlags { index, flags } => {
                write!(f, "entry {index} of an indirect table has flags {flags:#x}")
            }
            Self::NoStatusByte => f.write_str("a request has no writable byte for its status"),
            Self::HeaderTooShort { length } => {
                write!(f, "a request has {length} readable bytes, less than its header")
            }
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl From<OutOfBounds> for Violation {
    fn from(error: OutOfBounds) -> Self {
        Self::Memory(error)
    }
}
