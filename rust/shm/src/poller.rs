//! epoll, with every wait bounded.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};

/// Shorter waits end in time.
const FINE: Duration = Duration::from_millis(2);

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

    /// Wait for at most `timeout`; 2 ms and more may be longer by 1 ms. An interrupting signal ends
    /// the wait early, with nothing found.
    pub fn wait(&self, timeout: Duration) -> io::Result<impl Iterator<Item = Ready> + use<>> {
        // epoll counts whole milliseconds, on systems that are not very new.
        let fine = !timeout.is_zero() && timeout < FINE;
        if fine {
            self.sleep(timeout)?;
        }
        let timeout = timespec(if fine { Duration::ZERO } else { timeout });
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

    /// Until there is something to be found, a signal comes, or exactly for `timeout`.
    fn sleep(&self, timeout: Duration) -> io::Result<()> {
        let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
        match rustix::event::poll(&mut watched, Some(&timespec(timeout))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn timespec(timeout: Duration) -> Timespec {
    Timespec {
        tv_sec: timeout.as_secs().min(i32::MAX as u64) as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
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
    fn a_short_wait_is_no_longer_than_asked_for_and_finds_what_comes() -> io::Result<()> {
        let (poller, event) = (Poller::new()?, crate::EventFd::new()?);
        poller.add(&event, 7, Watch::Edge)?;
        let nap = Duration::from_micros(50);
        // A busy machine makes some late, not all.
        let fastest = (0..50).map(|_| {
            let start = std::time::Instant::now();
            assert_eq!(poller.wait(nap).map(Iterator::count).ok(), Some(0));
            start.elapsed()
        });
        let fastest = fastest.min().unwrap_or_default();
        assert!(nap <= fastest && fastest < Duration::from_millis(1), "{fastest:?}");
        event.signal()?;
        let found: Vec<Ready> = poller.wait(nap)?.collect();
        assert_eq!(found, [Ready { token: 7, hung_up: false }]);
        assert_eq!(poller.wait(nap)?.count(), 0, "an edge is found once");
        Ok(())
    }

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
