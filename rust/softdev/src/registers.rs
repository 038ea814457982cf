//! Status, features, configuration space and queue set-up: what a transport shows of the device.

use crate::ring::RingAddresses;

/// Bits of the device status (VIRTIO 1.4, 2.1 Device Status Field).
#[allow(missing_docs)]
pub mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// Feature bits that the device can honour (VIRTIO 1.4, 5.2.3 Feature bits, and 6 Reserved Feature
/// Bits).
#[allow(missing_docs)]
pub mod feature {
    pub const SIZE_MAX: u32 = 1;
    pub const SEG_MAX: u32 = 2;
    pub const GEOMETRY: u32 = 4;
    pub const RO: u32 = 5;
    pub const BLK_SIZE: u32 = 6;
    pub const FLUSH: u32 = 9;
    pub const TOPOLOGY: u32 = 10;
    pub const CONFIG_WCE: u32 = 11;
    pub const MQ: u32 = 12;
    pub const DISCARD: u32 = 13;
    pub const WRITE_ZEROES: u32 = 14;
    pub const INDIRECT_DESC: u32 = 28;
    pub const EVENT_IDX: u32 = 29;
    pub const VERSION_1: u32 = 32;
    pub const ACCESS_PLATFORM: u32 = 33;
    pub const RING_PACKED: u32 = 34;
    pub const IN_ORDER: u32 = 35;
    pub const ORDER_PLATFORM: u32 = 36;
    pub const NOTIFICATION_DATA: u32 = 38;
    pub const NOTIF_CONFIG_DATA: u32 = 39;
    pub const RING_RESET: u32 = 40;

    /// Those that need registers which only the PCI face has.
    pub const HONOURED_BY_PCI: u64 = 1 << NOTIFICATION_DATA | 1 << NOTIF_CONFIG_DATA;

    /// All of the above but those.
    pub const HONOURED: u64 = 1 << SIZE_MAX
        | 1 << SEG_MAX
        | 1 << GEOMETRY
        | 1 << RO
        | 1 << BLK_SIZE
        | 1 << FLUSH
        | 1 << TOPOLOGY
        | 1 << CONFIG_WCE
        | 1 << MQ
        | 1 << DISCARD
        | 1 << WRITE_ZEROES
        | 1 << INDIRECT_DESC
        | 1 << EVENT_IDX
        | 1 << VERSION_1
        | 1 << ACCESS_PLATFORM
        | 1 << RING_PACKED
        | 1 << IN_ORDER
        | 1 << ORDER_PLATFORM
        | 1 << RING_RESET;
}

/// Bytes of struct virtio_blk_config (VIRTIO 1.4, 5.2.4 Device configuration layout).
pub const CONFIG_BYTES: usize = 96;

/// Where `writeback` stands in it: the one field that a driver writes.
pub(crate) const WRITEBACK_OFFSET: usize = 0x20;

/// How wide an access at `offset` of it is: as wide as the field there, or 4 bytes for each half
/// of one of 8. `None` if no field starts there.
pub(crate) fn config_access_bytes(offset: usize) -> Option<usize> {
    Some(match offset {
        0x12 | 0x13 | 0x18 | 0x19 | 0x20 | 0x21 | 0x38..=0x3B | 0x5C..=0x5F => 1,
        0x10 | 0x1A | 0x22 => 2,
        ..CONFIG_BYTES if offset.is_multiple_of(4) => 4,
        _ => return None,
    })
}

/// Physical blocks are shown as this many bytes, or as one logical block if that is larger.
const PHYSICAL_BLOCK_BYTES: u32 = 4096;

/// A queue as the driver set it up.
pub type QueueSetup = RingAddresses;

/// What the driver has made of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueState {
    /// Nothing, or it was reset.
    Disabled,
    /// It is in use, or will be with DRIVER_OK.
    Enabled(QueueSetup),
    /// It was reset and, by a fault, its reset does not end.
    Resetting,
}

