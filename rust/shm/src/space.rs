//! The memory that one device can reach: a few large mappings, and regions cut from them.

use std::collections::BTreeMap;
#[cfg(not(loom))]
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::SpaceError;
use crate::fork::Owner;
use crate::handles::Handles;
use crate::memory::Memory;
use crate::ranges::{FreeRanges, Taken};
use crate::span::Span;

mod held;
mod region;

pub use held::{Held, HeldRegions};
use region::RegionInner;
pub use region::{Claim, Pin, Region, Segment};

const PAGE: usize = 4096;
/// Regions never share a cache line, so that neighbours do not slow each other down.
const GRANULE: usize = 64;

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
struct State {
    mappings: Vec<Arc<Mapping>>,
    /// Open regions. Whoever looks one up drops it only after unlocking: the last reference to a
    /// region locks the space.
    handles: Handles<RegionInner>,
    /// Open regions by the host address of their first byte.
    by_host_address: BTreeMap<usize, u32>,
}

/// The memory that one device can reach. Cloning shares it.
///
/// It belongs to the process that made it. In a child of `fork()` nothing of it is mapped, and
/// its lock may be held by a thread that does not exist there: every call fails without taking
/// it, with [`SpaceError::Forked`] where the call can say so.
#[derive(Clone, Debug)]
pub struct DmaSpace {
    state: Arc<Mutex<State>>,
    owner: Owner,
}

impl Default for DmaSpace {
    fn default() -> Self {
        Self { state: Arc::default(), owner: Owner::here() }
    }
}

