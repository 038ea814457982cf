//! `BlockQueue`: block requests in batches, as Python sees them.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;
use shm::Claim;
use shm::fork::Owner;
use vring::request::{Completion, Limits, Request, RequestError};
use vring::{NewQueueError, QueueError, Ring, RingOptions, Wires};

use crate::bytes::RecordBuffer;
use crate::doorbell::Doorbell;
use crate::errors;
use crate::memory::{DmaSpace, Region};
use crate::packed_queue::{PackedLayout, packed_layout_of};
use crate::slot_pool::{self, SlotPool};
use crate::split_queue::{SplitLayout, layout_of};

/// What a request record may ask for, as negotiated.
#[pyclass(frozen, module = "vioblk._native")]
#[derive(Clone, Copy)]
pub(crate) struct BlockLimits(Limits);

#[pymethods]
impl BlockLimits {
    #[new]
    #[pyo3(signature = (
        *, capacity_sectors, request_types, read_only=false, size_max=0, seg_max=0,
        max_discard_sectors=0, max_write_zeroes_sectors=0
    ))]
    fn new(
        capacity_sectors: u64,
        request_types: BTreeSet<u32>,
        read_only: bool,
        size_max: u32,
        seg_max: u32,
        max_discard_sectors: u32,
        max_write_zeroes_sectors: u32,
    ) -> PyResult<Self> {
        if let Some(kind) = request_types.iter().find(|&&kind| kind >= 64) {
            return Err(PyValueError::new_err(format!("{kind} is no request type")));
        }
        let kinds = request_types.iter().fold(0, |kinds, kind| kinds | 1 << kind);
        Ok(Self(Limits {
            capacity_sectors,
            kinds,
            read_only,
            size_max,
            seg_max,
            max_discard_sectors,
            max_write_zeroes_sectors,
        }))
    }

    #[getter]
    fn capacity_sectors(&self) -> u64 {
        self.0.capacity_sectors
    }

    #[getter]
    fn request_types<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Bound<'py, pyo3::types::PyFrozenSet>> {
        let kinds: Vec<u32> = (0..64).filter(|kind| self.0.kinds >> kind & 1 == 1).collect();
        pyo3::types::PyFrozenSet::new(py, kinds)
    }

    #[getter]
    fn read_only(&self) -> bool {
        self.0.read_only
    }

    #[getter]
    fn size_max(&self) -> u32 {
        self.0.size_max
    }

    #[getter]
    fn seg_max(&self) -> u32 {
        self.0.seg_max
    }

    #[getter]
    fn max_discard_sectors(&self) -> u32 {
        self.0.max_discard_sectors
    }

    #[getter]
    fn max_write_zeroes_sectors(&self) -> u32 {
        self.0.max_write_zeroes_sectors
    }
}

/// An error of the queue or an exception of Python's (a signal handler's).
pub(crate) enum WaitError {
    Queue(QueueError),
    Python(PyErr),
}

impl From<QueueError> for WaitError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl WaitError {
    pub(crate) fn into_py(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Queue(error) => of_queue(py, error),
            Self::Python(error) => error,
        }
    }
}

/// Let signal handlers run; an exception that one raises ends the wait.
pub(crate) fn check_signals() -> Result<(), WaitError> {
    Python::attach(|py| py.check_signals()).map_err(WaitError::Python)
}

pub(crate) fn of_queue(py: Python<'_>, error: QueueError) -> PyErr {
    let text = error.to_string();
    let name = match error {
        QueueError::Request { error, .. } | QueueError::Shape(error) => match error {
            RequestError::NoRegion(_) => return PyBufferError::new_err(text),
            RequestError::Unsupported(_) => "UnsupportedError",
            RequestError::ReadOnly => "ReadOnlyError",
            RequestError::ZeroLength => "ZeroLengthError",
            RequestError::Unaligned(_) | RequestError::UnalignedOffset(_) => "UnalignedError",
            RequestError::BeyondEnd { .. } => "BeyondEndError",
            RequestError::TooLong { .. } => "RequestTooLongError",
            RequestError::Field { .. }
            | RequestError::OutsideRegion { .. }
            | RequestError::NoSlot { .. }
            | RequestError::SlotInFlight(_)
            | RequestError::SlotTwice(_) => "InvalidRequestError",
        },
        QueueError::SlotFailed { slot, status } => {
            return errors::request_failed(py, text, status, slot);
        }
        QueueError::State(_) => "StateError",
        QueueError::Broken(_) => "QueueBroken",
        QueueError::Gone(_) | QueueError::Reset => "DeviceGoneError",
        QueueError::Timeout { .. } => "RequestTimeoutError",
    };
    errors::named(py, name, text)
}

