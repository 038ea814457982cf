//! What can go wrong with shared memory.

use std::fmt;
use std::io;

/// An access outside the bytes that it was made for, or not aligned to its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds {
    /// First byte asked for.
    pub offset: usize,
    /// Bytes asked for.
    pub length: usize,
    /// Bytes that there are.
    pub available: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at offset {} do not fit (or are not aligned) in {} bytes",
            self.length, self.offset, self.available
        )
    }
}

impl std::error::Error for OutOfBounds {}

/// Why memory could not be mapped, cut or given back.
#[derive(Debug)]
pub enum SpaceError {
    /// A length, address or alignment that cannot be; the text says which and why.
    Invalid(String),
    /// No mapping has room for this many bytes.
    NoRoom {
        /// Bytes asked for.
        length: usize,
        /// Bytes free in all mappings together.
        free: usize,
    },
    /// The region is still exported or in flight.
    InUse {
        /// Buffers exported from it.
        exports: u32,
        /// Queues with requests in flight that use it, and chains.
        in_flight: u32,
    },
    /// The region has been closed, or there never was one with this handle.
    Closed,
    /// The region serves as a ring, or as the slots of one, already.
    Claimed,
    /// No number is left to name another region by.
    NoHandle,
    /// It was made before a `fork()`, in the parent process.
    Forked,
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::NoRoom { length, free } => write!(
                f,
                "no mapping has {length} contiguous bytes free ({free} bytes are free in all)"
            ),
            Self::InUse { exports, in_flight } => write!(
                f,
                "the region is in use: {exports} exported buffers, {in_flight} uses in flight"
            ),
            Self::Closed => f.write_str("the region is closed"),
            Self::Claimed => f.write_str(
                "the region already serves as a ring or as the slots of one: allocate another",
            ),
            Self::NoHandle => f.write_str(
                "no handle is left to name another region by (1048576 at once, none ever twice): \
                 close regions, or open the device anew",
            ),
            Self::Forked => f.write_str(
                "made before fork() and owned by the parent process; open the disk in the child",
            ),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SpaceError {}

impl From<io::Error> for SpaceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
