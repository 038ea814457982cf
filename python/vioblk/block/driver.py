"""The driver of block devices: what it accepts, which queues it makes, what it reads."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from vioblk._native import BlockLimits, BlockQueue, Gate
from vioblk.block.config import CAPACITY, WRITEBACK, BlockConfig, read_block_config
from vioblk.block.deadline import Deadline
from vioblk.block.features import BLOCK_DEVICE_TYPE, BlockFeature
from vioblk.block.limits import (
    OVERHEAD_DESCRIPTORS,
    DiskLimits,
    RequestFeatures,
    disk_limits,
    queue_limits,
)
from vioblk.block.queue import RequestQueue
from vioblk.block.request import COMPLETION_RECORD
from vioblk.device import VirtioDevice
from vioblk.driver import QueueHandle, QueueParts
from vioblk.errors import (
    DeviceGoneError,
    NegotiationError,
    ProtocolError,
    QueueBroken,
    QueueResetError,
    StateError,
    VioblkError,
)
from vioblk.features import EITHER_RING, Feature, FeatureSet, Wish
from vioblk.queues import reset_reason, size_hint

if TYPE_CHECKING:
    from vioblk.block.reference_queue import ReferenceBlockQueue

RingName: TypeAlias = Literal["native", "reference"]

NO_QUEUES: Final = "the device has no queues now; reset or close the disk"

CLOSING: Final = "the disk is being closed; if close() was interrupted, call it again"

CLOSED: Final = "the disk has been closed; open it again"

RESETTING: Final = (
    "the disk is being reset; wait until reset() has returned, and if it was interrupted call it "
    "again"
)

SIZE_MIN: Final = OVERHEAD_DESCRIPTORS + 1
"""Descriptors of the shortest request with data, and so of the smallest queue."""

DEFAULT_RING_SIZE: Final = 256
"""Descriptors, or as many as the device allows."""

WANTED: Final = frozenset(
    {
        BlockFeature.SIZE_MAX,
        BlockFeature.SEG_MAX,
        BlockFeature.GEOMETRY,
        BlockFeature.RO,
        BlockFeature.BLK_SIZE,
        BlockFeature.FLUSH,
        BlockFeature.TOPOLOGY,
        BlockFeature.CONFIG_WCE,
        BlockFeature.MQ,
        BlockFeature.DISCARD,
        BlockFeature.WRITE_ZEROES,
    }
)
"""Accepted where offered. None of them is required."""

DECLINED: Final[Mapping[int, str]] = {
    BlockFeature.BARRIER: "this driver orders requests by flushes, not by barriers",
    BlockFeature.SCSI: "this driver sends no SCSI commands",
    BlockFeature.LIFETIME: "this driver does not ask for wear yet",
    BlockFeature.SECURE_ERASE: "this driver does not erase securely yet",
    BlockFeature.ZONED: "this driver does not manage zones yet",
}


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How the queues are to be made, and the cache to be set."""

    ring: RingName = "native"
    queue_count: int | None = None
    """None: as many as the device has, but not more than this machine has processors."""
    ring_size: int | None = None
    """Descriptors in each, on a split ring a power of two; None: DEFAULT_RING_SIZE or what the
    device allows. On the legacy interface it is the device's number, and no other can be asked
    for."""
    strict: bool = False
    """A used length that is too large breaks the queue instead of being clamped."""
    writeback: bool = True
    """Whether the device may keep what was written in a volatile cache until a flush."""

    def __post_init__(self) -> None:
        if self.ring not in ("native", "reference"):
            raise ValueError(f"ring must be 'native' or 'reference', not {self.ring!r}")
        for name in ("queue_count", "ring_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")


