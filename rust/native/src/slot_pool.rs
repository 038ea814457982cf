//! `SlotPool`: requests of fixed buffers, as Python sees them.

use std::time::Instant;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use vring::{PoolId, PoolShape, PoolWay, QueueError, Ring};

use crate::arguments::within;
use crate::arrays::{Array, with_array};
use crate::block_queue::{
    BlockQueue, Queue, WaitError, check_signals, deadline_of, either, of_queue,
};
use crate::memory::Region;

/// Slots of a request queue: buffers that never change, and chains that were written once.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct SlotPool {
    queue: Py<BlockQueue>,
    id: PoolId,
    shape: PoolShape,
    buffer: Py<Region>,
    /// Turns what the queue raises into what the user is told. It must not lead back to the pool,
    /// which the interpreter could then not collect.
    explain: Option<Py<PyAny>>,
}

/// What a pool is to be, from numbers of Python's.
fn shape_of(
    count: &Bound<'_, PyAny>,
    slot_bytes: &Bound<'_, PyAny>,
    write: bool,
) -> PyResult<PoolShape> {
    let shape = PoolShape {
        count: within("count", count)?,
        slot_bytes: within("slot_bytes", slot_bytes)?,
        write,
    };
    if shape.count == 0 {
        return Err(PyValueError::new_err("count is 0: a pool has one slot at least"));
    }
    Ok(shape)
}

/// Bytes that the frames of such a pool need.
pub(crate) fn frames_length(
    queue: &Queue,
    count: &Bound<'_, PyAny>,
    slot_bytes: &Bound<'_, PyAny>,
) -> PyResult<usize> {
    let shape = shape_of(count, slot_bytes, false)?;
    Ok(either!(queue, queue => queue.pool_frames_length(shape)))
}

/// Make a pool on `queue`.
pub(crate) fn open(
    queue: Bound<'_, BlockQueue>,
    buffer: Bound<'_, Region>,
    frames: &Region,
    count: &Bound<'_, PyAny>,
    slot_bytes: &Bound<'_, PyAny>,
    write: bool,
    explain: Option<Py<PyAny>>,
) -> PyResult<SlotPool> {
    let py = queue.py();
    let here = queue.get().here(py)?;
    let shape = shape_of(count, slot_bytes, write)?;
    let (pin, claim) = (buffer.get().pin(py)?, frames.claim()?);
    let opened = either!(here, queue => {
        let needed = queue.pool_frames_length(shape);
        let available = claim.pin().region().len();
        if available < needed {
            return Err(PyValueError::new_err(format!(
                "the frames need {needed} bytes, their region has {available}"
            )));
        }
        queue.open_pool(shape, pin, claim)
    });
    let id = opened.map_err(|error| of_queue(py, error))?;
    Ok(SlotPool { queue: queue.unbind(), id, shape, buffer: buffer.unbind(), explain })
}

impl SlotPool {
    fn here(&self, py: Python<'_>) -> PyResult<&Queue> {
        self.queue.get().here(py)
    }

    /// What the user is told of an error.
    #[cold]
    fn error(&self, py: Python<'_>, error: QueueError) -> PyErr {
        let of_request = matches!(error, QueueError::Request { .. } | QueueError::Shape(_));
        let raised = of_queue(py, error);
        match &self.explain {
            Some(explain) if !of_request => match explain.call1(py, (raised.value(py),)) {
                Ok(explained) => PyErr::from_value(explained.into_bound(py)),
                Err(error) => error,
            },
            _ => raised,
        }
    }

    #[inline]
    fn reap_from<R: Ring>(
        &self,
        queue: &vring::BlockQueue<R>,
        slots: &Array<'_, u32>,
        statuses: Option<&Array<'_, u8>>,
    ) -> Result<usize, QueueError> {
        match statuses {
            Some(statuses) => queue.pool_reap(self.id, slots.count(), true, |at, slot, status| {
                slots.set(at, slot);
                statuses.set(at, status);
            }),
            None => queue.pool_reap(self.id, slots.count(), false, |at, slot, _| {
                slots.set(at, slot);
            }),
        }
    }
}

/// Wait for something of a pool to reap; whether there is.
fn wait<R: Ring + Send>(
    py: Python<'_>,
    queue: &vring::BlockQueue<R>,
    id: PoolId,
    deadline: Option<Instant>,
) -> Result<bool, WaitError> {
    let is_a_look = deadline.is_some_and(|deadline| deadline <= Instant::now());
    if !is_a_look && let Some(came) = queue.spin_pool_wait(id)? {
        return Ok(came);
    }
    py.detach(|| queue.pool_wait(id, deadline, check_signals))
}