/// What the configuration space shows, apart from what can change.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) offered: u64,
    pub(crate) block_size: u32,
    pub(crate) size_max: u32,
    pub(crate) seg_max: u32,
    pub(crate) queue_count: u16,
    pub(crate) max_discard_sectors: u32,
    pub(crate) max_write_zeroes_sectors: u32,
    pub(crate) max_segments: u32,
    /// Whether zeroing gives memory back.
    pub(crate) may_unmap: bool,
}

/// What a write to the status asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusChange {
    Nothing,
    /// DRIVER_OK was set: begin to serve.
    GoLive,
    /// DRIVER_OK was taken back, or the driver gave up: stop.
    Stop,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Registers {
    model: Model,
    status: u8,
    accepted: u64,
    generation: u32,
    capacity_sectors: u64,
    /// Sectors that the configuration space shows too few (a fault).
    hidden_sectors: u64,
    writeback: u8,
    queues: Vec<QueueState>,
    /// A reset was asked for and, by a fault, has not ended yet.
    reset_under_way: Option<ResetEnd>,
    /// Features that the device can honour.
    honoured: u64,
}

/// When a reset that takes its time ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetEnd {
    /// When faults are cleared.
    Never,
    /// After so many more reads of the status.
    AfterReads(u64),
}

pub(crate) fn has(features: u64, bit: u32) -> bool {
    features >> bit & 1 != 0
}

impl Registers {
    pub(crate) fn new(model: Model, capacity_sectors: u64) -> Self {
        let mut registers = Self {
            queues: vec![QueueState::Disabled; model.queue_count.into()],
            status: 0,
            accepted: 0,
            generation: 0,
            capacity_sectors,
            hidden_sectors: 0,
            writeback: 0,
            reset_under_way: None,
            honoured: feature::HONOURED,
            model,
        };
        registers.reset();
        registers
    }

    /// VIRTIO 1.4, 2.4 Device Reset.
    pub(crate) fn reset(&mut self) {
        self.status = 0;
        self.accepted = 0;
        self.queues.fill(QueueState::Disabled);
        // Where flushes are offered, a driver must expect a cache until it says otherwise.
        self.writeback = has(self.model.offered, feature::FLUSH).into();
        self.reset_under_way = None;
    }

    pub(crate) fn begin_reset(&mut self, end: ResetEnd) {
        self.reset_under_way = Some(end);
        if self.status == 0 {
            self.status = status::DEVICE_NEEDS_RESET;
        }
    }

    pub(crate) fn is_resetting(&self) -> bool {
        self.reset_under_way.is_some()
    }

    /// The driver looks whether its reset has ended; whether it is to end now.
    pub(crate) fn ask_for_reset_end(&mut self) -> bool {
        match &mut self.reset_under_way {
            Some(ResetEnd::AfterReads(0)) => true,
            Some(ResetEnd::AfterReads(left)) => {
                *left -= 1;
                false
            }
            Some(ResetEnd::Never) | None => false,
        }
    }

