//! What the rings of both formats have in common, chain by chain, as Python sees it.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PySequence, PyTuple, PyType};
use pyo3::{PyTypeInfo, intern};
use shm::fork::Owner;
use shm::{Claim, Pin, Segment};
use vring::{PushError, Ring, RingOptions, Used};

use crate::errors;
use crate::memory::Region;

/// A negative number becomes a large one, which the layout refuses; the message must not show it.
pub(crate) fn unsigned(what: &str, number: i64) -> PyResult<usize> {
    usize::try_from(number)
        .map_err(|_| PyValueError::new_err(format!("{what} {number} is negative")))
}

/// A chain whose segments were checked, with what keeps their regions open.
#[derive(Default)]
struct Plan {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    pins: Vec<Pin>,
}

impl Plan {
    fn of(chain: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (readable, writable): (Bound<'_, PyAny>, Bound<'_, PyAny>) = chain.extract()?;
        let mut plan = Self::default();
        plan.readable = plan.segments(&readable)?;
        plan.writable = plan.segments(&writable)?;
        Ok(plan)
    }

    fn segments(&mut self, sequence: &Bound<'_, PyAny>) -> PyResult<Vec<Segment>> {
        let sequence = sequence.cast::<PySequence>()?;
        sequence.try_iter()?.map(|segment| self.segment(&segment?)).collect()
    }

    fn segment(&mut self, segment: &Bound<'_, PyAny>) -> PyResult<Segment> {
        let tuple = segment.cast::<PyTuple>()?;
        if tuple.len() != 3 {
            return Err(PyTypeError::new_err(format!(
                "a segment is (region, offset, length), not a tuple of {}",
                tuple.len()
            )));
        }
        let item = tuple.get_item(0)?;
        let pin = item.cast::<Region>()?.get().pin(segment.py())?;
        let (offset, length) = (tuple.get_item(1)?, tuple.get_item(2)?);
        let found = match (offset.extract::<u64>(), length.extract::<u64>()) {
            (Ok(offset), Ok(length)) => pin.segment(offset, length).ok(),
            _ => None,
        };
        let Some(found) = found else {
            // Numbers that fit no machine word, too, end in an error that shows them.
            let (offset, length) = (offset.str()?, length.str()?);
            return Err(PyValueError::new_err(format!(
                "segment of {length} bytes at offset {offset} is not inside its region of {} \
                 bytes, or has not 1 to 4294967295 bytes",
                pin.region().len()
            )));
        };
        self.pins.push(pin);
        Ok(found)
    }
}

/// A ring, and what keeps the regions of its chains open.
pub(crate) struct Chains<R: Ring> {
    ring: R,
    /// By head: what the device may be using.
    pins: Vec<Vec<Pin>>,
    owner: Owner,
}

impl<R: Ring> Chains<R> {
    pub(crate) fn new(claim: Claim, layout: R::Layout, options: RingOptions) -> PyResult<Self> {
        let ring = R::new(claim, layout, options)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let pins = (0..ring.size()).map(|_| Vec::new()).collect();
        Ok(Self { ring, pins, owner: Owner::here() })
    }

    pub(crate) fn ring(&self) -> &R {
        &self.ring
    }

    /// Refuse in a child of fork(), where the ring's memory is not mapped.
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.owner.is_here() { Ok(()) } else { Err(errors::forked(py)) }
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        self.ring.broken().map_or(Ok(()), |broken| Err(errors::of_broken(py, broken)))
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.ring.broken().map(|broken| broken.to_string())
    }

    pub(crate) fn push(&mut self, py: Python<'_>, chain: &Bound<'_, PyAny>) -> PyResult<u16> {
        self.check(py)?;
        let plan = Plan::of(chain)?;
        let head = self.ring.push(&plan.readable, &plan.writable);
        let head = head.map_err(|error| errors::of_push(py, error))?;
        self.pins[usize::from(head)] = plan.pins;
        Ok(head)
    }

    pub(crate) fn push_many(
        &mut self,
        py: Python<'_>,
        chains: &Bound<'_, PySequence>,
    ) -> PyResult<Vec<u16>> {
        self.check(py)?;
        let mut plans = Vec::new();
        for chain in chains.try_iter()? {
            let plan = Plan::of(&chain?)?;
            self.ring
                .validate(&plan.readable, &plan.writable)
                .map_err(|error| errors::of_push(py, error))?;
            plans.push(plan);
        }
        let mut heads = Vec::new();
        for plan in plans {
            match self.ring.push(&plan.readable, &plan.writable) {
                Ok(head) => {
                    self.pins[usize::from(head)] = plan.pins;
                    heads.push(head);
                }
                Err(PushError::Full { .. }) => break,
                Err(error) => return Err(errors::of_push(py, error)),
            }
        }
        Ok(heads)
    }

    pub(crate) fn withdraw(&mut self, py: Python<'_>) -> PyResult<Vec<u16>> {
        self.check_process(py)?;
        let mut heads = Vec::new();
        self.ring.withdraw(|head| heads.push(head));
        for &head in &heads {
            self.pins[usize::from(head)].clear();
        }
        Ok(heads)
    }

    pub(crate) fn publish(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        self.ring.publish().map_err(|broken| errors::of_broken(py, broken))
    }

    pub(crate) fn reap<'py>(
        &mut self,
        py: Python<'py>,
        limit: Option<i64>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        static COMPLETION: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        self.check_process(py)?;
        // All that runs Python code comes first: what was reaped must not be lost to a signal.
        let class = COMPLETION.import(py, "vioblk.ring", "Completion")?;
        let make = PyTuple::type_object(py).getattr(intern!(py, "__new__"))?;
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        let mut used = Vec::new();
        let (ring, pins) = (&mut self.ring, &mut self.pins);
        ring.reap(limit, |completion| {
            pins[usize::from(completion.head)].clear();
            used.push(completion);
        })
        .map_err(|broken| errors::of_broken(py, broken))?;
        let completion = |used: &Used| {
            let written = used.written_given.then_some(used.written);
            make.call1((class, (used.head, written)))
        };
        used.iter().map(completion).collect()
    }

    pub(crate) fn arm(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        self.ring.arm().map_err(|broken| errors::of_broken(py, broken))
    }

    pub(crate) fn disarm(&mut self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        self.ring.disarm();
        Ok(())
    }

    pub(crate) fn reclaim(&mut self, py: Python<'_>) -> PyResult<Vec<u16>> {
        self.check_process(py)?;
        let mut heads = Vec::new();
        self.ring.reclaim(|head| heads.push(head));
        for pins in &mut self.pins {
            pins.clear();
        }
        Ok(heads)
    }
}

impl<R: Ring> Drop for Chains<R> {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        // Without a confirmed reset the device may go on using what was published.
        let pins = &mut self.pins;
        self.ring.withdraw(|head| pins[usize::from(head)].clear());
        self.pins.iter().flatten().for_each(Pin::abandon);
    }
}

/// The methods of a ring's class: its constructor, and those that both formats have. It needs
/// `pyo3::prelude` and `PySequence` in scope.
macro_rules! ring_class {
    ($class:ident, $layout:ident, { $($constructor:tt)* }) => {
        #[pymethods]
        impl $class {
            $($constructor)*

            #[getter]
            fn size(&self) -> u16 {
                self.0.ring().size()
            }

            #[getter]
            fn layout(&self) -> $layout {
                $layout(*self.0.ring().layout())
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
            fn push_many(
                &mut self,
                py: Python<'_>,
                chains: &Bound<'_, PySequence>,
            ) -> PyResult<Vec<u16>> {
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
    };
}
pub(crate) use ring_class;
