"""The ways in which a function's events reach this process, each tried until one works.

The device announces used buffers and configuration changes, by MSI-X messages or by its INTx pin
(VIRTIO 1.4, 4.1.5.3 Used Buffer Notifications, 4.1.5.4 Notification of Device Configuration
Changes).
"""

import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final, Protocol, TypeVar

from vioblk.errors import DeviceGoneError, ProtocolError, TransportError, VioblkError
from vioblk.pci.access import PciPlatform
from vioblk.pci.capabilities import MsixCapability
from vioblk.pci.layout import ISR_CONFIG, ISR_QUEUE, NO_VECTOR, RegisterLayout
from vioblk.pci.msix import CONTROL_ENABLE
from vioblk.status import Status
from vioblk.transport.pci.presence import Presence
from vioblk.transport.watch import EventWatcher
from vioblk.weakly import weakly
from vioblk.wording import counted

ASK_AGAIN_S: Final = 1e-3
"""Between a question that was not answered in time and the same one again."""

T = TypeVar("T")


class RefusedError(Exception):
    """The plan does not work on this device, for this reason."""


class Function:
    """What a plan works with: one function, and whom to tell of configuration changes."""

    def __init__(
        self,
        platform: PciPlatform,
        layout: RegisterLayout,
        presence: Presence,
        msix: MsixCapability | None,
        on_config_change: Callable[[], None],
    ) -> None:
        self.platform = platform
        self.layout = layout
        self.presence = presence
        self._msix = msix
        table_size = 0 if msix is None else msix.vector_count
        self.vectors_available = min(table_size, platform.vector_count_max)
        self.on_config_change = on_config_change
        """May be called from any thread; it does not keep the transport alive."""

    def queue_count(self) -> int:
        """How many queues the device says it has. Raises DeviceGoneError."""
        return self.presence.judge(self.layout.queue_count(), 2)

    @property
    def msix_enabled(self) -> bool:
        """Whether MSI-X is on now, by us or by whoever drove the function before."""
        if self._msix is None:
            return False
        return bool(self.platform.config.read(self._msix.control_offset, 2) & CONTROL_ENABLE)

    def locate_config(self) -> None:
        """On the legacy interface the configuration lies elsewhere while MSI-X is enabled, which
        somebody else's reset of the function undoes."""
        if self.layout.interface == "legacy":
            self.layout.set_msix_enabled(self.msix_enabled)

    def map_config(self, vector: int) -> bool:
        """Map configuration changes; whether the device took the vector. Raises DeviceGoneError."""
        return self._took(self.layout.set_config_vector(vector))

    def map_queue(self, index: int, vector: int) -> bool:
        """The same for used buffers of queue `index`."""
        return self._took(self.layout.set_queue_vector(index, vector))

    def _took(self, taken: bool) -> bool:
        # What refuses a vector reads as all ones, and so does what is not there.
        if not taken:
            self.presence.judge(NO_VECTOR, 2)
        return taken


class Plan(Protocol):
    """One way. It lives until it is given up, or the transport is closed."""

    @property
    def mode(self) -> str:
        """The word by which it is asked for."""

    @property
    def detail(self) -> str:
        """What it comes to, for people."""

    def start(self) -> None:
        """Make configuration changes heard; again after each reset of the device, which undoes
        it. Raises RefusedError, TransportError."""

    def queue_fd(self, index: int) -> int | None:
        """The eventfd for used buffers of queue `index`, which the device now knows of; None if
        the queue is polled. Raises RefusedError, TransportError."""

    def stop(self, *, touch: bool) -> None:
        """Give it up, for another plan or for good. `touch`: the function may be accessed."""


class _MessagePlan:
    """What the plans with MSI-X share: vectors, and a thread that watches the first."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._fds: list[int] = []
        self._watcher: EventWatcher | None = None

    def _open(self, count: int, call: Callable[[], None], *, shared: bool = False) -> None:
        """Open the vectors, and let a thread watch the first.

        At each start anew: a reset of the whole function, by whoever, disables MSI-X and clears
        the table, and that of the device alone does not.
        """
        self._fds = _open_vectors(self._function, count)
        if self._watcher is not None:
            # The number may be the same and the eventfd another. A call that is under way may be
            # waiting for whoever starts the device.
            self._watcher.close(wait=False)
        self._watcher = EventWatcher(self._fds[0], call, "vioblk-config", shared=shared)

    def stop(self, *, touch: bool) -> None:
        """Switch MSI-X off, if the function may be accessed."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        if touch and self._fds:
            _close_vectors(self._function)
        self._fds = []


