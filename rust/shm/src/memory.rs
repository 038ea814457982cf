//! Real memory: a shared mapping, and typed access to it.
//!
//! The device may write any of it at any time, so no reference to plain data is ever formed here:
//! ring words and records are atomics of one fixed width, payload is copied byte by atomic byte
//! ([`crate::copy`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::copy;
use crate::error::{OutOfBounds, SpaceError};
use crate::fork;
use crate::record::{
    AvailableElement, Descriptor, PackedBody, PackedDescriptor, PackedUsed, UsedElement,
};

/// One shared mapping. Unmapped when the last user has gone.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    length: usize,
    fd: OwnedFd,
    file_offset: u64,
    owner: fork::Owner,
}

// SAFETY: the mapping is plain shared bytes that live until drop, at an address that is the same
// for all threads; every access to them is atomic (the typed views, `copy`).
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Fresh zeroed memory of its own (memfd), of at least one byte, whose length is sealed.
    pub fn create(length: usize) -> Result<Self, SpaceError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("vioblk", flags).map_err(std::io::Error::from)?;
        rustix::fs::ftruncate(&fd, length as u64).map_err(std::io::Error::from)?;
        // A back end gets this descriptor. If it could cut the file, we would fault on access.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(std::io::Error::from)?;
        Self::from_fd(fd, length, 0)
    }

    /// `length` bytes of somebody's memory, from `file_offset` on.
    ///
    /// Whoever made it (QEMU, its guest's RAM) is trusted not to shrink it: an access past its
    /// new end raises SIGBUS, as with every shared mapping of a file.
    pub fn from_fd(fd: OwnedFd, length: usize, file_offset: u64) -> Result<Self, SpaceError> {
        // A mapping past the end of its file would fault on access.
        let file_length = rustix::fs::fstat(&fd).map_err(std::io::Error::from)?.st_size as u64;
        if length == 0 || file_offset.checked_add(length as u64).is_none_or(|end| end > file_length)
        {
            return Err(SpaceError::Invalid(format!(
                "cannot map {length} bytes at offset {file_offset} of memory of {file_length} bytes"
            )));
        }
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
        .map_err(std::io::Error::from)?;
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return Err(SpaceError::Invalid("the system mapped memory at address 0".into()));
        };
        let memory = Self { base, length, fd, file_offset, owner: fork::Owner::here() };
        // A child of fork() must not share memory that a device writes.
        // SAFETY: it is our own mapping, whole; the advice changes what a child inherits, no byte.
        unsafe { rustix::mm::madvise(base.as_ptr().cast(), length, Advice::LinuxDontFork) }
            .map_err(std::io::Error::from)?;
        Ok(memory)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never: a mapping has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where this process sees the first byte.
    pub fn host_address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// The descriptor that was mapped.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where in the descriptor's file the mapping starts.
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// A pointer to `length` bytes at `offset`, aligned to `align`, if they are inside. In a child
    /// of `fork()` nothing is: the mapping does not exist there.
    #[inline(always)]
    pub(crate) fn at(
        &self,
        offset: usize,
        length: usize,
        align: usize,
    ) -> Result<NonNull<u8>, OutOfBounds> {
        let available = if self.owner.is_here() { self.length } else { 0 };
        let fits = offset.checked_add(length).is_some_and(|end| end <= available);
        if !fits || !offset.is_multiple_of(align) {
            return Err(OutOfBounds { offset, length, available });
        }
        // SAFETY: offset <= length of the mapping, checked above, so the result is inside it (or
        // one past its end, for an empty access).
        Ok(unsafe { self.base.add(offset) })
    }

    /// Copy bytes out. What is written meanwhile may come out torn between any two bytes.
    #[inline(always)]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.at(offset, out.len(), 1)?;
        // SAFETY: `from` is valid for out.len() bytes of a mapping in which nothing but atomics
        // is accessed.
        unsafe { copy::read(from.as_ptr(), out) };
        Ok(())
    }

    /// Copy bytes in.
    #[inline(always)]
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.at(offset, data.len(), 1)?;
        // SAFETY: as in `read`, and the mapping is writable.
        unsafe { copy::write(to.as_ptr(), data) };
        Ok(())
    }

    /// Set bytes to one value.
    pub fn fill(&self, offset: usize, length: usize, byte: u8) -> Result<(), OutOfBounds> {
        let to = self.at(offset, length, 1)?;
        // SAFETY: as in `write`.
        unsafe { copy::fill(to.as_ptr(), length, byte) };
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // In a child of fork() the mapping does not exist, and something else may be there.
        if self.owner.is_here() {
            // SAFETY: base and length are what mmap gave; nobody can hold a pointer into it, as
            // every accessor keeps this object alive. An error leaks the mapping, which is safe.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        }
    }
}

/// Types made of atomics alone: without padding, valid for every bit pattern.
///
/// # Safety
/// An implementor is `repr(C)` or `repr(transparent)` over atomics, with no other fields.
pub unsafe trait AtomicCells: 'static {}

