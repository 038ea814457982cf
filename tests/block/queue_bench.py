"""Request queues of both languages, with a puppet or the software device at the other end."""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, get_args

from tests.ring.formats import PACKED, PACKED_IN_ORDER, SPLIT, SPLIT_IN_ORDER, Format
from tests.ring.packed_puppet import PackedPuppet
from tests.ring.puppet import Part, Puppet
from vioblk._native import BlockLimits, BlockQueue, DmaSpace, Doorbell, Region, SoftwareDevice
from vioblk.block.queue import RequestQueue
from vioblk.block.reference_queue import ReferenceBlockQueue
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestType

Language: TypeAlias = Literal[
    "native",
    "reference",
    "native-split-in-order",
    "reference-split-in-order",
    "native-packed",
    "reference-packed",
    "native-packed-in-order",
    "reference-packed-in-order",
]
"""A queue in this language on a ring of this format; split unless said otherwise."""
LANGUAGES: tuple[Language, ...] = get_args(Language)

CAPACITY_SECTORS = 4096
DATA_BYTES = 1 << 20
MEMORY_BYTES = 1 << 22
DEVICE_ADDRESS = 0x1_0000_0000
STATUS_OFFSET = 32

VERSION_1, INDIRECT_DESC, FLUSH, DISCARD, WRITE_ZEROES = 1 << 32, 1 << 28, 1 << 9, 1 << 13, 1 << 14
RING_PACKED, IN_ORDER, EVENT_IDX = 1 << 34, 1 << 35, 1 << 29
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8


class Done(NamedTuple):
    """A completion record, unpacked."""

    token: int
    written_bytes: int
    status: int


class Header(NamedTuple):
    """The header of a request, as the device reads it."""

    type: int
    reserved: int
    sector: int


def limits_of(
    *,
    request_types: Iterable[int] = tuple(RequestType),
    read_only: bool = False,
    size_max: int = 0,
    seg_max: int = 0,
    max_discard_sectors: int = 1024,
    max_write_zeroes_sectors: int = 512,
    capacity_sectors: int = CAPACITY_SECTORS,
) -> BlockLimits:
    return BlockLimits(
        capacity_sectors=capacity_sectors,
        request_types=frozenset(int(kind) for kind in request_types),
        read_only=read_only,
        size_max=size_max,
        seg_max=seg_max,
        max_discard_sectors=max_discard_sectors,
        max_write_zeroes_sectors=max_write_zeroes_sectors,
    )


@dataclass
class QueueBench:
    """A request queue and memory for its data."""

    space: DmaSpace
    ring_region: Region
    slots: Region
    data: Region
    queue: RequestQueue
    interrupt_fd: int | None = None
    _views: list[memoryview] = field(default_factory=list)

    def record(
        self,
        kind: int = RequestType.IN,
        *,
        flags: int = 0,
        sector: int = 0,
        offset: int = 0,
        length: int | None = None,
        region: int | None = None,
        token: int = 0,
    ) -> bytes:
        """A record; what is not given is what such a request usually has."""
        has_data = kind in (RequestType.IN, RequestType.OUT, RequestType.GET_ID)
        if length is None:
            usual = {RequestType.FLUSH: 0, RequestType.GET_ID: 20}
            length = usual.get(RequestType(kind), 512)
        if region is None:
            region = self.data.handle if has_data else 0
        return REQUEST_RECORD.pack(kind, flags, sector, offset, length, region, token)

    def reap(self, most: int = 64) -> list[Done]:
        out = bytearray(COMPLETION_RECORD.size * most)
        count = self.queue.reap_many(out)
        filled = memoryview(out)[: count * COMPLETION_RECORD.size]
        return [Done(*fields) for fields in COMPLETION_RECORD.iter_unpack(filled)]

    def write_data(self, data: bytes, offset: int = 0) -> None:
        with memoryview(self.data) as view:
            view[offset : offset + len(data)] = data

    def read_data(self, length: int, offset: int = 0) -> bytes:
        with memoryview(self.data) as view:
            return bytes(view[offset : offset + length])


@dataclass
class PuppetBench(QueueBench):
    """The test plays the device."""

    puppet: Puppet = field(kw_only=True)

    def header(self, part: Part) -> Header:
        assert (part.length, part.device_writes) == (16, False)
        return Header(*struct.unpack("<IIQ", self.bytes_at(part)))

    def bytes_at(self, part: Part) -> bytes:
        """What lies where the device is told to look; the part must be data or a slot."""
        for region in (self.slots, self.data):
            offset = part.address - region.device_address
            if 0 <= offset <= region.length - part.length:
                with memoryview(region) as view:
                    return bytes(view[offset : offset + part.length])
        raise AssertionError(f"{part} is in no region")

    def complete(
        self,
        head: int,
        status: int = 0,
        used_length: int | None = None,
        *,
        write_flag: bool = True,
    ) -> None:
        """Write the status byte and use the chain; the length is what an honest device says.
        `write_flag`: on a packed ring, whether it says so."""
        writable_bytes = self.write_status(head, status)
        if used_length is None:
            used_length = writable_bytes
        if isinstance(self.puppet, PackedPuppet):
            self.puppet.use(head, used_length, write_flag=write_flag)
        else:
            self.puppet.use(head, used_length)

    def complete_batch(
        self, heads: Sequence[int], status: int = 0, used_length: int | None = None
    ) -> None:
        """Write the same status byte to all and give them back by one used element."""
        writable_bytes = [self.write_status(head, status) for head in heads]
        self.puppet.use_batch(heads, writable_bytes[-1] if used_length is None else used_length)

    def write_status(self, head: int, status: int) -> int:
        """Write the status byte, and no more; the writable bytes of the chain."""
        parts = self.puppet.follow(head)
        assert (parts[-1].length, parts[-1].device_writes) == (1, True)
        offset = parts[-1].address - self.slots.device_address
        with memoryview(self.slots) as view:
            view[offset] = status
        return sum(part.length for part in parts if part.device_writes)

    def interrupt(self) -> None:
        assert self.interrupt_fd is not None
        os.eventfd_write(self.interrupt_fd, 1)


