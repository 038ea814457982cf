//! What a virtio-blk request asks for, and its answer (VIRTIO 1.4, 5.2.6 Device Operation).

use std::io;

use crate::address_map::{AddressMap, Segment};
use crate::counters::Counters;
use crate::registers::feature;
use crate::ring::{Chain, Violation};
use crate::storage::{Durability, Found, Storage};

/// Bytes of a sector, always.
pub(crate) const SECTOR_BYTES: u64 = 512;
const HEADER_BYTES: u64 = 16;
const SEGMENT_BYTES: u64 = 16;
const STATUS_BYTES: u64 = 1;
/// Length of the serial number.
pub(crate) const ID_BYTES: usize = 20;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// The one segment flag that there is.
const UNMAP: u32 = 1;

/// `status` of struct virtio_blk_req.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupp = 2,
}

/// Why a request failed; everything but this is OK.
type Outcome = Result<(), Status>;

impl From<io::Error> for Status {
    fn from(_: io::Error) -> Self {
        Self::IoErr
    }
}

/// A fault in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    /// Do not carry the request out, and say this.
    Refuse(u8),
    /// Carry it out, and say this.
    Disguise(u8),
}

/// What holds for requests, as configured and negotiated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Negotiated features.
    pub(crate) features: u64,
    /// Whether RO was offered; accepted or not, nothing is written then.
    pub(crate) read_only: bool,
    /// Whether a write is stable before it is completed.
    pub(crate) write_through: bool,
    pub(crate) size_max: u32,
    pub(crate) seg_max: u32,
    pub(crate) max_discard_sectors: u32,
    pub(crate) max_write_zeroes_sectors: u32,
    /// Segments of one discard or write-zeroes request.
    pub(crate) max_segments: u32,
    pub(crate) serial: [u8; ID_BYTES],
}

impl Rules {
    fn has(&self, bit: u32) -> bool {
        self.features >> bit & 1 != 0
    }

    fn durability(&self) -> Durability {
        if self.write_through { Durability::Stable } else { Durability::Cached }
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u32,
    sector: u64,
}

/// A virtio-blk disk: storage, and the rules for reaching it.
pub(crate) struct Disk {
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) rules: Rules,
    /// Segments of a discard or write-zeroes request, copied before they are checked.
    ranges: Vec<Range>,
}

/// Bytes of the disk that a segment of a discard or write-zeroes request names.
#[derive(Clone, Copy, Debug)]
struct Range {
    offset: u64,
    length: u64,
}

impl Disk {
    pub(crate) fn new(storage: Box<dyn Storage>, rules: Rules) -> Self {
        Self { storage, rules, ranges: Vec::new() }
    }

    /// Carry out the request in `chain` and write its status. Returns the bytes written to it.
    #[inline]
    pub(crate) fn answer(
        &mut self,
        chain: &Chain,
        map: &AddressMap,
        twist: Twist,
        tally: &mut Counters,
    ) -> Result<u32, Violation> {
        let data_bytes =
            chain.writable_bytes.checked_sub(STATUS_BYTES).ok_or(Violation::NoStatusByte)?;
        let header = read_header(chain, map)?;
        let outcome = match twist {
            Twist::Refuse(_) => Err(Status::IoErr),
            Twist::None | Twist::Disguise(_) => self.carry_out(header, chain, map, tally),
        };
        if outcome.is_err() {
            tally.failed_requests += 1;
            // The used length counts from the first writable byte on, and the status comes last:
            // whatever lies between must have been written.
            zero_data(chain, data_bytes, map)?;
        }
        let status = match (twist, outcome) {
            (Twist::Refuse(status) | Twist::Disguise(status), _) => status,
            (Twist::None, Ok(())) => Status::Ok as u8,
            (Twist::None, Err(status)) => status as u8,
        };
        write_status(chain, map, status)?;
        // 2^32 bytes do not fit the field; a chain can have that many.
        Ok(u32::try_from(chain.writable_bytes).unwrap_or(u32::MAX))
    }

    #[inline]
    fn carry_out(
        &mut self,
        header: Header,
        chain: &Chain,
        map: &AddressMap,
        tally: &mut Counters,
    ) -> Outcome {
        match header.kind {
            IN => {
                tally.reads += 1;
                tally.bytes_read += self.read(header.sector, chain, map)?;
            }
            OUT => {
                tally.writes += 1;
                tally.bytes_written += self.write(header.sector, chain, map)?;
            }
            FLUSH => {
                tally.flushes += 1;
                self.flush()?;
            }
            GET_ID => {
                tally.get_ids += 1;
                self.get_id(chain, map)?;
            }
            DISCARD => {
                tally.discards += 1;
                self.discard(chain, map)?;
            }
            WRITE_ZEROES => {
                tally.write_zeroes += 1;
                self.write_zeroes(chain, map)?;
            }
            _ => {
                tally.unknown_requests += 1;
                return Err(Status::Unsupp);
            }
        }
        Ok(())
    }

