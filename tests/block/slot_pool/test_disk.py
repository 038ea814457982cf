"""Pools of a disk: what they are for its user, whatever becomes of the disk."""

import gc
import inspect
import pydoc
import re
import threading
import weakref
from array import array
from typing import Any

import pytest

import vioblk
from tests.block.conftest import FORMATS, OpenDisk
from tests.block.test_cache import software
from tests.block.test_hostile import BROKEN, GUARD, PATTERN, works_again
from tests.support.patience import AMPLE_S
from vioblk.block.disk import BlockDevice
from vioblk.block.driver import RingName
from vioblk.block.slot_pool import SlotPool

SECTOR = 512


@pytest.fixture(params=FORMATS)
def ring_format(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def submit(pool: SlotPool, *requests: tuple[int, int]) -> int:
    """(slot, offset) pairs."""
    slots = array("I", [slot for slot, _ in requests])
    return pool.submit(slots, array("Q", [offset for _, offset in requests]))


def reap(pool: SlotPool) -> dict[int, int]:
    slots, statuses = array("I", bytes(4 * pool.count)), bytearray(pool.count)
    count = pool.reap(slots, statuses)
    return dict(zip(slots[:count], statuses[:count], strict=True))


def finish(pool: SlotPool) -> dict[int, int]:
    """All that is in flight: status by slot."""
    done: dict[int, int] = {}
    while pool.in_flight:
        assert pool.wait(30), "the device did not answer"
        done |= reap(pool)
    return done


def test_blocks_move_between_slots_and_the_disk(disk: BlockDevice) -> None:
    with disk.slot_pool(8, 4096) as reads, disk.slot_pool(3, 4096, write=True) as writes:
        assert (reads.count, reads.slot_bytes, reads.write) == (8, 4096, False)
        assert repr(writes) == "<SlotPool: 3 writes of 4096 bytes>"
        with memoryview(writes.buffer) as view:
            assert len(view) == 3 * 4096
            for slot in range(3):
                view[slot * 4096 : (slot + 1) * 4096] = bytes([slot + 1]) * 4096
        assert submit(writes, (0, 0), (1, 512), (2, 65536)) == 3
        assert finish(writes) == {0: 0, 1: 0, 2: 0}
        assert submit(reads, (7, 65536), (2, 4096)) == 2
        assert finish(reads) == {7: 0, 2: 0}
        with memoryview(reads.buffer) as view:
            assert view[7 * 4096 :] == b"\3" * 4096
            assert view[2 * 4096 : 3 * 4096] == b"\2" * 512 + bytes(4096 - 512)
        assert disk.read(65536, 4096) == b"\3" * 4096
    assert repr(writes) == "<SlotPool: 3 writes of 4096 bytes, closed>"
    assert disk.device.in_flight == 0


@pytest.mark.parametrize("way", ["close", "with"])
def test_a_disk_that_closes_waits_for_its_pools_and_ends_them(
    open_disk: OpenDisk, way: str
) -> None:
    disk = open_disk()
    device = software(disk)
    pool = disk.slot_pool(4, SECTOR)
    assert submit(pool, (0, 0), (1, 512)) == 2
    if way == "close":
        disk.close()
    else:
        with disk:
            pass
    assert device.counters()["reads"] == 2
    calls: list[Any] = [lambda: submit(pool, (2, 0)), lambda: reap(pool)]
    for call in calls:
        with pytest.raises(vioblk.StateError, match="the disk has been closed; open it again"):
            call()
    assert pool.wait(30) is True, "there is an error to tell"
    pool.close()
    buffer = pool.buffer
    buffer.close()


def test_a_disk_with_a_pool_in_flight_is_not_closed_without_draining(disk: BlockDevice) -> None:
    with disk.slot_pool(4, SECTOR) as pool:
        assert submit(pool, (0, 0)) == 1
        assert pool.wait(30)
        with pytest.raises(vioblk.DiskBusyError, match="1 request in flight or not reaped"):
            disk.close(drain=False)
        assert reap(pool) == {0: 0}


def test_a_reset_of_the_disk_loses_its_pools(disk: BlockDevice) -> None:
    pool = disk.slot_pool(4, SECTOR)
    assert submit(pool, (0, 0)) == 1
    assert pool.wait(30)
    assert submit(pool, (1, 0)) == 1
    disk.reset()
    with pytest.raises(vioblk.DeviceGoneError, match="the disk was reset"):
        submit(pool, (2, 0))
    while reap_or_none(pool):
        pass
    with pytest.raises(vioblk.DeviceGoneError, match="the disk was reset"):
        reap(pool)
    pool.close()
    pool.buffer.close()
    with disk.slot_pool(4, SECTOR) as again:
        assert submit(again, (3, 0)) == 1
        assert finish(again) == {3: 0}


def test_a_drain_loop_learns_that_a_reset_lost_its_requests(disk: BlockDevice) -> None:
    software(disk).inject("silence", count=2)
    pool = disk.slot_pool(4, SECTOR, write=True)
    assert submit(pool, (0, 0), (1, SECTOR)) == 2
    disk.reset()
    assert pool.in_flight == 2
    with pytest.raises(vioblk.DeviceGoneError, match="the disk was reset"):
        finish(pool)
    assert pool.in_flight == 0
    pool.close()


def test_after_a_reset_that_failed_a_pool_says_what_the_disk_says(
    disk: BlockDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = disk.slot_pool(4, SECTOR)

    def failing(value: int) -> None:
        raise error

    calls: list[Any] = [lambda: disk.read(0, SECTOR), lambda: submit(pool, (0, 0)), pool_reap(pool)]
    error: Exception = vioblk.TransportError("the bus is down")
    with monkeypatch.context() as patch:
        patch.setattr(disk.device.transport, "write_status", failing)
        with pytest.raises(vioblk.TransportError, match="the bus is down"):
            disk.reset()
        for call in calls:
            with pytest.raises(vioblk.StateError, match=r"the last reset failed \(the bus is down"):
                call()
        error = vioblk.DeviceGoneError("the back end hung up")
        with pytest.raises(vioblk.DeviceGoneError, match="the back end hung up"):
            disk.reset()
        for call in calls:
            with pytest.raises(vioblk.DeviceGoneError, match=r"hung up\); close the disk and open"):
                call()
    pool.close()


def pool_reap(pool: SlotPool) -> Any:
    return lambda: reap(pool)


def reap_or_none(pool: SlotPool) -> dict[int, int]:
    try:
        return reap(pool)
    except vioblk.DeviceGoneError:
        return {}


def test_a_reset_of_its_queue_loses_a_pool_and_spares_the_others(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?queues=2&offer=ring_reset", queue_count=2)
    pools = [disk.slot_pool(4, SECTOR, queue=number) for number in range(2)]
    software(disk).inject("silence", after=1)
    for pool in pools:
        assert submit(pool, (0, 0)) == 1
        pool.wait(30 if pool is pools[0] else 0)
    assert list(disk.reset_queue(1)) == [], "they have no tokens"
    software(disk).clear_faults()  # the device need not have come to the request before the reset
    with pytest.raises(vioblk.QueueResetError, match="queue 1 was reset"):
        submit(pools[1], (1, 0))
    assert finish(pools[0]) == {0: 0}
    assert submit(pools[0], (1, 0)) == 1
    assert finish(pools[0]) == {1: 0}
    with disk.slot_pool(4, SECTOR, queue=1) as again:
        assert submit(again, (0, 0)) == 1
        assert finish(again) == {0: 0}
    for pool in pools:
        pool.close()


@pytest.mark.parametrize(("ring_format", "fault", "words"), BROKEN)
def test_a_device_that_lies_breaks_the_queue_and_touches_no_other_byte(
    open_disk: OpenDisk, fault: str, words: str
) -> None:
    disk = open_disk("mem:1M", timeout_s=30)
    guards = [memoryview(disk.alloc(GUARD)) for _ in range(2)]
    pool = disk.slot_pool(8, SECTOR)
    others = memoryview(disk.slot_pool(2, SECTOR).buffer)
    for guard in [*guards, others]:
        guard[:] = (PATTERN * len(guard))[: len(guard)]
    software(disk).inject(fault, after=2)
    assert submit(pool, *((slot, slot * SECTOR) for slot in range(8))) == 8
    with pytest.raises(vioblk.QueueBroken, match=words) as raised:
        finish(pool)
    assert re.match(r"queue 0: .*reset\(\) brings it back", str(raised.value))
    with pytest.raises(vioblk.QueueBroken, match=words):
        submit(pool, (0, 0))
    works_again(disk)
    for guard in [*guards, others]:
        assert guard == (PATTERN * len(guard))[: len(guard)]
    pool.close()


def test_a_wait_in_vain_ends_in_time_and_the_request_can_still_come(disk: BlockDevice) -> None:
    software(disk).inject("delay")
    with disk.slot_pool(4, SECTOR) as pool:
        assert submit(pool, (0, 0)) == 1
        assert pool.wait(0.15) is False
        assert pool.in_flight == 1
        software(disk).clear_faults()
        assert finish(pool) == {0: 0}
        assert pool.wait(30) is False
        for bad in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout_s"):
                pool.wait(bad)


def test_a_slot_that_failed_is_told_with_what_else_is_known(disk: BlockDevice) -> None:
    with disk.slot_pool(4, SECTOR) as pool:
        software(disk).inject("status", value=1)
        assert submit(pool, (2, 0)) == 1
        assert pool.wait(30)
        with pytest.raises(vioblk.RequestFailedError, match=r"slot 2 failed: .*IOERR") as raised:
            pool.reap(array("I", [0]))
        assert (raised.value.status, raised.value.slot) == (1, 2)


def test_a_pool_that_is_dropped_leaves_a_disk_that_works_and_closes(disk: BlockDevice) -> None:
    software(disk).inject("delay")
    pool = disk.slot_pool(4, SECTOR)
    assert submit(pool, (0, 0)) == 1
    del pool
    gc.collect()
    assert disk.device.in_flight == 1
    software(disk).clear_faults()
    assert disk.read(0, SECTOR) == bytes(SECTOR)
    disk.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "submit",
            ["submit(slots, offsets, /)", "array of uint32", "one of uint64", "QueueBroken"],
        ),
        ("reap", ["reap(slots, statuses=None, /)", "uint8", "RequestFailedError", "a reset lost"]),
    ],
)
def test_help_has_the_contract_of_submit_and_reap(name: str, words: list[str]) -> None:
    text = inspect.getdoc(getattr(SlotPool, name)) or ""
    shown = pydoc.plain(pydoc.render_doc(SlotPool))
    for each in words:
        assert each in text
        assert each in shown


