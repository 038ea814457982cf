"""One vhost-user connection: whole messages out, checked replies in, all within a time limit.

The peer is not trusted. What it sends is bounded before it is read, and descriptors that it sends
along are dropped by the kernel before they exist in this process. After any failure the two sides
no longer agree where a message begins, so the connection is given up and every later call says why.
An interruption (Ctrl-C) is no failure: the next call first ends the exchange that was interrupted.
"""

import contextlib
import errno
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from vioblk.errors import (
    AddressError,
    DeviceGoneError,
    ForkedError,
    TransportError,
)
from vioblk.transport.vhost_user.exchange import Exchange
from vioblk.transport.vhost_user.messages import NEED_REPLY_FLAG, U64, VERSION, Request

DEFAULT_TIMEOUT_S: Final = 5.0
"""How long one exchange may take. A back end that drains a former client takes seconds."""

MAX_PATH_BYTES: Final = 107
"""sockaddr_un holds 108 bytes with the final zero."""


def connect(path: str, timeout_s: float) -> socket.socket:
    """Connect to the back end's socket at `path`.

    Raises AddressError for a path that no socket can have, TransportError (with the reason and
    what to do) if nobody answers there.
    """
    if not path or "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise AddressError(
            f"vhost-user: {path!r} cannot be the path of a socket: give 1 to {MAX_PATH_BYTES} "
            "bytes without a zero byte, a relative path if the absolute one is too long"
        )
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connected.settimeout(timeout_s)
        connected.connect(path)
        connected.setblocking(False)
    except OSError as error:
        connected.close()
        raise TransportError(_why_not_connected(path, error)) from error
    except BaseException:
        connected.close()
        raise
    return connected


