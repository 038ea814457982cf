//! What the benchmarks share: a split ring, and a device that completes all that it is given.

#![forbid(unsafe_code)]

use std::error::Error;

use shm::{AvailableElement, DmaSpace, Pin, Records, Region, Segment, UsedElement, Words};
use vring::{Ring, RingOptions, SplitLayout, SplitQueue};

const INDEX: usize = 1;
const DEVICE_ADDRESS: u64 = 1 << 32;
const MAPPING_BYTES: usize = 1 << 21;

/// The least that a device does: it gives every chain back, in order, with nothing written.
#[derive(Debug)]
pub struct Echo {
    size: usize,
    available: Words,
    heads: Records<AvailableElement>,
    used: Words,
    used_ring: Records<UsedElement>,
    next: u16,
}

impl Echo {
    fn new(region: &Region, layout: &SplitLayout) -> Result<Self, Box<dyn Error>> {
        let (span, size) = (region.span(), usize::from(layout.size));
        Ok(Self {
            size,
            available: span.words(layout.available, 2)?,
            heads: span.records(layout.available + 4, size)?,
            used: span.words(layout.used, 2)?,
            used_ring: span.records(layout.used + 4, size)?,
            next: 0,
        })
    }

    /// Use all that is available.
    pub fn serve(&mut self) {
        let available = self.available.load(INDEX);
        while self.next != available {
            let slot = usize::from(self.next) & (self.size - 1);
            let AvailableElement(head) = self.heads.load(slot);
            self.used_ring.store(slot, UsedElement { id: head.into(), len: 0 });
            self.next = self.next.wrapping_add(1);
        }
        shm::fence::before_publish();
        self.used.store(INDEX, self.next);
    }
}

/// A ring, its echo, and the segments of a block request: header, data, status.
#[derive(Debug)]
pub struct Bench {
    /// The driver's half.
    pub ring: SplitQueue,
    /// The device's half.
    pub echo: Echo,
    /// What the device reads of a request.
    pub readable: [Segment; 1],
    /// What it writes.
    pub writable: [Segment; 2],
    _data: Pin,
}

impl Bench {
    /// A ring of `size` descriptors; `indirect_table_size` 0: direct chains.
    pub fn new(size: usize, indirect_table_size: usize) -> Result<Self, Box<dyn Error>> {
        let space = DmaSpace::new();
        space.map(MAPPING_BYTES, DEVICE_ADDRESS)?;
        let layout = SplitLayout::new(size, None, indirect_table_size)?;
        let region = space.alloc(layout.length, 4096)?;
        let ring = SplitQueue::new(region.claim()?, layout, RingOptions::default())?;
        let data = space.alloc(8192, 4096)?.pin()?;
        let readable = [data.segment(0, 16)?];
        let writable = [data.segment(4096, 4096)?, data.segment(16, 1)?];
        let echo = Echo::new(&region, &layout)?;
        Ok(Self { ring, echo, readable, writable, _data: data })
    }

    /// One batch: push `count` requests, publish, let the device use them, reap. How many came
    /// back.
    pub fn run(&mut self, count: usize) -> Result<usize, Box<dyn Error>> {
        for _ in 0..count {
            self.ring.push(&self.readable, &self.writable)?;
        }
        self.ring.publish()?;
        self.echo.serve();
        Ok(self.ring.reap(usize::MAX, |_| ())?)
    }
}
