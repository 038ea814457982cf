"""What is written can be read again, whatever the way."""

import random
import threading
from collections.abc import Iterator

import pytest

import vioblk
from tests.contract.conftest import Case
from tests.contract.targets import CAPACITY_BYTES
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, STATUS_PENDING, RequestType

SECTOR = 512
LONG = (3 << 20) + 5 * SECTOR
"""Longer than one request, one bounce buffer, and all bounce buffers of one call."""


def pattern(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, SECTOR),
        (CAPACITY_BYTES - SECTOR, SECTOR),
        (CAPACITY_BYTES - 8192, 8192),
        (7 * SECTOR, 9 * SECTOR),
        (SECTOR, 1 << 20),
    ],
)
def test_what_was_written_is_read_again(disk: BlockDevice, offset: int, length: int) -> None:
    data = pattern(offset + length, length)
    assert disk.write(offset, data) == length
    disk.flush()
    assert disk.read(offset, length) == data


def test_neighbours_are_left_alone(disk: BlockDevice) -> None:
    disk.write(0, b"\x01" * (4 * SECTOR))
    disk.write(SECTOR, b"\x02" * SECTOR)
    assert disk.read(0, 4 * SECTOR) == b"\x01" * SECTOR + b"\x02" * SECTOR + b"\x01" * 2 * SECTOR


def test_a_long_transfer_is_split_and_whole(disk: BlockDevice) -> None:
    data = pattern(1, LONG)
    assert disk.write(SECTOR, data) == LONG
    assert disk.read(SECTOR, LONG) == data
    buffer = bytearray(LONG)
    assert disk.readinto(SECTOR, buffer) == LONG
    assert buffer == data


def test_device_memory_is_read_into_without_a_copy(disk: BlockDevice) -> None:
    data = pattern(2, LONG)
    with disk.alloc(LONG + 64) as region, memoryview(region) as view, view[64:] as part:
        part[:] = data
        assert disk.write(0, part) == LONG
        part[:] = bytes(LONG)
        assert disk.readinto(0, part) == LONG
        assert part == data
        assert view[:64] == bytes(64)
    assert region.closed


def test_many_threads_share_a_disk(disk: BlockDevice) -> None:
    share = 1 << 20
    failures: list[BaseException] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        try:
            for _ in range(10):
                length = SECTOR * rng.randint(1, 300)
                offset = number * share + SECTOR * rng.randint(0, (share - length) // SECTOR)
                data = rng.randbytes(length)
                disk.write(offset, data)
                assert disk.read(offset, length) == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


BLOCK = 4096
BLOCKS = 4096
BATCH = 1000


def rounds(model: bytearray, handle: int, memory: memoryview) -> Iterator[tuple[bytes, list[int]]]:
    """Batches of random reads and writes of distinct blocks; after each, what was read."""
    rng = random.Random(99)
    for _ in range(3):
        blocks = rng.sample(range(BLOCKS), BATCH)
        kinds = [rng.choice([RequestType.IN, RequestType.OUT]) for _ in blocks]
        for i, kind in enumerate(kinds):
            fill = rng.randbytes(BLOCK) if kind is RequestType.OUT else bytes(BLOCK)
            memory[i * BLOCK : (i + 1) * BLOCK] = fill
        yield (
            b"".join(
                REQUEST_RECORD.pack(kind, 0, block * 8, i * BLOCK, BLOCK, handle, i)
                for i, (kind, block) in enumerate(zip(kinds, blocks, strict=True))
            ),
            blocks,
        )
        for i, (kind, block) in enumerate(zip(kinds, blocks, strict=True)):
            on_disk = slice(block * BLOCK, (block + 1) * BLOCK)
            in_memory = memory[i * BLOCK : (i + 1) * BLOCK]
            if kind is RequestType.OUT:
                model[on_disk] = in_memory
            else:
                assert in_memory == model[on_disk]


def test_a_thousand_random_requests_agree_with_a_model(disk: BlockDevice) -> None:
    model = bytearray(BLOCKS * BLOCK)
    disk.write(0, model)
    with disk.alloc(BATCH * BLOCK) as region:
        memory = memoryview(region)
        for batch, _ in rounds(model, region.handle, memory):
            statuses = bytearray([STATUS_PENDING]) * BATCH
            disk.execute(batch, statuses)
            assert statuses == bytes(BATCH)
        memory.release()
    assert disk.read(0, len(model)) == model


def test_erased_ranges(case: Case, disk: BlockDevice) -> None:
    disk.write(0, b"\xff" * (512 * SECTOR))
    if not case.target.discards:
        with pytest.raises(vioblk.UnsupportedError):
            disk.discard(0, SECTOR)
        with pytest.raises(vioblk.UnsupportedError):
            disk.write_zeroes(0, SECTOR)
        return
    disk.write_zeroes(SECTOR, 100 * SECTOR)
    disk.write_zeroes(200 * SECTOR, 100 * SECTOR, unmap=True)
    disk.discard(400 * SECTOR, 100 * SECTOR)
    expected = bytearray(b"\xff" * (400 * SECTOR))
    expected[SECTOR : 101 * SECTOR] = bytes(100 * SECTOR)
    expected[200 * SECTOR : 300 * SECTOR] = bytes(100 * SECTOR)
    assert disk.read(0, 400 * SECTOR) == expected
    assert disk.read(500 * SECTOR, 12 * SECTOR) == b"\xff" * (12 * SECTOR)
    assert len(disk.read(400 * SECTOR, 100 * SECTOR)) == 100 * SECTOR


def test_what_was_flushed_is_there_after_closing(case: Case) -> None:
    if not case.target.keeps_content:
        with case.open() as first:
            first.write(0, b"\x77" * SECTOR)
        with case.open() as second:
            assert second.read(0, SECTOR) == bytes(SECTOR)
        return
    with case.open() as disk:
        disk.write(0, b"\x77" * SECTOR)
        disk.flush()
    with case.open() as again:
        assert again.read(0, SECTOR) == b"\x77" * SECTOR
