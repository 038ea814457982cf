"""The QEMU monitor protocol: JSON objects, a line each. A thread reads answers and events."""

import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from threading import RLock, Thread, current_thread
from typing import Any, Final

from vioblk.errors import (
    DeviceGoneError,
    ForkedError,
    ProtocolError,
    TransportError,
    UnsupportedError,
)
from vioblk.transport.qemu.qtest import bound_calls

REPLY_TIMEOUT_S: Final = 10.0

EVENTS_KEPT: Final = 1000
"""Those that nobody waits for are dropped, the oldest first."""

JOIN_TIMEOUT_S: Final = 1.0

Event = Mapping[str, Any]
"""As QEMU sends it: `event`, `data`, `timestamp`."""


class QmpError(TransportError):
    """QEMU refused a command of the monitor."""

    def __init__(self, command: str, kind: str, description: str) -> None:
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.kind = kind
        """QEMU's class of error: GenericError, DeviceNotFound, CommandNotFound."""
        self.description = description


class Qmp:
    """A monitor. Thread-safe; every call has a bound.

    All calls raise TransportError if there is no answer in time, QmpError if QEMU refuses,
    DeviceGoneError once it has ended, ForkedError in a forked child, UnsupportedError for what
    is no text.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        timeout_s: float = REPLY_TIMEOUT_S,
        explain_end: Callable[[], str] = lambda: "QEMU has hung up",
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """`on_event` is called with each event, on the thread that reads them, which it must not
        keep waiting; what it refers to lives until QEMU has ended."""
        self._socket = connection
        self._timeout_s = timeout_s
        self._explain_end = explain_end
        self._owner_pid = os.getpid()
        self._ids = count(1)
        self._inbox = _Inbox(connection, on_event)
        bound_calls(connection, send_timeout_s=timeout_s)
        self._reader = Thread(target=self._inbox.read, name="vioblk-qemu-monitor", daemon=True)
        self._reader.start()

    def start(self, timeout_s: float) -> tuple[int, int, int]:
        """Wait for the greeting and leave negotiation mode; QEMU's version.

        It answers when the machine is complete. Raises as all calls do.
        """
        deadline = time.monotonic() + timeout_s
        greeting = self._inbox.wait(lambda inbox: inbox.greeting, timeout_s)
        if greeting is None:
            raise self._silence("its greeting", timeout_s)
        self._run("qmp_capabilities", {}, max(0.0, deadline - time.monotonic()))
        version = greeting["QMP"]["version"]["qemu"]
        return version["major"], version["minor"], version["micro"]

    def run(self, command: str, /, **arguments: object) -> Any:
        """Run a command; what it returns. An underscore in an argument's name stands for a dash;
        the few names that QEMU writes with underscores are for `run_with`."""
        return self._run(command, _with_dashes(arguments), self._timeout_s)

    def run_with(self, command: str, arguments: Mapping[str, object]) -> Any:
        """The same, with the arguments' names as QEMU writes them."""
        return self._run(command, arguments, self._timeout_s)

    def hmp(self, line: str) -> str:
        """Run a line of the human monitor; what it prints."""
        return str(self._run("human-monitor-command", {"command-line": line}, self._timeout_s))

    def wait_event(
        self,
        name: str,
        timeout_s: float,
        matches: Callable[[Event], bool] = lambda event: True,
    ) -> Event | None:
        """The oldest event called `name` that has not been waited for yet; None if none comes."""

        def take(inbox: _Inbox) -> Event | None:
            for event in inbox.events:
                if event["event"] == name and matches(event):
                    inbox.events.remove(event)
                    return event
            return None

        found: Event | None = self._inbox.wait(take, timeout_s)
        return found

    def close(self) -> None:
        """Hang up, and wait for the thread. Idempotent.

        In a forked child nothing happens: the connection is the parent's.
        """
        if os.getpid() == self._owner_pid:
            self._inbox.close()
            if self._reader is not current_thread():
                self._reader.join(JOIN_TIMEOUT_S)

    def _run(self, command: str, arguments: Mapping[str, object], timeout_s: float) -> Any:
        if os.getpid() != self._owner_pid:
            raise ForkedError("this QEMU was started by the parent process")
        number = next(self._ids)
        message = {"execute": command, "arguments": arguments, "id": number}
        if not self._inbox.send(_encoded(message)):
            raise _late(command, self._timeout_s)
        answer = self._inbox.wait(lambda inbox: inbox.answers.pop(number, None), timeout_s)
        if answer is None:
            raise self._silence(command, timeout_s)
        if "error" in answer:
            raise QmpError(command, answer["error"]["class"], answer["error"]["desc"])
        return answer["return"]

    def _silence(self, what: str, timeout_s: float) -> TransportError:
        if self._inbox.ended:
            return DeviceGoneError(self._explain_end())
        return _late(what, timeout_s)


