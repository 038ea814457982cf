"""One exchange: a message out, and its reply in if it has one, checked before it is believed.

A signal handler may raise anywhere in it, as Ctrl-C does, and the stream must not lose its place by
that. So an exchange keeps what it has sent and received, and when it is run again goes on there.
"""

import errno
import select
import socket
import time
from array import array
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from vioblk.errors import ProtocolError
from vioblk.transport.vhost_user.messages import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    REPLY_FLAG,
    VERSION,
    VERSION_MASK,
    Request,
    request_name,
)

T = TypeVar("T")

NO_REPLY: Final[Collection[int]] = ()
"""The reply lengths of a message that has none."""


class Exchange:
    """A message to `peer`, with descriptors if need be, and what has come of it so far.

    `flags` stand in its header, `reply_lengths` are the payload lengths in bytes that its reply may
    have. The descriptors must stay open until the message has been sent.
    """

    def __init__(
        self,
        peer: str,
        request: Request,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = VERSION,
        reply_lengths: Collection[int] = NO_REPLY,
    ) -> None:
        self.request = request
        self._peer = peer
        self._message = HEADER.pack(request, flags, len(payload)) + payload
        self._fds = fds
        self._reply_lengths = reply_lengths
        self._sent: list[int] = []
        self._received: list[tuple[bytes, object, int, object]] = []

    @property
    def begun(self) -> bool:
        """Whether the peer has got a part of the message, or all of it."""
        return any(self._sent)

    def run(self, connected: socket.socket, deadline: float) -> bytes:
        """Carry the exchange to its end, and return the payload of the reply.

        Raises TimeoutError at the deadline, ConnectionResetError at the end of the stream,
        ProtocolError for a reply that cannot be, or another OSError.
        """
        self._send(connected, deadline)
        if not self._reply_lengths:
            return b""
        header = self._receive(connected, HEADER.size, deadline)
        whole = self._receive(connected, HEADER.size + self._payload_length(header), deadline)
        return whole[HEADER.size :]

    def _send(self, connected: socket.socket, deadline: float) -> None:
        while (sent := sum(self._sent)) < len(self._message):
            rest = memoryview(self._message)[sent:]
            # The descriptors go with the first byte.
            fds = self._fds if not sent else ()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            try:
                _keep(self._sent, connected.sendmsg, [rest], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                _await(connected, select.POLLOUT, deadline)

    def _receive(self, connected: socket.socket, length: int, deadline: float) -> bytes:
        """The first `length` bytes of the reply."""
        while (missing := length - sum(len(part) for part, *_ in self._received)) > 0:
            try:
                # No room for control data: the kernel drops descriptors and says so.
                _keep(self._received, connected.recvmsg, missing)
            except BlockingIOError:
                _await(connected, select.POLLIN, deadline)
                continue
            if not self._received[-1][0]:
                raise ConnectionResetError(errno.ECONNRESET, "end of stream")
        if any(flags & socket.MSG_CTRUNC for _, _, flags, _ in self._received):
            raise self._garbage("file descriptors that nobody asked for")
        return b"".join(part for part, *_ in self._received)[:length]

    def _payload_length(self, header: bytes) -> int:
        number, flags, length = HEADER.unpack(header)
        if number != self.request:
            raise self._garbage(f"a reply to {request_name(number)}")
        if flags & VERSION_MASK != VERSION or not flags & REPLY_FLAG:
            raise self._garbage(f"flags {flags:#x} (a reply of version 1 has 0x5)")
        if length > MAX_PAYLOAD_BYTES or length not in self._reply_lengths:
            allowed = " or ".join(str(each) for each in sorted(set(self._reply_lengths)))
            raise self._garbage(f"a payload of {length} bytes (not {allowed})")
        return int(length)

    def _garbage(self, what: str) -> ProtocolError:
        return ProtocolError(
            f"{self._peer} answered {self.request.name} with {what}; is it a vhost-user back end?"
        )


def _keep(results: list[T], call: Callable[..., T], *arguments: object) -> None:
    """Append what `call` returns to `results`.

    From the call to the list no byte code is run, so no signal handler either: what went through
    the socket is known even if one raises.
    """
    results.extend(map(call, *([argument] for argument in arguments)))


def _await(connected: socket.socket, event: int, deadline: float) -> None:
    """Wait until the socket is ready for `event`. Raises TimeoutError at the deadline."""
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    poller = select.poll()
    poller.register(connected, event)
    poller.poll(remaining_s * 1000)
