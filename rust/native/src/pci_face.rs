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
    fn set_command(&self, py: Python<'_>, memory: bool, bus_master: bool, intx_disabled: bool) {
        py.detach(|| self.face.set_command(memory, bus_master, intx_disabled));
    }

    #[pyo3(signature = (*, enabled, masked=false))]
    fn set_msix(&self, py: Python<'_>, enabled: bool, masked: bool) {
        py.detach(|| self.face.set_msix(enabled, masked));
    }

    fn message_fd(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<i32> {
        let data = within("data", data)?;
        self.face.message_fd(data).map_err(|error| of_device(py, error))
    }

    #[getter]
    fn intx_fd(&self) -> i32 {
        self.face.intx_fd()
    }

    #[getter]
    fn intx_asserted(&self) -> bool {
        self.face.intx_asserted()
    }

    #[getter]
    fn interrupt_status(&self) -> bool {
        self.face.interrupt_status()
    }

    fn acknowledge_intx(&self) {
        self.face.acknowledge_intx();
    }

    fn remove(&self, py: Python<'_>) {
        py.detach(|| self.face.remove());
    }

    #[getter]
    fn removed(&self) -> bool {
        self.face.is_removed()
    }

    #[getter]
    fn violations(&self) -> Vec<String> {
        self.face.violations()
    }

    #[getter]
    fn accesses(&self) -> Vec<(usize, usize, u32, bool)> {
        let accesses = self.face.accesses().into_iter();
        accesses.map(|each| (each.offset, each.width.bytes(), each.value, each.is_write)).collect()
    }

    #[getter]
    fn access_count(&self) -> u64 {
        self.face.access_count()
    }

    fn clear_log(&self) {
        self.face.clear_log();
    }
}
