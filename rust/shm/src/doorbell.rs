//! How the driver notifies the device.
//!
//! A notification names the queue, or holds what the device asked for instead, in 16 bits; with
//! NOTIFICATION_DATA 16 more say how far the queue is (VIRTIO 1.4, 4.1.5.2 Available Buffer
//! Notifications). An eventfd stands for one queue, and carries nothing.

use std::fmt;
use std::io;
#[cfg(not(loom))]
use std::os::fd::OwnedFd;

use crate::eventfd::EventFd;
use crate::fence;
use crate::mmio::{MmioWindow, RegisterError, Width};

/// What a doorbell in a register is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What names the queue: its index, or its queue_notif_config_data.
    pub value: u16,
    /// NOTIFICATION_DATA: the store is 4 bytes, with the next available position above `value`.
    pub carries_data: bool,
}

impl Notification {
    /// The width of the store.
    #[inline]
    pub fn width(self) -> Width {
        if self.carries_data { Width::Bits32 } else { Width::Bits16 }
    }

    #[inline]
    fn word(self, next_available: u16) -> u32 {
        let data = if self.carries_data { u32::from(next_available) << 16 } else { 0 };
        data | u32::from(self.value)
    }
}

/// How the device is told that there are new chains.
#[derive(Debug, Default)]
pub enum Doorbell {
    /// Not by us: whoever owns the queue asks whether a kick is due and carries it out.
    #[default]
    None,
    /// A signal on an eventfd.
    EventFd(EventFd),
    /// A store to a register.
    Mmio(MmioDoorbell),
    /// A write to a file.
    #[cfg(not(loom))]
    File(FileDoorbell),
}

/// A register whose place was checked.
#[derive(Debug)]
pub struct MmioDoorbell {
    window: MmioWindow,
    offset: usize,
    notification: Notification,
}

/// A register behind a file that cannot be mapped (an I/O BAR): one `pwrite` is one store.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct FileDoorbell {
    fd: OwnedFd,
    offset: u64,
    notification: Notification,
}

/// Why the device was not notified.
#[derive(Debug)]
pub enum DoorbellError {
    /// The system refused.
    Io(io::Error),
    /// The register could not be written.
    Register(RegisterError),
}

impl fmt::Display for DoorbellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Register(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DoorbellError {}

impl From<io::Error> for DoorbellError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RegisterError> for DoorbellError {
    fn from(error: RegisterError) -> Self {
        Self::Register(error)
    }
}

impl Doorbell {
    /// A store to the register at `offset` of a window; an error if none can be there.
    pub fn mmio(
        window: MmioWindow,
        offset: usize,
        notification: Notification,
    ) -> Result<Self, RegisterError> {
        window.check_place(offset, notification.width())?;
        Ok(Self::Mmio(MmioDoorbell { window, offset, notification }))
    }

    /// A write at `offset` of a file; an error if that is not aligned, as the system might then
    /// split it.
    #[cfg(not(loom))]
    pub fn file(
        fd: OwnedFd,
        offset: u64,
        notification: Notification,
    ) -> Result<Self, crate::SpaceError> {
        let bytes = notification.width().bytes();
        if !offset.is_multiple_of(bytes as u64) || i64::try_from(offset).is_err() {
            return Err(crate::SpaceError::Invalid(format!(
                "a doorbell of {bytes} bytes cannot be at offset {offset:#x} of a file: it must be \
                 a multiple of {bytes}, below 2^63"
            )));
        }
        Ok(Self::File(FileDoorbell { fd, offset, notification }))
    }

    /// Whether a ring tells the device how far the queue is.
    pub fn carries_data(&self) -> bool {
        match self {
            Self::None | Self::EventFd(_) => false,
            Self::Mmio(bell) => bell.notification.carries_data,
            #[cfg(not(loom))]
            Self::File(bell) => bell.notification.carries_data,
        }
    }

    /// Notify the device; false if that is left to the owner. In either case the ring's stores
    /// come before the notification, the owner's own, too, if it follows this call.
    /// `next_available` is where in the ring the driver puts its next chain.
    #[inline]
    pub fn ring(&self, next_available: u16) -> Result<bool, DoorbellError> {
        fence::before_doorbell();
        match self {
            Self::None => return Ok(false),
            Self::EventFd(event) => event.signal()?,
            Self::Mmio(bell) => bell.ring(next_available)?,
            #[cfg(not(loom))]
            Self::File(bell) => bell.ring(next_available)?,
        }
        Ok(true)
    }
}

impl MmioDoorbell {
    fn ring(&self, next_available: u16) -> Result<(), RegisterError> {
        let Self { window, offset, notification } = self;
        window.write(*offset, notification.width(), notification.word(next_available))
    }
}

#[cfg(not(loom))]
impl FileDoorbell {
    fn ring(&self, next_available: u16) -> io::Result<()> {
        let word = self.notification.word(next_available).to_le_bytes();
        let bytes = self.notification.width().bytes();
        loop {
            match rustix::io::pwrite(&self.fd, &word[..bytes], self.offset) {
                Ok(written) if written == bytes => return Ok(()),
                Ok(written) => {
                    return Err(io::Error::new(
                        io::ErrorKind::WriteZero,
                        format!("{written} of the doorbell's {bytes} bytes were written"),
                    ));
                }
                // Nothing was written.
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
