//! The rings of `vring`, in every format.

use shm::{DmaSpace, Pin, Segment};
use softdev::ring::{RingAddresses, RingFeatures};
use vring::{PackedLayout, PackedQueue, Ring, RingOptions, SplitLayout, SplitQueue};

use crate::memory::{Buffers, identity_space};
use crate::{Device, Driver, Outcome, Pair, QUEUE_SIZE, Shape, Subject};

/// A format of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // their names say it all
pub enum Format {
    Split,
    SplitInOrder,
    Packed,
    PackedInOrder,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Split, Self::SplitInOrder, Self::Packed, Self::PackedInOrder];

    /// As tests and figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::SplitInOrder => "split-in-order",
            Self::Packed => "packed",
            Self::PackedInOrder => "packed-in-order",
        }
    }

    /// A ring of this format and its device.
    pub fn pair(self, shape: Shape, event_idx: bool) -> Outcome<Box<dyn Subject>> {
        let space = identity_space()?;
        let in_order = matches!(self, Self::SplitInOrder | Self::PackedInOrder);
        let options = RingOptions { in_order, event_idx, ..RingOptions::default() };
        let (tables, indirect) = (shape.table_size(), shape.table_size() > 0);
        let features = RingFeatures { in_order, indirect, event_idx, ..RingFeatures::default() };
        let size = QUEUE_SIZE as u16;
        Ok(match self {
            Self::Split | Self::SplitInOrder => {
                let layout = SplitLayout::new(QUEUE_SIZE, None, tables)?;
                let (driver, ring) =
                    RingDriver::<SplitQueue>::new(&space, layout, layout.length, options, shape)?;
                let SplitLayout { available, used, .. } = layout;
                let addresses = addresses(size, ring, available, used);
                Box::new(Pair::new(driver, Device::split(&space, &addresses, features)?, shape))
            }
            Self::Packed | Self::PackedInOrder => {
                let layout = PackedLayout::new(QUEUE_SIZE, tables)?;
                let (driver, ring) =
                    RingDriver::<PackedQueue>::new(&space, layout, layout.length, options, shape)?;
                let PackedLayout { driver_event, device_event, .. } = layout;
                let addresses = addresses(size, ring, driver_event, device_event);
                let features = RingFeatures { packed: true, ..features };
                Box::new(Pair::new(driver, Device::packed(&space, &addresses, features)?, shape))
            }
        })
    }
}

fn addresses(size: u16, ring: u64, driver_part: usize, device_part: usize) -> RingAddresses {
    RingAddresses {
        size,
        descriptors: ring,
        available: ring + driver_part as u64,
        used: ring + device_part as u64,
    }
}

/// What one request is made of: the first `readable` segments are the device's to read.
#[derive(Debug)]
struct Request {
    segments: [Segment; 3],
    readable: usize,
    count: usize,
}

/// A ring of `vring`, and requests in turn.
#[derive(Debug)]
pub struct RingDriver<R> {
    ring: R,
    requests: Vec<Request>,
    next: usize,
    written: u64,
    _data: Pin,
}

impl<R: Ring> RingDriver<R> {
    /// Returns where the ring lies, too.
    fn new(
        space: &DmaSpace,
        layout: R::Layout,
        length: usize,
        options: RingOptions,
        shape: Shape,
    ) -> Outcome<(Self, u64)> {
        let region = space.alloc(length, 4096)?;
        let mut ring = R::new(region.claim()?, layout, options)?;
        ring.disarm();
        let data = Buffers::new(space)?.0.pin()?;
        let requests = (0..QUEUE_SIZE)
            .map(|index| Request::new(&data, shape, index))
            .collect::<Outcome<_>>()?;
        let driver = Self { ring, requests, next: 0, written: 0, _data: data };
        Ok((driver, region.device_address()))
    }
}

impl Request {
    fn new(data: &Pin, shape: Shape, index: usize) -> Outcome<Self> {
        let mut segments = [data.segment(0, 1)?; 3];
        let (mut readable, mut count) = (0, 0);
        for (offset, length, device_writes) in Buffers::parts(shape, index) {
            segments[count] = data.segment(offset as u64, length as u64)?;
            readable += usize::from(!device_writes);
            count += 1;
        }
        Ok(Self { segments, readable, count })
    }
}

impl<R: Ring + Send> Driver for RingDriver<R> {
    #[inline]
    fn submit(&mut self, count: usize) -> Outcome<bool> {
        for _ in 0..count {
            let request = &self.requests[self.next];
            let (readable, writable) = request.segments[..request.count].split_at(request.readable);
            self.ring.push(readable, writable)?;
            self.next = (self.next + 1) % QUEUE_SIZE;
        }
        Ok(self.ring.publish()?)
    }

    #[inline]
    fn reap(&mut self) -> Outcome<usize> {
        let written = &mut self.written;
        Ok(self.ring.reap(usize::MAX, |used| *written += u64::from(used.written))?)
    }

    #[inline]
    fn arm_and_disarm(&mut self) -> Outcome<()> {
        self.ring.arm()?;
        self.ring.disarm();
        Ok(())
    }
}
