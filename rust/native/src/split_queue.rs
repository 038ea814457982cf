//! `SplitQueue`: the split ring, chain by chain, as Python sees it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PySequence;
use vring::{Ring, RingOptions};

use crate::chains::{Chains, ring_class, unsigned};
use crate::memory::Region;

/// Where the parts of a split ring lie in its region.
#[pyclass(frozen, module = "vioblk._native")]
#[derive(Clone, Copy)]
pub(crate) struct SplitLayout(pub(crate) vring::SplitLayout);

#[pymethods]
impl SplitLayout {
    #[getter]
    fn descriptors_offset(&self) -> usize {
        self.0.descriptors
    }

    #[getter]
    fn available_offset(&self) -> usize {
        self.0.available
    }

    #[getter]
    fn used_offset(&self) -> usize {
        self.0.used
    }

    #[getter]
    fn driver_offset(&self) -> usize {
        self.0.available
    }

    #[getter]
    fn device_offset(&self) -> usize {
        self.0.used
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

pub(crate) fn layout_of(
    size: i64,
    legacy_align: Option<i64>,
    indirect_table_size: i64,
) -> PyResult<vring::SplitLayout> {
    let size = unsigned("queue size", size)?;
    let align = legacy_align.map(|align| unsigned("legacy alignment", align)).transpose()?;
    let table = unsigned("indirect table size", indirect_table_size)?;
    vring::SplitLayout::new(size, align, table)
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Where the parts of a split ring of `size` descriptors lie.
#[pyfunction]
#[pyo3(signature = (size, *, legacy_align=None, indirect_table_size=0))]
pub(crate) fn split_layout(
    size: i64,
    legacy_align: Option<i64>,
    indirect_table_size: i64,
) -> PyResult<SplitLayout> {
    layout_of(size, legacy_align, indirect_table_size).map(SplitLayout)
}

/// The driver's half of a split ring. Not thread-safe: a call while another is under way (from
/// another thread, or from a sequence that `push` iterates over) raises RuntimeError.
#[pyclass(module = "vioblk._native")]
pub(crate) struct SplitQueue(Chains<vring::SplitQueue>);

ring_class!(SplitQueue, SplitLayout, {
    #[new]
    #[pyo3(signature = (
        region, size, *, legacy_align=None, indirect_table_size=0, event_idx=false,
        in_order=false, strict=false, zeroed=false
    ))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn new(
        region: &Bound<'_, Region>,
        size: i64,
        legacy_align: Option<i64>,
        indirect_table_size: i64,
        event_idx: bool,
        in_order: bool,
        strict: bool,
        zeroed: bool,
    ) -> PyResult<Self> {
        let layout = layout_of(size, legacy_align, indirect_table_size)?;
        let options = RingOptions { event_idx, in_order, strict, zeroed };
        Chains::new(region.get().claim()?, layout, options).map(Self)
    }
});
