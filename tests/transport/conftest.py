from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.support import pci_machine
from vioblk.block.disk import BlockDevice
from vioblk.errors import VioblkError
from vioblk.transport.software_pci import SoftwarePciPlatform, SoftwarePciTransport

MakeTransport = Callable[..., SoftwarePciTransport]
MakeDisk = Callable[..., BlockDevice]

PLATFORM_OPTIONS = frozenset(
    {"queues", "offer", "withhold", "threaded", "vectors", "describe", "queue_size_max"}
    | {"notify_multiplier", "bar_mapped", "queue_count_shown", "queue_size_shown", "short_common"}
)
TRANSPORT_OPTIONS = frozenset({"interrupts", "access", "interface"})


def _pick(options: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: options.pop(name) for name in names & options.keys()}


@pytest.fixture
def reach_function() -> Iterator[MakeTransport]:
    """Makes software devices on a PCI bus, and closes them in the end."""
    with ExitStack() as stack:

        def reach(platform: SoftwarePciPlatform | None = None, **options: Any) -> Any:
            if platform is None:
                platform = pci_machine.make_platform(**_pick(options, PLATFORM_OPTIONS))
            stack.callback(platform.close)
            transport = pci_machine.make_transport(platform, **options)
            stack.callback(transport.close)
            return transport

        yield reach


@pytest.fixture
def open_function(reach_function: MakeTransport) -> Iterator[MakeDisk]:
    """Opens disks on such devices, and closes them in the end."""
    with ExitStack() as stack:

        def close(disk: BlockDevice) -> None:
            # What a test did to the device may keep it from closing well.
            with suppress(VioblkError, OSError):
                disk.close(timeout_s=0.2)

        def open_it(transport: SoftwarePciTransport | None = None, **options: Any) -> BlockDevice:
            if transport is None:
                names = PLATFORM_OPTIONS | TRANSPORT_OPTIONS
                transport = reach_function(**_pick(options, names))
            disk = pci_machine.open_disk(transport, **options)
            stack.callback(close, disk)
            return disk

        yield open_it
