"""Misuse on purpose, through the raw words of a ring: what no correct driver writes, and what the
software device makes of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.block.queue_bench import (
    ACKNOWLEDGE,
    CAPACITY_SECTORS,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    IN_ORDER,
    INDIRECT_DESC,
    RING_PACKED,
    VERSION_1,
)
from tests.ring.formats import (
    FORMATS,
    PACKED_FORMATS,
    SPLIT,
    SPLIT_FORMATS,
    SPLIT_IN_ORDER,
    Format,
)
from vioblk._native import DmaSpace, Region, SoftwareDevice
from vioblk.ring.raw import (
    AVAIL,
    INDIRECT,
    NEXT,
    USED,
    WRITE,
    RawPackedRing,
    RawSplitRing,
    UsedEntry,
)

NEEDS_RESET = 64
TABLE = 2
"""The head, or buffer id, whose table is misused."""


class Part(NamedTuple):
    """What a descriptor says, wherever it stands."""

    address: int
    length: int
    flags: int = 0


class Victim:
    """A software device that is served on this thread, and a ring to misuse it with."""

    def __init__(self, form: Format[Any], *, indirect: bool = True) -> None:
        self.format = form
        self.is_packed = form in PACKED_FORMATS
        self.size = form.size
        self.space = DmaSpace()
        self.space.map(1 << 20, 1 << 32)
        features = VERSION_1 | INDIRECT_DESC
        features |= RING_PACKED if self.is_packed else 0
        features |= IN_ORDER if form.in_order else 0
        self.device = SoftwareDevice(
            self.space,
            capacity_sectors=CAPACITY_SECTORS,
            features=features,
            queue_size_max=self.size,
            threaded=False,
        )
        self.data = self.space.alloc(4096)
        region = self.space.alloc(4096)
        queue: Any = form.queue_class("reference")(
            region, self.size, indirect_table_size=4, in_order=form.in_order
        )
        self.raw: Any = queue.raw
        self._start(region, features if indirect else features & ~INDIRECT_DESC)

    def _start(self, region: Region, features: int) -> None:
        device, layout = self.device, self.raw.layout
        device.write_status(ACKNOWLEDGE | DRIVER)
        device.write_features(features)
        device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        device.enable_queue(
            0,
            self.size,
            region.device_address + layout.descriptors_offset,
            region.device_address + layout.driver_offset,
            region.device_address + layout.device_offset,
        )
        device.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    @property
    def address(self) -> int:
        return self.data.device_address

    @property
    def table_address(self) -> int:
        address: int = self.raw.table_address(TABLE)
        return address

    def offer(self, *parts: Part) -> None:
        """Make a chain of these descriptors available, in the first slots, whatever it is."""
        for slot, part in enumerate(parts):
            if self.is_packed:
                self.raw.write_descriptor(slot, part.address, part.length, 3, part.flags | AVAIL)
            else:
                self.raw.write_descriptor(slot, *part, slot + 1)
        if not self.is_packed:
            self.expose(0)

    def expose(self, head: int) -> None:
        """Make one chain of a split ring available."""
        self.raw.write_available(0, head)
        self.raw.available_index = 1

    def fill_table(self, *parts: Part) -> None:
        for index, part in enumerate(parts):
            if self.is_packed:
                self.raw.write_table_entry(TABLE, index, *part)
            else:
                self.raw.write_table_entry(TABLE, index, *part, index + 1)

    def has_used(self) -> bool:
        """Whether the device has given anything back."""
        if isinstance(self.raw, RawPackedRing):
            return any(self.raw.read_flags(slot) & USED for slot in range(self.size))
        assert isinstance(self.raw, RawSplitRing)
        return self.raw.used_index != 0


Misuse = Callable[[Victim], None]


# -- In any format -----------------------------------------------------------------------------


def no_bytes(victim: Victim) -> None:
    victim.offer(Part(victim.address, 0))


def not_memory(victim: Victim) -> None:
    victim.offer(Part(0xDEAD_0000, 16))


def address_wraps(victim: Victim) -> None:
    victim.offer(Part((1 << 64) - 8, 16))


def readable_after_writable(victim: Victim) -> None:
    victim.offer(Part(victim.address, 16, WRITE | NEXT), Part(victim.address, 16))


def indirect_with_next(victim: Victim) -> None:
    victim.offer(Part(victim.table_address, 16, INDIRECT | NEXT), Part(victim.address, 16))


def table_of_odd_length(victim: Victim) -> None:
    victim.offer(Part(victim.table_address, 17, INDIRECT))


def table_that_is_not_memory(victim: Victim) -> None:
    victim.offer(Part(0xDEAD_0000, 16, INDIRECT))


def table_within_a_table(victim: Victim) -> None:
    victim.fill_table(Part(victim.raw.table_address(3), 16, INDIRECT))
    victim.offer(Part(victim.table_address, 16, INDIRECT))


def no_status_byte(victim: Victim) -> None:
    victim.offer(Part(victim.address, 16))


def short_header(victim: Victim) -> None:
    victim.offer(Part(victim.address, 15, NEXT), Part(victim.address + 16, 1, WRITE))


IN_ANY: list[tuple[Misuse, str]] = [
    (no_bytes, "no bytes"),
    (not_memory, "not memory"),
    (address_wraps, "not memory"),
    (readable_after_writable, "readable, but a writable one"),
    (indirect_with_next, "both INDIRECT and NEXT"),
    (table_of_odd_length, "17 bytes"),
    (table_that_is_not_memory, "not memory"),
    (table_within_a_table, "names another"),
    (no_status_byte, "status"),
    (short_header, "15 readable bytes"),
]


# -- In split rings ----------------------------------------------------------------------------


def chain_loops(victim: Victim) -> None:
    victim.raw.write_descriptor(0, victim.address, 16, NEXT, 1)
    victim.raw.write_descriptor(1, victim.address, 16, NEXT, 0)
    victim.expose(0)


def chain_names_itself(victim: Victim) -> None:
    victim.raw.write_descriptor(3, victim.address, 16, NEXT, 3)
    victim.expose(3)


def head_out_of_range(victim: Victim) -> None:
    victim.expose(victim.size)


def next_out_of_range(victim: Victim) -> None:
    victim.raw.write_descriptor(0, victim.address, 16, NEXT, 0xFFFF)
    victim.expose(0)


def index_ahead(victim: Victim) -> None:
    victim.raw.available_index = victim.size + 1


def index_backwards(victim: Victim) -> None:
    victim.raw.available_index = 0xFFFF


def chain_leaves_its_table(victim: Victim) -> None:
    victim.raw.write_table_entry(TABLE, 0, victim.address, 16, NEXT, 2)
    victim.offer(Part(victim.table_address, 32, INDIRECT))


OUT_OF_ORDER: list[tuple[Misuse, str]] = [
    (chain_loops, "loops"),
    (chain_names_itself, "loops"),
]
IN_SPLIT: list[tuple[Misuse, str]] = [
    (head_out_of_range, "descriptor 8"),
    (next_out_of_range, "descriptor 65535"),
    (index_ahead, "claims 9 chains"),
    (index_backwards, "claims 65535 chains"),
    (chain_leaves_its_table, "descriptor 2"),
]


def chain_does_not_begin_where_it_should(victim: Victim) -> None:
    victim.raw.write_descriptor(3, victim.address, 16)
    victim.expose(3)


def chain_leaves_out_a_descriptor(victim: Victim) -> None:
    victim.raw.write_descriptor(0, victim.address, 16, NEXT, 2)
    victim.raw.write_descriptor(2, victim.address + 16, 1, WRITE)
    victim.expose(0)


IN_ORDER_ONLY: list[tuple[Misuse, str]] = [
    (chain_loops, "descriptor 0 was used with IN_ORDER where 2 comes next"),
    (chain_names_itself, "descriptor 3 was used with IN_ORDER where 0 comes next"),
    (
        chain_does_not_begin_where_it_should,
        "descriptor 3 was used with IN_ORDER where 0 comes next",
    ),
    (chain_leaves_out_a_descriptor, "descriptor 2 was used with IN_ORDER where 1 comes next"),
]


# -- In packed rings ---------------------------------------------------------------------------


def list_without_an_end(victim: Victim) -> None:
    victim.offer(*[Part(victim.address, 16, NEXT)] * victim.size)


def list_with_a_gap(victim: Victim) -> None:
    victim.offer(Part(victim.address, 16, NEXT))


def indirect_at_the_end_of_a_list(victim: Victim) -> None:
    victim.offer(Part(victim.address, 16, NEXT), Part(victim.table_address, 16, INDIRECT))


def table_longer_than_the_queue(victim: Victim) -> None:
    victim.offer(Part(victim.address, 16 * (victim.size + 1), INDIRECT))


def table_that_is_linked(victim: Victim) -> None:
    victim.fill_table(Part(victim.address, 16, NEXT), Part(victim.address, 1, WRITE))
    victim.offer(Part(victim.table_address, 32, INDIRECT))


IN_PACKED: list[tuple[Misuse, str]] = [
    (list_without_an_end, "loops or has more"),
    (list_with_a_gap, "descriptor 1 is not available"),
    (indirect_at_the_end_of_a_list, "both INDIRECT and NEXT"),
    (table_longer_than_the_queue, "more descriptors than the queue size, 7"),
    (table_that_is_linked, "flags 0x1"),
]


@pytest.mark.parametrize(
    ("form", "misuse", "violation"),
    [
        pytest.param(form, misuse, violation, id=f"{form}-{misuse.__name__}")
        for formats, misuses in (
            (FORMATS, IN_ANY),
            (SPLIT_FORMATS, IN_SPLIT),
            ([SPLIT], OUT_OF_ORDER),
            ([SPLIT_IN_ORDER], IN_ORDER_ONLY),
            (PACKED_FORMATS, IN_PACKED),
        )
        for form in formats
        for misuse, violation in misuses
    ],
)
def test_the_software_device_notices_misuse(
    form: Format[Any], misuse: Misuse, violation: str
) -> None:
    victim = Victim(form)
    misuse(victim)
    victim.device.serve()
    assert victim.device.read_status() & NEEDS_RESET
    assert violation in (victim.device.violation or "")
    assert not victim.has_used()


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_software_device_notices_a_table_that_was_not_negotiated(form: Format[Any]) -> None:
    victim = Victim(form, indirect=False)
    victim.fill_table(Part(victim.address, 16))
    victim.offer(Part(victim.table_address, 16, INDIRECT))
    victim.device.serve()
    assert "without INDIRECT_DESC" in (victim.device.violation or "")


@pytest.mark.parametrize("form", PACKED_FORMATS, ids=str)
@pytest.mark.parametrize("flags", [0, USED, AVAIL | USED, USED | NEXT, AVAIL | USED | INDIRECT])
def test_what_is_not_available_is_not_looked_at(form: Format[Any], flags: int) -> None:
    victim = Victim(form)
    victim.raw.write_descriptor(0, 0xDEAD_0000, 0, 0xFFFF, flags)
    assert victim.device.serve() == 0
    assert victim.device.violation is None


# -- A ring written word by word, as it should be ----------------------------------------------


def write_get_id(victim: Victim) -> None:
    """A header, and a status byte that no device writes."""
    with memoryview(victim.data) as view:
        view[0:16] = (8).to_bytes(4, "little") + bytes(12)
        view[64] = 0xFF


def assert_served(victim: Victim) -> None:
    with memoryview(victim.data) as view:
        assert view[64] == 0
    assert victim.device.violation is None


@pytest.mark.parametrize("form", SPLIT_FORMATS, ids=str)
def test_a_request_written_word_by_word_is_served(form: Format[Any]) -> None:
    victim = Victim(form)
    write_get_id(victim)
    head = 0 if form.in_order else 5
    victim.raw.write_descriptor(head, victim.address, 16, NEXT, head + 1)
    victim.raw.write_descriptor(head + 1, victim.address + 32, 20, NEXT | WRITE, head + 2)
    victim.raw.write_descriptor(head + 2, victim.address + 64, 1, WRITE)
    victim.expose(head)
    assert victim.device.serve() == 1
    assert victim.raw.used_index == 1
    assert victim.raw.read_used(0) == UsedEntry(head, 21)
    assert_served(victim)


@pytest.mark.parametrize("form", PACKED_FORMATS, ids=str)
def test_a_request_written_word_by_word_is_served_in_the_slot_of_its_head(
    form: Format[Any],
) -> None:
    victim = Victim(form)
    write_get_id(victim)
    # The id counts in the last descriptor; it is the driver's business, and larger than the queue.
    victim.raw.write_descriptor(2, victim.address + 64, 1, 0xBEEF, WRITE | AVAIL)
    victim.offer(Part(victim.address, 16, NEXT), Part(victim.address + 32, 20, NEXT | WRITE))
    assert victim.device.serve() == 1
    assert victim.raw.read_used(0) == (0xBEEF, 21)
    assert victim.raw.read_flags(0) == AVAIL | USED | WRITE
    assert victim.raw.read_flags(1) == AVAIL | NEXT | WRITE, "the others are left alone"
    assert_served(victim)
