//! `SoftwareDevice`: the device's half, as Python sees it.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use shm::Notification;
use softdev::{Device, DeviceError, DeviceOptions, Fault, QueueSetup, ServingBell};

use crate::arguments::within;
use crate::doorbell::Doorbell;
use crate::errors;
use crate::memory::DmaSpace;

/// The same on every Linux.
const EBUSY: i32 = 16;

/// A virtio-blk device in this process, served by a thread of its own (or by `serve`).
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct SoftwareDevice {
    pub(crate) device: Arc<Device>,
}

/// Add what this module defines to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<SoftwareDevice>()
}

pub(crate) fn of_device(py: Python<'_>, error: DeviceError) -> PyErr {
    match error {
        DeviceError::Invalid(why) => PyValueError::new_err(why),
        DeviceError::State(why) => errors::named(py, "StateError", why),
        DeviceError::Forked => errors::forked(py),
        DeviceError::Open { path, error } => match error.raw_os_error() {
            // With these arguments it picks its own subclass, FileNotFoundError and so on.
            Some(errno) => {
                let text = error.to_string();
                let reason = text.split(" (os error").next().unwrap_or_default();
                PyOSError::new_err((errno, reason.to_owned(), path.into_os_string()))
            }
            // Ours, not the system's: the file is not one to serve.
            None => PyValueError::new_err(format!("{}: {error}", path.display())),
        },
        DeviceError::Busy(why) => PyOSError::new_err((EBUSY, why)),
        DeviceError::Io(error) => error.into(),
    }
}

/// Apart, and without `join`: inlined for a list of known length, it takes the compiler minutes.
#[inline(never)]
fn no_such_fault(fault: &str) -> PyErr {
    let mut text = format!("there is no fault {fault:?}; there are:");
    for (index, each) in Fault::ALL.iter().enumerate() {
        text += if index == 0 { " " } else { ", " };
        text += each.name();
    }
    PyValueError::new_err(text)
}

impl SoftwareDevice {
    /// Run `call` without the GIL: it can block for as long as the device takes to make way.
    fn detached<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Device) -> Result<T, DeviceError> + Send,
    ) -> PyResult<T> {
        py.detach(|| call(&self.device)).map_err(|error| of_device(py, error))
    }
}