class VectorPlan(_MessagePlan):
    """MSI-X: vector 0 for configuration changes, and a vector for each queue, or none for them."""

    def __init__(self, function: Function, *, queues: bool, lenient: bool) -> None:
        super().__init__(function)
        self.mode = "msix" if queues else "config"
        self._queues = queues
        self._lenient = lenient
        self._wired: list[int] = []
        """Vectors that the device took for queues."""

    @property
    def detail(self) -> str:
        """What it comes to, for people."""
        if not self._queues:
            return "MSI-X, one vector for configuration changes; the queues are polled"
        return (
            f"MSI-X, {counted(len(self._fds), 'vector')}: one for configuration changes and one "
            "for each queue"
        )

    def start(self) -> None:
        """Open the vectors, and map the one for configuration changes."""
        queue_count = self._function.queue_count() if self._queues else 0
        self._open(queue_count + 1, self._function.on_config_change)
        self._wired.clear()
        _map_config(self._function)

    def queue_fd(self, index: int) -> int | None:
        """The eventfd of the queue's own vector; with `lenient`, of one that another queue has if
        the device refuses its own."""
        if not self._queues:
            return None
        candidates = [index + 1]
        if self._lenient:
            candidates += self._wired[-1:]
        for vector in candidates:
            if vector < len(self._fds) and self._function.map_queue(index, vector):
                self._wired.append(vector)
                return self._fds[vector]
        raise RefusedError(f"the device refused vector {candidates[0]} for queue {index}")


class SharedPlan(_MessagePlan):
    """MSI-X: one vector for everything.

    Whoever waits for a queue hears it directly, and looks whether there is anything for him. A
    thread looks whether the configuration has changed.
    """

    mode = "shared"
    detail = "MSI-X, one vector for all queues and for configuration changes"

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        self._seen: tuple[int, int] | None = None

    def start(self) -> None:
        """Open the vector, and map configuration changes to it."""
        self._open(1, weakly(self._on_interrupt), shared=True)
        _map_config(self._function)
        self._seen = self._look()

    def queue_fd(self, index: int) -> int | None:
        """The eventfd of the one vector."""
        if not self._function.map_queue(index, 0):
            raise RefusedError(f"the device refused vector 0 for queue {index}")
        return self._fds[0]

    def _look(self) -> tuple[int, int] | None:
        """What changes when there is something to tell of; None where nothing would."""
        layout = self._function.layout
        if layout.interface == "legacy":
            return None  # It has no generation.
        status = self._function.presence.judge(layout.read_status(), 1, zero_too=True)
        return status & Status.DEVICE_NEEDS_RESET, layout.config_generation()

    def _on_interrupt(self) -> None:
        before = self._seen
        try:
            self._seen = _ask(self._function, self._look, lambda: bool(self._fds))
        except (VioblkError, OSError):
            return  # Those who wait see the hang-up.
        if self._seen is None or self._seen != before:
            self._function.on_config_change()


