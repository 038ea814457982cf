//! The memory that one device can reach: a few large mappings, and regions cut from them.

use std::collections::BTreeMap;
#[cfg(not(loom))]
use std::os::fd::OwnedFd;
use std::sync::atomic::{
    AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{OutOfBounds, SpaceError};
use crate::memory::Memory;
use crate::ranges::FreeRanges;
use crate::span::Span;

const PAGE: usize = 4096;
/// Regions never share a cache line, so that neighbours do not slow each other down.
const GRANULE: usize = 64;

/// A handle is a slot index and, above it, a generation, so that a stale one is noticed.
const INDEX_BITS: u32 = 20;

/// A mapping and where the device sees it.
#[derive(Debug)]
pub struct Mapping {
    memory: Arc<Memory>,
    device_address: u64,
    free: Mutex<FreeRanges>,
}

impl Mapping {
    /// The memory itself.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Where the device sees the first byte.
    pub fn device_address(&self) -> u64 {
        self.device_address
    }

    fn free(&self) -> MutexGuard<'_, FreeRanges> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offset of `length` bytes at `address` (as the device sees it), if all are inside.
    fn offset_of(&self, address: u64, length: usize) -> Option<usize> {
        let offset = usize::try_from(address.checked_sub(self.device_address)?).ok()?;
        (offset.checked_add(length)? <= self.memory.len()).then_some(offset)
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    region: Weak<RegionInner>,
}

#[derive(Debug, Default)]
struct State {
    mappings: Vec<Arc<Mapping>>,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    /// Open regions by the host address of their first byte.
    by_host_address: BTreeMap<usize, u32>,
}

impl State {
    /// The region that `handle` names. The caller drops it only after unlocking: the last
    /// reference locks the space.
    fn region(&self, handle: u32) -> Option<Arc<RegionInner>> {
        let slot = self.slots.get((handle & ((1 << INDEX_BITS) - 1)) as usize)?;
        (slot.generation == handle >> INDEX_BITS).then(|| slot.region.upgrade())?
    }
}

/// The memory that one device can reach. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct DmaSpace {
    state: Arc<Mutex<State>>,
}

impl DmaSpace {
    /// No memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Map fresh zeroed memory of `length` bytes at `device_address`.
    pub fn map(&self, length: usize, device_address: u64) -> Result<Arc<Mapping>, SpaceError> {
        check_placement(length, device_address)?;
        self.add(Memory::create(length)?, device_address)
    }

    /// Map `length` bytes of memory that somebody else made.
    #[cfg(not(loom))]
    pub fn map_fd(
        &self,
        fd: OwnedFd,
        length: usize,
        device_address: u64,
        file_offset: u64,
    ) -> Result<Arc<Mapping>, SpaceError> {
        check_placement(length, device_address)?;
        if !file_offset.is_multiple_of(PAGE as u64) {
            let why = format!("file offset {file_offset} is not a multiple of {PAGE}");
            return Err(SpaceError::Invalid(why));
        }
        self.add(Memory::from_fd(fd, length, file_offset)?, device_address)
    }

    fn add(&self, memory: Memory, device_address: u64) -> Result<Arc<Mapping>, SpaceError> {
        let length = memory.len() as u64;
        let mut state = self.lock();
        let overlaps = |other: &&Arc<Mapping>| {
            device_address < other.device_address + other.memory.len() as u64
                && other.device_address < device_address + length
        };
        if let Some(other) = state.mappings.iter().find(overlaps) {
            return Err(SpaceError::Invalid(format!(
                "device addresses {device_address:#x} + {length:#x} overlap the mapping at {:#x}",
                other.device_address
            )));
        }
        let free = Mutex::new(FreeRanges::new(memory.len()));
        let mapping = Arc::new(Mapping { memory: Arc::new(memory), device_address, free });
        state.mappings.push(Arc::clone(&mapping));
        Ok(mapping)
    }

    /// All mappings, in the order in which they were made.
    pub fn mappings(&self) -> Vec<Arc<Mapping>> {
        self.lock().mappings.clone()
    }

    /// Bytes that are free in all mappings together.
    pub fn free_bytes(&self) -> usize {
        self.lock().mappings.iter().map(|mapping| mapping.free().free_bytes()).sum()
    }

    /// Cut a zeroed region of `length` bytes, aligned to `align`, from the first mapping with room.
    pub fn alloc(&self, length: usize, align: usize) -> Result<Region, SpaceError> {
        if length == 0 || !align.is_power_of_two() || align > PAGE {
            return Err(SpaceError::Invalid(format!(
                "a region of {length} bytes aligned to {align} cannot be: it needs at least a byte, \
                 and an alignment that is a power of two up to {PAGE}"
            )));
        }
        let align = align.max(GRANULE);
        let taken = length
            .checked_next_multiple_of(GRANULE)
            .and_then(|reserved| self.take(reserved, align).map(|found| (reserved, found)));
        let Some((reserved, (mapping, offset))) = taken else {
            return Err(SpaceError::NoRoom { length, free: self.free_bytes() });
        };
        let inner = self.register(mapping, offset, length, reserved);
        inner.span.fill(0, length, 0).map_err(|error| SpaceError::Invalid(error.to_string()))?;
        Ok(Region(inner))
    }

    fn take(&self, length: usize, align: usize) -> Option<(Arc<Mapping>, usize)> {
        let state = self.lock();
        state.mappings.iter().find_map(|mapping| {
            let offset = mapping.free().take(length, align)?;
            Some((Arc::clone(mapping), offset))
        })
    }

    fn register(
        &self,
        mapping: Arc<Mapping>,
        offset: usize,
        length: usize,
        reserved: usize,
    ) -> Arc<RegionInner> {
        let mut state = self.lock();
        let index = state.free_slots.pop().unwrap_or_else(|| {
            state.slots.push(Slot::default());
            state.slots.len() as u32 - 1
        });
        let handle = state.slots[index as usize].generation << INDEX_BITS | index;
        let inner = Arc::new(RegionInner {
            span: Span::new(Arc::clone(&mapping.memory), offset, length),
            device_address: mapping.device_address + offset as u64,
            handle,
            uses: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            reserved: (offset, reserved),
            mapping,
            space: Arc::downgrade(&self.state),
        });
        state.slots[index as usize].region = Arc::downgrade(&inner);
        state.by_host_address.insert(inner.span.host_address(), handle);
        inner
    }

    /// The region that `handle` names, if it is open.
    pub fn region(&self, handle: u32) -> Option<Region> {
        // Two statements: the last reference to a region locks the space when it is dropped.
        let found = self.lock().region(handle);
        found.map(Region)
    }

    /// Keep the region that `handle` names from being closed, as long as the pin lives.
    pub fn pin(&self, handle: u32) -> Result<Pin, SpaceError> {
        self.region(handle).ok_or(SpaceError::Closed)?.pin()
    }

    /// The open region, as (handle, offset in it), that holds all of these bytes of this process.
    pub fn locate(&self, host_address: usize, length: usize) -> Option<(u32, usize)> {
        let state = self.lock();
        let (&start, &handle) = state.by_host_address.range(..=host_address).next_back()?;
        let region = state.region(handle)?;
        drop(state);
        let offset = host_address - start;
        let found = offset.checked_add(length)? <= region.span.len();
        found.then_some((handle, offset))
    }

    /// The bytes that the device sees at `address`, for the device's half. `None` unless all of
    /// them are in one mapping.
    pub fn translate(&self, address: u64, length: usize) -> Option<Span> {
        let state = self.lock();
        state.mappings.iter().find_map(|mapping| {
            let offset = mapping.offset_of(address, length)?;
            Some(Span::new(Arc::clone(&mapping.memory), offset, length))
        })
    }
}

fn check_placement(length: usize, device_address: u64) -> Result<(), SpaceError> {
    let aligned = length.is_multiple_of(PAGE) && device_address.is_multiple_of(PAGE as u64);
    if length == 0 || !aligned || device_address.checked_add(length as u64).is_none() {
        return Err(SpaceError::Invalid(format!(
            "cannot map {length} bytes at device address {device_address:#x}: both must be \
             multiples of {PAGE}, the length not 0, and the end below 2^64"
        )));
    }
    Ok(())
}

/// Uses of a region in one word, so that closing and beginning a use exclude each other:
/// bits 0-30 in flight, 31-61 exports, 63 closed.
const IN_FLIGHT: u64 = 1;
const EXPORT: u64 = 1 << 31;
const COUNT_MASK: u64 = (1 << 31) - 1;
const CLOSED: u64 = 1 << 63;

#[derive(Debug)]
struct RegionInner {
    span: Span,
    device_address: u64,
    handle: u32,
    uses: AtomicU64,
    /// A device may still reach the bytes, so nobody else may ever get them.
    abandoned: AtomicBool,
    reserved: (usize, usize),
    mapping: Arc<Mapping>,
    space: Weak<Mutex<State>>,
}

impl RegionInner {
    fn is_closed(&self) -> bool {
        self.uses.load(Acquire) & CLOSED != 0
    }

    fn begin(&self, kind: u64) -> Result<(), SpaceError> {
        if self.uses.fetch_add(kind, AcqRel) & CLOSED != 0 {
            self.uses.fetch_sub(kind, AcqRel);
            return Err(SpaceError::Closed);
        }
        Ok(())
    }
}

impl RegionInner {
    /// Give handle and bytes back. Once only: on closing, else when the last user goes.
    fn release(&self) {
        if let Some(state) = self.space.upgrade() {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let index = self.handle & ((1 << INDEX_BITS) - 1);
            if let Some(slot) = state.slots.get_mut(index as usize) {
                slot.generation = (slot.generation + 1) & ((1 << (32 - INDEX_BITS)) - 1);
            }
            state.free_slots.push(index);
            state.by_host_address.remove(&self.span.host_address());
        }
        // Only now may somebody else get the bytes: the address must not name two regions.
        if !self.abandoned.load(Acquire) {
            self.mapping.free().give_back(self.reserved.0, self.reserved.1);
        }
    }
}

impl Drop for RegionInner {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.release();
        }
    }
}

