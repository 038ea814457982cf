//! `PackedQueue`: the packed ring, chain by chain, as Python sees it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PySequence;
use vring::{Ring, RingOptions};

use crate::chains::{Chains, ring_class, unsigned};
use crate::memory::Region;

/// Where the parts of a packed ring lie in its region.
#[pyclass(frozen, module = "vioblk._native")]
#[derive(Clone, Copy)]
pub(crate) struct PackedLayout(pub(crate) vring::PackedLayout);

#[pymethods]
impl PackedLayout {
    #[getter]
    fn descriptors_offset(&self) -> usize {
        self.0.descriptors
    }

    #[getter]
    fn driver_offset(&self) -> usize {
        self.0.driver_event
    }

    #[getter]
    fn device_offset(&self) -> usize {
        self.0.device_event
    }

    #[getter]
    fn indirect_offset(&self) -> usize {
        self.0.indirect
    }

    #[getter]
    fn length(&self) -> usize {
        self.0.length
    }
}

pub(crate) fn packed_layout_of(
    size: i64,
    indirect_table_size: i64,
) -> PyResult<vring::PackedLayout> {
    let size = unsigned("queue size", size)?;
    let table = unsigned("indirect table size", indirect_table_size)?;
    vring::PackedLayout::new(size, table).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Where the parts of a packed ring of `size` descriptors lie.
#[pyfunction]
#[pyo3(signature = (size, *, indirect_table_size=0))]
pub(crate) fn packed_layout(size: i64, indirect_table_size: i64) -> PyResult<PackedLayout> {
    packed_layout_of(size, indirect_table_size).map(PackedLayout)
}

/// The driver's half of a packed ring. Not thread-safe, as `SplitQueue`.
#[pyclass(module = "vioblk._native")]
pub(crate) struct PackedQueue(Chains<vring::PackedQueue>);

ring_class!(PackedQueue, PackedLayout, {
    #[new]
    #[pyo3(signature = (
        region, size, *, indirect_table_size=0, event_idx=false, in_order=false, strict=false,
        zeroed=false
    ))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn new(
        region: &Bound<'_, Region>,
        size: i64,
        indirect_table_size: i64,
        event_idx: bool,
        in_order: bool,
        strict: bool,
        zeroed: bool,
    ) -> PyResult<Self> {
        let layout = packed_layout_of(size, indirect_table_size)?;
        let options = RingOptions { event_idx, in_order, strict, zeroed };
        Chains::new(region.get().claim()?, layout, options).map(Self)
    }
});
