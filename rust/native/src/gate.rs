//! `Gate`: counts the calls that use a disk, and stops new ones.
//!
//! It is here and not in Python for one reason: between a call of a method that is C and the `with`
//! block that it opens, no signal handler runs. So an exception that a handler raises (Ctrl-C)
//! comes before somebody is counted, or inside the block, where `__exit__` is sure to follow.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use shm::fork::Owner;

use crate::errors;

/// How often a wait lets signal handlers run.
const TICK: Duration = Duration::from_millis(100);

struct State {
    inside: usize,
    /// How many have ever been let in.
    entries: u64,
    refusal: Option<String>,
}

/// Every call on a disk passes it: `with gate: ...`.
#[pyclass(frozen, module = "vioblk._native")]
pub(crate) struct Gate {
    owner: Owner,
    owner_pid: u32,
    /// Held for moments only, and never while Python code runs.
    state: Mutex<State>,
    emptied: Condvar,
}

impl Gate {
    /// Not in a forked child: there, a thread that does not exist may hold the lock for ever.
    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        if self.owner.is_here() { Ok(self.lock()) } else { Err(self.forked()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut state = self.lock();
        if state.inside > 0 {
            let now = Instant::now();
            let left = deadline.map_or(TICK, |until| until.saturating_duration_since(now));
            if left.is_zero() {
                return Some(false);
            }
            let waited = self.emptied.wait_timeout(state, left.min(TICK));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (state.inside == 0).then_some(true)
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
            state: Mutex::new(State {
                inside: 0,
                entries: 0,
                refusal: Some("the disk has not been opened yet".to_string()),
            }),
            emptied: Condvar::new(),
        }
    }

    fn __enter__(&self) -> PyResult<()> {
        let refusal = {
            let mut state = self.state()?;
            if state.refusal.is_none() {
                state.inside += 1;
                state.entries += 1;
                return Ok(());
            }
            state.refusal.clone().unwrap_or_default()
        };
        Err(refuse(refusal)) // without the lock: to find the exception's class runs Python code
    }

    #[pyo3(signature = (kind, value, traceback, /))]
    fn __exit__(
        &self,
        kind: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) {
        let _ = (kind, value, traceback);
        if !self.owner.is_here() {
            return; // forked inside the block: who is inside is the parent's to count
        }
        let mut state = self.lock();
        state.inside = state.inside.saturating_sub(1);
        if state.inside == 0 {
            self.emptied.notify_all();
        }
    }

    #[getter]
    fn inside(&self) -> PyResult<usize> {
        Ok(self.state()?.inside)
    }

    #[getter]
    fn entries(&self) -> PyResult<u64> {
        Ok(self.state()?.entries)
    }

    #[getter]
    fn refusal(&self) -> Option<String> {
        if self.owner.is_here() { self.lock().refusal.clone() } else { Some(self.forked_message()) }
    }

    fn check(&self) -> PyResult<()> {
        let refusal = self.state()?.refusal.clone();
        refusal.map_or(Ok(()), |refusal| Err(refuse(refusal)))
    }

    fn check_process(&self) -> PyResult<()> {
        if self.owner.is_here() { Ok(()) } else { Err(self.forked()) }
    }

    fn open(&self) -> PyResult<()> {
        self.state()?.refusal = None;
        Ok(())
    }

    fn shut(&self, refusal: String) -> PyResult<()> {
        self.state()?.refusal = Some(refusal);
        Ok(())
    }

    fn shut_if_unused_since(&self, entries: u64, refusal: String) -> PyResult<bool> {
        let mut state = self.state()?;
        let unused = state.inside == 0 && state.entries == entries;
        if unused {
            state.refusal = Some(refusal);
        }
        Ok(unused)
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
