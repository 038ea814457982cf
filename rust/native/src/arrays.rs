//! Arrays of numbers of other Python objects, read and written in place, item by item.
//!
//! Nothing is allocated: the view of the buffer protocol lies on the stack.

#![allow(unsafe_code)] // the buffer protocol

use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

/// A number of one width.
pub(crate) trait Item: Sized {
    /// Its name in errors.
    const NAME: &str;
    /// Its characters in the format of a buffer (the module `struct` of Python); in each the size
    /// has to be right as well, as some depend on the machine.
    const FORMATS: &[u8];
    /// Bytes.
    const SIZE: usize;
}

impl Item for u8 {
    const NAME: &str = "uint8";
    const FORMATS: &[u8] = b"B";
    const SIZE: usize = 1;
}

impl Item for u32 {
    const NAME: &str = "uint32";
    const FORMATS: &[u8] = b"IL";
    const SIZE: usize = 4;
}

impl Item for u64 {
    const NAME: &str = "uint64";
    const FORMATS: &[u8] = b"LQN";
    const SIZE: usize = 8;
}

/// Releases a view when it goes.
struct View<'a>(&'a mut ffi::Py_buffer);

impl Drop for View<'_> {
    fn drop(&mut self) {
        // SAFETY: the exporter filled it, it has not moved since, and it is released once. The
        // interpreter's lock is held: a View lives inside `with_array` only, which has a token.
        unsafe { ffi::PyBuffer_Release(self.0) };
    }
}

/// A contiguous array of numbers, as long as its exporter is held.
pub(crate) struct Array<'a, T> {
    first: *mut u8,
    count: usize,
    writable: bool,
    _items: PhantomData<&'a T>,
}

/// Call `body` with the array that `object` is; `name` tells it in errors. ValueError if it is no
/// contiguous array of one dimension of such items, BufferError if it is to be written and is
/// read-only.
#[inline]
pub(crate) fn with_array<T: Item, O>(
    object: &Bound<'_, PyAny>,
    name: &str,
    writable: bool,
    body: impl FnOnce(&Array<'_, T>) -> PyResult<O>,
) -> PyResult<O> {
    let mut place = MaybeUninit::<ffi::Py_buffer>::zeroed();
    // SAFETY: `object` is alive and the interpreter's lock held; `place` is a Py_buffer to fill.
    let got =
        unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), place.as_mut_ptr(), ffi::PyBUF_FULL_RO) };
    if got != 0 {
        return Err(PyErr::fetch(object.py()));
    }
    // SAFETY: filled, as the call succeeded. It stays where it is until it is released: some
    // exporters let fields of it point to others.
    let view = View(unsafe { place.assume_init_mut() });
    check::<T>(view.0, name)?;
    if writable && view.0.readonly != 0 {
        return Err(PyBufferError::new_err(format!("{name}: the array is read-only")));
    }
    body(&Array {
        first: view.0.buf.cast(),
        count: view.0.len as usize / T::SIZE,
        writable: view.0.readonly == 0,
        _items: PhantomData,
    })
}

#[inline]
fn check<T: Item>(view: &ffi::Py_buffer, name: &str) -> PyResult<()> {
    let format = if view.format.is_null() {
        c"B"
    } else {
        // SAFETY: an exporter's format is a string that lives as long as the view.
        unsafe { CStr::from_ptr(view.format) }
    };
    let letters = match format.to_bytes() {
        [b'@' | b'=' | b'<', letters @ ..] => letters,
        letters => letters,
    };
    let known = matches!(letters, [letter] if T::FORMATS.contains(letter));
    if !known || view.itemsize != T::SIZE as isize {
        let (what, format, size) = (T::NAME, format.to_string_lossy(), view.itemsize);
        return Err(PyValueError::new_err(format!(
            "{name} must be an array of {what}, not of items '{format}' of {size} bytes"
        )));
    }
    // SAFETY: with ndim 1, strides are null or point to one number; the view is held.
    let contiguous = view.ndim == 1
        && view.suboffsets.is_null()
        && (view.len <= view.itemsize
            || view.strides.is_null()
            || unsafe { *view.strides } == view.itemsize);
    if !contiguous {
        return Err(PyValueError::new_err(format!(
            "{name} must be a contiguous array of one dimension"
        )));
    }
    Ok(())
}

impl<T: Item> Array<'_, T> {
    /// Items.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Where item `index` lies.
    #[inline(always)]
    fn at(&self, index: usize) -> *mut u8 {
        assert!(index < self.count, "item {index} of {}", self.count);
        // SAFETY: index < count, and the exporter keeps count * SIZE contiguous bytes there as long
        // as its view is held, which is as long as this array is borrowed.
        unsafe { self.first.add(index * T::SIZE) }
    }

    #[inline(always)]
    fn writable_at(&self, index: usize) -> *mut u8 {
        assert!(self.writable, "checked by with_array");
        self.at(index)
    }
}

impl Array<'_, u32> {
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> u32 {
        // SAFETY: `at` vouches for 4 bytes. What others do to them meanwhile (Python threads have
        // to wait for the interpreter's lock, a device need not) makes the value wrong, at worst.
        unsafe { shm::copy::read_4(self.at(index)) }
    }

    #[inline(always)]
    pub(crate) fn set(&self, index: usize, value: u32) {
        // SAFETY: as in `get`, and the exporter says that it may be written.
        unsafe { shm::copy::write_4(self.writable_at(index), value) };
    }
}

impl Array<'_, u64> {
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> u64 {
        // SAFETY: `at` vouches for 8 bytes; as above.
        unsafe { shm::copy::read_8(self.at(index)) }
    }
}

impl Array<'_, u8> {
    #[inline(always)]
    pub(crate) fn set(&self, index: usize, value: u8) {
        // SAFETY: `at` vouches for the byte, and the exporter says that it may be written.
        unsafe { shm::copy::write(self.writable_at(index), &[value]) };
    }
}
