"""Batches by hand, resets, time-outs and closing."""

import threading
from array import array

import pytest

import vioblk
from tests.contract.conftest import Case
from vioblk.block.disk import BlockDevice
from vioblk.block.request import (
    COMPLETION_RECORD,
    REQUEST_RECORD,
    RequestType,
)
from vioblk.block.slot_pool import SlotPool

SECTOR = 512


def read_records(disk: BlockDevice, handle: int, count: int) -> bytes:
    return b"".join(
        REQUEST_RECORD.pack(RequestType.IN, 0, i, i * SECTOR, SECTOR, handle, 1000 + i)
        for i in range(count)
    )


def reap(disk: BlockDevice, count: int) -> list[int]:
    out = bytearray(COMPLETION_RECORD.size * count)
    tokens: list[int] = []
    while len(tokens) < count:
        assert disk.wait(10), "the device did not answer"
        got = disk.reap_many(out)
        tokens += [token for token, _, _ in COMPLETION_RECORD.iter_unpack(out)][:got]
    return tokens


def test_submit_wait_reap(disk: BlockDevice) -> None:
    with disk.alloc(8 * SECTOR) as region:
        assert disk.submit_many(read_records(disk, region.handle, 8)) == 8
        assert sorted(reap(disk, 8)) == list(range(1000, 1008))
        assert disk.device.in_flight == 0


def test_slots_of_pools_are_written_and_read(disk: BlockDevice) -> None:
    slots, offsets = array("I", range(8)), array("Q", [(n * 5 + 3) * SECTOR for n in range(8)])
    content = [bytes([n + 1]) * SECTOR for n in range(8)]
    with disk.slot_pool(8, SECTOR, write=True) as writes:
        with memoryview(writes.buffer) as view:
            view[:] = b"".join(content)
        carry_out(writes, slots, offsets)
    assert [disk.read(offset, SECTOR) for offset in offsets] == content
    with disk.slot_pool(8, SECTOR) as reads:
        carry_out(reads, slots[::-1], offsets)
        with memoryview(reads.buffer) as view:
            assert bytes(view) == b"".join(content[::-1])


def carry_out(pool: SlotPool, slots: "array[int]", offsets: "array[int]") -> None:
    """All of these requests, as many at a time as there is room for."""
    submitted, done = 0, list[int]()
    while len(done) < len(slots):
        submitted += pool.submit(slots[submitted:], offsets[submitted:])
        assert pool.wait(30), "the device did not answer"
        back = array("I", slots)
        done += back[: pool.reap(back)]
    assert sorted(done) == sorted(slots)


def test_a_region_in_flight_or_exported_cannot_be_closed(disk: BlockDevice) -> None:
    region = disk.alloc(SECTOR)
    with memoryview(region), pytest.raises(BufferError):
        region.close()
    assert disk.submit_many(read_records(disk, region.handle, 1)) == 1
    with pytest.raises(BufferError):
        region.close()  # in flight until it is reaped, whatever the device has done
    reap(disk, 1)
    region.close()
    with pytest.raises((vioblk.InvalidRequestError, BufferError)):
        disk.submit_many(read_records(disk, region.handle, 1))


def test_reset_and_go_on(case: Case, disk: BlockDevice) -> None:
    before = disk.info
    disk.write(SECTOR, b"\x42" * SECTOR)
    disk.flush()
    region = disk.alloc(SECTOR)
    for _ in range(3):
        assert {queue: list(lost) for queue, lost in disk.reset().items() if lost} == {}
    assert disk.read(SECTOR, SECTOR) == b"\x42" * SECTOR
    assert disk.readinto(SECTOR, region) == SECTOR
    assert disk.info.accepted == before.accepted
    region.close()


def test_resets_reuse_their_memory(disk: BlockDevice) -> None:
    disk.reset()
    free = disk.device.memory.space.free_bytes
    for _ in range(20):
        disk.read(0, SECTOR)
        disk.reset()
    # The first read makes a bounce buffer, which stays.
    assert free - disk.device.memory.space.free_bytes <= 256 * 1024


def test_threads_in_the_middle_of_a_reset_get_an_error_or_their_data(disk: BlockDevice) -> None:
    disk.write(0, b"\x19" * (64 * SECTOR))
    stop = threading.Event()
    unexpected: list[BaseException] = []

    def keep_reading() -> None:
        while not stop.is_set():
            try:
                assert disk.read(0, 64 * SECTOR) == b"\x19" * (64 * SECTOR)
            except (vioblk.DeviceGoneError, vioblk.StateError):
                # Three that ask again at once would keep the interpreter from whoever resets.
                stop.wait(0.001)
            except BaseException as error:
                unexpected.append(error)
                return

    readers = [threading.Thread(target=keep_reading) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(5):
        disk.reset()
    stop.set()
    for reader in readers:
        reader.join(30)
    assert not unexpected
    assert disk.read(0, SECTOR) == b"\x19" * SECTOR


def test_a_busy_disk_refuses_to_close_or_drains_as_asked(case: Case) -> None:
    disk = case.open()
    region = disk.alloc(SECTOR)
    assert disk.submit_many(read_records(disk, region.handle, 1)) == 1
    with pytest.raises(vioblk.DiskBusyError, match="1 request in flight"):
        disk.close(drain=False)
    assert disk.read(0, SECTOR), "a refused close leaves the disk open"
    disk.close(drain=True)
    assert region.in_flight == 0
    region.close()
    with pytest.raises(vioblk.StateError, match="closed"):
        disk.read(0, SECTOR)


def test_an_idle_disk_closes_without_draining_and_twice(case: Case) -> None:
    disk = case.open()
    disk.write(0, bytes(SECTOR))
    disk.close(drain=False)
    disk.close()


def test_every_call_on_a_closed_disk_says_so(case: Case) -> None:
    disk = case.open()
    disk.close()
    for call in (
        lambda: disk.read(0, SECTOR),
        lambda: disk.readinto(0, bytearray(SECTOR)),
        lambda: disk.write(0, bytes(SECTOR)),
        disk.flush,
        lambda: disk.discard(0, SECTOR),
        lambda: disk.write_zeroes(0, SECTOR),
        lambda: disk.alloc(SECTOR),
        lambda: disk.execute(b"", bytearray()),
        lambda: disk.submit_many(b""),
        lambda: disk.reap_many(bytearray(16)),
        lambda: disk.wait(0.1),
        disk.reset,
        lambda: disk.serial,
        lambda: disk.capacity_bytes,
        lambda: disk.info,
        lambda: disk.writeback,
    ):
        with pytest.raises(vioblk.StateError):
            call()


def test_closing_while_others_read_lets_them_finish(case: Case) -> None:
    disk = case.open()
    ended: list[str] = []
    begun = threading.Event()

    def keep_reading() -> None:
        try:
            while True:
                disk.read(0, 256 * SECTOR)
                begun.set()
        except vioblk.StateError:
            ended.append("refused")
        except BaseException as error:
            ended.append(repr(error))

    readers = [threading.Thread(target=keep_reading) for _ in range(4)]
    for reader in readers:
        reader.start()
    assert begun.wait(10)
    disk.close(drain=True)
    for reader in readers:
        reader.join(10)
    assert ended == ["refused"] * 4


def test_there_is_nothing_to_wait_for_with_nothing_in_flight(disk: BlockDevice) -> None:
    assert not disk.wait(60)


def test_execute_of_nothing_is_nothing(disk: BlockDevice) -> None:
    disk.execute(b"", bytearray())
    assert disk.submit_many(b"") == 0
    with pytest.raises(ValueError, match="stat"):
        disk.execute(REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0), bytearray(0))
