//! How the driver notifies the device.

use std::io;

use crate::eventfd::EventFd;
use crate::fence;

/// How the device is told that there are new chains.
#[derive(Debug)]
pub enum Doorbell {
    /// Not by us: whoever owns the queue asks whether a kick is due and carries it out.
    None,
    /// A signal on an eventfd.
    EventFd(EventFd),
}

impl Doorbell {
    /// Notify the device; false if that is left to the owner.
    #[inline]
    pub fn ring(&self) -> io::Result<bool> {
        match self {
            Self::None => Ok(false),
            Self::EventFd(event) => {
                fence::before_doorbell();
                event.signal()?;
                Ok(true)
            }
        }
    }
}
