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
    /// Notify the device; false if that is left to the owner. In either case the ring's stores
    /// come before the notification, the owner's own, too, if it follows this call.
    #[inline]
    pub fn ring(&self) -> io::Result<bool> {
        fence::before_doorbell();
        match self {
            Self::None => Ok(false),
            Self::EventFd(event) => {
                event.signal()?;
                Ok(true)
            }
        }
    }
}