class _Inbox:
    """What has been received. The thread holds this, and not Qmp, which may be forgotten."""

    def __init__(self, connection: socket.socket, on_event: Callable[[Event], None] | None) -> None:
        self.greeting: dict[str, Any] | None = None
        self.answers: dict[int, dict[str, Any]] = {}
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.ended = False
        self._socket = connection
        self._on_event = on_event
        self._send_lock = RLock()
        # One thread may take it twice: who is forgotten is closed on any thread, at any moment.
        self._lock = RLock()
        self._bells: set[SimpleQueue[None]] = set()
        """Of those who wait. No condition, which an exception of a signal handler could spoil."""

    def read(self) -> None:
        """The whole of the thread: take messages until the connection ends."""
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self._take(json.loads(line))
        except Exception:
            pass  # It has hung up or said nonsense; whoever waits is told that it has ended.
        finally:
            with self._lock:
                self.ended = True
                self._ring()
            with self._send_lock:
                self._socket.close()

    def _take(self, message: dict[str, Any]) -> None:
        if not isinstance(message, dict):
            raise ProtocolError(f"the monitor said {message}")
        with self._lock:
            if "event" in message:
                self.events.append(message)
            elif "QMP" in message:
                self.greeting = message
            elif "id" in message:
                self.answers[message["id"]] = message
            else:
                raise ProtocolError(f"the monitor said {message}")
            self._ring()
        if "event" in message and self._on_event is not None:
            self._on_event(message)

    def send(self, message: bytes) -> bool:
        """Whether all of it was sent in time; without, nothing can follow it."""
        with self._send_lock:
            try:
                if not self.ended:
                    self._socket.sendall(message)
            except BlockingIOError:
                self.close()
                return False
            except OSError:
                self.close()
            return True

    def wait(self, take: "Callable[[_Inbox], Any]", timeout_s: float) -> Any:
        """What `take` finds, as soon as it is not None; None if the time or the connection ends."""
        deadline = time.monotonic() + timeout_s
        bell: SimpleQueue[None] = SimpleQueue()
        self._bells.add(bell)
        try:
            while True:
                with self._lock:
                    found, ended = take(self), self.ended
                left_s = deadline - time.monotonic()
                if found is not None or ended or left_s <= 0:
                    return found
                with suppress(Empty):
                    bell.get(timeout=left_s)
        finally:
            self._bells.discard(bell)

    def _ring(self) -> None:
        for bell in tuple(self._bells):
            bell.put(None)

    def close(self) -> None:
        with self._lock:
            if not self.ended:
                self.ended = True
                self._ring()
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)


def _late(what: str, timeout_s: float) -> TransportError:
    return TransportError(
        f"QEMU has not answered for {timeout_s:g} s (waiting for {what}); is it stopped, or "
        "waiting for slow requests?"
    )


def _encoded(message: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(message, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise UnsupportedError(
            f"QEMU's monitor takes text only, and {error.object[error.start : error.end]!r} is a "
            "byte of none"
        ) from None


def _with_dashes(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in arguments.items()}
