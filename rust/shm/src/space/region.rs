//! A piece of a space: who uses it, and what may be done with it meanwhile.

use std::sync::atomic::{
    AtomicBool, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Mapping, State};
use crate::error::{OutOfBounds, SpaceError};
use crate::fork::Owner;
use crate::handles::Reserved;
use crate::span::Span;

/// Uses of a region in one word, so that closing and beginning a use exclude each other:
/// bits 0-30 in flight, 31-61 exports, 62 claimed, 63 closed.
const IN_FLIGHT: u64 = 1;
const EXPORT: u64 = 1 << 31;
const COUNT_MASK: u64 = (1 << 31) - 1;
const CLAIMED: u64 = 1 << 62;
const CLOSED: u64 = 1 << 63;

const fn in_flight_of(uses: u64) -> u32 {
    (uses & COUNT_MASK) as u32
}

const fn exports_of(uses: u64) -> u32 {
    (uses >> 31 & COUNT_MASK) as u32
}

#[derive(Debug)]
pub(super) struct RegionInner {
    pub(super) span: Span,
    pub(super) device_address: u64,
    pub(super) name: Reserved,
    pub(super) uses: AtomicU64,
    /// A device may still reach the bytes, so nobody else may ever get them.
    pub(super) abandoned: AtomicBool,
    pub(super) reserved: (usize, usize),
    pub(super) mapping: Arc<Mapping>,
    pub(super) space: Weak<Mutex<State>>,
    pub(super) owner: Owner,
}

impl RegionInner {
    fn is_closed(&self) -> bool {
        self.uses.load(Acquire) & CLOSED != 0
    }

    fn check_owner(&self) -> Result<(), SpaceError> {
        if self.owner.is_here() { Ok(()) } else { Err(SpaceError::Forked) }
    }

    fn begin(&self, kind: u64) -> Result<(), SpaceError> {
        self.check_owner()?;
        if self.uses.fetch_add(kind, AcqRel) & CLOSED != 0 {
            self.uses.fetch_sub(kind, AcqRel);
            return Err(SpaceError::Closed);
        }
        Ok(())
    }

    /// Give handle and bytes back. Once only: on closing, else when the last user goes.
    fn release(&self) {
        // In a child of fork() the locks may be held by threads that do not exist there, and
        // memory and handle are the parent's.
        if !self.owner.is_here() {
            return;
        }
        if let Some(state) = self.space.upgrade() {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.handles.release(self.name);
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

/// Bytes that the device can reach.
///
/// Cloning shares it. Its bytes are given out again when it is closed, or when the last clone and
/// [`Pin`] have gone; never, if a pin was abandoned. It cannot be closed while it is exported or
/// pinned, nor, like its space, be put to any use in a child of `fork()`.
#[derive(Clone, Debug)]
pub struct Region(pub(super) Arc<RegionInner>);

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
        self.0.name.handle
    }

    /// Uses that a device may be making of it: a queue counts once for all of its requests, a chain
    /// that was pushed by itself once.
    pub fn in_flight(&self) -> u32 {
        in_flight_of(self.0.uses.load(Relaxed))
    }

    /// Buffers exported from it.
    pub fn exports(&self) -> u32 {
        exports_of(self.0.uses.load(Relaxed))
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Refuse all further uses and give the bytes back; fails while there are any. Closing twice
    /// is fine.
    pub fn close(&self) -> Result<(), SpaceError> {
        self.0.check_owner()?;
        let unused = |uses| (uses & !CLAIMED == 0).then_some(uses | CLOSED);
        match self.0.uses.fetch_update(AcqRel, Acquire, unused) {
            Ok(_) => {
                self.0.release();
                Ok(())
            }
            Err(uses) if uses & CLOSED != 0 => Ok(()),
            Err(uses) => {
                Err(SpaceError::InUse { exports: exports_of(uses), in_flight: in_flight_of(uses) })
            }
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

    /// The same, of a region that is needed no longer than the pin.
    pub(super) fn into_pin(self) -> Result<Pin, SpaceError> {
        self.0.begin(IN_FLIGHT)?;
        Ok(Pin(self))
    }

    /// Pin it for a use that bears no other of its kind: as a ring, or as the slots of one.
    /// Exports and pins stay possible.
    pub fn claim(&self) -> Result<Claim, SpaceError> {
        let pin = self.pin()?;
        if self.0.uses.fetch_or(CLAIMED, AcqRel) & CLAIMED != 0 {
            return Err(SpaceError::Claimed);
        }
        Ok(Claim(pin))
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

    /// The use ends, and nobody knows that the device has ended its own: the bytes are never given
    /// out again. They stay mapped as long as the space does.
    pub fn abandon(&self) {
        self.0.0.abandoned.store(true, Release);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.0.uses.fetch_sub(IN_FLIGHT, AcqRel);
    }
}

/// The one use of a region as a ring, or as the slots of one: it counts as in flight, and a second
/// claim fails as long as it lives, and for ever if its pin was abandoned.
#[derive(Debug)]
pub struct Claim(Pin);

impl Claim {
    /// The pin that it holds.
    #[inline(always)]
    pub fn pin(&self) -> &Pin {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let region = &self.0.0.0;
        // Whoever abandoned it does not know whether the device still uses it as a ring.
        if !region.abandoned.load(Acquire) {
            region.uses.fetch_and(!CLAIMED, AcqRel);
        }
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