@pytest.mark.parametrize("ring", ["native", "reference"])
def test_a_pool_keeps_its_disk_and_no_disk_keeps_a_pool(ring: RingName) -> None:
    pool = vioblk.open("mem:1M", ring=ring).slot_pool(4, SECTOR)
    gc.collect()
    assert submit(pool, (0, 0)) == 1
    assert finish(pool) == {0: 0}
    disk = pool.disk
    gone = weakref.ref(pool)
    gc.disable()  # the pool is in no cycle that would have to be found
    try:
        del pool
        assert gone() is None
    finally:
        gc.enable()
    assert disk.read(0, SECTOR) == bytes(SECTOR)
    with disk.slot_pool(4, SECTOR) as another:
        assert another.disk is disk
    disk.close()


def test_pools_that_cannot_be_are_refused_and_take_no_memory(disk: BlockDevice) -> None:
    depth = disk.info.queues[0].depth
    for count, slot_bytes, error in (
        (0, 512, ValueError),
        (-1, 512, ValueError),
        (4, 0, vioblk.ZeroLengthError),
        (4, 513, vioblk.UnalignedError),
        (1, 2 << 20, vioblk.BeyondEndError),
        (2**20, 2**40, ValueError),
        (2**31, 512 << 20, MemoryError),
    ):
        with pytest.raises(error):
            disk.slot_pool(count, slot_bytes)
    with pytest.raises(ValueError, match="there is no queue 7"):
        disk.slot_pool(4, 512, queue=7)
    with pytest.raises(TypeError):
        disk.slot_pool(4, 512.0)  # type: ignore[arg-type]
    assert disk.info.queues[0].depth == depth


