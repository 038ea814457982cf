//! The device's view of memory: from the addresses in descriptors to bytes.

use shm::{DmaSpace, OutOfBounds, Record, Records, Span};

/// A mapping as the device knows it.
#[derive(Debug)]
struct Window {
    start: u64,
    span: Span,
}

/// Bytes of one mapping that a descriptor described.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    window: usize,
    offset: usize,
    /// Bytes.
    pub length: usize,
}

/// A private copy of the table of mappings, so that resolving an address takes no lock and
/// touches no reference count. Mappings are only ever added to a space, so a stale copy lacks some
/// and is renewed when an address is not found in it.
#[derive(Debug)]
pub struct AddressMap {
    space: DmaSpace,
    windows: Vec<Window>,
    /// Where the last address was found; most are found there again.
    recent: usize,
}

impl AddressMap {
    /// Of a space; knows no mapping yet.
    pub fn new(space: DmaSpace) -> Self {
        Self { space, windows: Vec::new(), recent: 0 }
    }

    /// The bytes at `address`, if all are inside one mapping.
    #[inline]
    pub fn resolve(&mut self, address: u64, length: usize) -> Option<Segment> {
        self.resolve_in(self.recent, address, length)
            .or_else(|| self.search(address, length))
            .or_else(|| {
                self.renew();
                self.search(address, length)
            })
    }

    #[inline]
    fn resolve_in(&self, window: usize, address: u64, length: usize) -> Option<Segment> {
        let Window { start, span } = self.windows.get(window)?;
        let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
        let inside = offset.checked_add(length)? <= span.len();
        inside.then_some(Segment { window, offset, length })
    }

    fn search(&mut self, address: u64, length: usize) -> Option<Segment> {
        let found =
            (0..self.windows.len()).find_map(|window| self.resolve_in(window, address, length))?;
        self.recent = found.window;
        Some(found)
    }

    fn renew(&mut self) {
        for mapping in self.space.mappings().iter().skip(self.windows.len()) {
            let start = mapping.device_address();
            if let Some(span) = self.space.translate(start, mapping.memory().len()) {
                self.windows.push(Window { start, span });
            }
        }
    }

    /// Let go of all mappings, so that they can be unmapped.
    pub fn forget(&mut self) {
        self.windows.clear();
        self.recent = 0;
    }

    /// The bytes of a segment as a span of their own.
    pub fn span(&self, segment: &Segment) -> Result<Span, OutOfBounds> {
        self.window(segment)?.slice(segment.offset, segment.length)
    }

    /// Typed records at the start of a segment, if its alignment allows them.
    #[inline]
    pub fn records<R: Record>(
        &self,
        segment: &Segment,
        count: usize,
    ) -> Result<Records<R>, OutOfBounds> {
        let length = count.saturating_mul(size_of::<R>());
        self.window(segment)?.records(segment.within(0, length)?, count)
    }

    /// A segment from before `forget` finds no window: that is out of bounds, like any bad access.
    #[inline]
    fn window(&self, segment: &Segment) -> Result<&Span, OutOfBounds> {
        self.windows.get(segment.window).map(|window| &window.span).ok_or(OutOfBounds {
            offset: segment.offset,
            length: segment.length,
            available: 0,
        })
    }

    /// Copy from a segment, starting at `at`.
    #[inline]
    pub fn read(&self, segment: &Segment, at: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        self.window(segment)?.read_bytes(segment.within(at, out.len())?, out)
    }

    /// Copy to a segment, starting at `at`.
    #[inline]
    pub fn write(&self, segment: &Segment, at: usize, data: &[u8]) -> Result<(), OutOfBounds> {
        self.window(segment)?.write_bytes(segment.within(at, data.len())?, data)
    }

    /// Zero `length` bytes of a segment, starting at `at`.
    pub fn zero(&self, segment: &Segment, at: usize, length: usize) -> Result<(), OutOfBounds> {
        self.window(segment)?.fill(segment.within(at, length)?, length, 0)
    }
}

impl Segment {
    #[inline]
    fn within(&self, at: usize, length: usize) -> Result<usize, OutOfBounds> {
        if at.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(OutOfBounds { offset: at, length, available: self.length });
        }
        Ok(self.offset + at)
    }
}