    /// Features beyond the usual ones that a transport makes possible.
    pub(crate) fn honour(&mut self, features: u64) {
        self.honoured |= features;
    }

    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    pub(crate) fn offered(&self) -> u64 {
        self.model.offered
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Features are settled with FEATURES_OK; later writes change nothing.
    pub(crate) fn accept(&mut self, features: u64) {
        if self.status & status::FEATURES_OK == 0 {
            self.accepted = features;
        }
    }

    /// A driver may take any part of what is offered that can be honoured, and must take
    /// VERSION_1 (VIRTIO 1.4, 6.2 Device Requirements: Reserved Feature Bits, lets a device insist).
    fn agrees(&self) -> bool {
        let Model { offered, .. } = self.model;
        let extra = self.accepted & !(offered & self.honoured);
        extra == 0 && has(self.accepted, feature::VERSION_1) == has(offered, feature::VERSION_1)
    }

    /// A write of anything but 0. `refuse`: do not agree to any features.
    pub(crate) fn write_status(&mut self, value: u8, refuse: bool) -> StatusChange {
        use status::{DEVICE_NEEDS_RESET, DRIVER_OK, FAILED, FEATURES_OK};
        let before = self.status;
        // Only the device sets this one, and only a reset clears it.
        let mut after = value & !DEVICE_NEEDS_RESET | before & DEVICE_NEEDS_RESET;
        if after & !before & FEATURES_OK != 0 {
            if refuse || !self.agrees() {
                after &= !FEATURES_OK;
            } else if has(self.accepted, feature::CONFIG_WCE) && !has(self.accepted, feature::FLUSH)
            {
                // Without flushes the cache starts as writethrough.
                self.writeback = 0;
            }
        }
        self.status = after;
        let lives = |status: u8| {
            status & (DRIVER_OK | FEATURES_OK) == DRIVER_OK | FEATURES_OK
                && status & (FAILED | DEVICE_NEEDS_RESET) == 0
        };
        match (lives(before), lives(after)) {
            (false, true) => StatusChange::GoLive,
            (true, false) => StatusChange::Stop,
            _ => StatusChange::Nothing,
        }
    }

    /// Set DEVICE_NEEDS_RESET; whether the driver is to be told by a configuration change
    /// notification (VIRTIO 1.4, 2.1.2 Device Requirements: Device Status Field).
    pub(crate) fn demand_reset(&mut self) -> bool {
        let news = self.status & status::DEVICE_NEEDS_RESET == 0;
        self.status |= status::DEVICE_NEEDS_RESET;
        news && self.is_driven()
    }

    /// Whether the driver has set DRIVER_OK; no notification may be sent earlier.
    pub(crate) fn is_driven(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    /// Whether a completed write must be stable (VIRTIO 1.4, 5.2.6.2 Device Requirements: Device
    /// Operation).
    pub(crate) fn write_through(&self) -> bool {
        if has(self.accepted, feature::CONFIG_WCE) {
            self.writeback == 0
        } else {
            !has(self.accepted, feature::FLUSH)
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    pub(crate) fn set_capacity(&mut self, sectors: u64) {
        self.capacity_sectors = sectors;
        self.generation = self.generation.wrapping_add(1);
    }

    /// Show `sectors` less than there are, or all again.
    pub(crate) fn flicker(&mut self, sectors: u64) {
        self.hidden_sectors = if self.hidden_sectors == 0 { sectors.max(1) } else { 0 };
        self.generation = self.generation.wrapping_add(1);
    }

    /// `length` bytes of the configuration space, if it has them.
    pub(crate) fn read_config(&self, offset: usize, length: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(length)?;
        Some(self.config().get(offset..end)?.to_vec())
    }

    /// Whether the write changed `writeback`; other fields, other values and all fields before
    /// FEATURES_OK are not for the driver to write.
    pub(crate) fn write_config(&mut self, offset: usize, data: &[u8]) -> bool {
        let settled = self.status & status::FEATURES_OK != 0;
        match (offset, data) {
            (WRITEBACK_OFFSET, &[value @ (0 | 1)])
                if settled && has(self.accepted, feature::CONFIG_WCE) =>
            {
                self.writeback = value;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn queue(&mut self, index: usize) -> Option<&mut QueueState> {
        self.queues.get_mut(index)
    }

    /// By queue: where it lies, if it is enabled.
    pub(crate) fn enabled_queues(&self) -> Vec<Option<QueueSetup>> {
        let setup = |state: &QueueState| match state {
            QueueState::Enabled(setup) => Some(*setup),
            QueueState::Disabled | QueueState::Resetting => None,
        };
        self.queues.iter().map(setup).collect()
    }

    /// End the resets of queues that did not.
    pub(crate) fn end_queue_resets(&mut self) {
        let resetting = self.queues.iter_mut().filter(|state| **state == QueueState::Resetting);
        resetting.for_each(|state| *state = QueueState::Disabled);
    }

    /// Fields are there as soon as their feature is offered; the rest of the 96 bytes is zero.
    fn config(&self) -> [u8; CONFIG_BYTES] {
        let model = &self.model;
        let offers = |bit| has(model.offered, bit);
        let mut config = Layout([0; CONFIG_BYTES]);
        let capacity = self.capacity_sectors.saturating_sub(self.hidden_sectors);
        config.put(0x00, &capacity.to_le_bytes());
        if offers(feature::SIZE_MAX) {
            config.put(0x08, &model.size_max.to_le_bytes());
        }
        if offers(feature::SEG_MAX) {
            config.put(0x0C, &model.seg_max.to_le_bytes());
        }
        if offers(feature::GEOMETRY) {
            config.put(0x10, &geometry(capacity));
        }
        if offers(feature::BLK_SIZE) {
            config.put(0x14, &model.block_size.to_le_bytes());
        }
        if offers(feature::TOPOLOGY) {
            config.put(0x18, &topology(model.block_size));
        }
        if offers(feature::CONFIG_WCE) {
            config.put(WRITEBACK_OFFSET, &[self.writeback]);
        }
        if offers(feature::MQ) {
            config.put(0x22, &model.queue_count.to_le_bytes());
        }
        if offers(feature::DISCARD) {
            config.put(0x24, &model.max_discard_sectors.to_le_bytes());
            config.put(0x28, &model.max_segments.to_le_bytes());
            config.put(0x2C, &(model.block_size / 512).to_le_bytes());
        }
        if offers(feature::WRITE_ZEROES) {
            config.put(0x30, &model.max_write_zeroes_sectors.to_le_bytes());
            config.put(0x34, &model.max_segments.to_le_bytes());
            config.put(0x38, &[model.may_unmap.into()]);
        }
        config.0
    }
}

/// The configuration space as it is put together.
struct Layout([u8; CONFIG_BYTES]);

impl Layout {
    fn put(&mut self, offset: usize, field: &[u8]) {
        for (byte, &value) in self.0.iter_mut().skip(offset).zip(field) {
            *byte = value;
        }
    }
}

/// Cylinders, heads, sectors: the usual translation of a size that has no such thing.
fn geometry(capacity_sectors: u64) -> [u8; 4] {
    const HEADS: u8 = 16;
    const SECTORS: u8 = 63;
    let cylinders = capacity_sectors / (u64::from(HEADS) * u64::from(SECTORS));
    let [low, high] = (cylinders.min(16383) as u16).to_le_bytes();
    [low, high, HEADS, SECTORS]
}

/// physical_block_exp, alignment_offset, min_io_size, opt_io_size.
fn topology(block_size: u32) -> [u8; 8] {
    let blocks = (PHYSICAL_BLOCK_BYTES / block_size).max(1);
    let [low, high] = (blocks as u16).to_le_bytes();
    [blocks.trailing_zeros() as u8, 0, low, high, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
    use super::*;

    const BASIC: u64 = 1 << feature::VERSION_1;

    fn registers(offered: u64) -> Registers {
        let model = Model {
            offered: offered | BASIC,
            block_size: 512,
            size_max: 65536,
            seg_max: 126,
            queue_count: 1,
            max_discard_sectors: 1024,
            max_write_zeroes_sectors: 2048,
            max_segments: 16,
            may_unmap: true,
        };
        Registers::new(model, 0x1234)
    }

    fn accept(registers: &mut Registers, features: u64) -> bool {
        registers.accept(features);
        registers.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK, false);
        registers.status() & FEATURES_OK != 0
    }

    #[test]
    fn features_that_were_not_offered_are_refused() {
        assert!(accept(&mut registers(1 << feature::FLUSH), BASIC | 1 << feature::FLUSH));
        assert!(accept(&mut registers(1 << feature::FLUSH), BASIC));
        assert!(!accept(&mut registers(0), BASIC | 1 << feature::FLUSH));
        assert!(!accept(&mut registers(0), 0));
    }

    #[test]
    fn an_offered_feature_that_cannot_be_honoured_is_refused_when_accepted() {
        const SR_IOV: u64 = 1 << 37;
        assert!(!accept(&mut registers(SR_IOV), BASIC | SR_IOV));
        assert!(accept(&mut registers(SR_IOV), BASIC));
    }

    #[test]
    fn writeback_can_be_written_with_config_wce_and_after_features_ok_only() {
        let wce = 1 << feature::CONFIG_WCE;
        let flush = 1 << feature::FLUSH;
        let mut early = registers(wce | flush);
        assert!(!early.write_config(0x20, &[0]));
        assert!(accept(&mut early, BASIC | wce | flush));
        assert!(!early.write_through());
        assert!(early.write_config(0x20, &[0]));
        assert!(early.write_through());
        assert_eq!(early.read_config(0x20, 1), Some(vec![0]));
        assert!(!early.write_config(0x00, &[0; 8]));

        let mut without = registers(wce | flush);
        assert!(accept(&mut without, BASIC | flush));
        assert!(!without.write_config(0x20, &[0]));
    }

    #[test]
    fn writeback_starts_at_0_without_flush() {
        let mut registers = registers(1 << feature::CONFIG_WCE | 1 << feature::FLUSH);
        assert_eq!(registers.read_config(0x20, 1), Some(vec![1]));
        assert!(accept(&mut registers, BASIC | 1 << feature::CONFIG_WCE));
        assert_eq!(registers.read_config(0x20, 1), Some(vec![0]));
    }

    #[test]
    fn the_device_lives_from_driver_ok_to_reset() {
        let mut registers = registers(0);
        let early = registers.write_status(ACKNOWLEDGE | DRIVER | DRIVER_OK, false);
        assert_eq!(early, StatusChange::Nothing);
        assert!(accept(&mut registers, BASIC));
        let all = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        assert_eq!(registers.write_status(all, false), StatusChange::GoLive);
        assert!(registers.demand_reset());
        assert!(!registers.demand_reset());
        registers.reset();
        assert_eq!(registers.status(), 0);
    }

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let registers = registers(u64::MAX >> 1);
        let le = |offset, length| {
            let bytes = registers.read_config(offset, length).unwrap();
            bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte))
        };
        assert_eq!(le(0x00, 8), 0x1234);
        assert_eq!(le(0x08, 4), 65536);
        assert_eq!(le(0x0C, 4), 126);
        assert_eq!(le(0x10, 2), 0x1234 / (16 * 63));
        assert_eq!((le(0x12, 1), le(0x13, 1)), (16, 63));
        assert_eq!(le(0x14, 4), 512);
        assert_eq!((le(0x18, 1), le(0x1A, 2)), (3, 8));
        assert_eq!(le(0x22, 2), 1);
        assert_eq!((le(0x24, 4), le(0x28, 4), le(0x2C, 4)), (1024, 16, 1));
        assert_eq!((le(0x30, 4), le(0x34, 4), le(0x38, 1)), (2048, 16, 1));
        assert_eq!(registers.read_config(0x3C, 36), Some(vec![0; 36]));
        assert_eq!(registers.read_config(0x5C, 8), None);
        assert_eq!(registers.read_config(usize::MAX, 8), None);
    }

    #[test]
    fn a_flicker_changes_the_capacity_shown_and_then_changes_it_back() {
        let mut registers = registers(0);
        registers.flicker(0);
        assert_eq!(registers.read_config(0, 2), Some(vec![0x33, 0x12]));
        assert_eq!(registers.generation(), 1);
        registers.flicker(0);
        assert_eq!(registers.read_config(0, 2), Some(vec![0x34, 0x12]));
        assert_eq!(registers.generation(), 2);
    }
}
