"""The options of the block driver, as addresses and `open` take them."""

from collections.abc import Mapping
from typing import Final, cast

from vioblk.address import Option, choice, flag, integer, seconds
from vioblk.block.driver import QueueOptions, RingName

OPTIONS: Final[Mapping[str, Option]] = {
    "ring": choice(
        ("native", "reference"),
        "native: the ring in Rust; reference: the one in Python, for tests and study; native",
    ),
    "timeout_s": seconds("how long a batch of requests may take; 30"),
    "queue_count": integer(
        1,
        65535,
        "how many of the device's queues are used; all, or one each for this machine's processors",
    ),
    "ring_size": integer(
        1,
        32768,
        "descriptors in each ring, on a split ring a power of two; 256, or what the device allows",
    ),
    "writeback": flag(
        "the device may keep written data in a volatile cache until a flush; off: a write is "
        "stable when it returns, which is slower; on"
    ),
    "strict": flag("a used length that is too large breaks the queue; off: it is clamped; off"),
}


def queue_options(values: Mapping[str, object]) -> QueueOptions:
    """Those of the values that OPTIONS has read which shape the driver."""
    return QueueOptions(
        ring=cast(RingName, values.get("ring", "native")),
        queue_count=cast(int | None, values.get("queue_count")),
        ring_size=cast(int | None, values.get("ring_size")),
        strict=bool(values.get("strict", False)),
        writeback=bool(values.get("writeback", True)),
    )
