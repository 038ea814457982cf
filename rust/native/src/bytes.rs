//! Buffers of other Python objects, whatever their item type, as bytes.

#![allow(unsafe_code)] // the buffer protocol

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;

/// A contiguous buffer of whole records (of any format: numpy's structured arrays, too).
pub(crate) struct RecordBuffer {
    buffer: PyUntypedBuffer,
    record_bytes: usize,
}

impl RecordBuffer {
    /// `what` names the records in errors.
    pub(crate) fn get(
        object: &Bound<'_, PyAny>,
        record_bytes: usize,
        what: &str,
    ) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        let length = buffer.len_bytes();
        if !buffer.is_c_contiguous() {
            return Err(PyValueError::new_err(format!("the {what} are not contiguous")));
        }
        if !length.is_multiple_of(record_bytes) {
            return Err(PyValueError::new_err(format!(
                "{length} bytes of {what} are no whole number of {record_bytes}-byte records"
            )));
        }
        Ok(Self { buffer, record_bytes })
    }

    /// One that will be written.
    pub(crate) fn get_writable(
        object: &Bound<'_, PyAny>,
        record_bytes: usize,
        what: &str,
    ) -> PyResult<Self> {
        let this = Self::get(object, record_bytes, what)?;
        if this.buffer.readonly() {
            let why = format!("the {what} are in a read-only buffer");
            return Err(PyBufferError::new_err(why));
        }
        Ok(this)
    }

    /// How many records it holds.
    pub(crate) fn count(&self) -> usize {
        self.buffer.len_bytes() / self.record_bytes
    }

    /// The records, each copied once, when it is taken: under the interpreter's lock.
    pub(crate) fn records<const BYTES: usize>(
        &self,
        _py: Python<'_>,
    ) -> impl ExactSizeIterator<Item = [u8; BYTES]> {
        let first = self.buffer.buf_ptr().cast::<u8>().cast_const();
        (0..self.buffer.len_bytes() / BYTES).map(move |index| {
            let mut record = [0; BYTES];
            // SAFETY: the exporter keeps `len_bytes` contiguous bytes (checked in `get`) at this
            // address as long as the buffer is held, and these are inside. It may be DMA memory,
            // which Rust threads access through the same atomic copies alone; what Python and C do
            // to it meanwhile is outside the language.
            unsafe { shm::copy::read(first.add(index * BYTES), &mut record) };
            record
        })
    }

    /// What overwrites the records, one at a time: false if there is none of that index.
    pub(crate) fn writer<const BYTES: usize>(
        &self,
        _py: Python<'_>,
    ) -> impl FnMut(usize, &[u8; BYTES]) -> bool {
        let first = self.buffer.buf_ptr().cast::<u8>();
        let count = if self.buffer.readonly() { 0 } else { self.buffer.len_bytes() / BYTES };
        move |index, record| {
            if index < count {
                // SAFETY: as in `records`: the bytes are inside, and writable; and `record` is
                // private memory, so the two do not overlap.
                unsafe { shm::copy::write(first.add(index * BYTES), record) };
            }
            index < count
        }
    }

    /// Overwrite all of it; false unless the length is the same.
    pub(crate) fn write_all(&self, _py: Python<'_>, bytes: &[u8]) -> bool {
        if self.buffer.readonly() || bytes.len() != self.buffer.len_bytes() {
            return false;
        }
        if !bytes.is_empty() {
            // SAFETY: as in `writer`, with all of the bytes.
            unsafe { shm::copy::write(self.buffer.buf_ptr().cast(), bytes) };
        }
        true
    }
}
