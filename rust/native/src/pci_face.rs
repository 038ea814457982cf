//! `PciFace`: the software device behind the registers of a PCI function, as Python sees it.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use softdev::PciFaceOptions;

use crate::arguments::within;
use crate::mmio::MmioWindow;
use crate::software::{SoftwareDevice, of_device};

/// The modern PCI registers of a software device, in one modelled memory BAR.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct PciFace {
    face: Arc<softdev::PciFace>,
}

impl PciFace {
    /// The face, in the process that made it.
    fn owned(&self, py: Python<'_>) -> PyResult<&softdev::PciFace> {
        self.face.check_owner().map_err(|error| of_device(py, error))?;
        Ok(&self.face)
    }
}

#[pymethods]
impl PciFace {
    #[new]
    #[pyo3(signature = (
        device,
        *,
        vector_count=None,
        notify_multiplier=None,
        queue_count_shown=None,
        queue_size_shown=None,
        short_common=false,
    ), text_signature = "(device, *, vector_count=0, notify_multiplier=4, \
        queue_count_shown=None, queue_size_shown=None, short_common=False)")]
    fn new(
        py: Python<'_>,
        device: &SoftwareDevice,
        vector_count: Option<&Bound<'_, PyAny>>,
        notify_multiplier: Option<&Bound<'_, PyAny>>,
        queue_count_shown: Option<&Bound<'_, PyAny>>,
        queue_size_shown: Option<&Bound<'_, PyAny>>,
        short_common: bool,
    ) -> PyResult<Self> {
        let mut options = PciFaceOptions { short_common, ..PciFaceOptions::default() };
        if let Some(count) = vector_count {
            options.vector_count = within("vector_count", count)?;
        }
        if let Some(multiplier) = notify_multiplier {
            options.notify_multiplier = within("notify_multiplier", multiplier)?;
        }
        if let Some(count) = queue_count_shown {
            options.queue_count_shown = Some(within("queue_count_shown", count)?);
        }
        if let Some(size) = queue_size_shown {
            options.queue_size_shown = Some(within("queue_size_shown", size)?);
        }
        let device = Arc::clone(&device.device);
        let face = py.detach(|| softdev::PciFace::new(device, options));
        Ok(Self { face: Arc::new(face.map_err(|error| of_device(py, error))?) })
    }

    #[getter]
    fn window(&self) -> MmioWindow {
        MmioWindow(shm::MmioWindow::model(Arc::clone(&self.face) as _))
    }

    #[getter]
    fn structures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let places = PyDict::new(py);
        for each in self.face.structures() {
            places.set_item(each.name, (each.offset, each.length))?;
        }
        Ok(places)
    }

    #[pyo3(signature = (*, memory, bus_master, intx_disabled=false))]
    fn set_command(
        &self,
        py: Python<'_>,
        memory: bool,
        bus_master: bool,
        intx_disabled: bool,
    ) -> PyResult<()> {
        let face = self.owned(py)?;
        py.detach(|| face.set_command(memory, bus_master, intx_disabled));
        Ok(())
    }

    #[pyo3(signature = (*, enabled, masked=false))]
    fn set_msix(&self, py: Python<'_>, enabled: bool, masked: bool) -> PyResult<()> {
        let face = self.owned(py)?;
        py.detach(|| face.set_msix(enabled, masked));
        Ok(())
    }

    fn message_fd(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<i32> {
        let data = within("data", data)?;
        self.owned(py)?.message_fd(data).map_err(|error| of_device(py, error))
    }

    #[getter]
    fn intx_fd(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.owned(py)?.intx_fd())
    }

    #[getter]
    fn intx_asserted(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.owned(py)?.intx_asserted())
    }

    #[getter]
    fn interrupt_status(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.owned(py)?.interrupt_status())
    }

    fn acknowledge_intx(&self, py: Python<'_>) -> PyResult<()> {
        self.owned(py)?.acknowledge_intx();
        Ok(())
    }

    fn remove(&self, py: Python<'_>) -> PyResult<()> {
        let face = self.owned(py)?;
        py.detach(|| face.remove());
        Ok(())
    }

    #[getter]
    fn removed(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.owned(py)?.is_removed())
    }

    #[getter]
    fn violations(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.owned(py)?.violations())
    }

    #[getter]
    fn accesses(&self, py: Python<'_>) -> PyResult<Vec<(usize, usize, u32, bool)>> {
        let accesses = self.owned(py)?.accesses().into_iter();
        let plain =
            accesses.map(|each| (each.offset, each.width.bytes(), each.value, each.is_write));
        Ok(plain.collect())
    }

    #[getter]
    fn access_count(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.owned(py)?.access_count())
    }

    fn clear_log(&self, py: Python<'_>) -> PyResult<()> {
        self.owned(py)?.clear_log();
        Ok(())
    }
}