class BlockDriver:
    """Drives one block device for one disk. The device object calls it (see `vioblk.device`)."""

    name = "virtio-blk"
    device_type = BLOCK_DEVICE_TYPE

    config: BlockConfig
    """As last read: at the start and after each change."""
    _told: BlockConfig
    """What the user knows of."""
    features: RequestFeatures
    limits: DiskLimits
    device_queue_count: int
    """Request queues that the device has; those in use may be fewer."""

    def __init__(self, options: QueueOptions, gate: Gate) -> None:
        self.options = options
        self.gate = gate
        self.queues: tuple[RequestQueue, ...] = ()
        self.gone: str | None = None
        """Why not even a reset helps, for slot pools."""
        self.polled: set[int] = set()
        """Queues that poll though the device could interrupt; in each life of the device."""
        self.on_config_change: Callable[[BlockConfig], None] | None = None
        self.lost: Mapping[int, Sequence[int]] = {}
        self.writeback = options.writeback
        """What the device is told of its cache at each start."""
        self._handles: list[QueueHandle[RequestQueue]] = []
        self._ring_reset = False
        self._reset_reasons: frozenset[str] = frozenset()
        """What a queue says that was reset alone. It is given up for the first reason only."""

    def wish(self, offered: FeatureSet) -> Wish:
        """What the driver accepts where it is offered; it requires nothing.

        CONFIG_WCE is of use only with FLUSH: a cache that can be volatile must be flushable.
        """
        wanted, declined = WANTED, dict(DECLINED)
        if BlockFeature.FLUSH not in offered:
            wanted -= {BlockFeature.CONFIG_WCE}
            declined[BlockFeature.CONFIG_WCE] = "without FLUSH a volatile cache cannot be flushed"
        return Wish(wanted=wanted, ring_features=self._ring_features(), declined=declined)

    def check(self, device: VirtioDevice) -> None:
        """Nothing to object to: each feature can be done without."""

    def start(self, device: VirtioDevice) -> None:
        """Set the cache, read the configuration and ask for the queues.

        Raises NegotiationError if the device cannot take a request of one sector or set its cache
        as asked, ProtocolError if it does not, ValueError for more queues or larger ones than it
        has.
        """
        self._set_cache(device)
        self.config = self._told = read_block_config(device)
        self.features = RequestFeatures.of(device.offered, device.accepted)
        self.device_queue_count = min(self.config.num_queues or 1, device.queue_count())
        count = self._queue_count()
        sizes = [self._ring_size(device, index) for index in range(count)]
        self.limits = disk_limits(self.config, min(sizes))
        self._handles = [
            device.add_queue(index, size, self._build, indirect_table_size=self.limits.descriptors)
            for index, size in enumerate(sizes)
        ]

    def _set_cache(self, device: VirtioDevice) -> None:
        """Say what the cache is to be, and see that the device does it.

        What it reads at first is no answer: there are back ends that say 0, writethrough, and do
        not sync what is written before they were told so.
        """
        if not device.has(BlockFeature.FLUSH):
            if device.legacy and device.has(BlockFeature.CONFIG_WCE):
                # There are legacy devices that keep their cache volatile all the same (VIRTIO
                # 1.4, 5.2.6.3 Legacy Interface: Device Operation).
                store_writeback(device, False, "; open it without forcing flush off")
            return
        if device.has(BlockFeature.CONFIG_WCE):
            store_writeback(
                device, self.writeback, "; open it with config_wce=off to go without the choice"
            )
        elif not self.writeback:
            raise NegotiationError(
                "writeback=off needs the feature config_wce, which was not accepted; open the "
                "disk without it and flush, or withhold flush if its writes are stable anyway"
            )

    def live(self, device: VirtioDevice) -> None:
        """Take the queues into use.

        What changed after the configuration was read and before the device was live, it need not
        have announced (QEMU does not), so there is a second look at what requests depend on.
        """
        self.queues = tuple(handle.queue for handle in self._handles)
        self._ring_reset = device.has(Feature.RING_RESET)
        self._reset_reasons = frozenset(reset_reason(each.index) for each in self._handles)
        if device.read_config(CAPACITY) != self.config.capacity_sectors:
            self._told = self.refresh(device)

    def config_changed(self, device: VirtioDevice) -> Callable[[], None] | None:
        """Read the configuration again: the capacity may be another (VIRTIO 1.4, 5.2.6).

        The user is told of what is new to him: where one interrupt stands for everything, the
        device may have meant something else.
        """
        config = self.refresh(device)
        if config == self._told:
            return None
        self._told = config
        return partial(self.on_config_change, config) if self.on_config_change else None

    def refresh(self, device: VirtioDevice) -> BlockConfig:
        """Read the configuration now, and hold requests to it."""
        config = read_block_config(device)
        # The queues first: who sees the new capacity may use all of it.
        limits = queue_limits(self.limits, config, self.features)
        for queue in self.queues:
            queue.limits = limits
        self.config = config
        return config

    def queue_limits(self) -> BlockLimits:
        """What the queues hold every record to."""
        return queue_limits(self.limits, self.config, self.features)

    def drain(self, device: VirtioDevice, timeout_s: float) -> bool:
        """Let nobody in, and wait until every request has completed; whether all have."""
        deadline = Deadline(max(timeout_s, 1e-3))
        self.gate.shut(CLOSING)
        for queue in self.queues:
            queue.end_pools(CLOSING)  # who has one submits without passing the gate
        if not self.gate.wait_empty(deadline.remaining_s()):
            return False
        for queue in self.queues:
            queue.end_pools(CLOSING)  # those that were made meanwhile
        # Each of them, also after one that is of no more use.
        drained = [_drain_queue(queue, deadline) for queue in self.queues]
        return all(drained)

    @property
    def healthy(self) -> bool:
        """Whether there is a queue that can be used, as far as is known."""
        return any(queue.broken is None for queue in self.queues)

    def queue(self, number: int) -> RequestQueue:
        """One of the queues. Raises ValueError if there is no such queue, StateError for none."""
        queues = self.queues
        if not queues:
            raise StateError(NO_QUEUES)
        if not 0 <= number < len(queues):
            most = self.device_queue_count
            hint = f" of the device's {most}; open it with queue_count={most}"
            raise ValueError(
                f"there is no queue {number}: this disk uses {len(queues)}"
                f"{hint if most > len(queues) and number >= 0 else ''}"
            )
        return queues[number]

    def blame(
        self, queue: RequestQueue, error: QueueBroken | DeviceGoneError
    ) -> QueueBroken | DeviceGoneError:
        """What `queue` raised, as the user is told of it: with the number of the queue, if it is
        about that one alone, and with what helps."""
        text = str(error)
        if text in self._reset_reasons:
            return QueueResetError(text)
        queues = self.queues
        number = next((number for number, each in enumerate(queues) if each is queue), None)
        if number is None:
            return error
        if isinstance(error, QueueBroken):
            helps = (
                f"reset_queue({number}) or reset() brings" if self._ring_reset else "reset() brings"
            )
            return QueueBroken(f"queue {number}: {text}; {helps} it back")
        if any(each.broken is None for each in queues if each is not queue):
            return DeviceGoneError(f"queue {number}: {text}")
        return error

    def check_new_size(self, device: VirtioDevice, number: int, size: int) -> None:
        """Raise ValueError if queue `number` cannot have `size` descriptors: requests that were
        split along the disk's limits must fit in any queue."""
        if size < 1:
            raise ValueError(f"queue {number} cannot have {size} descriptors: ask for 1 or more")
        longest = max(SIZE_MIN, self.limits.descriptors)
        packed = device.has(Feature.RING_PACKED)
        least = longest if packed else 1 << (longest - 1).bit_length()
        if size < least:
            shorter = "; open the disk with a smaller ring_size, and its requests are shorter"
            raise ValueError(
                f"queue {number} cannot have {size} descriptors: the smallest size for this disk "
                f"is {least}, as a request may take {longest} (its header, its data, its status)"
                f"{'' if packed or least == longest else ' and a split ring has a power of two'}"
                f"{shorter if longest > SIZE_MIN else ''}"
            )

    def reset_queue(
        self, device: VirtioDevice, number: int, size: int | None, timeout_s: float
    ) -> list[int]:
        """Reset one queue and set it up again; the tokens whose completion nobody has taken.

        Raises as `VirtioDevice.reset_queue`.
        """
        before = self.queue(number)
        with device.lock:  # until it is among those that are told of a new configuration
            lost = device.reset_queue(self._handles[number].index, size, timeout_s)
            self.queues = tuple(handle.queue for handle in self._handles)
        return lost + _take_tokens(before)

    def set_polling(self, number: int, polling: bool) -> None:
        """Let a queue poll, or wait for interrupts."""
        self.queue(number).polling = polling
        (self.polled.add if polling else self.polled.discard)(number)

    def stopped(self, device: VirtioDevice, lost: Mapping[int, Sequence[int]]) -> None:
        """The queues are no more."""
        self.queues = ()
        self._handles = []
        self.lost = lost

    def abort(self, reason: str) -> None:
        """Send everybody who waits for a request away with DeviceGoneError(reason)."""
        for queue in self.queues:
            queue.abort(reason)

    def _ring_features(self) -> frozenset[int]:
        # Python has no fence between publishing an index and reading the device's event word.
        fenced = self.options.ring == "native"
        return EITHER_RING if fenced else EITHER_RING - {Feature.EVENT_IDX}

    def _queue_count(self) -> int:
        most = self.device_queue_count
        asked = self.options.queue_count
        if most == 0:
            raise ProtocolError("the device says that it has no queue, and a disk has one at least")
        if asked is None:
            return min(most, os.cpu_count() or 1)
        if asked > most:
            raise ValueError(f"queue_count is {asked}; ask for at most the {most} of the device")
        return asked

    def _ring_size(self, device: VirtioDevice, index: int) -> int:
        most, asked = device.queue_size_max(index), self.options.ring_size
        if most == 0:
            raise ProtocolError(
                f"queue {index} does not exist (its size is 0), and a disk has one queue at least "
                "and as many as it says"
            )
        if device.legacy:
            if asked not in (None, most):
                raise ValueError(
                    f"ring_size is {asked}, but queue {index} has {most} descriptors: on the "
                    "legacy interface the device alone decides; leave ring_size away"
                )
            return most
        packed = device.has(Feature.RING_PACKED)
        if asked is not None and asked < SIZE_MIN <= most:
            raise ValueError(
                f"ring_size is {asked}, but a request takes three descriptors (its header, "
                f"its data, its status); ask for {SIZE_MIN if packed else 4} or more"
            )
        if asked is None:
            fits = max(1, min(most, DEFAULT_RING_SIZE))
            return fits if packed else 1 << (fits.bit_length() - 1)
        if asked > most or (asked & (asked - 1) and not packed):
            what = "a number" if packed else "a power of two"
            hint = size_hint(device.transport, asked, most, packed)
            raise ValueError(f"ring_size is {asked}; ask for {what} up to {most}{hint}")
        return asked

    def _build(self, parts: QueueParts) -> RequestQueue:
        make = _queue_class(self.options.ring)
        queue = make(
            parts.space,
            parts.ring,
            parts.memory.alloc(make.slots_length(parts.size)),
            parts.size,
            self.queue_limits(),
            packed=parts.packed,
            legacy_align=parts.legacy_align,
            indirect_table_size=parts.indirect_table_size,
            event_idx=parts.event_idx,
            in_order=parts.in_order,
            strict=self.options.strict,
            doorbell=parts.wires.doorbell,
            interrupt_fd=parts.wires.interrupt_fd,
            hangup_fd=parts.hangup_fd,
        )
        if parts.index in self.polled:
            queue.polling = True
        return queue


