//! Exceptions are defined in Python (`vioblk.errors`), where they can inherit two built-ins.

use pyo3::exceptions::{PyBufferError, PyImportError, PyMemoryError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;
use shm::{DoorbellError, RegisterError, SpaceError};
use vring::{Broken, PushError};

/// An exception of `vioblk.errors`, by name.
pub(crate) fn named(py: Python<'_>, name: &str, message: String) -> PyErr {
    let class = py
        .import("vioblk.errors")
        .and_then(|module| module.getattr(name))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => PyImportError::new_err(format!("vioblk.errors.{name}: {error}")),
    }
}

/// The device failed the request of a slot.
pub(crate) fn request_failed(py: Python<'_>, message: String, status: u8, slot: u32) -> PyErr {
    let class = py
        .import("vioblk.errors")
        .and_then(|module| module.getattr("RequestFailedError"))
        .and_then(|class| class.call1((message, status, slot)));
    class.map_or_else(|error| error, PyErr::from_value)
}

pub(crate) fn of_space(error: SpaceError) -> PyErr {
    match error {
        SpaceError::Invalid(why) => PyValueError::new_err(why),
        SpaceError::NoRoom { .. } => PyMemoryError::new_err(error.to_string()),
        // No MemoryError for want of a handle: more memory would not help.
        SpaceError::InUse { .. }
        | SpaceError::Closed
        | SpaceError::Claimed
        | SpaceError::NoHandle => PyBufferError::new_err(error.to_string()),
        SpaceError::Forked => Python::attach(forked),
        SpaceError::Io(error) => error.into(),
    }
}

pub(crate) fn of_register(py: Python<'_>, error: RegisterError) -> PyErr {
    match error {
        RegisterError::Misplaced { .. } | RegisterError::TooLarge { .. } => {
            PyValueError::new_err(error.to_string())
        }
        RegisterError::Closed(why) => named(py, "StateError", why),
        RegisterError::Forked => forked(py),
    }
}

pub(crate) fn of_doorbell(py: Python<'_>, error: DoorbellError) -> PyErr {
    match error {
        DoorbellError::Io(error) => error.into(),
        DoorbellError::Register(error) => of_register(py, error),
    }
}

pub(crate) fn of_broken(py: Python<'_>, broken: Broken) -> PyErr {
    named(py, "QueueBroken", broken.to_string())
}

pub(crate) fn of_push(py: Python<'_>, error: PushError) -> PyErr {
    match error {
        PushError::Empty => PyValueError::new_err(error.to_string()),
        PushError::TooManySegments { .. } | PushError::TooManyBytes(_) => {
            named(py, "ChainTooLong", error.to_string())
        }
        PushError::Full { .. } => named(py, "QueueFull", error.to_string()),
        PushError::Broken(broken) => of_broken(py, broken),
    }
}

/// The object was made before a fork: it, and the device, belong to the parent.
pub(crate) fn forked(py: Python<'_>) -> PyErr {
    named(py, "ForkedError", SpaceError::Forked.to_string())
}
