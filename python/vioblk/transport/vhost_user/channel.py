"""The back-end channel: what a vhost-user back end says of its own accord.

One message matters, CONFIG_CHANGE. A small thread waits for it, since nobody else reads the
channel. What the back end sends is bounded and checked; a channel that carries garbage is closed,
which costs the notifications and nothing else.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Final

from vioblk.transport.vhost_user.messages import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    NEED_REPLY_FLAG,
    REPLY_FLAG,
    U64,
    VERSION,
    VERSION_MASK,
    BackendRequest,
)

logger = logging.getLogger("vioblk")

HANDLED: Final = 0
NOT_HANDLED: Final = 1
"""What a reply says (REPLY_ACK: zero is success)."""

SEND_TIMEOUT_S: Final = 5.0
JOIN_TIMEOUT_S: Final = 1.0


class BackendChannel:
    """Listens on a socket pair whose other end, `backend_end`, is for the back end.

    `on_config_change` is called on the channel's thread, after the reply, so that it may itself
    talk to the back end.
    """

    def __init__(self, on_config_change: Callable[[], None]) -> None:
        self._on_config_change = on_config_change
        self._socket, self.backend_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closing = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name="vioblk-vhost-user-channel", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:
            self.backend_end.close()
            if not self._thread.is_alive():
                self._socket.close()
            raise

    def close(self) -> None:
        """End the thread and free both sockets. Idempotent; allowed on the thread itself."""
        self.backend_end.close()
        with self._closing, contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            # Bounded: the callback may be waiting for a lock that the caller holds. The thread
            # then ends, and frees its socket, as soon as the caller lets go.
            self._thread.join(JOIN_TIMEOUT_S)

    def abandon(self) -> None:
        """Free the sockets in a forked child, where the thread does not exist."""
        self._socket.close()
        self.backend_end.close()

    def _run(self) -> None:
        try:
            while self._serve_one():
                pass
        except OSError as error:
            logger.warning("vhost-user: the back-end channel failed: %s", error)
        finally:
            with self._closing:
                self._socket.close()

    def _serve_one(self) -> bool:
        """Answer one message; False when the channel is of no further use."""
        header = self._receive(HEADER.size)
        if header is None:
            return False
        number, flags, length = HEADER.unpack(header)
        if flags & VERSION_MASK != VERSION or flags & REPLY_FLAG or length > MAX_PAYLOAD_BYTES:
            logger.warning(
                "vhost-user: the back-end channel carries garbage (message %d, flags %#x, "
                "%d bytes) and was closed",
                number,
                flags,
                length,
            )
            return False
        if self._receive(length) is None:
            return False
        known = number == BackendRequest.CONFIG_CHANGE
        if flags & NEED_REPLY_FLAG:
            # Before the callback: a back end that waits for it could not answer our questions.
            self._reply(number, HANDLED if known else NOT_HANDLED)
        if known:
            self._notify()
        return True

    def _notify(self) -> None:
        try:
            self._on_config_change()
        except Exception:
            logger.exception("vhost-user: the handling of a configuration change failed")

    def _receive(self, length: int) -> bytes | None:
        """Exactly `length` bytes; None at the end of the channel.

        Plain `recv`: descriptors that come along are dropped by the kernel.
        """
        received = bytearray()
        while len(received) < length:
            part = self._socket.recv(length - len(received))
            if not part:
                return None
            received += part
        return bytes(received)

    def _reply(self, number: int, code: int) -> None:
        flags = VERSION | REPLY_FLAG
        self._socket.settimeout(SEND_TIMEOUT_S)
        try:
            self._socket.sendall(HEADER.pack(number, flags, U64.size) + U64.pack(code))
        finally:
            self._socket.settimeout(None)
