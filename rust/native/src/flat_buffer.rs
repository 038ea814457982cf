//! Where the bytes of a Python object are, for calls that cannot afford an allocation.

#![allow(unsafe_code)] // the buffer protocol

use std::ffi::c_int;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;

/// A view that the exporter has filled, and that is released in the end.
struct Filled<'a>(&'a mut ffi::Py_buffer);

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        // SAFETY: the exporter filled this view, at this place, and it is released only here. It was
        // made with the interpreter's lock, and does not leave the function that made it.
        unsafe { ffi::PyBuffer_Release(self.0) };
    }
}

/// Call `with` with the address and the length of the bytes of `object`, which stay where they are
/// meanwhile; `None` if it has none, or not in one piece, or not to be written where that is asked
/// for.
pub(crate) fn with_bytes<T>(
    object: &Bound<'_, PyAny>,
    writable: bool,
    with: impl FnOnce(usize, usize) -> T,
) -> Option<T> {
    let flags: c_int = if writable { ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
    let mut view = MaybeUninit::<ffi::Py_buffer>::zeroed();
    // SAFETY: `view` has room for a view, and is not moved before it is released. All zeroes are a
    // Py_buffer: pointers that may be null, and numbers.
    let (filled, view) = unsafe {
        let filled = ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags);
        (filled, view.assume_init_mut())
    };
    if filled != 0 {
        // The caller goes another way, where the object is asked again.
        drop(PyErr::take(object.py()));
        return None;
    }
    let view = Filled(view);
    let length = usize::try_from(view.0.len).ok()?;
    Some(with(view.0.buf as usize, length))
}
