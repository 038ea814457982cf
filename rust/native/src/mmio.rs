//! `MmioWindow`: device registers, as Python sees them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use shm::Width;

use crate::arguments::within;
use crate::errors;

/// Device registers, each access one volatile load or store of exactly its width.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct MmioWindow(pub(crate) shm::MmioWindow);

fn width_of(width: &Bound<'_, PyAny>) -> PyResult<Width> {
    let bytes = within("width", width)?;
    Width::of_bytes(bytes).ok_or_else(|| {
        PyValueError::new_err(format!("a register has 1, 2 or 4 bytes, not {bytes}"))
    })
}

#[pymethods]
impl MmioWindow {
    #[staticmethod]
    #[pyo3(signature = (fd, length, file_offset=None), text_signature = "(fd, length, file_offset=0)")]
    fn map_fd(
        fd: i32,
        length: &Bound<'_, PyAny>,
        file_offset: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let length = within("length", length)?;
        let file_offset = file_offset.map_or(Ok(0), |offset| within("file_offset", offset))?;
        let window = shm::MmioWindow::map(shm::duplicate_fd(fd)?, length, file_offset);
        window.map(Self).map_err(errors::of_space)
    }

    #[getter]
    fn length(&self) -> usize {
        self.0.length()
    }

    // Without the interpreter's lock: a modelled device may make a reset wait for its thread.

    #[pyo3(signature = (offset, width, /))]
    fn read(
        &self,
        py: Python<'_>,
        offset: &Bound<'_, PyAny>,
        width: &Bound<'_, PyAny>,
    ) -> PyResult<u32> {
        let (offset, width) = (within("offset", offset)?, width_of(width)?);
        let value = py.detach(|| self.0.read(offset, width));
        value.map_err(|error| errors::of_register(py, error))
    }

    #[pyo3(signature = (offset, width, value, /))]
    fn write(
        &self,
        py: Python<'_>,
        offset: &Bound<'_, PyAny>,
        width: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (offset, width) = (within("offset", offset)?, width_of(width)?);
        let value = within("value", value)?;
        let written = py.detach(|| self.0.write(offset, width, value));
        written.map_err(|error| errors::of_register(py, error))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
