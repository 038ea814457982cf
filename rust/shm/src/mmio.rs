//! Device registers: each access one load or store of exactly its width.

use std::fmt;
use std::sync::Arc;

use crate::fork::Owner;

#[cfg(not(loom))]
mod mapped;

#[cfg(not(loom))]
use mapped::MappedRegisters;

/// The width of a register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Bits8,
    /// Two bytes.
    Bits16,
    /// Four bytes.
    Bits32,
}

impl Width {
    /// The width of 1, 2 or 4 bytes; there is no other.
    pub fn of_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Bits8),
            2 => Some(Self::Bits16),
            4 => Some(Self::Bits32),
            _ => None,
        }
    }

    /// How many bytes that is.
    #[inline]
    pub fn bytes(self) -> usize {
        match self {
            Self::Bits8 => 1,
            Self::Bits16 => 2,
            Self::Bits32 => 4,
        }
    }

    /// The largest value that fits; what a read of registers that are not there gives.
    #[inline]
    pub fn all_ones(self) -> u32 {
        match self {
            Self::Bits8 => 0xFF,
            Self::Bits16 => 0xFFFF,
            Self::Bits32 => 0xFFFF_FFFF,
        }
    }
}

/// Why a register was not accessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The access is not inside the window, or not at a multiple of its width.
    Misplaced {
        /// First byte asked for.
        offset: usize,
        /// Of the access.
        width: Width,
        /// Bytes of the window.
        length: usize,
    },
    /// The value does not fit the width.
    TooLarge {
        /// What was to be stored.
        value: u32,
        /// Of the access.
        width: Width,
    },
    /// The modelled device is closed; the text says so.
    Closed(String),
    /// It was made before a `fork()`, in the parent process.
    Forked,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misplaced { offset, width, length } => write!(
                f,
                "a register of {} bytes at offset {offset:#x} is not aligned, or not inside the \
                 window of {length:#x} bytes",
                width.bytes()
            ),
            Self::TooLarge { value, width } => {
                write!(f, "{value:#x} does not fit a register of {} bytes", width.bytes())
            }
            Self::Closed(why) => f.write_str(why),
            Self::Forked => fmt::Display::fmt(&crate::SpaceError::Forked, f),
        }
    }
}

impl std::error::Error for RegisterError {}

/// Registers of a device that is software in this process.
///
/// A window checks place, width and value before it asks the model, so that these are always
/// inside [`Self::length`], aligned, and fitting. Calls can come from any thread, and from a queue
/// that has its lock: they must not wait for the driver.
pub trait RegisterModel: Send + Sync {
    /// Bytes; it never changes.
    fn length(&self) -> usize;

    /// What a load of `width` at `offset` gives. What is beyond the width is cut off.
    fn read(&self, offset: usize, width: Width) -> Result<u32, RegisterError>;

    /// What a store of `width` at `offset` does.
    fn write(&self, offset: usize, width: Width, value: u32) -> Result<(), RegisterError>;
}

#[derive(Clone)]
enum Registers {
    #[cfg(not(loom))]
    Mapped(Arc<MappedRegisters>),
    Model(Arc<dyn RegisterModel>),
}

/// The registers of one BAR, or of a part of it. Cloning shares it.
///
/// It belongs to the process that made it, and fails in a child of `fork()`.
#[derive(Clone)]
pub struct MmioWindow {
    registers: Registers,
    owner: Owner,
}

impl fmt::Debug for MmioWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.registers {
            #[cfg(not(loom))]
            Registers::Mapped(_) => "mapped",
            Registers::Model(_) => "a model",
        };
        write!(f, "MmioWindow({:#x} bytes, {kind})", self.length())
    }
}

impl MmioWindow {
    /// The registers of a software device.
    pub fn model(model: Arc<dyn RegisterModel>) -> Self {
        Self { registers: Registers::Model(model), owner: Owner::here() }
    }

    /// `length` bytes of a file, from `file_offset` on: a VFIO region, a resource of sysfs.
    ///
    /// Whoever made the file is trusted not to shrink it: an access past its new end raises
    /// SIGBUS.
    #[cfg(not(loom))]
    pub fn map(
        fd: std::os::fd::OwnedFd,
        length: usize,
        file_offset: u64,
    ) -> Result<Self, crate::SpaceError> {
        let mapped = MappedRegisters::new(fd, length, file_offset)?;
        Ok(Self { registers: Registers::Mapped(Arc::new(mapped)), owner: Owner::here() })
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        match &self.registers {
            #[cfg(not(loom))]
            Registers::Mapped(mapped) => mapped.length(),
            Registers::Model(model) => model.length(),
        }
    }

    /// Whether a register of `width` can be at `offset`.
    #[inline]
    pub fn check_place(&self, offset: usize, width: Width) -> Result<(), RegisterError> {
        let (bytes, length) = (width.bytes(), self.length());
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= length);
        if fits && offset.is_multiple_of(bytes) {
            Ok(())
        } else {
            Err(RegisterError::Misplaced { offset, width, length })
        }
    }

    fn check(&self, offset: usize, width: Width) -> Result<(), RegisterError> {
        if !self.owner.is_here() {
            return Err(RegisterError::Forked);
        }
        self.check_place(offset, width)
    }

    /// Load the little-endian register at `offset`.
    pub fn read(&self, offset: usize, width: Width) -> Result<u32, RegisterError> {
        self.check(offset, width)?;
        match &self.registers {
            #[cfg(not(loom))]
            Registers::Mapped(mapped) => mapped.read(offset, width),
            Registers::Model(model) => Ok(model.read(offset, width)? & width.all_ones()),
        }
    }

    /// Store to the little-endian register at `offset`.
    pub fn write(&self, offset: usize, width: Width, value: u32) -> Result<(), RegisterError> {
        self.check(offset, width)?;
        if value > width.all_ones() {
            return Err(RegisterError::TooLarge { value, width });
        }
        match &self.registers {
            #[cfg(not(loom))]
            Registers::Mapped(mapped) => mapped.write(offset, width, value),
            Registers::Model(model) => model.write(offset, width, value),
        }
    }
}
