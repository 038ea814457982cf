//! Block requests on a ring: a slot of header and status byte for each head.

use shm::{Claim, DmaSpace, Pin, RegionCache, Segment};

use crate::error::{Broken, LayoutError, PushError};
use crate::request::{Limits, Request, RequestError, SECTOR_BYTES, kind};
use crate::ring::{Ring, Used};

/// What a request with data needs at least: header, data, status.
const DESCRIPTORS_MIN: u16 = 3;

/// A slot, laid out once: header, segment of a discard or write-zeroes, status byte.
const SLOT_BYTES: usize = 64;
const HEADER_BYTES: usize = 16;
const SEGMENT_OFFSET: usize = 16;
const SEGMENT_BYTES: usize = 16;
const STATUS_OFFSET: usize = 32;

/// What a status byte holds until the device writes it.
pub const STATUS_PENDING: u8 = 0xff;
/// What it holds of a request that the device has done.
pub const STATUS_OK: u8 = 0;

/// Bytes that the slots of a queue of `size` need.
pub fn slots_length(size: usize) -> usize {
    SLOT_BYTES * size
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
    /// Keeps the data's region open.
    data: Option<Pin>,
}

/// A ring with request slots. `O` says to whom a request belongs.
#[derive(Debug)]
pub(crate) struct RequestSlots<R: Ring, O> {
    ring: R,
    regions: RegionCache,
    slots: Claim,
    in_flight: Vec<Option<InFlight<O>>>,
    in_flight_count: usize,
    /// Used for one request after the other, so that none allocates.
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    /// The legacy interface's used lengths are unreliable (VIRTIO 1.4, 2.7.8.1).
    lengths_are_reliable: bool,
}

