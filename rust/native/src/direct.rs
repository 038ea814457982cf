//! `DirectTransfers`: the shortest way from a buffer in DMA memory to the disk and back.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyInt;
use vring::request::{Request, SECTOR_BYTES, kind};
use vring::{Ring, Single};

use crate::block_queue::{BlockQueue, Queue, WaitError, check_signals, either};
use crate::flat_buffer::with_bytes;
use crate::gate::Gate;
use crate::memory::DmaSpace;

/// Regions that are remembered.
const PLACES: usize = 8;

/// An open region, by where its bytes are.
#[derive(Clone, Copy, Default)]
struct Place {
    address: usize,
    length: usize,
    handle: u32,
}

/// Regions that were used of late. An entry can be dead, but not wrong: no handle is ever given out
/// twice, and a queue does not take the handle of a region that was closed.
#[derive(Default)]
struct Places {
    places: [Place; PLACES],
    /// The place that is taken next.
    next: usize,
}

impl Places {
    /// The region that holds all of these bytes, and where in it they are.
    fn find(&self, address: usize, length: usize) -> Option<(u32, usize)> {
        self.places.iter().find_map(|place| {
            let offset = address.checked_sub(place.address)?;
            let inside = offset.checked_add(length)? <= place.length;
            inside.then_some((place.handle, offset))
        })
    }

    fn add(&mut self, place: Place) {
        self.places[self.next] = place;
        self.next = (self.next + 1) % PLACES;
    }
}

/// Longer transfers are several requests, which a device works on at once, also where it would take
/// them as one: `MAX_REQUEST_BYTES` of vioblk.block.limits.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Reads and writes of one request each, between the disk and buffers in DMA memory.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct DirectTransfers {
    gate: Py<Gate>,
    space: shm::DmaSpace,
    queues: Vec<Py<BlockQueue>>,
    /// Whose turn it is.
    turn: AtomicUsize,
    places: Mutex<Places>,
}

impl DirectTransfers {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The region that holds these bytes, without the lock of the space if it is remembered.
    fn locate(&self, address: usize, length: usize) -> Option<(u32, usize)> {
        let mut places = self.places();
        if let Some(found) = places.find(address, length) {
            return Some(found);
        }
        let (handle, offset) = self.space.locate(address, length).ok()??;
        let length = self.space.region(handle).ok()?.len();
        places.add(Place { address: address - offset, length, handle });
        Some((handle, offset))
    }

    /// Transfer the bytes of `buffer`, if that can be done at once by one request.
    fn transfer<'py>(
        &self,
        py: Python<'py>,
        kind: u32,
        offset: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
        timeout_s: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let nothing = || Ok(py.None().into_bound(py));
        // No code of the caller's may run that the general way would run again.
        let offset = offset.cast_exact::<PyInt>().ok().and_then(|offset| offset.extract().ok());
        let Some(offset) = offset else { return nothing() };
        let Some(_inside) = self.gate.get().enter() else { return nothing() };
        let run = |address, length| self.run(py, kind, offset, (address, length), timeout_s);
        with_bytes(buffer, kind == kind::IN, run).unwrap_or_else(nothing)
    }

    fn run<'py>(
        &self,
        py: Python<'py>,
        kind: u32,
        offset: u64,
        (address, length): (usize, usize),
        timeout_s: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let nothing = || Ok(py.None().into_bound(py));
        let fits = length <= REQUEST_BYTES_MAX && offset.is_multiple_of(SECTOR_BYTES);
        let bytes = u32::try_from(length).ok().filter(|_| fits);
        let located = bytes.and_then(|bytes| Some((bytes, self.locate(address, length)?)));
        let Some((bytes, (region, region_offset))) = located else { return nothing() };
        let request = Request {
            kind,
            sector: offset / SECTOR_BYTES,
            offset: region_offset as u64,
            length: bytes,
            region,
            ..Request::default()
        };
        let turn = if self.queues.len() == 1 { 0 } else { self.turn.fetch_add(1, Relaxed) };
        let chosen = &self.queues[turn % self.queues.len()];
        let Ok(queue) = chosen.get().here(py) else { return nothing() };
        let Some(outcome) = either!(queue, queue => send(py, queue, &request, timeout_s)) else {
            // The region may have been closed, and its bytes be another's by now.
            *self.places() = Places::default();
            return nothing();
        };
        match outcome {
            Ok(vring::STATUS_OK) => length.into_bound_py_any(py),
            Ok(status) => (chosen.clone_ref(py), length, status).into_bound_py_any(py),
            Err(WaitError::Python(error)) => Err(error),
            Err(error) => {
                let error = error.into_py(py).into_value(py);
                (chosen.clone_ref(py), length, error).into_bound_py_any(py)
            }
        }
    }
}

/// Send a request and wait for it; its status. `None` if it was not sent.
fn send<R: Ring + Send>(
    py: Python<'_>,
    queue: &vring::BlockQueue<R>,
    request: &Request,
    timeout_s: f64,
) -> Option<Result<u8, WaitError>> {
    let single = queue.send(request).ok()??;
    let outcome = wait(py, queue, &single, timeout_s);
    if outcome.is_err() {
        queue.forget(single);
    }
    Some(outcome)
}

fn wait<R: Ring + Send>(
    py: Python<'_>,
    queue: &vring::BlockQueue<R>,
    single: &Single,
    timeout_s: f64,
) -> Result<u8, WaitError> {
    if let Some(status) = queue.spin_single(single)? {
        return Ok(status);
    }
    // What is too long to be counted is no bound.
    let timeout = Duration::try_from_secs_f64(timeout_s).ok();
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    py.detach(|| queue.finish_single(single, deadline, check_signals))
}

#[pymethods]
impl DirectTransfers {
    #[new]
    fn new(gate: Py<Gate>, space: &DmaSpace, queues: Vec<Py<BlockQueue>>) -> PyResult<Self> {
        if queues.is_empty() {
            return Err(PyValueError::new_err("a transfer needs a queue; there is none"));
        }
        let (turn, places) = (AtomicUsize::new(0), Mutex::default());
        Ok(Self { gate, space: space.space.clone(), queues, turn, places })
    }

    #[pyo3(signature = (offset, buffer, timeout_s, /))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
        timeout_s: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.transfer(py, kind::IN, offset, buffer, timeout_s)
    }

    #[pyo3(signature = (offset, buffer, timeout_s, /))]
    fn write<'py>(
        &self,
        py: Python<'py>,
        offset: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
        timeout_s: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.transfer(py, kind::OUT, offset, buffer, timeout_s)
    }
}
