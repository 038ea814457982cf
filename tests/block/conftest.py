from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final, Protocol

import pytest

import vioblk
from tests.block.recording import RecordingTransport, recorded
from tests.block.tap import Tap
from vioblk.block.disk import BlockDevice
from vioblk.block.driver import QueueOptions, RingName

FORMATS: Final = {
    "split": (),
    "split-in-order": ("in_order=on",),
    "packed": ("packed=on",),
    "packed-in-order": ("packed=on", "in_order=on"),
}
"""What an address says for a ring of each format."""


class OpenDisk(Protocol):
    def __call__(self, address: str = "mem:1M", **options: Any) -> BlockDevice: ...


class OpenRecorded(Protocol):
    def __call__(self, address: str, **options: Any) -> tuple[BlockDevice, RecordingTransport]: ...


@pytest.fixture
def ring_format() -> str:
    """Of the disks' rings; some modules run on every format."""
    return "split"


@pytest.fixture
def open_disk(ring: RingName, ring_format: str) -> Iterator[OpenDisk]:
    """Opens software disks on the ring under test, and closes them in the end."""
    with ExitStack() as stack:

        def opener(address: str = "mem:1M", **options: Any) -> BlockDevice:
            for option in FORMATS[ring_format]:
                address += ("&" if "?" in address else "?") + option
            return stack.enter_context(vioblk.open(address, ring=ring, **options))

        yield opener


@pytest.fixture
def disk(open_disk: OpenDisk) -> BlockDevice:
    """A disk of 1 MiB."""
    return open_disk()


@pytest.fixture
def open_recorded(ring: RingName) -> Iterator[OpenRecorded]:
    """Opens a disk with a record of what the driver does with its transport."""
    with ExitStack() as stack:

        def opener(
            address: str,
            queue_count: int | None = None,
            ring_size: int | None = None,
            writeback: bool = True,
            transport_class: type[RecordingTransport] = RecordingTransport,
            **options: Any,
        ) -> tuple[BlockDevice, RecordingTransport]:
            transport = recorded(address, transport_class)
            queues = QueueOptions(ring, queue_count, ring_size, writeback=writeback)
            disk = BlockDevice(transport, queues=queues, **options)
            return stack.enter_context(disk), transport

        yield opener


@pytest.fixture
def tapped(open_recorded: OpenRecorded) -> Iterator[Callable[..., tuple[BlockDevice, Tap]]]:
    """Opens a disk whose device serves only through the tap that comes with it."""
    with ExitStack() as stack:

        def opener(address: str, **options: Any) -> tuple[BlockDevice, Tap]:
            separator = "&" if "?" in address else "?"
            disk, transport = open_recorded(f"{address}{separator}threaded=off", **options)
            tap = Tap(transport)
            stack.callback(tap.close)
            return disk, tap

        yield opener
