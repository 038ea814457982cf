//! Block requests as the caller describes them, and what may be asked of the device.

use std::fmt;

/// A sector is 512 bytes, always (VIRTIO 1.4, 5.2.4 Device configuration layout).
pub const SECTOR_BYTES: u64 = 512;
/// Length of the serial number (VIRTIO 1.4, 5.2.6 Device Operation).
pub const ID_BYTES: u32 = 20;

/// Request types (VIRTIO 1.4, 5.2.6 Device Operation).
#[allow(missing_docs)] // the specification's own names
pub mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Flag of a WRITE_ZEROES request: the device may deallocate the sectors.
pub const UNMAP: u32 = 1;

/// A request, as one packed little-endian record of 40 bytes says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// One of [`kind`].
    pub kind: u32,
    /// 0, or [`UNMAP`].
    pub flags: u32,
    /// First sector of the disk.
    pub sector: u64,
    /// Where in the region the data starts.
    pub offset: u64,
    /// Bytes of data; for DISCARD and WRITE_ZEROES, bytes of the disk.
    pub length: u32,
    /// Handle of the region that holds the data.
    pub region: u32,
    /// The caller's own; comes back with the completion.
    pub token: u64,
}

impl Request {
    /// Bytes of a record.
    pub const BYTES: usize = 40;

    /// Read a record.
    #[inline]
    pub fn decode(record: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            kind: word(0),
            flags: word(4),
            sector: long(8),
            offset: long(16),
            length: word(24),
            region: word(28),
            token: long(32),
        }
    }

    /// Whether data moves between a region and the device.
    #[inline]
    pub fn has_data(&self) -> bool {
        self.data_region().is_some()
    }

    /// Between which region and the device data moves.
    #[inline]
    pub fn data_region(&self) -> Option<u32> {
        matches!(self.kind, kind::IN | kind::OUT | kind::GET_ID).then_some(self.region)
    }

    /// Whether the device is told of a range of sectors.
    #[inline]
    pub fn has_range(&self) -> bool {
        matches!(self.kind, kind::DISCARD | kind::WRITE_ZEROES)
    }
}

/// A finished request, as one packed little-endian record of 16 bytes says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The request's own.
    pub token: u64,
    /// Data bytes that the device says it wrote.
    pub written: u32,
    /// What the device wrote into the status byte.
    pub status: u8,
}

impl Completion {
    /// Bytes of a record.
    pub const BYTES: usize = 16;

    /// The record.
    #[inline]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut record = [0; Self::BYTES];
        record[0..8].copy_from_slice(&self.token.to_le_bytes());
        record[8..12].copy_from_slice(&self.written.to_le_bytes());
        record[12..16].copy_from_slice(&u32::from(self.status).to_le_bytes());
        record
    }
}

/// What a request may ask for, as negotiated and as the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sectors of the disk.
    pub capacity_sectors: u64,
    /// Bit n: requests of type n may be sent.
    pub kinds: u64,
    /// No writes of any sort.
    pub read_only: bool,
    /// Bytes in one segment; 0: no limit.
    pub size_max: u32,
    /// Data segments in one request; 0: one.
    pub seg_max: u32,
    /// Sectors of one discard; 0: no limit.
    pub max_discard_sectors: u32,
    /// Sectors of one write-zeroes; 0: no limit.
    pub max_write_zeroes_sectors: u32,
}

/// Why a request was refused before anything reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The type is unknown, or its feature was not negotiated.
    Unsupported(u32),
    /// The disk is read-only.
    ReadOnly,
    /// No bytes.
    ZeroLength,
    /// The length is not a multiple of 512.
    Unaligned(u32),
    /// It reaches past the capacity.
    BeyondEnd {
        /// First sector.
        sector: u64,
        /// Bytes.
        length: u32,
        /// Sectors of the disk.
        capacity: u64,
    },
    /// More than the device takes in one request.
    TooLong {
        /// Bytes asked for.
        length: u32,
        /// Bytes that it takes.
        limit: u64,
    },
    /// A field that must be 0 (or, of GET_ID, a length that must be 20) has another value.
    Field {
        /// Which.
        name: &'static str,
        /// What it is.
        value: u64,
        /// What it must be.
        expected: u64,
    },
    /// No open region has this handle.
    NoRegion(u32),
    /// The offset on the disk is not a multiple of 512.
    UnalignedOffset(u64),
    /// The pool has no such slot.
    NoSlot {
        /// The number.
        slot: u32,
        /// Slots of the pool.
        count: u32,
    },
    /// A request of the slot is in flight, or its completion was not taken.
    SlotInFlight(u32),
    /// The call names the slot a second time.
    SlotTwice(u32),
    /// The data is not inside the region.
    OutsideRegion {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Bytes of the region.
        available: usize,
    },
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unsupported(kind) => {
                write!(f, "type {kind} is unknown, or the feature that it needs was not negotiated")
            }
            Self::ReadOnly => f.write_str("the disk is read-only"),
            Self::ZeroLength => f.write_str("length 0: a request needs at least one sector"),
            Self::Unaligned(length) => {
                write!(f, "length {length} is not a multiple of the sector size, 512 bytes")
            }
            Self::BeyondEnd { sector, length, capacity } => write!(
                f,
                "{length} bytes from sector {sector} reach past the end of the disk, which has \
                 {capacity} sectors"
            ),
            Self::TooLong { length, limit } => write!(
                f,
                "{length} bytes are more than the {limit} that the device takes in one request; \
                 split it"
            ),
            Self::Field { name, value, expected } => {
                write!(f, "{name} is {value}, but must be {expected} for this type")
            }
            Self::NoRegion(handle) => write!(f, "no open region has the handle {handle}"),
            Self::UnalignedOffset(offset) => {
                write!(f, "offset {offset} is not a multiple of the sector size, 512 bytes")
            }
            Self::NoSlot { slot, count } => {
                write!(f, "there is no slot {slot}: the pool has {count}, from 0 on")
            }
            Self::SlotInFlight(slot) => write!(f, "slot {slot} is in flight; reap it first"),
            Self::SlotTwice(slot) => write!(f, "slot {slot} is named twice"),
            Self::OutsideRegion { offset, length, available } => write!(
                f,
                "{length} bytes at offset {offset} are not inside the region of {available} bytes"
            ),
        }
    }
}

