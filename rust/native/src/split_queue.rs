//! `SplitQueue`: the split ring, chain by chain, as Python sees it.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PySequence;
use vring::{Ring, RingOptions};

use crate::chains::{Chains, unsigned};
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

#[pymethods]
impl SplitQueue {
    #[new]
    #[pyo3(signature = (
        region, size, *, legacy_align=None, indirect_table_size=0, event_idx=false, in_order=false, strict=false,
        zeroed=false
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

    #[getter]
    fn size(&self) -> u16 {
        self.0.ring().size()
    }

    #[getter]
    fn layout(&self) -> SplitLayout {
        SplitLayout(*self.0.ring().layout())
    }

    #[getter]
    fn free_count(&self) -> u16 {
        self.0.ring().free_count()
    }

    #[getter]
    fn outstanding_count(&self) -> u16 {
        self.0.ring().outstanding_count()
    }

    #[getter]
    fn clamped_count(&self) -> u64 {
        self.0.ring().clamped_count()
    }

    #[getter]
    fn broken(&self) -> Option<String> {
        self.0.broken()
    }

    #[getter]
    fn next_available(&self) -> u16 {
        self.0.ring().next_available()
    }

    #[pyo3(signature = (chain, /))]
    fn push(&mut self, py: Python<'_>, chain: &Bound<'_, PyAny>) -> PyResult<u16> {
        self.0.push(py, chain)
    }

    #[pyo3(signature = (chains, /))]
    fn push_many(&mut self, py: Python<'_>, chains: &Bound<'_, PySequence>) -> PyResult<Vec<u16>> {
        self.0.push_many(py, chains)
    }

    fn withdraw(&mut self, py: Python<'_>) -> PyResult<Vec<u16>> {
        self.0.withdraw(py)
    }

    fn publish(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.0.publish(py)
    }

    #[pyo3(signature = (limit=None))]
    fn reap<'py>(
        &mut self,
        py: Python<'py>,
        limit: Option<i64>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.0.reap(py, limit)
    }

    fn arm(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.0.arm(py)
    }

    fn disarm(&mut self, py: Python<'_>) -> PyResult<()> {
        self.0.disarm(py)
    }

    fn reclaim(&mut self, py: Python<'_>) -> PyResult<Vec<u16>> {
        self.0.reclaim(py)
    }
}
