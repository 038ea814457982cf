//! loom's stand-in for memory: every field is a cell of its own, made when it is first named.
//!
//! Words are loom atomics. Records and payload are `loom::cell::UnsafeCell`s, so that loom reports
//! an access that no fence orders. Driver and device meet because both name a field by its offset.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU16;
use loom::sync::atomic::Ordering::Relaxed;

use crate::error::{OutOfBounds, SpaceError};
use crate::record::{
    AvailableElement, Descriptor, PackedBody, PackedDescriptor, PackedUsed, UsedElement,
};

/// The cells that were named so far, by offset.
#[derive(Debug)]
pub struct Memory {
    length: usize,
    cells: Mutex<HashMap<usize, Arc<dyn Any + Send + Sync>>>,
}

struct Payload(UnsafeCell<Vec<u8>>);
// SAFETY: loom checks every access to the cell.
unsafe impl Send for Payload {}
// SAFETY: as above.
unsafe impl Sync for Payload {}

impl Memory {
    /// Memory whose every byte is zero.
    pub fn create(length: usize) -> Result<Self, SpaceError> {
        if length == 0 {
            return Err(SpaceError::Invalid("cannot map 0 bytes".into()));
        }
        Ok(Self { length, cells: Mutex::default() })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Never: a mapping has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// No address: nothing here is in real memory.
    pub fn host_address(&self) -> usize {
        0
    }

    fn named<T: Any + Send + Sync>(&self, offset: usize, make: impl FnOnce() -> T) -> Arc<T> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = cells.entry(offset).or_insert_with(|| Arc::new(make()));
        match Arc::clone(cell).downcast() {
            Ok(cell) => cell,
            Err(_) => panic!("the bytes at {offset} are accessed in two widths"),
        }
    }

    fn check(&self, offset: usize, length: usize) -> Result<(), OutOfBounds> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(OutOfBounds { offset, length, available: self.length });
        }
        Ok(())
    }

    fn payload(&self, offset: usize, length: usize) -> Result<Arc<Payload>, OutOfBounds> {
        self.check(offset, length)?;
        Ok(self.named(offset, || Payload(UnsafeCell::new(vec![0; length]))))
    }

    /// Copy bytes out; they must be named as they were written.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let cell = self.payload(offset, out.len())?;
        // SAFETY: loom has checked that nobody writes.
        cell.0.with(|bytes| out.copy_from_slice(unsafe { &*bytes }));
        Ok(())
    }

    /// Copy bytes in.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), OutOfBounds> {
        let cell = self.payload(offset, data.len())?;
        // SAFETY: loom has checked that nobody else accesses.
        cell.0.with_mut(|bytes| unsafe { &mut *bytes }.copy_from_slice(data));
        Ok(())
    }

    /// Fresh cells are zero already.
    pub fn fill(&self, offset: usize, length: usize, byte: u8) -> Result<(), OutOfBounds> {
        assert_eq!(byte, 0, "the stand-in only fills with zeros");
        self.check(offset, length)
    }
}

/// A value in shared memory.
pub trait Record: Copy + Default + Send + Sync + 'static {
    /// Bytes that it takes.
    const SIZE: usize;
}
impl Record for Descriptor {
    const SIZE: usize = 16;
}
impl Record for AvailableElement {
    const SIZE: usize = 2;
}
impl Record for UsedElement {
    const SIZE: usize = 8;
}
impl Record for PackedDescriptor {
    const SIZE: usize = 16;
}

struct Cell<R>(UnsafeCell<R>);
// SAFETY: loom checks every access to the cell.
unsafe impl<R: Record> Send for Cell<R> {}
// SAFETY: as above.
unsafe impl<R: Record> Sync for Cell<R> {}

/// An array of records.
pub struct Records<R: Record>(Vec<Arc<Cell<R>>>);

impl<R: Record> std::fmt::Debug for Records<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Records({})", self.0.len())
    }
}

