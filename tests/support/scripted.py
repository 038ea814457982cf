"""A device of registers only, which does as a test tells it and logs every access in order."""

from collections.abc import Callable
from typing import NamedTuple

from vioblk._native import DmaSpace, Mapping
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.errors import ResetTimeoutError
from vioblk.features import Feature
from vioblk.transport.base import (
    QUEUE_RESET_TIMEOUT_S,
    QueueAddresses,
    QueueWires,
    Transport,
)


class Access(NamedTuple):
    """One access to the device, or a call of the driver."""

    what: str
    value: object = None


class Script(Transport):
    """The device and the way to it in one.

    `log` holds every access. A function in `hooks` under the name of an access runs before it,
    and can change the device.
    """

    name = "scripted"
    device_type = BLOCK_DEVICE_TYPE
    memory_safe_after_close = True
    transport_features = frozenset({Feature.RING_RESET})

    def __init__(
        self,
        offered: int | frozenset[int] = 1 << Feature.VERSION_1,
        *,
        config: bytes = bytes(96),
        queues: int = 2,
    ) -> None:
        self.address = "scripted:device"
        self.space = DmaSpace()
        self.log: list[Access] = []
        self.hooks: dict[str, Callable[[], None]] = {}
        self.offered = offered if isinstance(offered, int) else sum(1 << bit for bit in offered)
        self.accepted = 0
        self.status = 0
        self.refuses_features = False
        self.resets = True
        self.resets_queues = True
        self.config = bytearray(config)
        self.generation = 0
        self.queues = queues
        self.enabled: dict[int, QueueAddresses] = {}
        self.config_changed: Callable[[], None] | None = None
        self.closed = False

    def accesses(self, *names: str) -> list[Access]:
        """The log, or only the accesses of these names."""
        return [each for each in self.log if not names or each.what in names]

    def statuses_written(self) -> list[object]:
        return [each.value for each in self.accesses("write_status")]

    def position(self, what: str, value: object = ...) -> int:
        """Where in the log an access is; the first one."""
        return next(
            position
            for position, each in enumerate(self.log)
            if each.what == what and value in (..., each.value)
        )

    def positions(self, what: str) -> list[int]:
        return [position for position, each in enumerate(self.log) if each.what == what]

    def _note(self, what: str, value: object = None) -> None:
        if what in self.hooks:
            self.hooks[what]()
        self.log.append(Access(what, value))

    def map_memory(self, length_bytes: int) -> Mapping:
        self._note("map_memory", length_bytes)
        return self.space.map(length_bytes, (len(self.space.mappings) + 1) << 40)

    def read_status(self) -> int:
        self._note("read_status")
        self.log[-1] = Access("read_status", self.status)
        return self.status

    def write_status(self, value: int) -> None:
        self._note("write_status", value)
        if value == 0:
            if self.resets:
                self.status = 0
                self.enabled.clear()
            return
        self.status = value & ~8 if self.refuses_features else value

    def read_features(self) -> int:
        self._note("read_features")
        return self.offered

    def write_features(self, accepted: int) -> None:
        self._note("write_features", accepted)
        self.accepted = accepted

    def read_config(self, offset: int, length_bytes: int) -> bytes:
        self._note("read_config", (offset, length_bytes))
        return bytes(self.config[offset : offset + length_bytes])

    def write_config(self, offset: int, data: bytes) -> None:
        self._note("write_config", (offset, data))
        self.config[offset : offset + len(data)] = data

    def config_generation(self) -> int:
        self._note("config_generation", self.generation)
        return self.generation

    def queue_count(self) -> int:
        return self.queues

    def queue_size_max(self, index: int) -> int:
        return 256 if index < self.queues else 0

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        self._note("enable_queue", index)
        self.enabled[index] = addresses
        return QueueWires(None, None)

    def reset_queue(self, index: int, timeout_s: float = QUEUE_RESET_TIMEOUT_S) -> None:
        self._note("reset_queue", index)
        if not self.resets_queues:
            raise ResetTimeoutError(f"queue {index} did not confirm its reset")
        self.enabled.pop(index, None)

    def on_config_change(self, callback: Callable[[], None] | None) -> None:
        self.config_changed = callback

    def notify(self) -> None:
        """Tell of a change of the configuration, on this thread."""
        assert self.config_changed is not None, "nobody listens"
        self.config_changed()

    def close(self) -> None:
        self._note("close")
        self.closed = True
