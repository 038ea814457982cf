//! Where everything lies in the BAR, and how wide it is.

use shm::Width;

use crate::registers::{CONFIG_BYTES, config_access_bytes};

/// Bytes of struct virtio_pci_common_cfg (VIRTIO 1.4, 4.1.4.3 Common configuration structure
/// layout).
pub(super) const COMMON_BYTES: usize = 0x40;
/// The same, as it was before queue_notif_config_data and what follows it.
pub(super) const OLD_COMMON_BYTES: usize = 0x38;

const ISR_OFFSET: usize = 0x1000;
const CONFIG_OFFSET: usize = 0x2000;
const TABLE_OFFSET: usize = 0x3000;
const PENDING_OFFSET: usize = 0xB000;
const NOTIFY_OFFSET: usize = 0xC000;

/// Bytes of one entry of the MSI-X table (PCI Local Bus 3.0, 6.8.2).
const ENTRY_BYTES: usize = 16;
/// The most entries of one table.
pub(super) const VECTORS_MAX: u16 = 2048;

macro_rules! fields {
    ($($field:ident $name:literal $offset:literal $bytes:literal $writable:literal,)*) => {
        /// A field of the common configuration.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field {
            $($field,)*
        }

        /// (field, name, offset, bytes, whether the driver may write it)
        const FIELDS: &[(Field, &str, usize, usize, bool)] =
            &[$((Field::$field, $name, $offset, $bytes, $writable),)*];
    };
}

fields! {
    DeviceFeatureSelect "device_feature_select" 0x00 4 true,
    DeviceFeature "device_feature" 0x04 4 false,
    DriverFeatureSelect "driver_feature_select" 0x08 4 true,
    DriverFeature "driver_feature" 0x0C 4 true,
    ConfigMsixVector "config_msix_vector" 0x10 2 true,
    NumQueues "num_queues" 0x12 2 false,
    DeviceStatus "device_status" 0x14 1 true,
    ConfigGeneration "config_generation" 0x15 1 false,
    QueueSelect "queue_select" 0x16 2 true,
    QueueSize "queue_size" 0x18 2 true,
    QueueMsixVector "queue_msix_vector" 0x1A 2 true,
    QueueEnable "queue_enable" 0x1C 2 true,
    QueueNotifyOff "queue_notify_off" 0x1E 2 false,
    QueueDesc "queue_desc" 0x20 8 true,
    QueueDriver "queue_driver" 0x28 8 true,
    QueueDevice "queue_device" 0x30 8 true,
    QueueNotifConfigData "queue_notif_config_data" 0x38 2 false,
    QueueReset "queue_reset" 0x3A 2 true,
    AdminQueueIndex "admin_queue_index" 0x3C 2 false,
    AdminQueueNum "admin_queue_num" 0x3E 2 false,
}

impl Field {
    pub(super) fn name(self) -> &'static str {
        FIELDS.iter().find(|each| each.0 == self).map_or("", |each| each.1)
    }

    pub(super) fn is_writable(self) -> bool {
        FIELDS.iter().any(|each| each.0 == self && each.4)
    }

    /// Whether it describes the queue that queue_select names.
    pub(super) fn is_of_a_queue(self) -> bool {
        use Field::*;
        matches!(
            self,
            QueueSize
                | QueueMsixVector
                | QueueEnable
                | QueueNotifyOff
                | QueueDesc
                | QueueDriver
                | QueueDevice
                | QueueNotifConfigData
                | QueueReset
        )
    }
}

/// What one access reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A field of the common configuration; of eight bytes, the upper half or the lower.
    Common { field: Field, upper: bool },
    /// The ISR status.
    Isr,
    /// Device configuration, from this offset in it on.
    Config { offset: usize },
    /// A word of an entry of the MSI-X table.
    Table { vector: usize, word: usize },
    /// Pending bits, from this vector on.
    Pending { first_vector: usize },
    /// The notification area, this far in.
    Notify { offset: usize },
}

/// Where a structure lies in the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    /// "common", "notify", "isr", "device", "msix_table" or "msix_pending".
    pub name: &'static str,
    /// From the start of the BAR, in bytes.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
}

/// The BAR of one face.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    structures: Vec<Structure>,
    length: usize,
}

impl Layout {
    /// `notify_bytes`: how far the notification area reaches.
    pub(super) fn new(common_bytes: usize, vector_count: u16, notify_bytes: usize) -> Self {
        let vector_count = usize::from(vector_count);
        let structures = [
            ("common", 0, common_bytes),
            ("notify", NOTIFY_OFFSET, notify_bytes),
            ("isr", ISR_OFFSET, 1),
            ("device", CONFIG_OFFSET, CONFIG_BYTES),
            ("msix_table", TABLE_OFFSET, vector_count * ENTRY_BYTES),
            ("msix_pending", PENDING_OFFSET, vector_count.div_ceil(64) * 8),
        ]
        .into_iter()
        .filter(|&(_, _, length)| length > 0)
        .map(|(name, offset, length)| Structure { name, offset, length });
        Self {
            structures: structures.collect(),
            length: (NOTIFY_OFFSET + notify_bytes).next_power_of_two(),
        }
    }