/// A value that is stored in shared memory field by field, each with one relaxed atomic access.
pub trait Record: Copy + 'static {
    /// Its fields in shared memory.
    type Cells: AtomicCells;
    /// Read all fields, each once.
    fn load(cells: &Self::Cells) -> Self;
    /// Write all fields, each once.
    fn store(self, cells: &Self::Cells);
}

/// A [`Descriptor`] in shared memory. The smaller fields are one word: they are written and read
/// together.
#[repr(C)]
pub struct DescriptorCells {
    addr: AtomicU64,
    rest: AtomicU64,
}
// SAFETY: repr(C) over two atomics of 8 bytes: 16 bytes, no padding.
unsafe impl AtomicCells for DescriptorCells {}

impl Record for Descriptor {
    type Cells = DescriptorCells;
    #[inline(always)]
    fn load(cells: &DescriptorCells) -> Self {
        let addr = u64::from_le(cells.addr.load(Relaxed));
        let rest = u64::from_le(cells.rest.load(Relaxed));
        Self { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }
    #[inline(always)]
    fn store(self, cells: &DescriptorCells) {
        let Self { addr, len, flags, next } = self;
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        cells.addr.store(addr.to_le(), Relaxed);
        cells.rest.store(rest.to_le(), Relaxed);
    }
}

// SAFETY: an atomic.
unsafe impl AtomicCells for AtomicU8 {}
// SAFETY: an atomic.
unsafe impl AtomicCells for AtomicU16 {}
// SAFETY: an atomic.
unsafe impl AtomicCells for AtomicU64 {}

impl Record for AvailableElement {
    type Cells = AtomicU16;
    #[inline(always)]
    fn load(cell: &AtomicU16) -> Self {
        Self(u16::from_le(cell.load(Relaxed)))
    }
    #[inline(always)]
    fn store(self, cell: &AtomicU16) {
        cell.store(self.0.to_le(), Relaxed);
    }
}

/// A [`UsedElement`] in shared memory.
#[repr(C)]
pub struct UsedElementCells {
    id: AtomicU32,
    len: AtomicU32,
}
// SAFETY: repr(C) over two atomics of 4 bytes: no padding.
unsafe impl AtomicCells for UsedElementCells {}

impl Record for UsedElement {
    type Cells = UsedElementCells;
    #[inline(always)]
    fn load(cells: &UsedElementCells) -> Self {
        Self {
            id: u32::from_le(cells.id.load(Relaxed)),
            len: u32::from_le(cells.len.load(Relaxed)),
        }
    }
    #[inline(always)]
    fn store(self, cells: &UsedElementCells) {
        cells.id.store(self.id.to_le(), Relaxed);
        cells.len.store(self.len.to_le(), Relaxed);
    }
}

/// A [`PackedDescriptor`] in shared memory.
#[repr(C)]
pub struct PackedDescriptorCells {
    addr: AtomicU64,
    len: AtomicU32,
    id: AtomicU16,
    flags: AtomicU16,
}
// SAFETY: repr(C) over atomics of 8, 4, 2 and 2 bytes: 16 bytes, no padding.
unsafe impl AtomicCells for PackedDescriptorCells {}

impl Record for PackedDescriptor {
    type Cells = PackedDescriptorCells;
    #[inline(always)]
    fn load(cells: &PackedDescriptorCells) -> Self {
        Self {
            addr: u64::from_le(cells.addr.load(Relaxed)),
            len: u32::from_le(cells.len.load(Relaxed)),
            id: u16::from_le(cells.id.load(Relaxed)),
            flags: u16::from_le(cells.flags.load(Relaxed)),
        }
    }
    #[inline(always)]
    fn store(self, cells: &PackedDescriptorCells) {
        cells.addr.store(self.addr.to_le(), Relaxed);
        cells.len.store(self.len.to_le(), Relaxed);
        cells.id.store(self.id.to_le(), Relaxed);
        cells.flags.store(self.flags.to_le(), Relaxed);
    }
}

/// An array of records in shared memory.
pub struct Records<R: Record> {
    first: NonNull<R::Cells>,
    count: usize,
    _memory: Arc<Memory>,
}

impl<R: Record> std::fmt::Debug for Records<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Records({} at {:p})", self.count, self.first)
    }
}

// SAFETY: a pointer to atomics in memory that `_memory` keeps mapped.
unsafe impl<R: Record> Send for Records<R> {}
// SAFETY: as above; all access is atomic.
unsafe impl<R: Record> Sync for Records<R> {}