fn unequal(what: &str, slots: usize, others: usize) -> PyErr {
    PyValueError::new_err(format!("{slots} slots need as many {what}, not {others}"))
}

#[pymethods]
impl SlotPool {
    #[getter]
    fn count(&self) -> u32 {
        self.shape.count
    }

    #[getter]
    fn slot_bytes(&self) -> u32 {
        self.shape.slot_bytes
    }

    #[getter]
    fn write(&self) -> bool {
        self.shape.write
    }

    #[getter]
    fn buffer(&self, py: Python<'_>) -> Py<Region> {
        self.buffer.clone_ref(py)
    }

    #[getter]
    fn in_flight(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(either!(self.here(py)?, queue => queue.pool_in_flight(self.id)))
    }

    #[getter]
    fn way(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        let way = either!(self.here(py)?, queue => queue.pool_way(self.id));
        Ok(way.map(|way| match way {
            PoolWay::Direct => "direct",
            PoolWay::Indirect => "indirect",
            PoolWay::Table => "table",
            PoolWay::General => "general",
        }))
    }

    /// submit(slots, offsets, /)
    /// --
    ///
    /// Read into these slots from these byte offsets of the disk (or write them there).
    ///
    /// slots: a contiguous array of uint32; offsets: one of uint64, equally long. How many were
    /// accepted, from the front. All are checked before anything is sent.
    #[pyo3(signature = (slots, offsets, /))]
    fn submit(
        &self,
        py: Python<'_>,
        slots: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let here = self.here(py)?;
        with_array::<u32, _>(slots, "slots", false, |slots| {
            with_array::<u64, _>(offsets, "offsets", false, |offsets| {
                let count = slots.count();
                if offsets.count() != count {
                    return Err(unequal("offsets", count, offsets.count()));
                }
                // Each item is read once, so that what is checked is what is sent.
                let requests = (0..count).map(|index| (slots.get(index), offsets.get(index)));
                either!(here, queue => queue.pool_submit(self.id, requests))
                    .map_err(|error| self.error(py, error))
            })
        })
    }

    /// reap(slots, statuses=None, /)
    /// --
    ///
    /// Fill `slots` (a contiguous array of uint32) with the slots that came back, and `statuses`
    /// (one of uint8, equally long) with their status bytes; how many there were.
    ///
    /// Without statuses those that succeeded are handed out first, and then RequestFailedError is
    /// raised for each of the others.
    #[pyo3(signature = (slots, statuses=None, /))]
    fn reap(
        &self,
        py: Python<'_>,
        slots: &Bound<'_, PyAny>,
        statuses: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let here = self.here(py)?;
        with_array::<u32, _>(slots, "slots", true, |slots| {
            let Some(statuses) = statuses else {
                return either!(here, queue => self.reap_from(queue, slots, None))
                    .map_err(|error| self.error(py, error));
            };
            with_array::<u8, _>(statuses, "statuses", true, |statuses| {
                if statuses.count() != slots.count() {
                    return Err(unequal("statuses", slots.count(), statuses.count()));
                }
                either!(here, queue => self.reap_from(queue, slots, Some(statuses)))
                    .map_err(|error| self.error(py, error))
            })
        })
    }

    #[pyo3(signature = (timeout_s=None))]
    fn wait(&self, py: Python<'_>, timeout_s: Option<f64>) -> PyResult<bool> {
        let here = self.here(py)?;
        let deadline = deadline_of(timeout_s)?;
        either!(here, queue => wait(py, queue, self.id, deadline))
            .map_err(|error| error.into_py(py))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        either!(self.here(py)?, queue => queue.close_pool(self.id))
            .map_err(|error| of_queue(py, error))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// An exception that leaves the block stays the one that the caller sees.
    #[pyo3(signature = (kind, value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (kind, traceback);
        if value.is_none() {
            return self.close(py);
        }
        if let Err(error) = self.close(py) {
            let note = format!("the slot pool could not be closed: {}", error.value(py));
            value.call_method1(intern!(py, "add_note"), (note,))?;
        }
        Ok(())
    }
}

impl Drop for SlotPool {
    fn drop(&mut self) {
        let queue = self.queue.get();
        // In a child of fork() the queue's lock may be held by a thread that does not exist there.
        if let Some(queue) = queue.if_here() {
            either!(queue, queue => queue.drop_pool(self.id));
        }
    }
}