    /// Bytes of the BAR: a power of two.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn structures(&self) -> &[Structure] {
        &self.structures
    }

    /// What an access of `width` at `offset` reaches, or why it is none that a driver may make
    /// (VIRTIO 1.4, 4.1.3.1 Driver Requirements: PCI Device Layout).
    pub(super) fn place(&self, offset: usize, width: Width) -> Result<Place, String> {
        let bytes = width.bytes();
        let inside = |each: &&Structure| (each.offset..each.offset + each.length).contains(&offset);
        let found = self.structures.iter().find(inside);
        let structure = found.ok_or("no structure is there")?;
        let at = offset - structure.offset;
        if at + bytes > structure.length {
            return Err(format!("it reaches beyond the {} structure", structure.name));
        }
        match structure.name {
            "common" => common(at, bytes),
            "isr" => Ok(Place::Isr),
            "device" => match config_access_bytes(at) {
                Some(wanted) if wanted == bytes => Ok(Place::Config { offset: at }),
                _ => Err(format!("no configuration field of {bytes} bytes is at {at:#x}")),
            },
            "notify" => Ok(Place::Notify { offset: at }),
            _ if width != Width::Bits32 => Err("the MSI-X table takes accesses of 4 bytes".into()),
            "msix_table" => {
                Ok(Place::Table { vector: at / ENTRY_BYTES, word: at % ENTRY_BYTES / 4 })
            }
            _ => Ok(Place::Pending { first_vector: at * 8 }),
        }
    }
}

fn common(at: usize, bytes: usize) -> Result<Place, String> {
    let field =
        FIELDS.iter().find(|&&(_, _, start, length, _)| (start..start + length).contains(&at));
    let &(field, name, start, length, _) = field.ok_or("no field is there")?;
    let wanted = length.min(4);
    if bytes != wanted || !(at - start).is_multiple_of(wanted) {
        return Err(format!("{name}, at {start:#x}, is accessed by {wanted} bytes"));
    }
    Ok(Place::Common { field, upper: at > start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_fill_the_structure_without_gaps() {
        let mut end = 0;
        for &(_, name, offset, bytes, _) in FIELDS {
            assert_eq!(offset, end, "{name}");
            end += bytes;
        }
        assert_eq!(end, COMMON_BYTES);
    }

    #[test]
    fn an_access_is_as_wide_as_its_field() {
        let layout = Layout::new(COMMON_BYTES, 3, 8);
        let place = |offset, width| layout.place(offset, width);
        let status = Place::Common { field: Field::DeviceStatus, upper: false };
        assert_eq!(place(0x14, Width::Bits8), Ok(status));
        assert!(place(0x14, Width::Bits16).is_err());
        let upper = Place::Common { field: Field::QueueDriver, upper: true };
        assert_eq!(place(0x2C, Width::Bits32), Ok(upper));
        assert!(place(0x2C, Width::Bits16).is_err());
        assert!(place(0x40, Width::Bits8).is_err());
        assert_eq!(place(ISR_OFFSET, Width::Bits8), Ok(Place::Isr));
        assert!(place(ISR_OFFSET, Width::Bits32).is_err());
        assert_eq!(place(CONFIG_OFFSET + 4, Width::Bits32), Ok(Place::Config { offset: 4 }));
        assert!(place(CONFIG_OFFSET + 0x12, Width::Bits16).is_err());
        let word = Place::Table { vector: 2, word: 3 };
        assert_eq!(place(TABLE_OFFSET + 44, Width::Bits32), Ok(word));
        assert!(place(TABLE_OFFSET + 48, Width::Bits32).is_err());
        assert!(place(TABLE_OFFSET, Width::Bits16).is_err());
        assert!(place(NOTIFY_OFFSET + 8, Width::Bits16).is_err());
    }

    #[test]
    fn structures_do_not_meet_even_when_they_are_as_large_as_can_be() {
        let layout = Layout::new(COMMON_BYTES, VECTORS_MAX, 1 << 20);
        let mut structures = layout.structures().to_vec();
        structures.sort_by_key(|each| each.offset);
        for (one, next) in structures.iter().zip(structures.iter().skip(1)) {
            assert!(one.offset + one.length <= next.offset, "{one:?} {next:?}");
        }
        assert_eq!(layout.length(), 1 << 21);
    }
}
