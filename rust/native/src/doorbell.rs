//! `Doorbell`: how a queue notifies its device, as Python sees it.

use std::sync::Arc;

use pyo3::prelude::*;
use shm::Notification;
use shm::fork::Owner;

use crate::arguments::within;
use crate::errors;
use crate::mmio::MmioWindow;

/// How a queue notifies its device.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct Doorbell {
    bell: Arc<shm::Doorbell>,
    owner: Owner,
}

impl Doorbell {
    pub(crate) fn new(bell: shm::Doorbell) -> Self {
        Self { bell: Arc::new(bell), owner: Owner::here() }
    }

    /// For a queue, which rings it by itself.
    pub(crate) fn shared(&self) -> Arc<shm::Doorbell> {
        Arc::clone(&self.bell)
    }
}

#[pymethods]
impl Doorbell {
    #[staticmethod]
    fn eventfd(fd: i32) -> PyResult<Self> {
        let event = shm::EventFd::from_fd(shm::duplicate_fd(fd)?);
        Ok(Self::new(shm::Doorbell::EventFd(event)))
    }

    #[staticmethod]
    #[pyo3(signature = (window, offset, value, *, carries_data=false))]
    fn mmio(
        window: &Bound<'_, MmioWindow>,
        offset: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        carries_data: bool,
    ) -> PyResult<Self> {
        let notification = Notification { value: within("value", value)?, carries_data };
        let bell =
            shm::Doorbell::mmio(window.get().0.clone(), within("offset", offset)?, notification);
        bell.map(Self::new).map_err(|error| errors::of_register(window.py(), error))
    }

    #[staticmethod]
    #[pyo3(signature = (fd, offset, value, *, carries_data=false))]
    fn file(
        fd: i32,
        offset: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        carries_data: bool,
    ) -> PyResult<Self> {
        let notification = Notification { value: within("value", value)?, carries_data };
        let offset = within("offset", offset)?;
        let bell = shm::Doorbell::file(shm::duplicate_fd(fd)?, offset, notification);
        bell.map(Self::new).map_err(errors::of_space)
    }

    #[getter]
    fn carries_data(&self) -> bool {
        self.bell.carries_data()
    }

    #[pyo3(signature = (next_available=None), text_signature = "($self, next_available=0)")]
    fn ring(&self, py: Python<'_>, next_available: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        if !self.owner.is_here() {
            return Err(errors::forked(py));
        }
        let position = next_available.map_or(Ok(0), |index| within("next_available", index))?;
        let rung = py.detach(|| self.bell.ring(position));
        rung.map(drop).map_err(|error| errors::of_doorbell(py, error))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.bell)
    }
}