def make_puppet_bench(
    language: Language,
    size: int = 16,
    *,
    limits: BlockLimits | None = None,
    indirect_table_size: int = 0,
    legacy_align: int | None = None,
    strict: bool = False,
    doorbell: Doorbell | None = None,
    interrupt_fd: int | None = None,
    hangup_fd: int | None = None,
) -> PuppetBench:
    """A queue; without a doorbell, `take_kick` says whether it would ring."""
    space, ring_region, slots, data = _memory(language, size, indirect_table_size, legacy_align)
    queue = _queue_class(language)(
        space,
        ring_region,
        slots,
        size,
        limits or limits_of(),
        packed=is_packed(language),
        legacy_align=legacy_align,
        indirect_table_size=indirect_table_size,
        in_order=is_in_order(language),
        strict=strict,
        doorbell=doorbell,
        interrupt_fd=interrupt_fd,
        hangup_fd=hangup_fd,
    )
    shape = shape_of(language, indirect_table_size, legacy_align)
    puppet = format_of(language).puppet(ring_region, size, **shape)
    return PuppetBench(
        space, ring_region, slots, data, queue, interrupt_fd=interrupt_fd, puppet=puppet
    )


@dataclass
class DeviceBench(QueueBench):
    """The software device serves the queue."""

    device: SoftwareDevice = field(kw_only=True)

    def reset(self) -> None:
        self.device.write_status(0)
        assert self.device.read_status() == 0


def make_device_bench(
    language: Language,
    size: int = 64,
    *,
    limits: BlockLimits | None = None,
    indirect_table_size: int = 0,
    threaded: bool = True,
    event_idx: bool = False,
) -> DeviceBench:
    """A queue on a started software device; not `threaded`: the test calls `device.serve`."""
    space, ring_region, slots, data = _memory(language, size, indirect_table_size)
    features = VERSION_1 | INDIRECT_DESC | FLUSH | DISCARD | WRITE_ZEROES
    features |= RING_PACKED if is_packed(language) else 0
    features |= IN_ORDER if is_in_order(language) else 0
    features |= EVENT_IDX if event_idx else 0
    device = SoftwareDevice(
        space, capacity_sectors=CAPACITY_SECTORS, features=features, threaded=threaded
    )
    accepted = features if indirect_table_size else features & ~INDIRECT_DESC
    device.write_status(ACKNOWLEDGE)
    device.write_status(ACKNOWLEDGE | DRIVER)
    device.write_features(accepted)
    device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert device.read_status() & FEATURES_OK
    queue = _queue_class(language)(
        space,
        ring_region,
        slots,
        size,
        limits or limits_of(),
        packed=is_packed(language),
        indirect_table_size=indirect_table_size,
        in_order=is_in_order(language),
        event_idx=event_idx,
        doorbell=Doorbell.eventfd(device.kick_fd(0)),
        interrupt_fd=device.interrupt_fd(0),
    )
    address, layout = ring_region.device_address, queue.layout
    device.enable_queue(
        0,
        size,
        address + layout.descriptors_offset,
        address + layout.driver_offset,
        address + layout.device_offset,
    )
    device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
    return DeviceBench(space, ring_region, slots, data, queue, device=device)


def _memory(
    language: Language, size: int, indirect_table_size: int, legacy_align: int | None = None
) -> tuple[DmaSpace, Region, Region, Region]:
    space = DmaSpace()
    space.map(MEMORY_BYTES, DEVICE_ADDRESS)
    layout_of = format_of(language).layout("reference")
    ring = space.alloc(
        layout_of(size, **shape_of(language, indirect_table_size, legacy_align)).length
    )
    slots = space.alloc(_queue_class(language).slots_length(size))
    return space, ring, slots, space.alloc(DATA_BYTES)


def _queue_class(language: Language) -> type[BlockQueue] | type[ReferenceBlockQueue]:
    return BlockQueue if language.startswith("native") else ReferenceBlockQueue


def shape_of(
    language: Language, indirect_table_size: int, legacy_align: int | None
) -> dict[str, int]:
    """What a layout depends on besides the size; no packed ring can be legacy."""
    shape = {"indirect_table_size": indirect_table_size}
    if legacy_align is not None and not is_packed(language):
        shape["legacy_align"] = legacy_align
    return shape


def format_of(language: Language) -> Format[Puppet]:
    _, _, name = language.partition("-")
    formats = (SPLIT, SPLIT_IN_ORDER, PACKED, PACKED_IN_ORDER)
    return {each.name: each for each in formats}[name or "split"]


def is_packed(language: Language) -> bool:
    return format_of(language).puppet is PackedPuppet


def is_in_order(language: Language) -> bool:
    return format_of(language).in_order
