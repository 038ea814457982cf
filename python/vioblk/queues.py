"""The virtqueues of one device: discovered, set up, reset one at a time, taken back."""

from collections.abc import Callable
from typing import Any, Final

from vioblk._native import Region, packed_layout, split_layout
from vioblk.driver import Q, QueueHandle, QueueParts, Virtqueue
from vioblk.errors import ProtocolError, StateError
from vioblk.features import Feature, FeatureSet
from vioblk.memory import DmaMemory
from vioblk.ring import RingLayout
from vioblk.transport.base import QueueAddresses, Transport

QUEUE_SIZE_MAX: Final = 32768
"""Of a ring of either format (VIRTIO 1.4, 2.7 Split Virtqueues, 2.8 Packed Virtqueues)."""


def size_hint(transport: Transport, size: int, size_max: int, packed: bool) -> str:
    """What makes `size` possible, to end a message that it is not; empty if nothing does."""
    if size > size_max:
        larger = size if packed else 1 << (size - 1).bit_length()
        possible = transport.makes_device and larger <= QUEUE_SIZE_MAX
        return f"; open the device with queue_size={larger} for larger ones" if possible else ""
    hint = "; a packed ring (packed=on) can have any size, if the device offers one"
    return hint if size >= 1 and not packed else ""


def reset_reason(index: int) -> str:
    """What those get to hear who lose a request to the reset of queue `index` alone."""
    return (
        f"queue {index} was reset, and its requests in flight are lost; if reset_queue() did not "
        "succeed, call it again, or reset the device"
    )