/// Request records, which are read once each, under the interpreter's lock: what is checked is what
/// is sent.
struct Records(RecordBuffer);

impl Records {
    fn get(requests: &Bound<'_, PyAny>) -> PyResult<Self> {
        RecordBuffer::get(requests, Request::BYTES, "request records").map(Self)
    }

    fn count(&self) -> usize {
        self.0.count()
    }

    fn requests(&self, py: Python<'_>) -> impl ExactSizeIterator<Item = Request> {
        self.0.records(py).map(|record| Request::decode(&record))
    }
}

pub(crate) fn deadline_of(timeout_s: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout_s else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("the timeout is not a number"));
    }
    // What is too long to be counted is no bound.
    let timeout = Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    Ok(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
}

fn duplicate(fd: Option<i32>) -> PyResult<Option<OwnedFd>> {
    Ok(fd.map(shm::duplicate_fd).transpose()?)
}

/// A queue on a ring of either format. Which one it is, is asked once a call.
pub(crate) enum Queue {
    Split(vring::BlockQueue<vring::SplitQueue>),
    Packed(vring::BlockQueue<vring::PackedQueue>),
}

/// The same for a queue of either format, under the name that is given.
macro_rules! either {
    ($either:expr, $queue:ident => $what:expr) => {
        match $either {
            Queue::Split($queue) => $what,
            Queue::Packed($queue) => $what,
        }
    };
}

pub(crate) use either;

/// A ring with request slots, a doorbell and a way to wait.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct BlockQueue {
    queue: Queue,
    owner: Owner,
}

/// What a queue is made of, whatever the format of its ring.
struct Parts {
    space: shm::DmaSpace,
    ring: Claim,
    slots: Claim,
    limits: Limits,
    legacy: bool,
    wires: Wires,
}

fn build<R: Ring>(
    parts: Parts,
    layout: R::Layout,
    options: RingOptions,
) -> PyResult<vring::BlockQueue<R>> {
    let Parts { space, ring, slots, limits, legacy, wires } = parts;
    let ring =
        R::new(ring, layout, options).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let queue = vring::BlockQueue::new(ring, space, slots, limits, legacy, wires);
    queue.map_err(|error| match error {
        NewQueueError::Layout(error) => PyValueError::new_err(error.to_string()),
        NewQueueError::Io(error) => error.into(),
    })
}

impl BlockQueue {
    pub(crate) fn here(&self, py: Python<'_>) -> PyResult<&Queue> {
        self.if_here().ok_or_else(|| errors::forked(py))
    }

    /// The queue, unless this is a child of fork().
    pub(crate) fn if_here(&self) -> Option<&Queue> {
        self.owner.is_here().then_some(&self.queue)
    }
}

/// Run a batch; its statuses.
fn run<R: Ring + Send>(
    py: Python<'_>,
    queue: &vring::BlockQueue<R>,
    execution: &vring::Execution,
    deadline: Option<Instant>,
) -> Result<Vec<u8>, WaitError> {
    if let Some(statuses) = queue.spin(execution)? {
        return Ok(statuses);
    }
    py.detach(|| queue.finish(execution, deadline, check_signals))
}

/// Wait for something to reap; whether there is.
fn wait<R: Ring + Send>(
    py: Python<'_>,
    queue: &vring::BlockQueue<R>,
    deadline: Option<Instant>,
) -> Result<bool, WaitError> {
    let is_a_look = deadline.is_some_and(|deadline| deadline <= Instant::now());
    if !is_a_look && let Some(came) = queue.spin_wait()? {
        return Ok(came);
    }
    py.detach(|| queue.wait(deadline, check_signals))
}

