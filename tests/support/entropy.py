"""An entropy device that answers as a test tells it, on a thread of its own."""

import mmap
import os
import select
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

from tests.support.scripted import Script
from vioblk._native import Doorbell
from vioblk.device_types import ENTROPY
from vioblk.features import Feature
from vioblk.transport.base import QueueAddresses, QueueWires

WRITE = 2
DESCRIPTOR = struct.Struct("<QIHH")
USED_ENTRY = struct.Struct("<II")


class Answer(NamedTuple):
    """What the device does with a buffer."""

    data: bytes
    used_length: int | None = None
    """What it says it wrote; None: the truth."""
    head: int | None = None
    """Which buffer it says it was; None: the truth."""


Answers = Callable[[int], Answer | None]
"""From the length of a buffer to what to do with it; None: never give it back."""


def honest(length: int) -> Answer:
    """Fill the buffer."""
    return Answer(bytes(i % 251 for i in range(length)))


class EntropyScript(Script):
    """Registers as of any scripted device, and one queue that is served when it is notified."""

    device_type = ENTROPY

    def __init__(
        self,
        answers: Answers = honest,
        *,
        interrupts: bool = True,
        legacy: bool = False,
        event_idx: bool = False,
        in_order: bool = False,
    ) -> None:
        """With `event_idx` it can miss a notification, once in a blue moon: Python has no fence.
        It works in order in any case; `in_order` says so."""
        offered: set[int] = {Feature.INDIRECT_DESC}
        offered |= set() if legacy else {Feature.VERSION_1}
        offered |= {Feature.EVENT_IDX} if event_idx else set()
        offered |= {Feature.IN_ORDER} if in_order else set()
        super().__init__(frozenset(offered), queues=1)
        self.legacy_align = 4096 if legacy else None
        self.answers = answers
        self.asked: list[int] = []
        """The lengths of the buffers, in order."""
        self.kick_count = 0
        self.kick_fd, self.interrupt_fd = os.eventfd(0), os.eventfd(0)
        self.stop_fd, self._stopper_fd = os.pipe()
        self._hanger, self.hangup_fd = _hangup_pair()
        self._interrupts = interrupts
        self._seen = self._used = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        super().enable_queue(index, addresses)
        self._seen = self._used = 0
        interrupt_fd = self.interrupt_fd if self._interrupts else None
        return QueueWires(Doorbell.eventfd(self.kick_fd), interrupt_fd)

    def hang_up(self) -> None:
        """As a device does whose process has ended."""
        hanger, self._hanger = self._hanger, -1
        os.close(hanger)  # From here on others go on, and may close this device.

    def close(self) -> None:
        if not self.closed:
            os.write(self._stopper_fd, b"x")
            self._thread.join()
            fds = [self.kick_fd, self.interrupt_fd, self.stop_fd, self._stopper_fd, self._hanger]
            for fd in [*fds, self.hangup_fd]:
                if fd is not None and fd >= 0:
                    os.close(fd)
        super().close()

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self.kick_fd, select.POLLIN)
        poller.register(self.stop_fd, select.POLLIN)
        while all(fd != self.stop_fd for fd, _ in poller.poll()):
            self.kick_count += os.eventfd_read(self.kick_fd)
            if self.enabled:
                self._serve_queue(self.enabled[0])

    def _serve_queue(self, queue: QueueAddresses) -> None:
        [mapping] = self.space.mappings
        start = mapping.device_address
        with mmap.mmap(mapping.fd, mapping.length, offset=mapping.file_offset) as memory:

            def word(address: int) -> int:
                return int.from_bytes(memory[address - start : address - start + 2], "little")

            avail_event = queue.device_address - start + 4 + USED_ENTRY.size * queue.size

            def has_more() -> bool:
                """After it has been said what the next notification is wanted for."""
                memory[avail_event : avail_event + 2] = self._seen.to_bytes(2, "little")
                return self._seen != word(queue.driver_address + 2)

            while has_more():
                head = word(queue.driver_address + 4 + 2 * (self._seen % queue.size))
                self._seen = (self._seen + 1) & 0xFFFF
                entry = queue.descriptors_address + DESCRIPTOR.size * head - start
                address, length, flags, _ = DESCRIPTOR.unpack_from(memory, entry)
                assert flags == WRITE, "one buffer, which the device writes"
                self.asked.append(length)
                answer = self.answers(length)
                if answer is None:
                    continue
                memory[address - start : address - start + len(answer.data)] = answer.data
                used = queue.device_address - start
                told = len(answer.data) if answer.used_length is None else answer.used_length
                said_head = head if answer.head is None else answer.head
                entry = used + 4 + USED_ENTRY.size * (self._used % queue.size)
                memory[entry : entry + USED_ENTRY.size] = USED_ENTRY.pack(said_head, told)
                self._used = (self._used + 1) & 0xFFFF
                memory[used + 2 : used + 4] = self._used.to_bytes(2, "little")
                os.eventfd_write(self.interrupt_fd, 1)


def _hangup_pair() -> tuple[int, int]:
    import socket

    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()