class IntxPlan:
    """The INTx pin: one interrupt for everything, and the ISR status says what it stands for.

    One thread reads the ISR and passes on what it says, and another one tells of configuration
    changes: what is done there must not keep the queues waiting.
    """

    mode = "intx"
    detail = "INTx, one interrupt for all queues and for configuration changes"

    def __init__(self, function: Function) -> None:
        self._function = function
        self._used: _EventFd | None = None
        self._changed: _EventFd | None = None
        self._watchers: list[EventWatcher] = []

    def start(self) -> None:
        """Listen to the pin. The device does so too after a reset, so that once is enough."""
        if self._watchers:
            return
        function = self._function
        if function.msix_enabled:  # Then the pin is silent.
            function.platform.open_vectors(0)
            function.layout.set_msix_enabled(False)
        pin_fd = function.platform.open_intx()
        if pin_fd is None:
            raise RefusedError("the INTx pin of the function leads nowhere")
        self._used, self._changed = _EventFd(), _EventFd()
        self._watchers = [
            EventWatcher(self._changed.fd, function.on_config_change, "vioblk-config")
        ]
        self._watchers.append(EventWatcher(pin_fd, weakly(self._on_interrupt), "vioblk-intx"))

    def queue_fd(self, index: int) -> int | None:
        """One eventfd for all queues: the ISR does not say which of them it was."""
        assert self._used is not None, "the plan was started"
        return self._used.fd

    def _on_interrupt(self) -> None:
        function, used, changed = self._function, self._used, self._changed
        if used is None or changed is None:
            return
        try:
            isr = _ask(function, self._take_isr, lambda: self._used is not None)
        except (VioblkError, OSError):
            return  # Those who wait see the hang-up.
        if isr & ISR_QUEUE:
            used.signal()
        if isr & ISR_CONFIG:
            changed.signal()

    def _take_isr(self) -> int:
        # Once: reading clears it. 0 is somebody else's interrupt, on a shared pin.
        function = self._function
        isr = function.presence.judge(function.layout.read_isr(), 1)
        function.platform.acknowledge_intx()
        return isr

    def stop(self, *, touch: bool) -> None:
        """Listen no more."""
        for watcher in reversed(self._watchers):
            watcher.close()
        self._watchers = []
        for event in (self._used, self._changed):
            if event is not None:
                event.close()
        self._used = self._changed = None


class PollingPlan:
    """No interrupts: whoever waits looks again and again, and nobody tells of changes."""

    mode = "none"
    detail = "no interrupts; the queues are polled, and configuration changes go unnoticed"

    def start(self) -> None:
        """Nothing to do: after a reset no event is mapped to a vector."""

    def queue_fd(self, index: int) -> int | None:
        """None."""
        return None

    def stop(self, *, touch: bool) -> None:
        """Nothing to do."""


class _EventFd:
    """An eventfd that is closed with its object. Thread-safe."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._free = weakref.finalize(self, os.close, self.fd)
        self._lock = Lock()
        """Held while it is signalled: closed meanwhile, its number could be another file's."""

    def signal(self) -> None:
        """Wake whoever watches it; after `close`, nobody does."""
        with self._lock:
            if self._free.alive:
                # Full, after 2^64 - 2 signals that nobody read, it is signalled all the same.
                with suppress(BlockingIOError):
                    os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._free()


def _ask(function: Function, question: Callable[[], T], is_wanted: Callable[[], bool]) -> T:
    """What an interrupt means. A function that is late to answer is asked again, as long as that
    is wanted: it would not interrupt again before.

    Raises as accesses do.
    """
    while True:
        try:
            with function.presence.access():
                return question()
        except (DeviceGoneError, ProtocolError):
            raise
        except TransportError:
            if not is_wanted():
                raise
            time.sleep(ASK_AGAIN_S)


def _open_vectors(function: Function, count: int) -> list[int]:
    """Switch MSI-X on with `count` vectors; their eventfds."""
    available = function.vectors_available
    if count > available:
        needed = "is" if count == 1 else "are"
        raise RefusedError(
            f"{counted(count, 'MSI-X vector')} {needed} needed, and there "
            f"{'is' if available == 1 else 'are'} {available or 'none'}"
        )
    fds = function.platform.open_vectors(count)
    try:
        function.layout.set_msix_enabled(True)
    except ProtocolError as error:
        function.platform.open_vectors(0)
        raise RefusedError(str(error)) from error
    return fds


def _close_vectors(function: Function) -> None:
    """Undo `_open_vectors`, each step whatever becomes of those before. Never raises."""
    steps: tuple[Callable[[], object], ...] = (
        lambda: function.layout.set_config_vector(NO_VECTOR),
        lambda: function.platform.open_vectors(0),
        lambda: function.layout.set_msix_enabled(False),
    )
    for step in steps:
        try:
            step()
        except DeviceGoneError:
            return
        except (VioblkError, OSError):
            continue


def _map_config(function: Function) -> None:
    if not function.map_config(0):
        raise RefusedError("the device refused vector 0 for configuration changes")
