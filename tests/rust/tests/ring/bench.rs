//! A ring of either format, its memory, and a device whose every word the test decides.

use shm::{
    Descriptor, DmaSpace, PackedDescriptors, PackedUsed, Pin, Records, Region, Segment,
    UsedElement, Words,
};
use vring::{
    Broken, PackedLayout, PackedQueue, PushError, Ring, RingOptions, SplitLayout, SplitQueue, Used,
};

const AVAIL_AND_USED: u16 = 1 << 7 | 1 << 15;
const WRITE: u16 = 2;

/// A format of the ring, and how its device returns chains.
pub trait Format: Ring {
    /// The device's words.
    type Device;
    /// Lay a ring out, in sizes that both formats have.
    fn lay_out(size: usize, tables: usize) -> (Self::Layout, usize);
    /// The device of a ring in `region`.
    fn device(region: &Region, layout: &Self::Layout) -> Self::Device;
    /// Write one used element that returns `chains`, which take `slots` descriptors in all. Without
    /// a length the device does not say it, where the format knows that, else it says 0.
    fn use_batch(device: &mut Self::Device, id: u32, length: Option<u32>, chains: u16, slots: u16);
    /// The device forgets all.
    fn restart(device: &mut Self::Device);
    /// Where the driver asks to be notified.
    fn event(device: &Self::Device) -> u16;
}

pub struct SplitDevice {
    size: u16,
    pub used: Words,
    pub used_ring: Records<UsedElement>,
    pub used_event: Words,
    pub descriptors: Records<Descriptor>,
    pub tables: Records<Descriptor>,
    pub index: u16,
}

/// The used index, after the flags.
pub const INDEX: usize = 1;

impl Format for SplitQueue {
    type Device = SplitDevice;

    fn lay_out(size: usize, tables: usize) -> (SplitLayout, usize) {
        let layout = SplitLayout::new(size, None, tables).unwrap();
        (layout, layout.length)
    }

    fn device(region: &Region, layout: &SplitLayout) -> SplitDevice {
        let (span, size) = (region.span(), usize::from(layout.size));
        let tables = size * usize::from(layout.indirect_table_size);
        let tables_offset = if tables == 0 { 0 } else { layout.indirect };
        SplitDevice {
            size: layout.size,
            used: span.words(layout.used, 2).unwrap(),
            used_ring: span.records(layout.used + 4, size).unwrap(),
            used_event: span.words(layout.available + 4 + 2 * size, 1).unwrap(),
            descriptors: span.records(layout.descriptors, size).unwrap(),
            tables: span.records(tables_offset, tables).unwrap(),
            index: 0,
        }
    }

    fn use_batch(device: &mut SplitDevice, id: u32, length: Option<u32>, chains: u16, _: u16) {
        let element = UsedElement { id, len: length.unwrap_or(0) };
        device.used_ring.store((device.index % device.size).into(), element);
        device.index = device.index.wrapping_add(chains);
        device.used.store(INDEX, device.index);
    }

    fn restart(device: &mut SplitDevice) {
        device.index = 0;
    }

    fn event(device: &SplitDevice) -> u16 {
        device.used_event.load(0)
    }
}

pub struct PackedDevice {
    size: u16,
    descriptors: PackedDescriptors,
    driver_event: Words,
    /// Of the slot that it uses next.
    pub offset: u16,
    wrap: bool,
}

impl Format for PackedQueue {
    type Device = PackedDevice;

    fn lay_out(size: usize, tables: usize) -> (PackedLayout, usize) {
        let layout = PackedLayout::new(size, tables).unwrap();
        (layout, layout.length)
    }

    fn device(region: &Region, layout: &PackedLayout) -> PackedDevice {
        let (span, size) = (region.span(), usize::from(layout.size));
        PackedDevice {
            size: layout.size,
            descriptors: span.packed_descriptors(layout.descriptors, size).unwrap(),
            driver_event: span.words(layout.driver_event, 2).unwrap(),
            offset: 0,
            wrap: true,
        }
    }

    fn use_batch(device: &mut PackedDevice, id: u32, length: Option<u32>, _: u16, slots: u16) {
        let slot = usize::from(device.offset);
        let used = PackedUsed { id: id as u16, len: length.unwrap_or(77) };
        device.descriptors.store_used(slot, used);
        let flags = if device.wrap { AVAIL_AND_USED } else { 0 };
        device.descriptors.store_flags(slot, flags | length.map_or(0, |_| WRITE));
        let offset = u32::from(device.offset) + u32::from(slots);
        let laps = offset / u32::from(device.size);
        device.offset = (offset % u32::from(device.size)) as u16;
        device.wrap ^= laps % 2 == 1;
    }

