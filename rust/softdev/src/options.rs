//! What a device is made from.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::block::{ID_BYTES, Rules, SECTOR_BYTES};
use crate::error::DeviceError;
use crate::registers::{Model, feature};
use crate::ring;
use crate::storage::{FileStorage, MemoryStorage, Storage, WriteCache};

/// Segments of one discard or write-zeroes request.
const SEGMENTS_MAX: u32 = 16;

/// 2^63 bytes, more than a file can have: offsets on a disk and the sum of two of them fit 64 bits.
pub(crate) const CAPACITY_SECTORS_MAX: u64 = (1 << 63) / SECTOR_BYTES;

/// Most queues of one device.
const QUEUES_MAX: u16 = 256;

/// What a device is made from.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Sectors of memory, if there is no `path`.
    pub capacity_sectors: u64,
    /// A file or block device to serve in place; its length is the capacity. It is the device's
    /// alone until the device is closed, or shared with others that read if `read_only`.
    pub path: Option<PathBuf>,
    /// Features to offer, all bits. RO is added if `read_only`.
    pub features: u64,
    /// Queues, at least 1.
    pub queue_count: u16,
    /// Largest size of each.
    pub queue_size_max: u16,
    /// At most 20 bytes.
    pub serial: Vec<u8>,
    /// Refuse to change the disk.
    pub read_only: bool,
    /// Keep writes in a cache that a loss of power drops.
    pub volatile_cache: bool,
    /// Bytes of a logical block: a power of two from 512 to 2^20.
    pub block_size: u32,
    /// Most bytes in one data segment; 0: no limit.
    pub size_max: u32,
    /// Most data segments in one request; 0: no limit.
    pub seg_max: u32,
    /// Most sectors in one segment of a discard.
    pub max_discard_sectors: u32,
    /// Most sectors in one segment of a write-zeroes request.
    pub max_write_zeroes_sectors: u32,
    /// Serve from a thread of the device's own; else whoever calls `serve` does it.
    pub threaded: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            capacity_sectors: 0,
            path: None,
            features: 1 << feature::VERSION_1,
            queue_count: 1,
            queue_size_max: 256,
            serial: Vec::new(),
            read_only: false,
            volatile_cache: false,
            block_size: 512,
            size_max: 0,
            seg_max: 126,
            max_discard_sectors: 32768,
            max_write_zeroes_sectors: 32768,
            threaded: true,
        }
    }
}

impl DeviceOptions {
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        // On a packed ring any number will do.
        let packed = self.features >> feature::RING_PACKED & 1 != 0;
        let queue_size_fits = (self.queue_size_max.is_power_of_two()
            || packed && self.queue_size_max > 0)
            && self.queue_size_max <= ring::SIZE_MAX;
        let block_fits =
            self.block_size.is_power_of_two() && (512..=1 << 20).contains(&self.block_size);
        let sectors_per_block = u64::from(self.block_size.max(512)) / SECTOR_BYTES;
        let reason = match self {
            Self { path: Some(path), capacity_sectors: 1.., .. } => format!(
                "capacity_sectors is given beside path {}, whose length is the capacity; leave \
                 one of them out",
                path.display()
            ),
            Self { path: None, capacity_sectors: 0, .. } => {
                "the disk would be empty: give capacity_sectors or path".into()
            }
            Self { capacity_sectors, .. } if *capacity_sectors > CAPACITY_SECTORS_MAX => {
                format!("capacity_sectors is {capacity_sectors}, more than 2^63 bytes")
            }
            Self { queue_count, .. } if !(1..=QUEUES_MAX).contains(queue_count) => {
                format!("queue_count is {queue_count}, not 1 to {QUEUES_MAX}")
            }
            Self { queue_size_max, .. } if !queue_size_fits => format!(
                "queue_size_max is {queue_size_max}, not a {} up to {}",
                if packed { "number from 1" } else { "power of two" },
                ring::SIZE_MAX
            ),
            Self { serial, .. } if serial.len() > ID_BYTES => {
                format!("serial has {} bytes, more than {ID_BYTES}", serial.len())
            }
            Self { block_size, .. } if !block_fits => {
                format!("block_size is {block_size}, not a power of two from 512 to 1048576")
            }
            Self { capacity_sectors, block_size, .. }
                if !capacity_sectors.is_multiple_of(sectors_per_block) =>
            {
                format!(
                    "capacity_sectors is {capacity_sectors}, not whole blocks of {block_size} bytes"
                )
            }
            _ => return Ok(()),
        };
        Err(DeviceError::Invalid(reason))
    }

    pub(crate) fn open_storage(&self) -> Result<Box<dyn Storage>, DeviceError> {
        let base: Box<dyn Storage> = match &self.path {
            Some(path) => {
                Box::new(FileStorage::open(path, self.read_only).map_err(
                    |error| match error.kind() {
                        ErrorKind::ResourceBusy => DeviceError::Busy(error.to_string()),
                        _ => DeviceError::Open { path: path.clone(), error },
                    },
                )?)
            }
            None => Box::new(MemoryStorage::new(self.capacity_sectors * SECTOR_BYTES)),
        };
        Ok(if self.volatile_cache { Box::new(WriteCache::new(base)) } else { base })
    }

    pub(crate) fn model(&self, offered: u64, storage: &dyn Storage) -> Model {
        Model {
            offered,
            block_size: self.block_size,
            size_max: self.size_max,
            seg_max: self.seg_max,
            queue_count: self.queue_count,
            max_discard_sectors: self.max_discard_sectors,
            max_write_zeroes_sectors: self.max_write_zeroes_sectors,
            max_segments: SEGMENTS_MAX,
            may_unmap: storage.can_deallocate(),
        }
    }

    pub(crate) fn rules(&self, offered: u64) -> Rules {
        let mut serial = [0; ID_BYTES];
        serial.iter_mut().zip(&self.serial).for_each(|(to, &from)| *to = from);
        Rules {
            features: 0,
            read_only: offered >> feature::RO & 1 != 0,
            write_through: true,
            size_max: self.size_max,
            seg_max: self.seg_max,
            max_discard_sectors: self.max_discard_sectors,
            max_write_zeroes_sectors: self.max_write_zeroes_sectors,
            max_segments: SEGMENTS_MAX,
            serial,
        }
    }
}