impl<R: Record> Records<R> {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        offset: usize,
        count: usize,
    ) -> Result<Self, OutOfBounds> {
        memory.check(offset, count * R::SIZE)?;
        let cell =
            |index| memory.named(offset + index * R::SIZE, || Cell(UnsafeCell::new(R::default())));
        Ok(Self((0..count).map(cell).collect()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// A hint: there is nothing to model.
    pub fn prefetch_for_write(&self, _index: usize) {}

    /// Read record `index`.
    pub fn load(&self, index: usize) -> R {
        // SAFETY: loom has checked that nobody writes.
        self.0[index].0.with(|record| unsafe { *record })
    }

    /// Write record `index`.
    pub fn store(&self, index: usize, record: R) {
        // SAFETY: loom has checked that nobody else accesses.
        self.0[index].0.with_mut(|place| unsafe { *place = record });
    }
}

/// An array of 16-bit words on which driver and device meet.
#[derive(Debug)]
pub struct Words(Vec<Arc<AtomicU16>>);

impl Words {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        offset: usize,
        count: usize,
    ) -> Result<Self, OutOfBounds> {
        memory.check(offset, count * 2)?;
        let word = |index| memory.named(offset + index * 2, || AtomicU16::new(0));
        Ok(Self((0..count).map(word).collect()))
    }

    /// Read word `index` once, relaxed.
    pub fn load(&self, index: usize) -> u16 {
        self.0[index].load(Relaxed)
    }

    /// Write word `index`, relaxed.
    pub fn store(&self, index: usize, value: u16) {
        self.0[index].store(value, Relaxed);
    }
}

/// The descriptor ring of a packed ring: a word for the flags, a cell for the rest.
#[derive(Debug)]
pub struct PackedDescriptors(Vec<PackedCells>);

struct PackedCells {
    body: Arc<Cell<PackedBody>>,
    flags: Arc<AtomicU16>,
}

impl std::fmt::Debug for PackedCells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PackedCells")
    }
}

impl Record for PackedBody {
    const SIZE: usize = 14;
}

impl PackedDescriptors {
    pub(crate) fn new(
        memory: &Arc<Memory>,
        offset: usize,
        count: usize,
    ) -> Result<Self, OutOfBounds> {
        memory.check(offset, count * 16)?;
        let cells = |index| {
            let start = offset + index * 16;
            let body = memory.named(start, || Cell(UnsafeCell::new(PackedBody::default())));
            PackedCells { body, flags: memory.named(start + 14, || AtomicU16::new(0)) }
        };
        Ok(Self((0..count).map(cells).collect()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Read the flags of descriptor `index` once, relaxed.
    pub fn load_flags(&self, index: usize) -> u16 {
        self.0[index].flags.load(Relaxed)
    }

    /// Write the flags of descriptor `index`, relaxed.
    pub fn store_flags(&self, index: usize, flags: u16) {
        self.0[index].flags.store(flags, Relaxed);
    }

    /// Read all but the flags.
    pub fn load_body(&self, index: usize) -> PackedBody {
        // SAFETY: loom has checked that nobody writes.
        self.0[index].body.0.with(|body| unsafe { *body })
    }

    /// Write all but the flags.
    pub fn store_body(&self, index: usize, body: PackedBody) {
        // SAFETY: loom has checked that nobody else accesses.
        self.0[index].body.0.with_mut(|place| unsafe { *place = body });
    }

    /// Read what the device says of a used buffer.
    pub fn load_used(&self, index: usize) -> PackedUsed {
        let PackedBody { id, len, .. } = self.load_body(index);
        PackedUsed { id, len }
    }

    /// Device: say what was used.
    pub fn store_used(&self, index: usize, used: PackedUsed) {
        let PackedUsed { id, len } = used;
        // SAFETY: loom has checked that nobody else accesses.
        self.0[index].body.0.with_mut(|place| unsafe { *place = PackedBody { id, len, ..*place } });
    }
}
