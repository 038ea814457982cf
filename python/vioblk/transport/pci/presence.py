"""Whether the function is still there. Once it has gone, nothing of it is accessed any more."""

import os
import select
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vioblk.errors import DeviceGoneError, ProtocolError, StateError, TransportError
from vioblk.pci.access import PciPlatform
from vioblk.pci.header import ABSENT_VENDORS, VENDOR_OFFSET


class Presence:
    """The watch over one function. Every access to it is made within `access()`.

    A function that was unplugged reads as all ones, on some machines as zeros. So a value of that
    kind is `judge`d: the vendor ID tells whether the function is there. When it is not, waiters on
    the queues are told by the hang-up of `hangup_fd`.
    """

    def __init__(self, platform: PciPlatform, address: str) -> None:
        self._config = platform.config
        # Weakly: threads hold this, and must not keep the machine alive.
        self._platform = weakref.ref(platform)
        self._address = address
        self._ended: str | None = None
        self._closed = False
        self._silent = False
        sockets = _sockets(platform.hangup_fd)
        self._socket = sockets[0]
        self._free = weakref.finalize(self, _close_all, sockets)

    @property
    def hangup_fd(self) -> int:
        """Hangs up when the function has gone."""
        return self._socket.fileno()

    @property
    def gone(self) -> bool:
        """Whether the function is known to have gone, here or by the platform."""
        return self._ended is not None or self._closed or self._hung_up()

    @property
    def silent(self) -> bool:
        """Whether the last access failed without the function having gone: the machine did not
        answer in time, and each further access may take as long."""
        return self._silent

    @contextmanager
    def access(self) -> Iterator[None]:
        """Access the function. Raises DeviceGoneError if it has gone, StateError after `close`."""
        self._check()
        try:
            yield
        except DeviceGoneError as error:
            self._mark(str(error))
            raise
        except TransportError as error:
            # What is against the rules is an answer all the same.
            self._silent = not isinstance(error, ProtocolError)
            raise
        self._silent = False

    def judge(self, value: int, length_bytes: int, *, zero_too: bool = False) -> int:
        """`value`, which was read with `length_bytes`, if the function is there.

        Only all ones (and with `zero_too` zero) are a reason to look. Raises DeviceGoneError.
        """
        if value == (1 << 8 * length_bytes) - 1 or (zero_too and value == 0):
            self._look()
        return value

    def _look(self) -> None:
        if self._config.read(VENDOR_OFFSET, 2) in ABSENT_VENDORS:
            raise DeviceGoneError(
                f"{self._address}: the device has gone: its registers and its vendor ID read as "
                "if nothing were there; was it unplugged?"
            )

    def _check(self) -> None:
        if self._closed:
            raise self._closed_error()
        if self._ended is None and self._hung_up():
            if self._closed:  # Meanwhile: the socket was shut by us.
                raise self._closed_error()
            self._mark(f"{self._address}: the device has gone: {self._why_it_hung_up()}")
        if self._ended is not None:
            raise DeviceGoneError(self._ended)

    def _hung_up(self) -> bool:
        # One for each look: a poller refuses to be used by two threads at once.
        poller = select.poll()
        try:
            poller.register(self._socket, select.POLLRDHUP)
        except ValueError:
            raise self._closed_error() from None
        return bool(poller.poll(0))

    def _why_it_hung_up(self) -> str:
        platform = self._platform()
        known = None if platform is None else platform.explain_end()
        return known or "it was unplugged, or its machine ended"

    def _closed_error(self) -> StateError:
        return StateError(f"{self._address} was closed; open it again")

    def _mark(self, reason: str) -> None:
        if self._ended is None:
            self._ended = reason
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self._free()


def _sockets(hangup_fd: int | None) -> tuple[socket.socket, ...]:
    """The one that hangs up, and what has to stay open for it."""
    if hangup_fd is None:
        return socket.socketpair()
    return (socket.socket(fileno=os.dup(hangup_fd)),)


def _close_all(sockets: tuple[socket.socket, ...]) -> None:
    for each in sockets:
        each.close()