    /// The bytes of the disk that `length` bytes from `sector` on are, if all exist.
    #[inline]
    fn locate(&self, sector: u64, length: u64) -> Result<u64, Status> {
        let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Status::IoErr)?;
        let end = offset.checked_add(length).ok_or(Status::IoErr)?;
        let whole = length.is_multiple_of(SECTOR_BYTES);
        if whole && end <= self.storage.capacity_bytes() { Ok(offset) } else { Err(Status::IoErr) }
    }

    /// The limits on data that the driver was told, where it said that it heard.
    #[inline]
    fn check_limits(&self, segments: usize, longest: usize) -> Outcome {
        let Rules { size_max, seg_max, .. } = self.rules;
        let too_long = self.rules.has(feature::SIZE_MAX) && size_max > 0;
        let too_many = self.rules.has(feature::SEG_MAX) && seg_max > 0;
        if too_long && longest as u64 > u64::from(size_max)
            || too_many && segments as u64 > u64::from(seg_max)
        {
            return Err(Status::IoErr);
        }
        Ok(())
    }

    #[inline]
    fn read(&mut self, sector: u64, chain: &Chain, map: &AddressMap) -> Result<u64, Status> {
        let length = chain.writable_bytes - STATUS_BYTES;
        if chain.readable_bytes != HEADER_BYTES {
            return Err(Status::IoErr);
        }
        let mut offset = self.locate(sector, length)?;
        let (mut pieces, mut longest) = (0, 0);
        for piece in Pieces::new(&chain.writable, 0, length) {
            let mut at = piece.start;
            self.storage.read(offset, piece.length, &mut |found| {
                at += match found {
                    Found::Bytes(bytes) => {
                        map.write(piece.segment, at, bytes).map_err(io::Error::other)?;
                        bytes.len()
                    }
                    Found::Zeroes(count) => {
                        map.zero(piece.segment, at, count).map_err(io::Error::other)?;
                        count
                    }
                };
                Ok(())
            })?;
            offset += piece.length as u64;
            pieces += 1;
            longest = longest.max(piece.length);
        }
        self.check_limits(pieces, longest)?;
        Ok(length)
    }

    #[inline]
    fn write(&mut self, sector: u64, chain: &Chain, map: &AddressMap) -> Result<u64, Status> {
        let length = chain.readable_bytes - HEADER_BYTES;
        if self.rules.read_only || chain.writable_bytes != STATUS_BYTES {
            return Err(Status::IoErr);
        }
        let mut offset = self.locate(sector, length)?;
        let pieces = || Pieces::new(&chain.readable, HEADER_BYTES as usize, length);
        // Before anything is written.
        let longest = pieces().map(|piece| piece.length).max().unwrap_or(0);
        self.check_limits(pieces().count(), longest)?;
        for piece in pieces() {
            let mut at = piece.start;
            let durability = self.rules.durability();
            self.storage.write(offset, piece.length, durability, &mut |room| {
                map.read(piece.segment, at, room).map_err(io::Error::other)?;
                at += room.len();
                Ok(())
            })?;
            offset += piece.length as u64;
        }
        Ok(length)
    }

    fn flush(&mut self) -> Outcome {
        if !self.rules.has(feature::FLUSH) {
            return Err(Status::Unsupp);
        }
        Ok(self.storage.flush()?)
    }

    fn get_id(&self, chain: &Chain, map: &AddressMap) -> Outcome {
        if chain.writable_bytes - STATUS_BYTES != ID_BYTES as u64 {
            return Err(Status::IoErr);
        }
        let mut rest = &self.rules.serial[..];
        for piece in Pieces::new(&chain.writable, 0, ID_BYTES as u64) {
            let (bytes, after) = rest.split_at_checked(piece.length).ok_or(Status::IoErr)?;
            map.write(piece.segment, piece.start, bytes).map_err(|_| Status::IoErr)?;
            rest = after;
        }
        Ok(())
    }

    fn discard(&mut self, chain: &Chain, map: &AddressMap) -> Outcome {
        if !self.rules.has(feature::DISCARD) {
            return Err(Status::Unsupp);
        }
        self.collect_ranges(chain, map, 0, self.rules.max_discard_sectors)?;
        let durability = self.rules.durability();
        for &Range { offset, length } in &self.ranges {
            self.storage.discard(offset, length, durability)?;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, chain: &Chain, map: &AddressMap) -> Outcome {
        if !self.rules.has(feature::WRITE_ZEROES) {
            return Err(Status::Unsupp);
        }
        self.collect_ranges(chain, map, UNMAP, self.rules.max_write_zeroes_sectors)?;
        let durability = self.rules.durability();
        for &Range { offset, length } in &self.ranges {
            self.storage.zero(offset, length, durability)?;
        }
        Ok(())
    }

    /// Copy the segments of a discard or write-zeroes request to `ranges` and check them all
    /// before any is carried out.
    fn collect_ranges(
        &mut self,
        chain: &Chain,
        map: &AddressMap,
        known_flags: u32,
        sectors_max: u32,
    ) -> Outcome {
        let data_bytes = chain.readable_bytes - HEADER_BYTES;
        let count = data_bytes / SEGMENT_BYTES;
        let framed = data_bytes.is_multiple_of(SEGMENT_BYTES)
            && (1..=u64::from(self.rules.max_segments)).contains(&count)
            && chain.writable_bytes == STATUS_BYTES;
        if !framed || self.rules.read_only {
            return Err(Status::IoErr);
        }
        self.ranges.clear();
        for number in 0..count {
            let start = HEADER_BYTES + number * SEGMENT_BYTES;
            let raw = read_16(&chain.readable, start, map).ok_or(Status::IoErr)?;
            let (sector, sectors, flags) = (le64(&raw, 0), le32(&raw, 8), le32(&raw, 12));
            if flags & !known_flags != 0 {
                return Err(Status::Unsupp);
            }
            if sectors > sectors_max {
                return Err(Status::IoErr);
            }
            let length = u64::from(sectors) * SECTOR_BYTES;
            let offset = self.locate(sector, length)?;
            self.ranges.push(Range { offset, length });
        }
        Ok(())
    }
}