impl std::error::Error for RequestError {}

fn must_be(name: &'static str, value: u64, expected: u64) -> Result<(), RequestError> {
    if value == expected { Ok(()) } else { Err(RequestError::Field { name, value, expected }) }
}

impl Limits {
    /// Refuse what the device may not be asked; the data's place in memory is checked elsewhere.
    #[inline(always)]
    pub fn check(&self, request: Request, data_limit: u64) -> Result<(), RequestError> {
        // Most requests are reads and writes with which nothing is wrong.
        let Request { kind, flags, sector, length, .. } = request;
        let sectors = u64::from(length) / SECTOR_BYTES;
        let is_usual = matches!(kind, kind::IN | kind::OUT)
            && self.kinds >> kind & 1 == 1
            && flags == 0
            && !(kind == kind::OUT && self.read_only)
            && length > 0
            && u64::from(length).is_multiple_of(SECTOR_BYTES)
            && self.capacity_sectors.checked_sub(sectors).is_some_and(|last| sector <= last)
            && u64::from(length) <= data_limit;
        if is_usual { Ok(()) } else { self.check_any(&request, data_limit) }
    }

    /// The same for any request.
    #[inline(never)]
    fn check_any(&self, request: &Request, data_limit: u64) -> Result<(), RequestError> {
        let permitted = request.kind < 64 && self.kinds >> request.kind & 1 == 1;
        if !permitted {
            return Err(RequestError::Unsupported(request.kind));
        }
        let flags = if request.kind == kind::WRITE_ZEROES { request.flags & UNMAP } else { 0 };
        must_be("flags", request.flags.into(), flags.into())?;
        match request.kind {
            kind::IN => self.check_range(request, data_limit),
            kind::OUT => self.check_write(request, data_limit),
            kind::DISCARD => {
                must_be_without_data(request)?;
                self.check_write(request, sectors_limit(self.max_discard_sectors))
            }
            kind::WRITE_ZEROES => {
                must_be_without_data(request)?;
                self.check_write(request, sectors_limit(self.max_write_zeroes_sectors))
            }
            kind::GET_ID => {
                must_be("sector", request.sector, 0)?;
                must_be("length", request.length.into(), ID_BYTES.into())?;
                check_length(request, data_limit)
            }
            // BLK-FLUSH-01, BLK-FLUSH-02: sector 0 and no data.
            kind::FLUSH => {
                must_be_without_data(request)?;
                must_be("sector", request.sector, 0)?;
                must_be("length", request.length.into(), 0)
            }
            other => Err(RequestError::Unsupported(other)),
        }
    }

    fn check_write(&self, request: &Request, limit: u64) -> Result<(), RequestError> {
        if self.read_only {
            return Err(RequestError::ReadOnly);
        }
        self.check_range(request, limit)
    }

    fn check_range(&self, request: &Request, limit: u64) -> Result<(), RequestError> {
        let Request { sector, length, .. } = *request;
        if length == 0 {
            return Err(RequestError::ZeroLength);
        }
        if !u64::from(length).is_multiple_of(SECTOR_BYTES) {
            return Err(RequestError::Unaligned(length));
        }
        let end = sector.checked_add(u64::from(length) / SECTOR_BYTES);
        if end.is_none_or(|end| end > self.capacity_sectors) {
            let capacity = self.capacity_sectors;
            return Err(RequestError::BeyondEnd { sector, length, capacity });
        }
        check_length(request, limit)
    }
}

fn check_length(request: &Request, limit: u64) -> Result<(), RequestError> {
    let length = request.length;
    if u64::from(length) > limit { Err(RequestError::TooLong { length, limit }) } else { Ok(()) }
}

fn must_be_without_data(request: &Request) -> Result<(), RequestError> {
    must_be("region", request.region.into(), 0)?;
    must_be("offset", request.offset, 0)
}

fn sectors_limit(sectors: u32) -> u64 {
    if sectors == 0 { u64::MAX } else { u64::from(sectors) * SECTOR_BYTES }
}
