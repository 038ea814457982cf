"""A driver and a queue that do next to nothing, and log what is asked of them."""

import threading
from collections.abc import Callable, Mapping, Sequence

from tests.support.scripted import Access
from vioblk._native import SplitQueue
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.device import QueueHandle, QueueParts, VirtioDevice
from vioblk.features import FeatureSet, Wish
from vioblk.ring import Chain, Ring, reference

RINGS: dict[str, Callable[..., Ring]] = {
    "native": SplitQueue,
    "reference": reference.SplitQueue,
}


class PlainQueue:
    """A bare ring, with what the device layer needs of a queue."""

    def __init__(self, parts: QueueParts, ring: str, log: list[Access]) -> None:
        self.parts = parts
        self.ring: Ring = RINGS[ring](
            parts.ring,
            parts.size,
            legacy_align=parts.legacy_align,
            indirect_table_size=parts.indirect_table_size,
            event_idx=parts.event_idx,
            in_order=parts.in_order,
        )
        self.log = log
        self.aborted: str | None = None
        self.was_aborted = threading.Event()

    @property
    def in_flight(self) -> int:
        return self.ring.outstanding_count

    @property
    def broken(self) -> str | None:
        return self.aborted or self.ring.broken

    def abort(self, reason: str) -> None:
        self.log.append(Access("abort", reason))
        self.aborted = reason
        self.was_aborted.set()

    def reclaim(self) -> list[int]:
        self.log.append(Access("reclaim", self.parts.index))
        return self.ring.reclaim()

    def submit(self, length_bytes: int = 512) -> int:
        """Hand the device one writable buffer; the head."""
        buffer = self.parts.memory.alloc(length_bytes)
        head = self.ring.push(Chain([], [(buffer, 0, length_bytes)]))
        self.ring.publish()
        return head


class PlainDriver:
    """Takes one queue. Its calls go into `log`; a function in `steps` runs in the call of that
    name, and can do what a driver does."""

    name = "plain"
    device_type = BLOCK_DEVICE_TYPE

    def __init__(
        self,
        log: list[Access],
        *,
        wish: Wish | None = None,
        ring: str = "native",
        queues: int = 1,
        indirect_table_size: int = 4,
    ) -> None:
        self.log = log
        self.ring = ring
        self.queue_count = queues
        self.indirect_table_size = indirect_table_size
        self.steps: dict[str, Callable[[VirtioDevice], object]] = {}
        self.announce: Callable[[], None] | None = None
        self.shown: FeatureSet | None = None
        self.handles: list[QueueHandle[PlainQueue]] = []
        self.lost: Mapping[int, Sequence[int]] | None = None
        self.drained = True
        self._wish = Wish() if wish is None else wish

    @property
    def queue(self) -> PlainQueue:
        return self.handles[0].queue

    def wish(self, offered: FeatureSet) -> Wish:
        self.shown = offered
        return self._wish

    def check(self, device: VirtioDevice) -> None:
        self._step("check", device)

    def start(self, device: VirtioDevice) -> None:
        self._step("start", device)
        self.handles = [
            device.add_queue(
                index,
                device.queue_size_max(index) if device.legacy else 8,
                self._build,
                indirect_table_size=self.indirect_table_size,
            )
            for index in range(self.queue_count)
        ]

    def live(self, device: VirtioDevice) -> None:
        self._step("live", device)

    def config_changed(self, device: VirtioDevice) -> Callable[[], None] | None:
        self._step("config_changed", device)
        return self.announce

    def drain(self, device: VirtioDevice, timeout_s: float) -> bool:
        self._step("drain", device)
        return self.drained

    def stopped(self, device: VirtioDevice, lost: Mapping[int, Sequence[int]]) -> None:
        self._step("stopped", device)
        self.lost = lost

    def _build(self, parts: QueueParts) -> PlainQueue:
        self.log.append(Access("build", parts.index))
        return PlainQueue(parts, self.ring, self.log)

    def _step(self, name: str, device: VirtioDevice) -> None:
        self.log.append(Access(name))
        if name in self.steps:
            self.steps[name](device)