/// Run a batch to its end, good or bad: its statuses as far as there are any.
fn run_to_end<R: Ring + Send>(
    py: Python<'_>,
    queue: &vring::BlockQueue<R>,
    requests: &Records,
    deadline: Option<Instant>,
) -> PyResult<(Vec<u8>, PyResult<()>)> {
    let execution = queue.begin(requests.requests(py)).map_err(|error| of_queue(py, error))?;
    Ok(match run(py, queue, &execution, deadline) {
        Ok(statuses) => (statuses, Ok(())),
        Err(error) => (queue.end(execution), Err(error.into_py(py))),
    })
}

#[pymethods]
impl BlockQueue {
    #[new]
    #[pyo3(signature = (
        space, ring, slots, size, limits, *, packed=false, legacy_align=None,
        indirect_table_size=0, event_idx=false, in_order=false, strict=false, doorbell=None,
        interrupt_fd=None, hangup_fd=None
    ))]
    #[allow(clippy::too_many_arguments)] // keywords, in Python
    fn new(
        space: &DmaSpace,
        ring: &Region,
        slots: &Region,
        size: i64,
        limits: &BlockLimits,
        packed: bool,
        legacy_align: Option<i64>,
        indirect_table_size: i64,
        event_idx: bool,
        in_order: bool,
        strict: bool,
        doorbell: Option<&Doorbell>,
        interrupt_fd: Option<i32>,
        hangup_fd: Option<i32>,
    ) -> PyResult<Self> {
        // The device has been told of the ring, and may be live.
        let options = RingOptions { event_idx, in_order, strict, zeroed: true };
        let parts = || -> PyResult<Parts> {
            Ok(Parts {
                space: space.space.clone(),
                ring: ring.claim()?,
                slots: slots.claim()?,
                limits: limits.0,
                legacy: legacy_align.is_some(),
                wires: Wires {
                    doorbell: doorbell.map(Doorbell::shared).unwrap_or_default(),
                    interrupt: duplicate(interrupt_fd)?,
                    hangup: duplicate(hangup_fd)?,
                },
            })
        };
        let queue = if packed {
            if legacy_align.is_some() {
                return Err(PyValueError::new_err("the legacy interface has no packed ring"));
            }
            let layout = packed_layout_of(size, indirect_table_size)?;
            Queue::Packed(build(parts()?, layout, options)?)
        } else {
            let layout = layout_of(size, legacy_align, indirect_table_size)?;
            Queue::Split(build(parts()?, layout, options)?)
        };
        Ok(Self { queue, owner: Owner::here() })
    }

    #[staticmethod]
    fn slots_length(size: i64) -> PyResult<usize> {
        let layout = packed_layout_of(size, 0)?;
        Ok(vring::slots_length(layout.size.into()))
    }

    #[getter]
    fn size(&self) -> u16 {
        either!(&self.queue, queue => queue.size())
    }

    #[getter]
    fn layout<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match &self.queue {
            Queue::Split(queue) => SplitLayout(*queue.layout()).into_bound_py_any(py),
            Queue::Packed(queue) => PackedLayout(*queue.layout()).into_bound_py_any(py),
        }
    }

    #[getter]
    fn depth(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(either!(self.here(py)?, queue => queue.depth()))
    }

    #[getter]
    fn in_flight(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(either!(self.here(py)?, queue => queue.in_flight()))
    }

    #[getter]
    fn broken(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(either!(self.here(py)?, queue => queue.broken()))
    }

    #[getter]
    fn clamped_count(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(either!(self.here(py)?, queue => queue.clamped_count()))
    }

    #[getter]
    fn kick_count(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(either!(self.here(py)?, queue => queue.kick_count()))
    }

    #[getter]
    fn limits(&self, py: Python<'_>) -> PyResult<BlockLimits> {
        Ok(BlockLimits(either!(self.here(py)?, queue => queue.limits())))
    }

    #[setter]
    fn set_limits(&self, py: Python<'_>, limits: &BlockLimits) -> PyResult<()> {
        either!(self.here(py)?, queue => queue.set_limits(limits.0));
        Ok(())
    }

    #[getter]
    fn polling(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(either!(self.here(py)?, queue => queue.polling()))
    }

    #[setter]
    fn set_polling(&self, py: Python<'_>, polling: bool) -> PyResult<()> {
        if either!(self.here(py)?, queue => queue.set_polling(polling)) {
            return Ok(());
        }
        let text = "the device gives this queue no interrupt, so it is polled in any case";
        Err(errors::named(py, "UnsupportedError", text.into()))
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(either!(self.here(py)?, queue => queue.poll_fd()))
    }

    fn take_kick(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(either!(self.here(py)?, queue => queue.take_kick()))
    }

    #[pyo3(signature = (requests, /))]
    fn submit_many(&self, py: Python<'_>, requests: &Bound<'_, PyAny>) -> PyResult<usize> {
        let queue = self.here(py)?;
        let requests = Records::get(requests)?;
        either!(queue, queue => queue.submit_many(requests.requests(py)))
            .map_err(|error| of_queue(py, error))
    }

    #[pyo3(signature = (out, /))]
    fn reap_many(&self, py: Python<'_>, out: &Bound<'_, PyAny>) -> PyResult<usize> {
        let queue = self.here(py)?;
        let buffer = RecordBuffer::get_writable(out, Completion::BYTES, "completion records")?;
        let (mut index, mut write) = (0, buffer.writer(py));
        let each = |completion: Completion| {
            write(index, &completion.encode());
            index += 1;
        };
        let reaped = either!(queue, queue => queue.reap_many(buffer.count(), each));
        reaped.map_err(|error| of_queue(py, error))
    }

    #[pyo3(signature = (requests, statuses, timeout_s=None))]
    fn execute(
        &self,
        py: Python<'_>,
        requests: &Bound<'_, PyAny>,
        statuses: &Bound<'_, PyAny>,
        timeout_s: Option<f64>,
    ) -> PyResult<()> {
        let queue = self.here(py)?;
        let deadline = deadline_of(timeout_s)?;
        let requests = Records::get(requests)?;
        let buffer = RecordBuffer::get_writable(statuses, 1, "statuses")?;
        if buffer.count() != requests.count() {
            return Err(PyValueError::new_err(format!(
                "{} requests need as many status bytes, not {}",
                requests.count(),
                buffer.count(),
            )));
        }
        // Whatever comes, an old byte must not pass for a status.
        buffer.write_all(py, &vec![vring::STATUS_PENDING; requests.count()]);
        let (statuses, outcome) =
            either!(queue, queue => run_to_end(py, queue, &requests, deadline))?;
        if !buffer.write_all(py, &statuses) {
            // The exporter keeps its buffer as it is while we hold it, so this is a mistake of
            // ours; a caller must not take old bytes for statuses.
            return Err(PyBufferError::new_err("the statuses no longer fit their buffer"));
        }
        outcome
    }

    #[pyo3(signature = (timeout_s=None))]
    fn wait(&self, py: Python<'_>, timeout_s: Option<f64>) -> PyResult<bool> {
        let queue = self.here(py)?;
        let deadline = deadline_of(timeout_s)?;
        let waited = either!(queue, queue => wait(py, queue, deadline));
        waited.map_err(|error| error.into_py(py))
    }

    fn arm(&self, py: Python<'_>) -> PyResult<bool> {
        either!(self.here(py)?, queue => queue.arm()).map_err(|error| of_queue(py, error))
    }

    #[pyo3(signature = (count, slot_bytes, /))]
    fn slot_frames_length(
        &self,
        py: Python<'_>,
        count: &Bound<'_, PyAny>,
        slot_bytes: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        slot_pool::frames_length(self.here(py)?, count, slot_bytes)
    }

    #[pyo3(signature = (buffer, frames, count, slot_bytes, *, write=false, explain=None))]
    fn slot_pool(
        slf: Bound<'_, Self>,
        buffer: Bound<'_, Region>,
        frames: &Region,
        count: &Bound<'_, PyAny>,
        slot_bytes: &Bound<'_, PyAny>,
        write: bool,
        explain: Option<Py<PyAny>>,
    ) -> PyResult<SlotPool> {
        slot_pool::open(slf, buffer, frames, count, slot_bytes, write, explain)
    }

    fn end_pools(&self, py: Python<'_>, reason: String) -> PyResult<()> {
        either!(self.here(py)?, queue => queue.end_pools(reason));
        Ok(())
    }

    fn abort(&self, py: Python<'_>, reason: String) -> PyResult<()> {
        either!(self.here(py)?, queue => queue.abort(reason));
        Ok(())
    }

    fn reclaim(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        Ok(either!(self.here(py)?, queue => queue.reclaim()))
    }
}
