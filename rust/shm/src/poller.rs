//! epoll, with every wait bounded.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What to watch a descriptor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It is readable.
    Readable,
    /// It became readable since the last wait; it need never be read.
    Edge,
    /// Its other end has gone.
    HangUp,
}

impl Watch {
    fn purpose(self) -> &'static str {
        match self {
            Self::Readable | Self::Edge => "for signals",
            Self::HangUp => "for a hang-up",
        }
    }

    fn flags(self) -> EventFlags {
        match self {
            Self::Readable => EventFlags::IN,
            Self::Edge => EventFlags::IN | EventFlags::ET,
            Self::HangUp => EventFlags::RDHUP,
        }
    }
}

/// One thing that a wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// What `add` was given for the descriptor.
    pub token: u64,
    /// Whether the other end has gone (or the descriptor failed).
    pub hung_up: bool,
}

/// An epoll descriptor.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// Watching nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watch `fd`; `token` names it in what `wait` returns. An error says which descriptor it was.
    pub fn add(&self, fd: &impl AsFd, token: u64, watch: Watch) -> io::Result<()> {
        epoll::add(&self.0, fd, EventData::new_u64(token), watch.flags()).map_err(|error| {
            let (error, fd) = (io::Error::from(error), fd.as_fd().as_raw_fd());
            let text = format!(
                "cannot watch file descriptor {fd} {}: {error}; it must be an eventfd, a pipe or a \
                 socket, watched once",
                watch.purpose()
            );
            io::Error::new(error.kind(), text)
        })
    }

    /// Wait for at most `timeout`. An interrupting signal ends the wait early, with nothing found.
    pub fn wait(&self, timeout: Duration) -> io::Result<impl Iterator<Item = Ready> + use<>> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [empty; 16];
        let count = match epoll::wait(&self.0, &mut events, Some(&timeout)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        Ok(events.into_iter().take(count).map(move |Event { flags, data }| Ready {
            token: data.u64(),
            hung_up: flags.intersects(gone),
        }))
    }
}

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_cannot_be_watched_is_named() -> io::Result<()> {
        let file = rustix::fs::memfd_create("plain", rustix::fs::MemfdFlags::CLOEXEC)?;
        for (watch, purpose) in [(Watch::HangUp, "hang-up"), (Watch::Edge, "signals")] {
            let refused = Poller::new()?
                .add(&file, 0, watch)
                .map_err(|error| (error.kind(), error.to_string()));
            let Err((io::ErrorKind::PermissionDenied, text)) = refused else {
                panic!("a plain file was taken: {refused:?}");
            };
            let named = format!("file descriptor {} for", file.as_raw_fd());
            assert!(text.contains(&named) && text.contains(purpose), "{text}");
        }
        Ok(())
    }
}
