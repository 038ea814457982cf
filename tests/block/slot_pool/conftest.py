"""Pools on the queues of both languages, over rings of every format, served by a device."""

from array import array
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import pytest

from tests.block.queue_bench import LANGUAGES, DeviceBench, Language, is_in_order, is_packed
from tests.block.queue_bench import make_device_bench as make_bench
from vioblk.block.queue import QueueSlotPool
from vioblk.block.request import SECTOR_BYTES, RequestType

TABLE_SIZE: Final = 6


class Kind(NamedTuple):
    """Of a queue: its language and format, and which features it has."""

    language: Language
    indirect: bool
    event_idx: bool

    @property
    def reserves(self) -> bool:
        """Whether slots can have descriptors to themselves."""
        return not (is_packed(self.language) or is_in_order(self.language))


KINDS: Final = [
    Kind(language, indirect, event_idx)
    for language in LANGUAGES
    for indirect in (False, True)
    for event_idx in (False, True)
    # The queue in pure Python refuses EVENT_IDX.
    if not event_idx or language.startswith("native")
]


@pytest.fixture(
    params=KINDS,
    ids=[
        f"{language}{'-indirect' * indirect}{'-event' * event_idx}"
        for language, indirect, event_idx in KINDS
    ],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every test runs on every queue."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def make_queue(kind: Kind) -> Callable[..., DeviceBench]:
    """Makes a queue on a device that serves when it is told to."""

    def make(size: int = 32, *, threaded: bool = False, **options: Any) -> DeviceBench:
        return make_bench(
            kind.language,
            size,
            indirect_table_size=TABLE_SIZE if kind.indirect else 0,
            event_idx=kind.event_idx,
            threaded=threaded,
            **options,
        )

    return make


@pytest.fixture
def bench(make_queue: Callable[..., DeviceBench]) -> DeviceBench:
    """A queue of 32 descriptors, whose device serves when it is told to."""
    return make_queue()


def make_pool(
    bench: DeviceBench, count: int = 8, slot_bytes: int = SECTOR_BYTES, **options: Any
) -> QueueSlotPool:
    """A pool with memory of its own."""
    buffer = bench.space.alloc(count * slot_bytes)
    frames = bench.space.alloc(bench.queue.slot_frames_length(count, slot_bytes))
    return bench.queue.slot_pool(buffer, frames, count, slot_bytes, **options)


def slots(*numbers: int) -> "array[int]":
    return array("I", numbers)


def offsets(*sectors: int) -> "array[int]":
    """Byte offsets of sectors."""
    return array("Q", [sector * SECTOR_BYTES for sector in sectors])


def submit(pool: QueueSlotPool, requests: Iterable[tuple[int, int]]) -> int:
    """Submit (slot, sector) pairs."""
    pairs = list(requests)
    return pool.submit(slots(*(slot for slot, _ in pairs)), offsets(*(at for _, at in pairs)))


def reap(pool: QueueSlotPool, most: int = 64) -> dict[int, int]:
    """What came back: status by slot."""
    numbers, statuses = slots(*[0] * most), bytearray(most)
    count = pool.reap(numbers, statuses)
    assert len(set(numbers[:count])) == count, "a slot came back twice"
    return dict(zip(numbers[:count], statuses[:count], strict=True))


def reap_good(pool: QueueSlotPool, most: int = 64) -> set[int]:
    """The slots whose requests succeeded, without statuses."""
    numbers = slots(*[0] * most)
    return set(numbers[: pool.reap(numbers)])


def is_closed(pool: QueueSlotPool) -> bool:
    return pool.way is None


def slot_data(pool: QueueSlotPool, slot: int) -> bytes:
    start = slot * pool.slot_bytes
    with memoryview(pool.buffer) as view:
        return bytes(view[start : start + pool.slot_bytes])


def fill_slot(pool: QueueSlotPool, slot: int, data: bytes) -> None:
    start = slot * pool.slot_bytes
    with memoryview(pool.buffer) as view:
        view[start : start + pool.slot_bytes] = data


def sector_data(sector: int) -> bytes:
    """What `fill_disk` puts there."""
    return bytes([sector % 251 + 1]) * SECTOR_BYTES


def fill_disk(bench: DeviceBench, sectors: int) -> None:
    """Give each of the first sectors a content of its own, by general requests."""
    bench.write_data(b"".join(sector_data(sector) for sector in range(sectors)))
    done = 0
    while done < sectors:
        records = b"".join(
            bench.record(RequestType.OUT, sector=sector, offset=sector * SECTOR_BYTES)
            for sector in range(done, min(done + 4, sectors))
        )
        done += bench.queue.submit_many(records)
        bench.device.serve()
        assert all(each.status == 0 for each in bench.reap())
