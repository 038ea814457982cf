"""Everything that is known of an open disk, as a typed value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vioblk.block.config import BlockConfig
from vioblk.block.limits import DiskLimits
from vioblk.features import Decision, Feature, FeatureSet


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One request queue."""

    index: int
    size: int
    """Descriptors in the ring."""
    format: str
    """Of the ring: "split" or "packed"."""
    in_order: bool
    """Whether the device uses requests in the order in which they were made available."""
    polling: bool
    """Whether waits look at the ring: by `set_polling`, or because there is no interrupt."""
    depth: int
    """Requests of the longest shape that are sure to fit at once."""
    in_flight: int
    clamped_count: int
    """Completions whose used length was larger than what the device may have written."""
    kick_count: int
    """How often the device was notified."""
    broken: str | None
    """Why it can no longer be used until a reset."""


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """A snapshot of a disk: what it is, and what was negotiated."""

    address: str
    transport: str
    """How it is reached: "software", "vhost-user"."""
    transport_details: Mapping[str, str]
    """What else is worth knowing of the way: a bus address, the interface, the interrupts."""
    ring: str
    """"native" or "reference"."""
    serial: str | None
    """Empty if the disk has none; None if the device has not told it yet."""
    capacity_bytes: int
    block_size: int
    """Bytes in a logical block."""
    read_only: bool
    writeback: bool
    """Whether the cache is, or must be presumed to be, volatile, as last set or announced."""
    timeout_s: float
    offered: FeatureSet
    accepted: FeatureSet
    features: tuple[Decision, ...]
    """What became of each offered feature, and why, in the order of the bits."""
    not_offered: tuple[str, ...]
    """Names of the features of rings and notifications that the device does not offer."""
    config: BlockConfig
    limits: DiskLimits
    device_queue_count: int
    """Request queues that the device has; `queues` are those in use, which may be fewer."""
    queues: tuple[QueueInfo, ...]

    @property
    def ring_format(self) -> str:
        """ "split", "split-in-order", "packed" or "packed-in-order"."""
        layout = "packed" if Feature.RING_PACKED in self.accepted else "split"
        return f"{layout}-in-order" if Feature.IN_ORDER in self.accepted else layout

    def as_dict(self) -> Mapping[str, object]:
        """The same in plain dicts, lists, strings and numbers, as JSON takes them."""
        plain: dict[str, object] = {
            name: getattr(self, name)
            for name in (
                "address", "transport", "ring", "ring_format", "serial", "capacity_bytes",
                "block_size", "read_only", "writeback", "timeout_s", "device_queue_count",
            )
        }  # fmt: skip
        plain["transport_details"] = dict(self.transport_details)
        plain["offered"] = list(self.offered.names)
        plain["accepted"] = list(self.accepted.names)
        plain["features"] = [
            {
                "bit": decision.bit,
                "name": decision.name,
                "verdict": decision.verdict.name.lower(),
                "reason": decision.reason,
            }
            for decision in self.features
        ]
        plain["not_offered"] = list(self.not_offered)
        plain["config"] = asdict(self.config)
        plain["limits"] = asdict(self.limits)
        plain["queues"] = [asdict(queue) for queue in self.queues]
        return plain
