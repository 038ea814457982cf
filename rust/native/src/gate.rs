//! `Gate`: counts the calls that use a disk, and stops new ones.
//!
//! It is here and not in Python for one reason: between a call of a method that is C and the `with`
//! block that it opens, no signal handler runs. So an exception that a handler raises (Ctrl-C)
//! comes before somebody is counted, or inside the block, where `__exit__` is sure to follow.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use shm::fork::Owner;

use crate::errors;

/// How often a wait lets signal handlers run.
const TICK: Duration = Duration::from_millis(100);

/// Every call on a disk passes it: `with gate: ...`.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct Gate {
    owner: Owner,
    owner_pid: u32,
    gate: shm::gate::Gate,
}

/// One who is inside, until it is dropped.
pub(crate) struct Inside<'a>(&'a shm::gate::Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Gate {
    /// Go in, if that is let.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let gate = self.here().ok()?;
        gate.enter().ok().map(|()| Inside(gate))
    }

    /// Not in a forked child: there, a thread that does not exist may hold its lock for ever.
    fn here(&self) -> PyResult<&shm::gate::Gate> {
        if self.owner.is_here() { Ok(&self.gate) } else { Err(self.forked()) }
    }

    fn forked(&self) -> PyErr {
        Python::attach(|py| errors::named(py, "ForkedError", self.forked_message()))
    }

    fn forked_message(&self) -> String {
        format!(
            "this disk belongs to process {}, and this is process {}; open it again after the fork",
            self.owner_pid,
            std::process::id(),
        )
    }

    /// One tick of `wait_empty`: whether nobody is inside, or None to go on waiting.
    fn tick(&self, deadline: Option<Instant>) -> Option<bool> {
        let now = Instant::now();
        let left = deadline.map_or(TICK, |until| until.saturating_duration_since(now));
        if self.gate.wait_empty(left.min(TICK)) {
            return Some(true);
        }
        left.is_zero().then_some(false)
    }
}

fn refuse(refusal: String) -> PyErr {
    Python::attach(|py| errors::named(py, "StateError", refusal))
}

#[pymethods]
impl Gate {
    #[new]
    fn new() -> Self {
        Self {
            owner: Owner::here(),
            owner_pid: std::process::id(),
            gate: shm::gate::Gate::new("the disk has not been opened yet".into()),
        }
    }

    fn __enter__(&self) -> PyResult<()> {
        self.here()?.enter().map_err(refuse)
    }

    #[pyo3(signature = (kind, value, traceback, /))]
    fn __exit__(
        &self,
        kind: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) {
        let _ = (kind, value, traceback);
        // Forked inside the block: who is inside is the parent's to count.
        if self.owner.is_here() {
            self.gate.leave();
        }
    }

    #[getter]
    fn inside(&self) -> PyResult<u64> {
        Ok(self.here()?.inside())
    }

    #[getter]
    fn entries(&self) -> PyResult<u64> {
        Ok(self.here()?.entries())
    }

    #[getter]
    fn refusal(&self) -> Option<String> {
        if self.owner.is_here() { self.gate.refusal() } else { Some(self.forked_message()) }
    }

    fn check(&self) -> PyResult<()> {
        self.here()?.check().map_err(refuse)
    }

    fn check_process(&self) -> PyResult<()> {
        self.here().map(|_| ())
    }

    fn open(&self) -> PyResult<()> {
        self.here()?.open();
        Ok(())
    }

    fn shut(&self, refusal: String) -> PyResult<()> {
        self.here()?.shut(refusal);
        Ok(())
    }

    fn shut_if_unused_since(&self, entries: u64, refusal: String) -> PyResult<bool> {
        Ok(self.here()?.shut_if_unused_since(entries, refusal))
    }

    fn wait_empty(&self, py: Python<'_>, timeout_s: f64) -> PyResult<bool> {
        self.check_process()?;
        if timeout_s.is_nan() {
            return Err(PyValueError::new_err("nan is no number of seconds"));
        }
        let timeout = Duration::try_from_secs_f64(timeout_s.max(0.0)).unwrap_or(Duration::MAX);
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(empty) = py.detach(|| self.tick(deadline)) {
                return Ok(empty);
            }
            py.check_signals()?;
        }
    }
}
