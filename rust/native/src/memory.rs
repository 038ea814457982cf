//! `DmaSpace`, `Mapping` and `Region`: memory that the device can reach, as Python sees it.

#![allow(unsafe_code)] // the buffer protocol: the one place outside rust/shm

use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use shm::SpaceError;

use crate::errors;

/// A mapping that the device can reach (immutable description).
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct Mapping(std::sync::Arc<shm::Mapping>);

#[pymethods]
impl Mapping {
    #[getter]
    fn fd(&self) -> i32 {
        self.0.memory().fd().as_raw_fd()
    }

    #[getter]
    fn file_offset(&self) -> u64 {
        self.0.memory().file_offset()
    }

    #[getter]
    fn length(&self) -> usize {
        self.0.memory().len()
    }

    #[getter]
    fn device_address(&self) -> u64 {
        self.0.device_address()
    }

    #[getter]
    fn host_address(&self) -> usize {
        self.0.memory().host_address()
    }

    fn __repr__(&self) -> String {
        format!("Mapping(length={}, device_address={:#x})", self.length(), self.device_address())
    }
}

/// Bytes that the device can reach, cut from a mapping of a DmaSpace; a writable buffer.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct Region(shm::Region);

impl Region {
    /// Keep it from being closed while a device may use it.
    pub(crate) fn pin(&self, _py: Python<'_>) -> PyResult<shm::Pin> {
        self.0.pin().map_err(errors::of_space)
    }

    /// Keep it for a ring, or for the slots of one, alone.
    pub(crate) fn claim(&self) -> PyResult<shm::Claim> {
        self.0.claim().map_err(errors::of_space)
    }
}

#[pymethods]
impl Region {
    #[getter]
    fn length(&self) -> usize {
        self.0.len()
    }

    #[getter]
    fn device_address(&self) -> u64 {
        self.0.device_address()
    }

    #[getter]
    fn handle(&self) -> u32 {
        self.0.handle()
    }

    #[getter]
    fn exports(&self) -> u32 {
        self.0.exports()
    }

    #[getter]
    fn in_flight(&self) -> u32 {
        self.0.in_flight()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&self) -> PyResult<()> {
        self.0.close().map_err(errors::of_space)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// An exception that leaves the block stays the one that the caller sees.
    #[pyo3(signature = (kind, value, traceback, /))]
    fn __exit__(
        &self,
        kind: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (kind, traceback);
        match self.close() {
            Err(error) if !value.is_none() => {
                let note = format!("the region could not be closed: {}", error.value(value.py()));
                value.call_method1(intern!(value.py(), "add_note"), (note,)).map(drop)
            }
            closed => closed,
        }
    }

    fn __repr__(&self) -> String {
        let state = if self.0.is_closed() { ", closed" } else { "" };
        format!(
            "Region(length={}, device_address={:#x}{state})",
            self.0.len(),
            self.0.device_address()
        )
    }

    /// # Safety
    /// Called by the interpreter alone, with a `view` to fill.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let py = slf.py();
        // In a child of fork() the bytes are not mapped: this fails there.
        this.0.begin_export().map_err(errors::of_space)?;
        let address = this.0.span().host_address() as *mut c_void;
        // SAFETY: `view` comes from the interpreter. The bytes are mapped and at this address as
        // long as `slf` lives, and PyBuffer_FillInfo makes the view hold a reference to it; the
        // export is counted, so the region is not closed and its bytes not given out meanwhile.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                address,
                this.0.len() as ffi::Py_ssize_t,
                0,
                flags,
            )
        };
        if filled != 0 {
            this.0.end_export();
            return Err(PyErr::fetch(py));
        }
        Ok(())
    }

    /// # Safety
    /// Called by the interpreter alone, once for each successful `__getbuffer__`.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.0.end_export();
    }
}

/// The memory that one device can reach: a few large mappings, and regions cut from them.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct DmaSpace {
    pub(crate) space: shm::DmaSpace,
}

#[pymethods]
impl DmaSpace {
    #[new]
    fn new() -> Self {
        Self { space: shm::DmaSpace::new() }
    }

    fn map(&self, length: usize, device_address: u64) -> PyResult<Mapping> {
        self.space.map(length, device_address).map(Mapping).map_err(errors::of_space)
    }

    #[pyo3(signature = (fd, length, device_address, file_offset=0))]
    fn map_fd(
        &self,
        fd: i32,
        length: usize,
        device_address: u64,
        file_offset: u64,
    ) -> PyResult<Mapping> {
        let fd = shm::duplicate_fd(fd)?;
        let mapping = self.space.map_fd(fd, length, device_address, file_offset);
        mapping.map(Mapping).map_err(errors::of_space)
    }

    #[getter]
    fn mappings(&self) -> PyResult<Vec<Mapping>> {
        self.space.check_owner().map_err(errors::of_space)?;
        Ok(self.space.mappings().into_iter().map(Mapping).collect())
    }

    #[getter]
    fn free_bytes(&self) -> PyResult<usize> {
        self.space.check_owner().map_err(errors::of_space)?;
        Ok(self.space.free_bytes())
    }

    #[pyo3(signature = (length, align=4096))]
    fn alloc(&self, length: usize, align: usize) -> PyResult<Region> {
        self.space.alloc(length, align).map(Region).map_err(errors::of_space)
    }

    #[pyo3(signature = (handle, /))]
    fn region(&self, handle: u32) -> PyResult<Region> {
        let unknown = || PyKeyError::new_err(format!("there is no open region of handle {handle}"));
        match self.space.region(handle) {
            Ok(region) => Ok(Region(region)),
            Err(SpaceError::Closed) => Err(unknown()),
            Err(error) => Err(errors::of_space(error)),
        }
    }

    #[pyo3(signature = (buffer, /))]
    fn locate(&self, buffer: &Bound<'_, PyAny>) -> PyResult<Option<(u32, usize)>> {
        let buffer = PyUntypedBuffer::get(buffer)?;
        if !buffer.is_c_contiguous() {
            return Err(PyValueError::new_err("the buffer is not contiguous"));
        }
        let located = self.space.locate(buffer.buf_ptr() as usize, buffer.len_bytes());
        located.map_err(errors::of_space)
    }
}
