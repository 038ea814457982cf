//! Why a queue did not do what it was asked, or could not be made.

use std::fmt;
use std::io;

use crate::error::{Broken, LayoutError};
use crate::request::RequestError;
use crate::slots::STATUS_PENDING;

/// Why a queue did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// A record was refused; neither it nor any after it was submitted.
    Request {
        /// Which, from 0.
        index: usize,
        /// Why.
        error: RequestError,
    },
    /// A slot pool cannot be what it is to be, or cannot be used as it is.
    Shape(RequestError),
    /// The device failed the request of a slot, or did not say what became of it.
    SlotFailed {
        /// Which.
        slot: u32,
        /// What its status byte holds.
        status: u8,
    },
    /// The call is not allowed now; the text says why.
    State(String),
    /// The device broke the rules of the ring.
    Broken(Broken),
    /// The device has gone, or the queue was given up; the text says why.
    Gone(String),
    /// The device was reset while the call waited.
    Reset,
    /// Time is up.
    Timeout {
        /// Records that were completed.
        completed: usize,
        /// Records of the call.
        total: usize,
    },
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { index, error } => write!(f, "request {index}: {error}"),
            Self::Shape(error) => error.fmt(f),
            Self::SlotFailed { slot, status } => {
                write!(f, "the request of slot {slot} failed: {}", Status(*status))
            }
            Self::State(why) => f.write_str(why),
            Self::Broken(broken) => write!(f, "the device broke the rules of the ring: {broken}"),
            Self::Gone(why) => f.write_str(why),
            Self::Reset => f.write_str("the device was reset while the request was in flight"),
            Self::Timeout { completed, total } => write!(
                f,
                "timed out with {completed} of {total} requests completed; the device may still \
                 use the buffers of the others until it is reset"
            ),
        }
    }
}

impl std::error::Error for QueueError {}

/// What a status byte says (VIRTIO 1.4, 5.2.6 Device Operation).
struct Status(u8);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("the device reports an I/O error (IOERR)"),
            2 => f.write_str("the device does not support the request (UNSUPP)"),
            STATUS_PENDING => f.write_str("the device completed it without writing a status"),
            other => {
                write!(f, "the device wrote status {other}, which VIRTIO does not define")
            }
        }
    }
}

/// Why a queue could not be made.
#[derive(Debug)]
pub enum NewQueueError {
    /// The ring or the slots do not fit.
    Layout(LayoutError),
    /// The system refused.
    Io(io::Error),
}

impl From<LayoutError> for NewQueueError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<io::Error> for NewQueueError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