impl DmaSpace {
    /// No memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(all(test, not(loom)))]
    fn with_handles(handles: Handles<RegionInner>) -> Self {
        let space = Self::new();
        space.state.lock().unwrap_or_else(PoisonError::into_inner).handles = handles;
        space
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, SpaceError> {
        self.check_owner()?;
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fails in a child of `fork()`.
    pub fn check_owner(&self) -> Result<(), SpaceError> {
        if self.owner.is_here() { Ok(()) } else { Err(SpaceError::Forked) }
    }

    /// Map fresh zeroed memory of `length` bytes at `device_address`.
    pub fn map(&self, length: usize, device_address: u64) -> Result<Arc<Mapping>, SpaceError> {
        self.check_owner()?;
        check_placement(length, device_address)?;
        self.add(Memory::create(length)?, 0, device_address)
    }

    /// Map `length` bytes of memory that somebody else made, and whose maker is trusted not to
    /// shrink it (see [`Memory::from_fd`]).
    #[cfg(not(loom))]
    pub fn map_fd(
        &self,
        fd: OwnedFd,
        length: usize,
        device_address: u64,
        file_offset: u64,
    ) -> Result<Arc<Mapping>, SpaceError> {
        self.check_owner()?;
        check_placement(length, device_address)?;
        if !file_offset.is_multiple_of(PAGE as u64) {
            let why = format!("file offset {file_offset} is not a multiple of {PAGE}");
            return Err(SpaceError::Invalid(why));
        }
        // Its maker may have written to all of it.
        self.add(Memory::from_fd(fd, length, file_offset)?, length, device_address)
    }

    /// `fresh_from`: from where on the memory is zero.
    fn add(
        &self,
        memory: Memory,
        fresh_from: usize,
        device_address: u64,
    ) -> Result<Arc<Mapping>, SpaceError> {
        let length = memory.len() as u64;
        let mut state = self.lock()?;
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
        let free = Mutex::new(FreeRanges::new(memory.len(), fresh_from));
        let mapping = Arc::new(Mapping { memory: Arc::new(memory), device_address, free });
        state.mappings.push(Arc::clone(&mapping));
        Ok(mapping)
    }

    /// All mappings, in the order in which they were made; none in a child of `fork()`.
    pub fn mappings(&self) -> Vec<Arc<Mapping>> {
        self.lock().map_or(Vec::new(), |state| state.mappings.clone())
    }

    /// Bytes that are free in all mappings together; none in a child of `fork()`.
    pub fn free_bytes(&self) -> usize {
        self.mappings().iter().map(|mapping| mapping.free().free_bytes()).sum()
    }

    /// Cut a zeroed region of `length` bytes, aligned to `align`, from the first mapping with room.
    pub fn alloc(&self, length: usize, align: usize) -> Result<Region, SpaceError> {
        self.check_owner()?;
        if length == 0 || !align.is_power_of_two() || align > PAGE {
            return Err(SpaceError::Invalid(format!(
                "a region of {length} bytes aligned to {align} cannot be: it needs at least a byte, \
                 and an alignment that is a power of two up to {PAGE}"
            )));
        }
        let no_room = || SpaceError::NoRoom { length, free: self.free_bytes() };
        // Whole granules: what they left over would only be looked at in vain by every later call.
        let granule = align.max(GRANULE);
        let reserved = length.checked_next_multiple_of(granule).ok_or_else(no_room)?;
        let (mapping, taken) = self.take(reserved, granule)?.ok_or_else(no_room)?;
        let Taken { start: offset, used } = taken;
        let span = Span::new(Arc::clone(&mapping.memory), offset, length);
        // Fresh memory is zero, and costs nothing until somebody touches it.
        let zeroed = span.fill(0, used.min(length), 0);
        let made = zeroed
            .map_err(|error| SpaceError::Invalid(error.to_string()))
            .and_then(|()| self.register(&mapping, span, (offset, reserved)));
        if made.is_err() {
            mapping.free().give_back(offset, reserved);
        }
        made.map(Region)
    }

    fn take(
        &self,
        length: usize,
        align: usize,
    ) -> Result<Option<(Arc<Mapping>, Taken)>, SpaceError> {
        let state = self.lock()?;
        Ok(state.mappings.iter().find_map(|mapping| {
            let taken = mapping.free().take(length, align)?;
            Some((Arc::clone(mapping), taken))
        }))
    }

    fn register(
        &self,
        mapping: &Arc<Mapping>,
        span: Span,
        reserved: (usize, usize),
    ) -> Result<Arc<RegionInner>, SpaceError> {
        let mut state = self.lock()?;
        let name = state.handles.reserve().ok_or(SpaceError::NoHandle)?;
        let inner = Arc::new(RegionInner {
            device_address: mapping.device_address + reserved.0 as u64,
            span,
            name,
            uses: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            reserved,
            mapping: Arc::clone(mapping),
            space: Arc::downgrade(&self.state),
            owner: self.owner,
        });
        state.handles.name(name, Arc::downgrade(&inner));
        state.by_host_address.insert(inner.span.host_address(), name.handle);
        Ok(inner)
    }

    /// The region that `handle` names; `Closed` if none (any more).
    pub fn region(&self, handle: u32) -> Result<Region, SpaceError> {
        // Two statements: the last reference to a region locks the space when it is dropped.
        let found = self.lock()?.handles.get(handle);
        found.map(Region).ok_or(SpaceError::Closed)
    }

    /// Keep the region that `handle` names from being closed, as long as the pin lives.
    pub fn pin(&self, handle: u32) -> Result<Pin, SpaceError> {
        self.region(handle)?.into_pin()
    }

    /// The open region, as (handle, offset in it), that holds all of these bytes of this process.
    pub fn locate(
        &self,
        host_address: usize,
        length: usize,
    ) -> Result<Option<(u32, usize)>, SpaceError> {
        let state = self.lock()?;
        let before = state.by_host_address.range(..=host_address).next_back();
        let found = before.and_then(|(&start, &handle)| {
            Some((host_address - start, handle, state.handles.get(handle)?))
        });
        drop(state);
        Ok(found.and_then(|(offset, handle, region)| {
            let inside = offset.checked_add(length)? <= region.span.len();
            inside.then_some((handle, offset))
        }))
    }

    /// The bytes that the device sees at `address`, for the device's half. `None` unless all of
    /// them are in one mapping, and in a child of `fork()`, where there are none.
    pub fn translate(&self, address: u64, length: usize) -> Option<Span> {
        let state = self.lock().ok()?;
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Outcome = Result<(), SpaceError>;

    fn space() -> Result<DmaSpace, SpaceError> {
        let space = DmaSpace::new();
        space.map(2 * PAGE, 0)?;
        Ok(space)
    }

    #[test]
    fn a_second_claim_is_refused_until_the_first_has_gone() -> Outcome {
        let region = space()?.alloc(64, 64)?;
        let claim = region.claim()?;
        assert!(matches!(region.claim(), Err(SpaceError::Claimed)));
        assert_eq!(region.in_flight(), 1, "a refused claim leaves nothing behind");
        assert!(matches!(region.close(), Err(SpaceError::InUse { in_flight: 1, .. })));
        region.begin_export()?;
        region.end_export();
        assert!(claim.pin().segment(0, 64).is_ok());
        drop(claim);
        drop(region.claim()?);
        region.close()?;
        assert!(matches!(region.claim(), Err(SpaceError::Closed)));
        Ok(())
    }

    #[test]
    fn a_small_region_takes_as_much_as_its_alignment_and_leaves_no_gap() -> Outcome {
        let space = space()?;
        let page = space.alloc(100, PAGE)?;
        assert_eq!((page.len(), space.free_bytes()), (100, PAGE));
        drop(space.alloc(100, 64)?);
        page.close()?;
        drop(page);
        assert_eq!(space.free_bytes(), 2 * PAGE);
        Ok(())
    }

    #[test]
    fn an_abandoned_claim_stays_and_the_bytes_are_never_given_out_again() -> Outcome {
        let space = space()?;
        let region = space.alloc(PAGE, 64)?;
        region.claim()?.pin().abandon();
        assert!(matches!(region.claim(), Err(SpaceError::Claimed)));
        region.close()?;
        assert_eq!(space.free_bytes(), PAGE);
        Ok(())
    }

    #[test]
    fn without_a_handle_left_the_bytes_are_given_back() -> Outcome {
        let space = DmaSpace::with_handles(Handles::with_limits(1, 2));
        space.map(2 * PAGE, 0)?;
        let first = space.alloc(64, 64)?;
        assert!(matches!(space.alloc(64, 64), Err(SpaceError::NoHandle)));
        assert_eq!(space.free_bytes(), 2 * PAGE - 64);
        first.close()?;
        let second = space.alloc(64, 64)?;
        assert!(matches!(space.region(first.handle()), Err(SpaceError::Closed)));
        assert_eq!(space.region(second.handle())?.handle(), second.handle());
        second.close()?;
        assert!(matches!(space.alloc(64, 64), Err(SpaceError::NoHandle)), "worn out");
        assert_eq!(space.free_bytes(), 2 * PAGE);
        Ok(())
    }

    /// Whether `task` is true in a forked child, which a signal ends if it hangs.
    fn in_child(task: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs nothing but `task`, which takes no lock of another thread but
        // the allocator's (glibc makes that one usable), and leaves without destructors.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(10);
                libc::_exit(if task() { 0 } else { 1 });
            }
            let mut status = 1;
            libc::waitpid(child, &mut status, 0) == child && status == 0
        }
    }

    #[test]
    fn a_child_is_refused_everything_and_waits_for_no_lock_of_its_parent() -> Outcome {
        let space = space()?;
        let region = space.alloc(64, 64)?;
        let mut to_drop = Some((space.alloc(64, 64)?, space.alloc(64, 64)?.pin()?));
        let address = region.span().host_address();
        let mapping = Arc::clone(&region.0.mapping);
        let held = (space.lock()?, mapping.free());
        assert!(in_child(|| {
            let calls = [
                space.map(PAGE, 1 << 20).err(),
                space.alloc(64, 64).err(),
                space.region(region.handle()).err(),
                space.pin(region.handle()).err(),
                space.locate(address, 64).err(),
                region.begin_export().err(),
                region.pin().err(),
                region.claim().err(),
                region.close().err(),
            ];
            drop(to_drop.take());
            let refused = calls.iter().all(|error| matches!(error, Some(SpaceError::Forked)));
            refused && space.translate(0, 1).is_none() && space.mappings().is_empty()
        }));
        drop(held);
        drop(to_drop);
        region.close()?;
        assert_eq!(space.free_bytes(), 2 * PAGE);
        Ok(())
    }
}