#[pymethods]
impl SoftwareDevice {
    #[new]
    #[pyo3(signature = (
        space,
        *,
        capacity_sectors=None,
        path=None,
        features,
        queue_count=None,
        queue_size_max=None,
        serial=None,
        read_only=false,
        volatile_cache=false,
        block_size=None,
        size_max=None,
        seg_max=None,
        max_discard_sectors=None,
        max_write_zeroes_sectors=None,
        threaded=true,
    ), text_signature = "(space, *, capacity_sectors=0, path=None, features, queue_count=1, \
        queue_size_max=256, serial=b'', read_only=False, volatile_cache=False, block_size=512, \
        size_max=0, seg_max=126, max_discard_sectors=32768, max_write_zeroes_sectors=32768, \
        threaded=True)")]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        space: &DmaSpace,
        capacity_sectors: Option<&Bound<'_, PyAny>>,
        path: Option<PathBuf>,
        features: &Bound<'_, PyAny>,
        queue_count: Option<&Bound<'_, PyAny>>,
        queue_size_max: Option<&Bound<'_, PyAny>>,
        serial: Option<Vec<u8>>,
        read_only: bool,
        volatile_cache: bool,
        block_size: Option<&Bound<'_, PyAny>>,
        size_max: Option<&Bound<'_, PyAny>>,
        seg_max: Option<&Bound<'_, PyAny>>,
        max_discard_sectors: Option<&Bound<'_, PyAny>>,
        max_write_zeroes_sectors: Option<&Bound<'_, PyAny>>,
        threaded: bool,
    ) -> PyResult<Self> {
        let mut options = DeviceOptions {
            path,
            features: within("features", features)?,
            serial: serial.unwrap_or_default(),
            read_only,
            volatile_cache,
            threaded,
            ..DeviceOptions::default()
        };
        set(&mut options.capacity_sectors, "capacity_sectors", capacity_sectors)?;
        set(&mut options.queue_count, "queue_count", queue_count)?;
        set(&mut options.queue_size_max, "queue_size_max", queue_size_max)?;
        set(&mut options.block_size, "block_size", block_size)?;
        set(&mut options.size_max, "size_max", size_max)?;
        set(&mut options.seg_max, "seg_max", seg_max)?;
        set(&mut options.max_discard_sectors, "max_discard_sectors", max_discard_sectors)?;
        set(
            &mut options.max_write_zeroes_sectors,
            "max_write_zeroes_sectors",
            max_write_zeroes_sectors,
        )?;
        let device = Device::new(space.space.clone(), options);
        Ok(Self { device: Arc::new(device.map_err(|error| of_device(py, error))?) })
    }

    fn read_status(&self, py: Python<'_>) -> PyResult<u8> {
        self.detached(py, Device::read_status)
    }

    fn write_status(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = within("the status", value)?;
        self.detached(py, |device| device.write_status(value))
    }

    fn read_features(&self, py: Python<'_>) -> PyResult<u64> {
        self.detached(py, Device::read_features)
    }

    fn write_features(&self, py: Python<'_>, accepted: &Bound<'_, PyAny>) -> PyResult<()> {
        let accepted = within("accepted", accepted)?;
        self.detached(py, |device| device.write_features(accepted))
    }

    fn read_config<'py>(
        &self,
        py: Python<'py>,
        offset: &Bound<'_, PyAny>,
        length: &Bound<'_, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (offset, length) = (within("offset", offset)?, within("length", length)?);
        let bytes = self.detached(py, |device| device.read_config(offset, length))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn write_config(
        &self,
        py: Python<'_>,
        offset: &Bound<'_, PyAny>,
        data: Vec<u8>,
    ) -> PyResult<()> {
        let offset = within("offset", offset)?;
        self.detached(py, |device| device.write_config(offset, &data))
    }

    fn config_generation(&self, py: Python<'_>) -> PyResult<u32> {
        self.detached(py, Device::config_generation)
    }

    fn enable_queue(
        &self,
        py: Python<'_>,
        index: &Bound<'_, PyAny>,
        size: &Bound<'_, PyAny>,
        descriptors_address: &Bound<'_, PyAny>,
        driver_address: &Bound<'_, PyAny>,
        device_address: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let index = within("index", index)?;
        let setup = QueueSetup {
            size: within("size", size)?,
            descriptors: within("descriptors_address", descriptors_address)?,
            available: within("driver_address", driver_address)?,
            used: within("device_address", device_address)?,
        };
        self.detached(py, |device| device.enable_queue(index, setup))
    }

    fn reset_queue(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<()> {
        let index = within("index", index)?;
        self.detached(py, |device| device.reset_queue(index))
    }

    fn is_queue_resetting(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<bool> {
        let index = within("index", index)?;
        self.detached(py, |device| device.is_queue_resetting(index))
    }

    fn kick_fd(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<i32> {
        let index = within("index", index)?;
        self.device.kick_fd(index).map_err(|error| of_device(py, error))
    }

    fn interrupt_fd(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<i32> {
        let index = within("index", index)?;
        self.device.interrupt_fd(index).map_err(|error| of_device(py, error))
    }

    fn serving_doorbell(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Doorbell> {
        let index: u16 = within("index", index)?;
        self.device.kick_fd(index.into()).map_err(|error| of_device(py, error))?;
        let bell = ServingBell::new(Arc::clone(&self.device));
        let window = shm::MmioWindow::model(Arc::new(bell.map_err(|e| of_device(py, e))?));
        let names_queue = Notification { value: index, carries_data: false };
        let bell = shm::Doorbell::mmio(window, 0, names_queue);
        bell.map(Doorbell::new).map_err(|error| errors::of_register(py, error))
    }

    #[getter]
    fn config_fd(&self, py: Python<'_>) -> PyResult<i32> {
        self.device.config_fd().map_err(|error| of_device(py, error))
    }

    #[pyo3(signature = (limit=None))]
    fn serve(&self, py: Python<'_>, limit: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
        let mut chains = usize::MAX;
        set(&mut chains, "limit", limit)?;
        self.detached(py, |device| device.serve(chains))
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.device.counters().map_err(|error| of_device(py, error))?;
        let dict = PyDict::new(py);
        for (name, count) in counters.named() {
            dict.set_item(name, count)?;
        }
        Ok(dict)
    }

    fn reset_counters(&self, py: Python<'_>) -> PyResult<()> {
        self.device.reset_counters().map_err(|error| of_device(py, error))
    }

    #[getter]
    fn violation(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.device.violation().map_err(|error| of_device(py, error))
    }

    #[getter]
    fn last_error(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.device.last_error().map_err(|error| of_device(py, error))
    }

    #[pyo3(
        signature = (fault, *, count=None, after=None, value=None),
        text_signature = "($self, fault, *, count=1, after=0, value=0)"
    )]
    fn inject(
        &self,
        py: Python<'_>,
        fault: &str,
        count: Option<&Bound<'_, PyAny>>,
        after: Option<&Bound<'_, PyAny>>,
        value: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let known = Fault::named(fault).ok_or_else(|| no_such_fault(fault))?;
        let (mut times, mut skipped, mut with) = (1, 0, 0);
        set(&mut times, "count", count)?;
        set(&mut skipped, "after", after)?;
        set(&mut with, "value", value)?;
        self.detached(py, |device| device.inject(known, times, skipped, with))
    }

    fn clear_faults(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, Device::clear_faults)
    }

    fn power_loss(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, Device::power_loss)
    }

    fn resize(&self, py: Python<'_>, capacity_sectors: &Bound<'_, PyAny>) -> PyResult<()> {
        let capacity_sectors = within("capacity_sectors", capacity_sectors)?;
        self.detached(py, |device| device.resize(capacity_sectors))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, Device::close)
    }
}

impl Drop for SoftwareDevice {
    /// Close before the device drops itself, which would join its thread and write a file back
    /// with the GIL held. Whoever wants to know of errors calls `close`.
    fn drop(&mut self) {
        // None only where the interpreter is going away; then nobody waits for the GIL.
        let _ = Python::try_attach(|py| {
            let _ = py.detach(|| self.device.close());
        });
    }
}

/// Take an argument that was given; what was not keeps its default.
fn set<T>(field: &mut T, name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<()>
where
    T: TryFrom<i128>,
{
    if let Some(value) = given {
        *field = within(name, value)?;
    }
    Ok(())
}