def _why_not_connected(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"vhost-user: there is no socket at {path}; is the back end running?"
    if isinstance(error, PermissionError):
        return (
            f"vhost-user: no permission to connect to {path}; "
            "give this user write access to the socket, and search access to its directories"
        )
    if isinstance(error, ConnectionRefusedError):
        if not _is_socket(path):
            return f"vhost-user: {path} is not a socket; give the path that the back end listens on"
        return (
            f"vhost-user: nobody listens on {path} (it was left by a back end that is gone); "
            "start the back end again"
        )
    if isinstance(error, (BlockingIOError, TimeoutError)):
        return (
            f"vhost-user: the back end at {path} takes no further connection: "
            "it serves one client at a time and others are waiting; disconnect them"
        )
    return f"vhost-user: cannot connect to {path}: {error.strerror or error}"


def _is_socket(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    return False


class Connection:
    """The front end's side of one connection. Thread-safe: one exchange at a time.

    `connected` is a connected stream socket, owned by the Connection from now on. Every call raises
    ProtocolError (the peer broke the protocol), DeviceGoneError (it hung up, or the connection was
    given up before), TransportError (it did not answer within `timeout_s`, or refused),
    ForkedError (the process is not the one that made it).
    """

    def __init__(
        self, connected: socket.socket, peer: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._peer = peer
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._given_up: str | None = None
        self._unfinished: Exchange | None = None
        """Under way, or else interrupted: its reply may be still to come."""
        self._owner_pid = os.getpid()
        self.reply_ack = False
        """Whether REPLY_ACK was negotiated: `tell` then asks for an acknowledgement."""

    def fileno(self) -> int:
        """The socket; it hangs up when the peer does, or when the connection is given up."""
        return self._socket.fileno()

    @property
    def given_up(self) -> str | None:
        """Why the connection can no longer be used; None while it can."""
        return self._given_up

    def ask(
        self,
        request: Request,
        payload: bytes = b"",
        *,
        reply_lengths: Collection[int] = (U64.size,),
        hint: str = "",
    ) -> bytes:
        """Send a request that has a reply, and return the reply's payload.

        `reply_lengths`: the payload lengths in bytes that are allowed. `hint` is added to the
        error of a reply that does not come.
        """
        exchange = Exchange(self._peer, request, payload, reply_lengths=reply_lengths)
        return self._run(exchange, hint)

    def ask_u64(self, request: Request, *, hint: str = "") -> int:
        """Send a request without payload whose reply is one number."""
        (number,) = U64.unpack(self.ask(request, hint=hint))
        return int(number)

    def tell(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that has no reply of its own, and wait until it was carried out.

        With REPLY_ACK the back end acknowledges it, else a later answer shows that it got so far.
        Raises TransportError if the back end refuses it; the connection remains usable.
        """
        if not self.reply_ack:
            self.post(request, payload, fds)
            self.sync(request)
            return
        flags = VERSION | NEED_REPLY_FLAG
        exchange = Exchange(
            self._peer, request, payload, fds, flags=flags, reply_lengths=(U64.size,)
        )
        (code,) = U64.unpack(self._run(exchange))
        if code:
            raise TransportError(
                f"{self._peer} refused {request.name} (code {code:#x}); its log may say why"
            )

    def post(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that has no reply, and do not wait for anything."""
        self._run(Exchange(self._peer, request, payload, fds))

    def sync(self, after: Request) -> None:
        """Make sure that the back end has survived what it was sent: messages come in order, so an
        answer to a harmless question shows that the ones before were carried out."""
        self.ask_u64(Request.GET_FEATURES, hint=f"it was sent {after.name} just before")

    def check_alive(self) -> None:
        """Raise DeviceGoneError if the peer has hung up; does not wait."""
        self._refuse_after_fork()
        with self._lock:
            self._refuse_if_gone()
            poller = select.poll()
            poller.register(self._socket, select.POLLRDHUP)
            if poller.poll(0):
                raise self._ended(ConnectionResetError(errno.ECONNRESET, "end of stream"))

    def give_up(self, reason: str) -> None:
        """Hang up, for `reason`: every later call raises DeviceGoneError with it. Never raises."""
        with self._lock:
            if self._given_up is None:
                self._given_up = reason
            self._shut_down()

    def close(self) -> None:
        """Hang up and free the socket; an exchange in another thread ends. Idempotent."""
        if os.getpid() != self._owner_pid:
            # The child shares the connection, so hanging up would cut off the parent; and the lock
            # may have been held, at the fork, by a thread that does not exist here.
            self._socket.close()
            return
        if self._given_up is None:
            self._given_up = "it was closed"
        self._shut_down()
        with self._lock:
            self._socket.close()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self, exchange: Exchange, hint: str = "") -> bytes:
        """Hold the connection for one exchange, and return its reply. Gives up on any failure."""
        self._refuse_after_fork()
        with self._lock:
            self._refuse_if_gone()
            deadline = time.monotonic() + self._timeout_s
            try:
                self._end_unfinished(deadline)
                self._unfinished = exchange
                reply = exchange.run(self._socket, deadline)
            except OSError as error:
                raise self._ended(error, exchange.request, hint) from error
            self._unfinished = None
            return reply

    def _end_unfinished(self, deadline: float) -> None:
        """End the exchange that was interrupted; nobody waits for its reply any more."""
        if self._unfinished is not None and self._unfinished.begun:
            self._unfinished.run(self._socket, deadline)

    def _refuse_after_fork(self) -> None:
        if os.getpid() != self._owner_pid:
            raise ForkedError(
                f"{self._peer} belongs to process {self._owner_pid}; open it again after the fork"
            )

    def _refuse_if_gone(self) -> None:
        if self._given_up is not None:
            raise DeviceGoneError(self._gone())

    def _ended(
        self, error: OSError, request: Request | None = None, hint: str = ""
    ) -> TransportError:
        """Give up because of `error`, and return what to raise."""
        failure = self._failure_of(error, request, hint)
        self.give_up(str(failure))
        return failure

    def _failure_of(self, error: OSError, request: Request | None, hint: str) -> TransportError:
        """What to tell the caller about an exchange that ended with `error`."""
        if self._given_up is not None:
            return DeviceGoneError(self._gone())
        if isinstance(error, TransportError):
            return error
        if isinstance(error, TimeoutError):
            return TransportError(self._no_answer(request, hint))
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            return DeviceGoneError(self._hung_up(request, hint))
        return TransportError(f"the connection to {self._peer} failed: {error}")

    def _gone(self) -> str:
        return f"the connection to {self._peer} is gone: {self._given_up}; open it again"

    def _no_answer(self, request: Request | None, hint: str) -> str:
        name = "anything" if request is None else request.name
        return (
            f"{self._peer} did not answer {name} within {self._timeout_s:g} s"
            f"{f' ({hint})' if hint else ''}; the connection was closed"
        )

    def _hung_up(self, request: Request | None, hint: str) -> str:
        when = "while it was idle" if request is None else f"instead of answering {request.name}"
        return (
            f"{self._peer} hung up {when}{f' ({hint})' if hint else ''}: "
            "it has exited, or dropped this connection"
        )