/// A stretch of one segment.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    segment: &'a Segment,
    start: usize,
    length: usize,
}

/// The part of a list of segments that holds `length` bytes after the first `skip`, however the
/// driver cut it (VIRTIO 1.4, 2.7.4 Message Framing).
struct Pieces<'a> {
    segments: std::slice::Iter<'a, Segment>,
    skip: usize,
    rest: u64,
}

impl<'a> Pieces<'a> {
    #[inline]
    fn new(segments: &'a [Segment], skip: usize, length: u64) -> Self {
        Self { segments: segments.iter(), skip, rest: length }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    #[inline]
    fn next(&mut self) -> Option<Piece<'a>> {
        while self.rest > 0 {
            let segment = self.segments.next()?;
            let start = self.skip.min(segment.length);
            self.skip -= start;
            let length = ((segment.length - start) as u64).min(self.rest);
            if length > 0 {
                self.rest -= length;
                return Some(Piece { segment, start, length: length as usize });
            }
        }
        None
    }
}

#[inline]
fn read_header(chain: &Chain, map: &AddressMap) -> Result<Header, Violation> {
    let too_short = Violation::HeaderTooShort { length: chain.readable_bytes };
    let raw = read_16(&chain.readable, 0, map).ok_or(too_short)?;
    Ok(Header { kind: le32(&raw, 0), sector: le64(&raw, 8) })
}

/// 16 bytes from `start` on, if there are that many.
#[inline]
fn read_16(segments: &[Segment], start: u64, map: &AddressMap) -> Option<[u8; 16]> {
    let mut raw = [0; 16];
    if let Some(first) = segments.first().filter(|first| start + 16 <= first.length as u64) {
        map.read(first, start as usize, &mut raw).ok()?;
        return Some(raw);
    }
    let mut rest = &mut raw[..];
    for piece in Pieces::new(segments, usize::try_from(start).ok()?, 16) {
        let (part, after) = std::mem::take(&mut rest).split_at_mut_checked(piece.length)?;
        map.read(piece.segment, piece.start, part).ok()?;
        rest = after;
    }
    rest.is_empty().then_some(raw)
}

fn zero_data(chain: &Chain, data_bytes: u64, map: &AddressMap) -> Result<(), Violation> {
    for piece in Pieces::new(&chain.writable, 0, data_bytes) {
        map.zero(piece.segment, piece.start, piece.length)?;
    }
    Ok(())
}

/// The status is the last writable byte of the chain.
#[inline]
fn write_status(chain: &Chain, map: &AddressMap, status: u8) -> Result<(), Violation> {
    let last = chain.writable.last().ok_or(Violation::NoStatusByte)?;
    Ok(map.write(last, last.length - 1, &[status])?)
}

#[inline]
fn le32(raw: &[u8; 16], at: usize) -> u32 {
    (0..4).fold(0, |value, n| value | u32::from(raw[at + n]) << (8 * n))
}

#[inline]
fn le64(raw: &[u8; 16], at: usize) -> u64 {
    (0..8).fold(0, |value, n| value | u64::from(raw[at + n]) << (8 * n))
}