/// Bytes that the device can reach. Cloning shares it; the bytes are given out again when it is
/// closed, or when the last clone and pin have gone.
#[derive(Clone, Debug)]
pub struct Region(Arc<RegionInner>);

impl Region {
    /// The bytes.
    pub fn span(&self) -> &Span {
        &self.0.span
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.span.len()
    }

    /// Never: a region has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where the device sees the first byte.
    pub fn device_address(&self) -> u64 {
        self.0.device_address
    }

    /// The number by which request records name it.
    pub fn handle(&self) -> u32 {
        self.0.handle
    }

    /// Chains or requests that the device may be using it for.
    pub fn in_flight(&self) -> u32 {
        (self.0.uses.load(Relaxed) & COUNT_MASK) as u32
    }

    /// Buffers exported from it.
    pub fn exports(&self) -> u32 {
        (self.0.uses.load(Relaxed) >> 31 & COUNT_MASK) as u32
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Refuse all further uses and give the bytes back; fails while there are any. Closing twice
    /// is fine.
    pub fn close(&self) -> Result<(), SpaceError> {
        match self.0.uses.compare_exchange(0, CLOSED, AcqRel, Acquire) {
            Ok(_) => {
                self.0.release();
                Ok(())
            }
            Err(uses) if uses & CLOSED != 0 => Ok(()),
            Err(uses) => Err(SpaceError::InUse {
                exports: (uses >> 31 & COUNT_MASK) as u32,
                in_flight: (uses & COUNT_MASK) as u32,
            }),
        }
    }

    /// Count an exported buffer; the exporter calls `end_export` when it is released.
    pub fn begin_export(&self) -> Result<(), SpaceError> {
        self.0.begin(EXPORT)
    }

    /// See `begin_export`.
    pub fn end_export(&self) {
        self.0.uses.fetch_sub(EXPORT, AcqRel);
    }

    /// Keep it from being closed, as long as the pin lives.
    pub fn pin(&self) -> Result<Pin, SpaceError> {
        self.0.begin(IN_FLIGHT)?;
        Ok(Pin(self.clone()))
    }
}

/// A use of a region by a queue: the region cannot be closed and its bytes not be given out.
#[derive(Debug)]
pub struct Pin(Region);

impl Pin {
    /// The region.
    pub fn region(&self) -> &Region {
        &self.0
    }