impl<R: Ring, O: Copy> RequestSlots<R, O> {
    pub(crate) fn new(
        ring: R,
        space: DmaSpace,
        slots: Claim,
        legacy: bool,
    ) -> Result<Self, LayoutError> {
        let size = ring.size();
        if size < DESCRIPTORS_MIN {
            return Err(LayoutError::TooSmall { size, needed: DESCRIPTORS_MIN.into() });
        }
        let (needed, available) = (slots_length(usize::from(size)), slots.pin().region().len());
        if available < needed {
            return Err(LayoutError::RegionLength { needed, available });
        }
        let in_flight = (0..size).map(|_| None).collect();
        let (readable, writable) = (Vec::new(), Vec::new());
        let lengths_are_reliable = !legacy;
        Ok(Self {
            ring,
            regions: RegionCache::new(space),
            slots,
            in_flight,
            in_flight_count: 0,
            readable,
            writable,
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
    pub(crate) fn check_limits(
        &self,
        request: &Request,
        limits: &Limits,
    ) -> Result<(), RequestError> {
        let data_limit = match limits.size_max {
            0 => u64::from(u32::MAX),
            size_max => u64::from(size_max) * u64::from(self.segments_max(limits)),
        };
        limits.check(request, data_limit)
    }

    /// Check a request whole, and pin its data.
    pub(crate) fn check(
        &mut self,
        request: &Request,
        limits: &Limits,
    ) -> Result<Option<Pin>, RequestError> {
        self.check_limits(request, limits)?;
        if !request.has_data() {
            return Ok(None);
        }
        let Request { region, offset, length, .. } = *request;
        let pin = self.regions.pin(region).map_err(|_| RequestError::NoRegion(region))?;
        let available = pin.region().len();
        pin.segment(offset, length.into()).map_err(|_| RequestError::OutsideRegion {
            offset,
            length,
            available,
        })?;
        Ok(Some(pin))
    }

    /// Push a request that `check` has passed. Gives the pin back if it does not fit now.
    pub(crate) fn push(
        &mut self,
        request: &Request,
        data: Option<Pin>,
        limits: &Limits,
        owner: O,
    ) -> Result<(), (PushError, Option<Pin>)> {
        if self.ring.free_count() == 0 {
            return Err((PushError::Full { needed: 1, free: 0 }, data));
        }
        let head = self.ring.next_head();
        if self.write_slot(head, request).is_err()
            || self.chain(head, request, data.as_ref(), limits).is_err()
        {
            // Both were checked when the queue was made and when the request was.
            return Err((PushError::Empty, data));
        }
        match self.ring.push(&self.readable, &self.writable) {
            Ok(head) => {
                let data_writable = self.writable.iter().map(|part| part.len()).sum::<u32>() - 1;
                let place = &mut self.in_flight[usize::from(head)];
                *place = Some(InFlight { owner, data_writable, data });
                self.in_flight_count += 1;
                Ok(())
            }
            Err(error) => Err((error, data)),
        }
    }

    /// Header, segment and status byte of the slot that belongs to `head`.
    fn write_slot(&self, head: u16, request: &Request) -> Result<(), shm::OutOfBounds> {
        let with_segment = matches!(request.kind, kind::DISCARD | kind::WRITE_ZEROES);
        let span = self.slots.pin().region().span();
        let slot = usize::from(head) * SLOT_BYTES;
        let mut header = [0; HEADER_BYTES];
        header[0..4].copy_from_slice(&request.kind.to_le_bytes());
        // The sector field of requests that have no use for it is 0 (5.2.6 Device Operation).
        let sector = if with_segment { 0 } else { request.sector };
        header[8..16].copy_from_slice(&sector.to_le_bytes());
        span.write_bytes(slot, &header)?;
        if with_segment {
            let sectors = (u64::from(request.length) / SECTOR_BYTES) as u32;
            let mut segment = [0; SEGMENT_BYTES];
            segment[0..8].copy_from_slice(&request.sector.to_le_bytes());
            segment[8..12].copy_from_slice(&sectors.to_le_bytes());
            segment[12..16].copy_from_slice(&request.flags.to_le_bytes());
            span.write_bytes(slot + SEGMENT_OFFSET, &segment)?;
        }
        span.write_bytes(slot + STATUS_OFFSET, &[STATUS_PENDING])
    }

    /// The request's chain: header, data in pieces that the device takes, status.
    fn chain(
        &mut self,
        head: u16,
        request: &Request,
        data: Option<&Pin>,
        limits: &Limits,
    ) -> Result<(), shm::OutOfBounds> {
        let slot = u64::from(head) * SLOT_BYTES as u64;
        self.readable.clear();
        self.writable.clear();
        self.readable.push(self.slots.pin().segment(slot, HEADER_BYTES as u64)?);
        if let Some(pin) = data {
            let whole = pin.segment(request.offset, request.length.into())?;
            let piece = if limits.size_max == 0 { whole.len() } else { limits.size_max };
            let parts =
                if request.kind == kind::OUT { &mut self.readable } else { &mut self.writable };
            let mut done = 0;
            while done < whole.len() {
                let length = piece.min(whole.len() - done);
                parts.push(whole.slice(done, length)?);
                done += length;
            }
        } else if request.kind != kind::FLUSH {
            let offset = slot + SEGMENT_OFFSET as u64;
            self.readable.push(self.slots.pin().segment(offset, SEGMENT_BYTES as u64)?);
        }
        self.writable.push(self.slots.pin().segment(slot + STATUS_OFFSET as u64, 1)?);
        Ok(())
    }

    /// Hand at most `limit` finished requests to `each`, but for chains that `is_other` knows.
    #[inline]
    pub(crate) fn reap(
        &mut self,
        limit: usize,
        mut is_other: impl FnMut(Used) -> bool,
        mut each: impl FnMut(Finished<O>),
    ) -> Result<usize, Broken> {
        let (in_flight, in_flight_count) = (&mut self.in_flight, &mut self.in_flight_count);
        let span = self.slots.pin().region().span();
        let lengths_are_reliable = self.lengths_are_reliable;
        self.ring.reap(limit, |used| {
            if is_other(used) {
                return;
            }
            let Used { head, written, written_given } = used;
            let Some(request) = in_flight[usize::from(head)].take() else { return };
            *in_flight_count -= 1;
            let mut status = [STATUS_PENDING];
            // The slots were checked to be long enough; PENDING is what remains if they were not.
            let _ = span.read_bytes(usize::from(head) * SLOT_BYTES + STATUS_OFFSET, &mut status);
            let [mut status] = status;
            // The status is the last writable byte. Success that lies past the used length was
            // not reported, whatever the byte holds (SPLIT-USED-01).
            let unwritten = written_given && written <= request.data_writable;
            if status == STATUS_OK && lengths_are_reliable && unwritten {
                status = STATUS_PENDING;
            }
            each(Finished {
                owner: request.owner,
                written: written.min(request.data_writable),
                status,
            });
        })
    }

    /// After a confirmed reset only: forget all requests; calls `each` with their owners.
    pub(crate) fn reclaim(&mut self, mut each: impl FnMut(O)) {
        self.ring.reclaim(|_| ());
        for request in self.in_flight.iter_mut().filter_map(Option::take) {
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
        let data = self.in_flight.iter().flatten().filter_map(|request| request.data.as_ref());
        data.chain([self.slots.pin()]).for_each(Pin::abandon);
    }
}
