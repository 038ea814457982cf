"""A disk belongs to the process that opened it."""

import gc
import os
import traceback
import warnings
from array import array
from collections.abc import Callable

import pytest

import vioblk
from tests.conftest import RingName
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType

CALLS: dict[str, Callable[[BlockDevice], object]] = {
    "read": lambda disk: disk.read(0, 512),
    "readinto": lambda disk: disk.readinto(0, bytearray(512)),
    "write": lambda disk: disk.write(0, bytes(512)),
    "flush": lambda disk: disk.flush(),
    "discard": lambda disk: disk.discard(0, 512),
    "write_zeroes": lambda disk: disk.write_zeroes(0, 512),
    "alloc": lambda disk: disk.alloc(512),
    "execute": lambda disk: disk.execute(b"", bytearray()),
    "submit_many": lambda disk: disk.submit_many(b""),
    "reap_many": lambda disk: disk.reap_many(bytearray(16)),
    "wait": lambda disk: disk.wait(0.1),
    "slot_pool": lambda disk: disk.slot_pool(4, 512),
    "set_polling": lambda disk: disk.set_polling(0, True),
    "reset_queue": lambda disk: disk.reset_queue(0),
    "reset": lambda disk: disk.reset(),
    "close": lambda disk: disk.close(),
    "enter": lambda disk: disk.__enter__(),
    "capacity_bytes": lambda disk: disk.capacity_bytes,
    "read_only": lambda disk: disk.read_only,
    "block_size": lambda disk: disk.block_size,
    "geometry": lambda disk: disk.geometry,
    "topology": lambda disk: disk.topology,
    "limits": lambda disk: disk.limits,
    "config": lambda disk: disk.config,
    "serial": lambda disk: disk.serial,
    "writeback": lambda disk: disk.writeback,
    "info": lambda disk: disk.info,
    "closed": lambda disk: disk.closed,
    "device": lambda disk: disk.device,
    "timeout_s": lambda disk: disk.timeout_s,
}


def in_child(task: Callable[[], None]) -> None:
    """Run `task` in a forked child; fails if it raised there."""
    with warnings.catch_warnings():
        # Python warns of forking with threads; that it is survived is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            task()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def expect_forked(call: Callable[[], object]) -> None:
    with pytest.raises(vioblk.ForkedError, match=r"process|fork"):
        call()


def test_every_public_name_of_a_disk_is_tried() -> None:
    public = {name for name in dir(BlockDevice) if not name.startswith("_")}
    assert public <= set(CALLS)


def test_a_child_gets_an_error_from_every_call_and_the_parent_goes_on(ring: RingName) -> None:
    with vioblk.open("mem:1M", ring=ring) as disk:
        disk.write(0, b"\x61" * 512)

        def child() -> None:
            for call in CALLS.values():
                expect_forked(lambda: call(disk))  # noqa: B023  - called at once

        in_child(child)
        assert disk.read(0, 512) == b"\x61" * 512


def test_a_child_gets_an_error_from_every_call_of_a_slot_pool(ring: RingName) -> None:
    slots, offsets = array("I", [0]), array("Q", [512])
    with vioblk.open("mem:1M", ring=ring) as disk, disk.slot_pool(4, 512) as pool:

        def child() -> None:
            expect_forked(lambda: pool.submit(slots, offsets))
            expect_forked(lambda: pool.reap(slots))
            expect_forked(lambda: pool.wait(0.1))
            expect_forked(lambda: pool.in_flight)
            expect_forked(pool.close)

        in_child(child)
        assert pool.submit(slots, offsets) == 1
        assert pool.wait()
        assert pool.reap(slots) == 1


def test_a_child_that_forgets_its_copy_is_not_warned(ring: RingName) -> None:
    disks = [vioblk.open("mem:1M", ring=ring)]

    def child() -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            disks.clear()
            gc.collect()
        assert not seen

    in_child(child)
    assert disks[0].read(0, 512) == bytes(512)
    disks[0].close()


def test_the_queues_themselves_refuse_a_child(ring: RingName) -> None:
    with vioblk.open("mem:1M", ring=ring) as disk:
        queue = disk._driver.queues[0]
        flush = REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0)

        def child() -> None:
            expect_forked(lambda: queue.submit_many(flush))
            expect_forked(lambda: queue.reap_many(bytearray(16)))
            expect_forked(lambda: queue.execute(flush, bytearray(1), 1))
            expect_forked(lambda: queue.wait(0.1))

        in_child(child)
        disk.flush()


def test_a_child_may_open_a_disk_of_its_own(ring: RingName) -> None:
    with vioblk.open("mem:1M", ring=ring) as disk:

        def child() -> None:
            with vioblk.open("mem:1M", ring=ring) as own:
                own.write(512, b"\x62" * 512)
                assert own.read(512, 512) == b"\x62" * 512

        in_child(child)
        assert disk.read(512, 512) == bytes(512)


def test_a_fork_while_others_read_disturbs_nobody(ring: RingName) -> None:
    import threading

    with vioblk.open("mem:1M", ring=ring) as disk:
        disk.write(0, b"\x63" * 4096)
        stop = threading.Event()
        failures: list[BaseException] = []

        def keep_reading() -> None:
            try:
                while not stop.is_set():
                    assert disk.read(0, 4096) == b"\x63" * 4096
            except BaseException as error:
                failures.append(error)

        readers = [threading.Thread(target=keep_reading) for _ in range(2)]
        for reader in readers:
            reader.start()
        for _ in range(5):
            in_child(lambda: expect_forked(lambda: disk.read(0, 512)))
        stop.set()
        for reader in readers:
            reader.join(10)
        assert not failures