    /// Describe `length` bytes at `offset` to a device.
    #[inline]
    pub fn segment(&self, offset: u64, length: u64) -> Result<Segment, OutOfBounds> {
        let available = self.0.len();
        let inside = offset.checked_add(length).is_some_and(|end| end <= available as u64);
        match u32::try_from(length) {
            Ok(len) if inside && len > 0 => {
                Ok(Segment { addr: self.0.device_address() + offset, len })
            }
            _ => Err(OutOfBounds { offset: offset as usize, length: length as usize, available }),
        }
    }
}

impl Pin {
    /// End the use without knowing that the device has ended its own: the bytes are never given
    /// out again. They stay mapped as long as the space does.
    pub fn abandon(self) {
        self.0.0.abandoned.store(true, Release);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.0.uses.fetch_sub(IN_FLIGHT, AcqRel);
    }
}

/// What one descriptor describes. Only a [`Pin`] makes one, so the bytes are inside a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    addr: u64,
    len: u32,
}

impl Segment {
    /// Device address of the first byte.
    #[inline(always)]
    pub fn addr(self) -> u64 {
        self.addr
    }

    /// Bytes, at least 1.
    #[inline(always)]
    pub fn len(self) -> u32 {
        self.len
    }

    /// Never.
    pub fn is_empty(self) -> bool {
        false
    }

    /// `length` bytes of this segment from `offset` on.
    #[inline]
    pub fn slice(self, offset: u32, length: u32) -> Result<Self, OutOfBounds> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.len);
        if !inside || length == 0 {
            let (offset, length) = (offset as usize, length as usize);
            return Err(OutOfBounds { offset, length, available: self.len as usize });
        }
        Ok(Self { addr: self.addr + u64::from(offset), len: length })
    }
}