    fn restart(device: &mut PackedDevice) {
        (device.offset, device.wrap) = (0, true);
    }

    fn event(device: &PackedDevice) -> u16 {
        device.driver_event.load(0)
    }
}

/// A ring, and the words of its device.
pub struct Bench<R: Format> {
    pub ring: R,
    pub device: R::Device,
    pin: Pin,
}

pub const IN_ORDER: RingOptions =
    RingOptions { event_idx: false, in_order: true, strict: false, zeroed: false };
pub const ANY_ORDER: RingOptions = RingOptions { in_order: false, ..IN_ORDER };

/// Bytes of the memory that segments are taken from.
pub const DATA_BYTES: u32 = 1 << 20;

impl<R: Format> Bench<R> {
    pub fn new(size: usize, options: RingOptions) -> Self {
        Self::with_tables(size, 0, options)
    }

    pub fn with_tables(size: usize, tables: usize, options: RingOptions) -> Self {
        let space = DmaSpace::new();
        space.map(4 << 20, 1 << 32).unwrap();
        let (layout, length) = R::lay_out(size, tables);
        let region = space.alloc(length, 4096).unwrap();
        let ring = R::new(region.claim().unwrap(), layout, options).unwrap();
        let device = R::device(&region, &layout);
        let data = space.alloc(DATA_BYTES as usize, 4096).unwrap();
        Self { ring, device, pin: data.pin().unwrap() }
    }

    pub fn segment(&self, length: u32) -> Segment {
        self.pin.segment(0, length.into()).unwrap()
    }

    /// A chain with these segments for the device to write; its head.
    pub fn push(&mut self, lengths: &[u32]) -> Result<u16, PushError> {
        let writable: Vec<Segment> = lengths.iter().map(|&length| self.segment(length)).collect();
        self.ring.push(&[], &writable)
    }

    /// Chains of one segment each, of these lengths, published in one step; their heads.
    pub fn publish(&mut self, lengths: &[u32]) -> Vec<u16> {
        let heads = lengths.iter().map(|&length| self.push(&[length]).unwrap()).collect();
        self.ring.publish().unwrap();
        heads
    }

    /// The device returns a chain of one descriptor by an element of its own.
    pub fn give_back(&mut self, id: impl Into<u32>, length: u32) {
        self.give_back_batch(id, Some(length), 1);
    }

    /// The device returns `chains` of one descriptor each by one element.
    pub fn give_back_batch(&mut self, id: impl Into<u32>, length: Option<u32>, chains: u16) {
        R::use_batch(&mut self.device, id.into(), length, chains, chains);
    }

    pub fn reap(&mut self, limit: usize) -> Result<Vec<Used>, Broken> {
        let mut used = Vec::new();
        let count = self.ring.reap(limit, |one| used.push(one))?;
        assert_eq!(count, used.len());
        Ok(used)
    }

    pub fn reap_all(&mut self) -> Result<Vec<Used>, Broken> {
        self.reap(usize::MAX)
    }

    /// Everything is refused, for the same reason, until a reset.
    pub fn assert_broken(&mut self, broken: Broken) {
        assert_eq!(self.ring.broken(), Some(broken));
        assert_eq!(self.push(&[1]), Err(PushError::Broken(broken)));
        assert_eq!(self.ring.publish(), Err(broken));
        assert_eq!(self.reap_all(), Err(broken));
        assert_eq!(self.ring.arm(), Err(broken));
        let (free, outstanding) = (self.ring.free_count(), self.ring.outstanding_count());
        let mut kept = Vec::new();
        self.ring.reclaim(|head| kept.push(head));
        R::restart(&mut self.device);
        assert!(kept.is_sorted() && kept.len() >= outstanding.into());
        assert!(free <= self.ring.free_count() && self.ring.free_count() == self.ring.size());
        assert_eq!((self.ring.broken(), self.ring.outstanding_count()), (None, 0));
        let heads = self.publish(&[8]);
        self.give_back(heads[0], 8);
        assert_eq!(self.reap_all().unwrap(), [given(heads[0], 8)]);
    }
}

/// A completion whose length the device gave.
pub fn given(head: u16, written: u32) -> Used {
    Used { head, written, written_given: true }
}

/// Each of these on both formats.
macro_rules! on_both_formats {
    ($($name:ident),* $(,)?) => {
        mod split {
            $(#[test] fn $name() { super::$name::<vring::SplitQueue>(); })*
        }
        mod packed {
            $(#[test] fn $name() { super::$name::<vring::PackedQueue>(); })*
        }
    };
}
pub(crate) use on_both_formats;
