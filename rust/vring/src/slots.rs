//! Block requests on a ring: a slot of header and status byte for each head.

use shm::{Claim, DmaSpace, FRAME_BYTES, Frames, Held, HeldRegions, Segment};

use crate::error::{Broken, LayoutError, PushError};
use crate::request::{Limits, Request, RequestError, SECTOR_BYTES, kind};
use crate::ring::{Ring, Used};

/// What a request with data needs at least: header, data, status.
const DESCRIPTORS_MIN: u16 = 3;

/// What lies where in a slot: the header (type, a field that is 0, sector), the range of a discard
/// or write-zeroes (sector, sectors, flags), the status byte.
const KIND: usize = 0;
const SECTOR: usize = 8;
const HEADER_BYTES: u64 = 16;
const RANGE: usize = 16;
const RANGE_LENGTH: usize = 24;
const RANGE_BYTES: u64 = 16;
const STATUS: usize = 32;

/// What a status byte holds until the device writes it.
pub const STATUS_PENDING: u8 = 0xff;
/// What it holds of a request that the device has done.
pub const STATUS_OK: u8 = 0;

/// Bytes that the slots of a queue of `size` need.
pub fn slots_length(size: usize) -> usize {
    FRAME_BYTES * size
}

/// A request that the device has finished, and to whom it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished<O> {
    pub(crate) owner: O,
    /// Data bytes that the device says it wrote, the status byte not counted.
    pub(crate) written: u32,
    pub(crate) status: u8,
}

/// What we remember of a request in flight.
#[derive(Debug)]
struct InFlight<O> {
    owner: O,
    data_writable: u32,
    /// The data's region.
    held: Option<Held>,
}

/// A request that was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    request: Request,
    /// Its data, and the use of the data's region: it ends when the request comes back, and of one
    /// that is not pushed by `release`.
    data: Option<(Segment, Held)>,
}

impl Checked {
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }
}

/// A ring with request slots. `O` says to whom a request belongs.
#[derive(Debug)]
pub(crate) struct RequestSlots<R: Ring, O> {
    ring: R,
    /// Those with data of requests that were checked and have not come back.
    regions: HeldRegions,
    slots: Frames,
    claim: Claim,
    in_flight: Vec<Option<InFlight<O>>>,
    in_flight_count: usize,
    /// What came back in one look at the ring: no longer than that.
    used: Vec<Used>,
    /// A longer chain: used for one request after the other, so that none allocates.
    chain: Vec<Segment>,
    /// The legacy interface's used lengths are unreliable (VIRTIO 1.4, 2.7.8.1).
    lengths_are_reliable: bool,
}

impl<R: Ring, O: Copy> RequestSlots<R, O> {
    pub(crate) fn new(
        ring: R,
        space: DmaSpace,
        claim: Claim,
        legacy: bool,
    ) -> Result<Self, LayoutError> {
        let size = ring.size();
        if size < DESCRIPTORS_MIN {
            return Err(LayoutError::TooSmall { size, needed: DESCRIPTORS_MIN.into() });
        }
        let (needed, available) = (slots_length(usize::from(size)), claim.pin().region().len());
        let too_short = |_| LayoutError::RegionLength { needed, available };
        let slots = claim.pin().region().span().frames(0, size.into()).map_err(too_short)?;
        let in_flight = (0..size).map(|_| None).collect();
        let lengths_are_reliable = !legacy;
        Ok(Self {
            ring,
            regions: HeldRegions::new(space),
            slots,
            claim,
            in_flight,
            in_flight_count: 0,
            used: Vec::with_capacity(size.into()),
            chain: Vec::new(),
            lengths_are_reliable,
        })
    }

    pub(crate) fn ring(&self) -> &R {
        &self.ring
    }

    pub(crate) fn ring_mut(&mut self) -> &mut R {
        &mut self.ring
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.in_flight_count
    }

    /// Data segments that a request may have: what the device takes, what the ring takes.
    fn segments_max(&self, limits: &Limits) -> u32 {
        // A region is contiguous for the device: without size_max its data is one segment.
        let wanted = if limits.size_max == 0 { 1 } else { limits.seg_max.max(1) };
        wanted.min(u32::from(self.ring.size()) - 2)
    }

    /// Descriptors of the ring that a request of the longest shape takes.
    pub(crate) fn longest(&self, limits: &Limits) -> u16 {
        self.ring.descriptors_needed(2 + self.segments_max(limits) as u16)
    }

    /// Requests of the longest shape that fit at once.
    pub(crate) fn depth(&self, limits: &Limits) -> usize {
        let size = self.ring.size() - self.ring.reserved_count();
        usize::from(size / self.longest(limits))
    }

    pub(crate) fn lengths_are_reliable(&self) -> bool {
        self.lengths_are_reliable
    }

    /// Check what does not depend on where the data is.
    #[inline(always)]
    pub(crate) fn check_limits(
        &self,
        request: &Request,
        limits: &Limits,
    ) -> Result<(), RequestError> {
        let data_limit = match limits.size_max {
            0 => u64::from(u32::MAX),
            size_max => u64::from(size_max) * u64::from(self.segments_max(limits)),
        };
        limits.check(*request, data_limit)
    }

    /// Check a request whole, and hold its data's region. Inlined, as an outcome of this size costs
    /// more to hand over than to find.
    #[inline(always)]
    pub(crate) fn check(
        &mut self,
        request: Request,
        limits: &Limits,
    ) -> Result<Checked, RequestError> {
        self.check_limits(&request, limits)?;
        let Some(region) = request.data_region() else {
            return Ok(Checked { request, data: None });
        };
        let (held, pin) = self.regions.hold(region).map_err(|_| RequestError::NoRegion(region))?;
        let Request { offset, length, .. } = request;
        let Ok(segment) = pin.segment(offset, length.into()) else {
            let available = pin.region().len();
            self.regions.release(held);
            return Err(RequestError::OutsideRegion { offset, length, available });
        };
        Ok(Checked { request, data: Some((segment, held)) })
    }