def store_writeback(device: VirtioDevice, writeback: bool, advice: str) -> None:
    """Set the cache to writeback or writethrough (VIRTIO 1.4, 5.2.6.2).

    Raises ProtocolError if the device does not do as told, UnsupportedError without CONFIG_WCE.
    """
    device.write_config(WRITEBACK, int(writeback))
    if device.read_config(WRITEBACK) != int(writeback):
        raise ProtocolError(
            f"the device was told writeback={int(writeback)} and still says "
            f"{int(not writeback)}{advice}"
        )


def _queue_class(ring: RingName) -> "type[BlockQueue] | type[ReferenceBlockQueue]":
    if ring == "native":
        return BlockQueue
    # Loaded only by those who ask for it.
    from vioblk.block.reference_queue import ReferenceBlockQueue

    return ReferenceBlockQueue


def _take_tokens(queue: RequestQueue) -> list[int]:
    """Of the completions that nobody has taken of a queue that is no more."""
    tokens = []
    scratch = bytearray(COMPLETION_RECORD.size * queue.size)
    with suppress(VioblkError):  # that it is no more, after the last completion
        while count := queue.reap_many(scratch):
            done = memoryview(scratch)[: count * COMPLETION_RECORD.size]
            tokens += [token for token, *_ in COMPLETION_RECORD.iter_unpack(done)]
    return tokens


def _drain_queue(queue: RequestQueue, deadline: Deadline) -> bool:
    """Wait until nothing is in flight. Completions that nobody reaped are dropped."""
    scratch = bytearray(COMPLETION_RECORD.size * queue.size)
    try:
        while queue.in_flight:
            if not deadline.remaining_s():
                return False
            # In short waits: a request that was given up completes without being handed out.
            queue.wait(min(deadline.remaining_s(), 0.1))
            queue.reap_many(scratch)
    except VioblkError:
        return False  # a broken queue, or a device that has gone, completes nothing more
    return True
