"""What is bounded: instructions for a request, from Python to the ring and back."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from tests.instructions.callgrind import Count
from tests.instructions.workload import BATCH


class Bound(NamedTuple):
    """The driver's share of one way to do requests."""

    name: str
    what: str
    parts: tuple[str, ...]
    """Pieces of work that are added."""
    device: str | None
    """The device's share, to be taken off where it is in `parts`."""
    request_count: int
    """Requests that the parts are for."""
    counted: int
    """Instructions for a request when the bound was set: x86-64, CPython 3.11."""
    most: int
    """About twice as many, as interpreters and C libraries differ."""

    allocations: int
    """Calls of malloc and its like by the extension in all of the parts, however many requests
    they are for; no more than these, as they do not vary."""

    def allocate(self, counts: Mapping[str, Count]) -> float:
        """Such calls now, the device's included."""
        return sum(counts[part].allocations for part in self.parts)

    def measure(self, counts: Mapping[str, Count]) -> float:
        """Instructions for a request now."""
        total = sum(counts[part].instructions for part in self.parts)
        if self.device is not None:
            total -= counts[self.device].instructions
        return total / self.request_count


def _submit_and_reap(name: str) -> tuple[str, ...]:
    return f"{name}: submit", f"{name}: reap"


BOUNDS: Final = (
    Bound(
        "general",
        f"submit_many and reap_many, {BATCH} reads of a sector, split ring",
        _submit_and_reap("general"),
        None,
        BATCH,
        counted=770,
        most=1600,
        allocations=2,
    ),
    Bound(
        "packed",
        f"submit_many and reap_many, {BATCH} reads of a sector, packed ring",
        _submit_and_reap("packed"),
        None,
        BATCH,
        counted=813,
        most=1700,
        allocations=2,
    ),
    Bound(
        "slots",
        f"submit and reap of a slot pool, {BATCH} reads of a sector, split ring",
        _submit_and_reap("slots"),
        None,
        BATCH,
        counted=232,
        most=500,
        allocations=0,
    ),
    Bound(
        "packed slots",
        f"submit and reap of a slot pool, {BATCH} reads of a sector, packed ring",
        _submit_and_reap("packed slots"),
        None,
        BATCH,
        counted=386,
        most=800,
        allocations=0,
    ),
    Bound(
        "single",
        "submit_many and reap_many, one read of a sector",
        _submit_and_reap("single"),
        None,
        1,
        counted=10100,
        most=21000,
        allocations=2,
    ),
    Bound(
        "execute",
        f"execute, {BATCH} reads of a sector",
        ("execute",),
        "general: device",
        BATCH,
        counted=840,
        most=1700,
        allocations=9,
    ),
    Bound(
        "readinto",
        "disk.readinto of a sector into DMA memory",
        ("readinto",),
        "single: device",
        1,
        counted=2330,
        most=5000,
        allocations=0,
    ),
    Bound(
        "write",
        "disk.write of a sector from DMA memory",
        ("write",),
        "single: device",
        1,
        counted=2020,
        most=5000,
        allocations=0,
    ),
    Bound(
        "read",
        "disk.read of a sector into bytes",
        ("read",),
        "single: device",
        1,
        counted=27000,
        most=54000,
        allocations=0,
    ),
)