def test_a_read_only_disk_has_no_pools_for_writes(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?read_only=on")
    with pytest.raises(vioblk.ReadOnlyError, match="the disk is read-only"):
        disk.slot_pool(4, 512, write=True)
    with disk.slot_pool(4, 512) as pool:
        assert submit(pool, (0, 0)) == 1
        assert finish(pool) == {0: 0}


def test_requests_are_held_to_a_capacity_that_shrank(open_disk: OpenDisk) -> None:
    changed = threading.Event()
    disk = open_disk("mem:1M", on_config_change=lambda config: changed.set())
    with disk.slot_pool(4, SECTOR) as pool:
        software(disk).resize(8)
        pool_bytes = 8 * SECTOR
        assert changed.wait(AMPLE_S)
        assert disk.capacity_bytes == pool_bytes
        with pytest.raises(vioblk.BeyondEndError, match="which has 8 sectors"):
            submit(pool, (0, pool_bytes))
        assert submit(pool, (0, pool_bytes - SECTOR)) == 1
        assert finish(pool) == {0: 0}


def test_a_doorbell_that_carries_data_is_rung_for_pools_as_well(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?bus=pci&notification_data=on")
    with disk.slot_pool(4, SECTOR) as pool:
        for turn in range(100):
            assert submit(pool, (turn % 4, turn * SECTOR)) == 1
            assert finish(pool) == {turn % 4: 0}
