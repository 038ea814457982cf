//! Arguments as the binding checks them.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// An integer argument in the range of its field: ValueError, not OverflowError, if it is not.
pub(crate) fn within<T>(name: &str, value: &Bound<'_, PyAny>) -> PyResult<T>
where
    T: TryFrom<i128>,
{
    let integer = value.extract::<i128>().map_err(|error| {
        if error.is_instance_of::<PyTypeError>(value.py()) {
            PyTypeError::new_err(format!("{name} must be an integer, not {value}"))
        } else {
            PyValueError::new_err(format!("{name} is {value}, out of range"))
        }
    })?;
    T::try_from(integer).map_err(|_| {
        let bits = 8 * size_of::<T>();
        PyValueError::new_err(format!("{name} is {integer}, not from 0 to 2^{bits} - 1"))
    })
}