    /// It will not be pushed.
    pub(crate) fn release(&mut self, checked: &Checked) {
        if let Some((_, held)) = checked.data {
            self.regions.release(held);
        }
    }

    /// Push a request.
    #[inline]
    pub(crate) fn push(
        &mut self,
        checked: &Checked,
        limits: &Limits,
        owner: O,
    ) -> Result<(), PushError> {
        if self.ring.free_count() == 0 {
            return Err(PushError::Full { needed: 1, free: 0 });
        }
        let slot = self.ring.next_head().into();
        self.write_slot(slot, &checked.request);
        let head = self.push_chain(slot, checked, limits)?;
        let (held, data_writable) = match checked.data {
            Some((data, held)) if checked.request.kind != kind::OUT => (Some(held), data.len()),
            Some((_, held)) => (Some(held), 0),
            None => (None, 0),
        };
        self.in_flight[usize::from(head)] = Some(InFlight { owner, data_writable, held });
        self.in_flight_count += 1;
        Ok(())
    }

    /// Header, range and status byte of a slot.
    #[inline]
    fn write_slot(&self, slot: usize, request: &Request) {
        let Request { kind, sector, length, flags, .. } = *request;
        let has_range = request.has_range();
        self.slots.write_long::<KIND>(slot, kind.into());
        // The sector field of requests that have no use for it is 0 (5.2.6 Device Operation).
        self.slots.write_long::<SECTOR>(slot, if has_range { 0 } else { sector });
        if has_range {
            let sectors = u64::from(length) / SECTOR_BYTES;
            self.slots.write_long::<RANGE>(slot, sector);
            self.slots.write_long::<RANGE_LENGTH>(slot, sectors | u64::from(flags) << 32);
        }
        self.slots.write_byte::<STATUS>(slot, STATUS_PENDING);
    }

    /// The request's chain: header, data in pieces that the device takes, status.
    #[inline]
    fn push_chain(
        &mut self,
        slot: usize,
        checked: &Checked,
        limits: &Limits,
    ) -> Result<u16, PushError> {
        // The slots were checked when the queue was made.
        let checked_before = |_| PushError::Empty;
        let Checked { request, data } = checked;
        let (ring, pin, start) = (&mut self.ring, self.claim.pin(), (slot * FRAME_BYTES) as u64);
        let header = pin.segment(start, HEADER_BYTES).map_err(checked_before)?;
        let status = pin.segment(start + STATUS as u64, 1).map_err(checked_before)?;
        let Some((data, _)) = *data else {
            if !request.has_range() {
                return ring.push(&[header], &[status]);
            }
            let range = pin.segment(start + RANGE as u64, RANGE_BYTES).map_err(checked_before)?;
            return ring.push(&[header, range], &[status]);
        };
        if limits.size_max == 0 || data.len() <= limits.size_max {
            return match request.kind {
                kind::OUT => ring.push(&[header, data], &[status]),
                _ => ring.push(&[header], &[data, status]),
            };
        }
        let chain = &mut self.chain;
        chain.clear();
        chain.push(header);
        let mut done = 0;
        while done < data.len() {
            let length = limits.size_max.min(data.len() - done);
            chain.push(data.slice(done, length).map_err(checked_before)?);
            done += length;
        }
        chain.push(status);
        let readable = if request.kind == kind::OUT { chain.len() - 1 } else { 1 };
        let (readable, writable) = chain.split_at(readable);
        ring.push(readable, writable)
    }

    /// Hand at most `limit` finished requests to `each`, and to `other` what is not theirs.
    #[inline]
    pub(crate) fn reap(
        &mut self,
        limit: usize,
        mut other: impl FnMut(Used),
        mut each: impl FnMut(Finished<O>),
    ) -> Result<usize, Broken> {
        self.used.clear();
        let count = self.ring.reap(limit, |used| self.used.push(used))?;
        for &used in &self.used {
            let Used { head, written, written_given } = used;
            let Some(request) = self.in_flight[usize::from(head)].take() else {
                other(used);
                continue;
            };
            self.in_flight_count -= 1;
            if let Some(held) = request.held {
                self.regions.release(held);
            }
            let mut status = self.slots.read_byte::<STATUS>(head.into());
            // The status is the last writable byte. Success that lies past the used length was
            // not reported, whatever the byte holds (SPLIT-USED-01).
            let unwritten = written_given && written <= request.data_writable;
            if status == STATUS_OK && self.lengths_are_reliable && unwritten {
                status = STATUS_PENDING;
            }
            let written = written.min(request.data_writable);
            each(Finished { owner: request.owner, written, status });
        }
        Ok(count)
    }

    /// After a confirmed reset only: forget all requests; calls `each` with their owners.
    pub(crate) fn reclaim(&mut self, mut each: impl FnMut(O)) {
        self.ring.reclaim(|_| ());
        for request in self.in_flight.iter_mut().filter_map(Option::take) {
            if let Some(held) = request.held {
                self.regions.release(held);
            }
            each(request.owner);
        }
        self.in_flight_count = 0;
    }
}

impl<R: Ring, O> Drop for RequestSlots<R, O> {
    fn drop(&mut self) {
        if !self.ring.is_live() {
            return;
        }
        // Without a confirmed reset the device may go on using what it was given.
        let data = self.in_flight.iter().flatten().filter_map(|request| request.held);
        data.for_each(|held| self.regions.abandon(held));
        self.claim.pin().abandon();
    }
}
