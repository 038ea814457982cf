//! Registers that are mapped into this process.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::fs::FileType;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::{RegisterError, Width};
use crate::error::SpaceError;
use crate::fork::Owner;

/// Mappings start at a multiple of this in their file.
const PAGE: u64 = 4096;

/// A mapping of a file of registers.
pub(super) struct MappedRegisters {
    base: NonNull<u8>,
    length: usize,
    owner: Owner,
}

// SAFETY: a mapping that lives until drop, at an address that is the same for all threads. It is
// accessed by the volatile loads and stores of this file alone, and no reference into it exists.
unsafe impl Send for MappedRegisters {}
// SAFETY: as above. The bytes belong to no allocation of the language's, so that an access is an
// event at the device's interface, and two of them from two threads are two such events.
unsafe impl Sync for MappedRegisters {}

impl MappedRegisters {
    pub(super) fn new(fd: OwnedFd, length: usize, file_offset: u64) -> Result<Self, SpaceError> {
        check_bounds(&fd, length, file_offset)?;
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing of ours.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                file_offset,
            )
        }
        .map_err(io::Error::from)?;
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return Err(SpaceError::Invalid("the system mapped registers at address 0".into()));
        };
        let registers = Self { base, length, owner: Owner::here() };
        // A child of fork() must not reach the device.
        // SAFETY: it is our own mapping, whole; the advice changes what a child inherits, no byte.
        unsafe { rustix::mm::madvise(base.as_ptr().cast(), length, Advice::LinuxDontFork) }
            .map_err(io::Error::from)?;
        Ok(registers)
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// A pointer to the register, if it is inside, aligned, and mapped in this process.
    #[inline(always)]
    fn at(&self, offset: usize, width: Width) -> Result<NonNull<u8>, RegisterError> {
        let (bytes, length) = (width.bytes(), self.length);
        if !self.owner.is_here() {
            return Err(RegisterError::Forked);
        }
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= length);
        if !fits || !offset.is_multiple_of(bytes) {
            return Err(RegisterError::Misplaced { offset, width, length });
        }
        // SAFETY: offset + bytes <= length of the mapping, so the result is inside it.
        Ok(unsafe { self.base.add(offset) })
    }

    pub(super) fn read(&self, offset: usize, width: Width) -> Result<u32, RegisterError> {
        let register = self.at(offset, width)?;
        // SAFETY: `at` has checked that the bytes are inside the mapping, which lives as long as
        // `self`, and that the offset is a multiple of the width; the mapping starts at a page, so
        // the pointer is aligned. Integers have no invalid bit patterns.
        Ok(unsafe {
            match width {
                Width::Bits8 => register.read_volatile().into(),
                Width::Bits16 => u16::from_le(register.cast::<u16>().read_volatile()).into(),
                Width::Bits32 => u32::from_le(register.cast::<u32>().read_volatile()),
            }
        })
    }

    /// What does not fit the width is cut off.
    #[inline]
    pub(super) fn write(
        &self,
        offset: usize,
        width: Width,
        value: u32,
    ) -> Result<(), RegisterError> {
        let register = self.at(offset, width)?;
        // SAFETY: as in `read`, and the mapping is writable. What the store does is the device's;
        // to the language it is a store to memory that nothing of it lies in.
        unsafe {
            match width {
                Width::Bits8 => register.write_volatile(value as u8),
                Width::Bits16 => register.cast::<u16>().write_volatile((value as u16).to_le()),
                Width::Bits32 => register.cast::<u32>().write_volatile(value.to_le()),
            }
        }
        Ok(())
    }
}

impl Drop for MappedRegisters {
    fn drop(&mut self) {
        // In a child of fork() the mapping does not exist, and something else may be there.
        if self.owner.is_here() {
            // SAFETY: base and length are what mmap gave; every access borrows `self`, so none is
            // under way. An error leaks the mapping, which is safe.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        }
    }
}

/// Refuse what the system would map, and then fault on.
fn check_bounds(fd: &OwnedFd, length: usize, file_offset: u64) -> Result<(), SpaceError> {
    if !file_offset.is_multiple_of(PAGE) {
        return Err(SpaceError::Invalid(format!(
            "registers can be mapped from a multiple of {PAGE} on, not from {file_offset:#x}"
        )));
    }
    let stat = rustix::fs::fstat(fd).map_err(io::Error::from)?;
    // Others (VFIO's) have no length, and refuse by themselves what is beyond their regions.
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let end = file_offset.checked_add(length as u64);
    if length == 0 || end.is_none_or(|end| is_file && end > stat.st_size as u64) {
        return Err(SpaceError::Invalid(format!(
            "cannot map {length} bytes of registers at offset {file_offset:#x} of a file of {} \
             bytes",
            stat.st_size
        )));
    }
    Ok(())
}
