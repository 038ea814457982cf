//! Why the device's owner was refused something.

use std::fmt;
use std::io;
use std::path::PathBuf;

use shm::RegisterError;

/// A mistake of the device's owner, or a refusal of the system. What a driver does wrong through
/// its rings is no error here: it sets DEVICE_NEEDS_RESET.
#[derive(Debug)]
pub enum DeviceError {
    /// An argument that cannot be; the text says which and why.
    Invalid(String),
    /// The call is not allowed now; the text says why.
    State(String),
    /// The device was made before a fork and belongs to the parent process.
    Forked,
    /// The file of the disk cannot be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Somebody else uses the file of the disk; the text says which file and what to do.
    Busy(String),
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) | Self::State(why) | Self::Busy(why) => f.write_str(why),
            Self::Forked => f.write_str(
                "the software device was made before a fork and belongs to the parent process; \
                 make another one after the fork",
            ),
            Self::Open { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DeviceError {}

/// What a driver that reaches the device through its registers is told.
impl From<DeviceError> for RegisterError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Forked => Self::Forked,
            other => Self::Closed(other.to_string()),
        }
    }
}

impl From<io::Error> for DeviceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
