"""The qtest protocol: port I/O, memory accesses and interrupt lines of a machine, as text lines.

A command is a line, answered by a line that begins with OK. `IRQ raise N` and `IRQ lower N` come
between the answers, whenever a line that is listened to changes.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from itertools import count
from threading import Lock
from typing import Final, TypeVar

from vioblk.errors import DeviceGoneError, ForkedError, ProtocolError, TransportError
from vioblk.locks import acquire

PORT_READ: Final = {1: "inb", 2: "inw", 4: "inl"}
PORT_WRITE: Final = {1: "outb", 2: "outw", 4: "outl"}
MEMORY_READ: Final = {1: "readb", 2: "readw", 4: "readl"}
MEMORY_WRITE: Final = {1: "writeb", 2: "writew", 4: "writel"}

UNREAD_MAX: Final = 64
"""Answers to posted commands that wait in the socket. QEMU stands still once it is full."""

REPLY_TIMEOUT_S: Final = 10.0

T = TypeVar("T")

OUR_ERRORS: Final = (BlockingIOError, TimeoutError)


class Qtest:
    """The way to the registers of a machine. Thread-safe; every call has a bound.

    A command that was not answered in time is carried out when QEMU goes on, and its late answer
    is not taken for another's. All calls raise TransportError if there is no answer within
    `timeout_s`, DeviceGoneError once QEMU has ended, ProtocolError for an answer that makes no
    sense, ForkedError in a forked child.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        timeout_s: float = REPLY_TIMEOUT_S,
        explain_end: Callable[[], str] = lambda: "QEMU has hung up",
    ) -> None:
        """`explain_end`: says why there is no answer any more."""
        self._socket = connection
        self._timeout_s = timeout_s
        self._explain_end = explain_end
        self._on_irq: Callable[[int, bool], None] | None = None
        self._owner_pid = os.getpid()
        self._lock = Lock()
        self._lines: deque[bytes] = deque()
        """Answers that have been received."""
        self._partial = b""
        self._unread = 0
        """Answers to come, or in `_lines`, that nobody waits for."""
        self._in_step = True
        """Off after a call that did not see its answer: which answer is whose is not known."""
        self._tags = count()
        self._closed = False
        bound_calls(connection, send_timeout_s=timeout_s, receive_timeout_s=timeout_s)

    def read_port(self, port: int, width: int) -> int:
        """`width`: 1, 2 or 4 bytes."""
        return self._number(f"{PORT_READ[width]} {port:#x}")

    def write_port(self, port: int, width: int, value: int) -> None:
        """`width`: 1, 2 or 4 bytes."""
        self._command(f"{PORT_WRITE[width]} {port:#x} {value:#x}")

    def read_memory(self, address: int, width: int) -> int:
        """`width`: 1, 2 or 4 bytes."""
        return self._number(f"{MEMORY_READ[width]} {address:#x}")

    def write_memory(self, address: int, width: int, value: int) -> None:
        """`width`: 1, 2 or 4 bytes."""
        self._command(f"{MEMORY_WRITE[width]} {address:#x} {value:#x}")

    def post(self, command: str) -> None:
        """Send a command, and do not wait until it has been carried out."""

        def work() -> None:
            if self._unread >= UNREAD_MAX:
                self._skip_unread()
            self._send(command)
            self._unread += 1

        self._take_turn(work)

    def listen_to_interrupts(self, call: Callable[[int, bool], None]) -> None:
        """`call` with number and level of each input of the I/O APIC that changes.

        It is called by whoever uses the connection, and must not use it itself. Where nobody does,
        somebody has to wait until `fileno` is readable, and `poll`.
        """
        self._on_irq = call
        self._command("irq_intercept_in ioapic")

    def fileno(self) -> int:
        """The descriptor of the connection; -1 once it is closed."""
        return self._socket.fileno()

    def poll(self) -> None:
        """Deliver the interrupts that have arrived, without waiting for any."""

        def work() -> None:
            try:
                self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            # What has been received are answers to posts: each other call takes its own.
            while self._lines and self._unread:
                self._lines.popleft()
                self._unread -= 1

        self._take_turn(work)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._closed = True
        self._socket.close()

    def _number(self, command: str) -> int:
        words = self._command(command)
        try:
            return int(words[0], 0)
        except (IndexError, ValueError):
            raise ProtocolError(f"QEMU answered {command!r} with {words}") from None

    def _command(self, command: str) -> list[str]:
        """The words of the answer after OK."""

        def work() -> bytes:
            self._send(command)
            self._skip_unread()
            return self._next_answer()

        text = self._take_turn(work).decode(errors="replace")
        first, *words = text.split() or [""]
        if first != "OK":
            raise ProtocolError(f"QEMU answered {command!r} with {text!r}")
        return words

    def _take_turn(self, work: Callable[[], T]) -> T:
        """Do `work` while nobody else uses the connection; says in the package's terms what went
        wrong."""
        if os.getpid() != self._owner_pid:
            raise ForkedError("this QEMU was started by the parent process")
        held: list[bool] = []
        try:
            if not acquire(self._lock, self._timeout_s, held):
                raise TimeoutError
            if self._closed:
                raise EOFError
            if not self._in_step:
                self._get_in_step()
            # And on again only at the end, as an exception may come from a signal at any moment.
            self._in_step = False
            result = work()
            self._in_step = True
        except OUR_ERRORS:
            reason = TransportError(
                f"QEMU has not answered for {self._timeout_s:g} s; is it stopped, or waiting for "
                "slow requests?"
            )
        except (EOFError, OSError):
            reason = None
        else:
            return result
        finally:
            if True in held:
                self._lock.release()
        # Without the lock, as it waits.
        raise reason or DeviceGoneError(self._explain_end()) from None

    def _skip_unread(self) -> None:
        while self._unread:
            self._next_answer()
            self._unread -= 1

    def _next_answer(self) -> bytes:
        while not self._lines:
            self._receive(0)
        return self._lines.popleft()

    def _receive(self, flags: int) -> None:
        """Take what has arrived: answers to `_lines`, interrupts to their listener."""
        received = self._socket.recv(65536, flags)
        if not received:
            raise EOFError
        *lines, self._partial = (self._partial + received).split(b"\n")
        for line in lines:
            if line.startswith(b"IRQ "):
                self._deliver(line)
            else:
                self._lines.append(line)

    def _deliver(self, line: bytes) -> None:
        _, change, number = line.split()
        if self._on_irq is not None:
            self._on_irq(int(number), change == b"raise")

    def _send(self, command: str) -> None:
        try:
            self._socket.sendall(command.encode() + b"\n")
        except OUR_ERRORS:
            # Half a command may have been sent, so nothing can follow it.
            self._closed = True
            raise

    def _get_in_step(self) -> None:
        """Skip all answers up to that of a command which QEMU does not know, and names in it."""
        tag = f"vioblk-{next(self._tags)}"
        self._send(tag)
        while tag.encode() not in self._next_answer():
            pass
        self._unread = 0
        self._in_step = True


def bound_calls(
    connection: socket.socket, *, send_timeout_s: float, receive_timeout_s: float = 0
) -> None:
    """Let the kernel bound each call (0: not at all): a time-out of Python's would be one more
    system call."""
    connection.setblocking(True)
    for option, timeout_s in (
        (socket.SO_SNDTIMEO, send_timeout_s),
        (socket.SO_RCVTIMEO, receive_timeout_s),
    ):
        seconds, fraction = divmod(timeout_s, 1)
        timeval = struct.pack("@ll", int(seconds), int(fraction * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, option, timeval)