class DeviceQueues:
    """The queues of one device, for `VirtioDevice`, which says when each call is allowed.

    Not thread-safe: the device's lock guards it.
    """

    def __init__(self, transport: Transport, memory: DmaMemory) -> None:
        self._transport: Transport | None = transport
        self._memory = memory
        self.features = FeatureSet()
        """What was accepted, since FEATURES_OK."""
        self._handles: dict[int, QueueHandle[Any]] = {}
        self._rings: dict[int, Region] = {}
        """Known to the device, perhaps in part, until a reset."""
        self._count: int | None = None
        self._sizes: dict[int, int] = {}
        """What the device has said of its queues since the last reset, each asked for once: it
        could answer otherwise the next time."""

    def _open_transport(self) -> Transport:
        if self._transport is None:
            raise StateError("the device was closed; open it again")
        return self._transport

    # What the device has

    def count(self) -> int:
        """How many queues the transport knows of."""
        if self._count is None:
            self._count = self._open_transport().queue_count()
        return self._count

    def size_max(self, index: int) -> int:
        """The largest size of queue `index` in descriptors; 0 if there is no such queue."""
        if index not in self._sizes:
            self._sizes[index] = self._open_transport().queue_size_max(index)
        return self._sizes[index]

    # What is in use

    def live(self) -> list[Virtqueue]:
        """Those that exist, usable or not."""
        return [handle.queue for handle in self._handles.values() if handle.exists]

    @property
    def in_flight(self) -> int:
        """Requests in flight on all queues."""
        return sum(queue.in_flight for queue in self.live())

    def abort(self, reason: str) -> None:
        """Send everybody who waits, or comes later, away with DeviceGoneError(reason)."""
        for queue in self.live():
            queue.abort(reason)

    # Setting up

    def add(
        self,
        index: int,
        size: int,
        build: Callable[[QueueParts], Q],
        *,
        indirect_table_size: int = 0,
    ) -> QueueHandle[Q]:
        """Set up a queue: see `VirtioDevice.add_queue`."""
        if not 0 <= index < self.count():
            raise ValueError(f"there is no queue {index}: the device has {self.count()}")
        if index in self._handles:
            raise ValueError(f"queue {index} has been set up already")
        self._check_size(index, size)
        handle = QueueHandle(self._set_up(index, size, indirect_table_size), build)
        self._handles[index] = handle
        return handle

    def bring_up(self) -> None:
        """Build the objects that can notify the device, which is live now."""
        for handle in self._handles.values():
            handle.bring_up()

    def _set_up(self, index: int, size: int, indirect_table_size: int) -> QueueParts:
        """Lay out a fresh ring, and make it known to the device."""
        transport = self._open_transport()
        if Feature.INDIRECT_DESC not in self.features:
            indirect_table_size = 0
        layout = self._layout(size, indirect_table_size)
        ring = self._memory.alloc(layout.length)
        self._rings[index] = ring
        wires = transport.enable_queue(
            index,
            QueueAddresses(
                size=size,
                descriptors_address=ring.device_address + layout.descriptors_offset,
                driver_address=ring.device_address + layout.driver_offset,
                device_address=ring.device_address + layout.device_offset,
            ),
        )
        return QueueParts(
            index=index,
            size=size,
            space=self._memory.space,
            memory=self._memory,
            ring=ring,
            layout=layout,
            wires=wires,
            hangup_fd=transport.hangup_fd,
            packed=Feature.RING_PACKED in self.features,
            legacy_align=transport.legacy_align,
            indirect_table_size=indirect_table_size,
            event_idx=Feature.EVENT_IDX in self.features,
            in_order=Feature.IN_ORDER in self.features,
        )

    def _layout(self, size: int, indirect_table_size: int) -> RingLayout:
        if Feature.RING_PACKED in self.features:
            return packed_layout(size, indirect_table_size=indirect_table_size)
        return split_layout(
            size,
            legacy_align=self._open_transport().legacy_align,
            indirect_table_size=indirect_table_size,
        )

    def _check_size(self, index: int, size: int) -> None:
        stated = self.size_max(index)
        legacy = self._open_transport().legacy_align is not None
        if legacy and size != stated:
            raise ValueError(
                f"queue {index} has {stated} descriptors, and not {size}: on the legacy "
                "interface the device alone decides"
            )
        if legacy and (size > QUEUE_SIZE_MAX or size & (size - 1)):
            raise ProtocolError(
                f"queue {index} has {size} descriptors, the device says, but a ring has a power "
                f"of two up to {QUEUE_SIZE_MAX}"
            )
        size_max = min(stated, QUEUE_SIZE_MAX)
        packed = Feature.RING_PACKED in self.features
        if not 1 <= size <= size_max or (size & (size - 1) and not packed):
            what = "a number" if packed else "a power of two"
            hint = size_hint(self._open_transport(), size, size_max, packed)
            raise ValueError(
                f"queue {index} cannot have {size} descriptors: {what} from 1 to {size_max} is "
                f"needed{hint}"
            )

    # Resetting one

    def reset(self, index: int, size: int | None, timeout_s: float) -> list[int]:
        """Reset one queue and set it up again: see `VirtioDevice.reset_queue`."""
        handle = self._handles.get(index)
        if handle is None:
            raise ValueError(
                f"queue {index} was not set up; those in use are "
                f"{', '.join(map(str, sorted(self._handles)))}"
            )
        size = handle.size if size is None else size
        self._check_size(index, size)
        table_size = handle.indirect_table_size
        if size < table_size:
            raise ValueError(
                f"queue {index} cannot have {size} descriptors: its indirect tables have "
                f"{table_size}, and may not be longer than the queue"
            )
        # First: whoever comes late finds it gone, and stays away from the wires. It stays so if
        # this does not come to its end, be it by an exception of a signal handler.
        handle.queue.abort(reset_reason(index))
        self._open_transport().reset_queue(index, timeout_s)
        handle.take_back()
        handle.replace(self._set_up(index, size, table_size))
        lost, handle.lost = handle.lost, []
        return lost

    # The end

    def reclaim(self, reason: str) -> dict[int, list[int]]:
        """After a reset of the device: take back everything that was in flight; the queues are of
        no more use afterwards. By index, the tokens of what never completed."""
        lost = {}
        for handle in self._handles.values():
            if handle.exists:
                # First: whoever comes late must find it gone, and stays away from the wires.
                handle.queue.abort(reason)
                handle.take_back()
                lost[handle.index] = handle.lost
            handle.forget()
        self._handles.clear()
        self._rings.clear()
        self.features = FeatureSet()
        self._count = None
        self._sizes.clear()
        return lost

    def close(self) -> None:
        """Let go of the transport: there are no queues any more."""
        self._transport = None

    def abandon(self) -> object:
        """Give up what the device might still write to; the caller keeps it, for ever."""
        kept = (self._open_transport().space, self._handles, self._rings)
        self._handles, self._rings = {}, {}
        return kept
