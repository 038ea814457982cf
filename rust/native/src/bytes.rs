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

    /// A copy of all bytes, made under the interpreter's lock.
    pub(crate) fn copy(&self, _py: Python<'_>) -> Vec<u8> {
        let length = self.buffer.len_bytes();
        let mut bytes = vec![0; length];
        if length > 0 {
            // SAFETY: the exporter keeps `length` contiguous bytes (checked in `get`) at this
            // address as long as the buffer is held. It may be DMA memory, which Rust threads
            // access through the same atomic copies alone; what Python and C do to it meanwhile
            // is outside the language.
            unsafe { shm::copy::read(self.buffer.buf_ptr().cast(), &mut bytes) };
        }
        bytes
    }

    /// Overwrite the record `index`; false if there is no such record.
    pub(crate) fn write(&self, _py: Python<'_>, index: usize, record: &[u8]) -> bool {
        if self.buffer.readonly() || index >= self.count() || record.len() != self.record_bytes {
            return false;
        }
        // SAFETY: as in `copy`: the bytes are inside (index < count), writable (just checked),
        // and `record` is private memory, so the two do not overlap.
        unsafe {
            let to = self.buffer.buf_ptr().cast::<u8>().add(index * self.record_bytes);
            shm::copy::write(to, record);
        }
        true
    }

    /// Overwrite all of it; false unless the length is the same.
    pub(crate) fn write_all(&self, _py: Python<'_>, bytes: &[u8]) -> bool {
        if self.buffer.readonly() || bytes.len() != self.buffer.len_bytes() {
            return false;
        }
        if !bytes.is_empty() {
            // SAFETY: as in `write`, with all of the bytes.
            unsafe { shm::copy::write(self.buffer.buf_ptr().cast(), bytes) };
        }
        true
    }
}