impl<R: Record> Records<R> {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        offset: usize,
        count: usize,
    ) -> Result<Self, OutOfBounds> {
        let size = size_of::<R::Cells>();
        let available = memory.len();
        let length =
            count.checked_mul(size).ok_or(OutOfBounds { offset, length: usize::MAX, available })?;
        let first = memory.at(offset, length, align_of::<R::Cells>())?.cast();
        Ok(Self { first, count, _memory: Arc::clone(memory) })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    #[inline(always)]
    fn cells(&self, index: usize) -> &R::Cells {
        // Ring code masks every index, so this can only fire for a mistake of ours.
        assert!(index < self.count, "record {index} of {}", self.count);
        // SAFETY: inside the array that `new` checked; the mapping is page-aligned and the offset
        // was checked, so it is aligned; AtomicCells are valid for every bit pattern. Rust code of
        // this process accesses the bytes of a ring as these atomics, of this width, alone, and a
        // claim keeps two rings apart. What can come on top is outside the language: a memoryview
        // that Python has of the region, another process, and `copy` (assembly) where a payload is
        // misplaced onto a ring. They can make a value wrong, which the ring code expects of any
        // device, and no reference to plain data exists that they could invalidate.
        unsafe { self.first.add(index).as_ref() }
    }

    /// Hint that record `index` will be written soon, so that its cache line can come over from the
    /// other side's processor meanwhile. Nothing is read or written.
    #[inline(always)]
    pub fn prefetch_for_write(&self, index: usize) {
        let record = std::ptr::from_ref(self.cells(index));
        // SAFETY: every processor of these two architectures knows the instruction, if only to do
        // nothing (x86-64: AMD has it with long mode, older ones of Intel take it as a no-op). It
        // is a hint about an address: it raises no exception, and changes no value in memory, no
        // register, no stack and no flags.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            std::arch::asm!(
                "prefetchw [{0}]",
                in(reg) record,
                options(nostack, preserves_flags, readonly)
            );
            #[cfg(target_arch = "aarch64")]
            std::arch::asm!(
                "prfm pstl1keep, [{0}]",
                in(reg) record,
                options(nostack, preserves_flags, readonly)
            );
        }
    }

    /// Read record `index`, each field once.
    #[inline(always)]
    pub fn load(&self, index: usize) -> R {
        R::load(self.cells(index))
    }

    /// Write record `index`.
    #[inline(always)]
    pub fn store(&self, index: usize, record: R) {
        record.store(self.cells(index));
    }
}

/// An array of 16-bit words on which driver and device meet: flags, indices, events.
#[derive(Debug)]
pub struct Words(Records<AvailableElement>);

impl Words {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        offset: usize,
        count: usize,
    ) -> Result<Self, OutOfBounds> {
        Records::new(memory, offset, count).map(Self)
    }

    /// Read word `index` once, relaxed.
    #[inline(always)]
    pub fn load(&self, index: usize) -> u16 {
        self.0.load(index).0
    }

    /// Write word `index`, relaxed.
    #[inline(always)]
    pub fn store(&self, index: usize, value: u16) {
        self.0.store(index, AvailableElement(value));
    }
}

/// The descriptor ring of a packed ring. Its flags are the words on which driver and device meet;
/// the rest of a descriptor belongs to whoever the flags say.
#[derive(Debug)]
pub struct PackedDescriptors(Records<PackedDescriptor>);

impl PackedDescriptors {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        offset: usize,
        count: usize,
    ) -> Result<Self, OutOfBounds> {
        Records::new(memory, offset, count).map(Self)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Read the flags of descriptor `index` once, relaxed.
    #[inline(always)]
    pub fn load_flags(&self, index: usize) -> u16 {
        u16::from_le(self.0.cells(index).flags.load(Relaxed))
    }

    /// Write the flags of descriptor `index`, relaxed.
    #[inline(always)]
    pub fn store_flags(&self, index: usize, flags: u16) {
        self.0.cells(index).flags.store(flags.to_le(), Relaxed);
    }

    /// Read all but the flags, each field once.
    #[inline(always)]
    pub fn load_body(&self, index: usize) -> PackedBody {
        let cells = self.0.cells(index);
        PackedBody {
            addr: u64::from_le(cells.addr.load(Relaxed)),
            len: u32::from_le(cells.len.load(Relaxed)),
            id: u16::from_le(cells.id.load(Relaxed)),
        }
    }

    /// Write all but the flags.
    #[inline(always)]
    pub fn store_body(&self, index: usize, body: PackedBody) {
        let cells = self.0.cells(index);
        cells.addr.store(body.addr.to_le(), Relaxed);
        cells.len.store(body.len.to_le(), Relaxed);
        cells.id.store(body.id.to_le(), Relaxed);
    }

    /// Read what the device says of a used buffer, each field once.
    #[inline(always)]
    pub fn load_used(&self, index: usize) -> PackedUsed {
        let cells = self.0.cells(index);
        PackedUsed {
            id: u16::from_le(cells.id.load(Relaxed)),
            len: u32::from_le(cells.len.load(Relaxed)),
        }
    }

    /// Device: say what was used.
    #[inline(always)]
    pub fn store_used(&self, index: usize, used: PackedUsed) {
        let cells = self.0.cells(index);
        cells.id.store(used.id.to_le(), Relaxed);
        cells.len.store(used.len.to_le(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_who_gets_the_descriptor_can_cut_the_file() -> Result<(), SpaceError> {
        let memory = Memory::create(8192)?;
        for length in [4096, 0, 16384] {
            let cut = rustix::fs::ftruncate(memory.fd(), length);
            assert_eq!(cut, Err(rustix::io::Errno::PERM), "to {length} bytes");
        }
        let more = rustix::fs::fcntl_add_seals(memory.fd(), SealFlags::FUTURE_WRITE);
        assert_eq!(more, Err(rustix::io::Errno::PERM));
        Ok(())
    }
}
