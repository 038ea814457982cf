"""Transfers between DMA memory and the disk that take the short way: what they do, that they fail
as the general way does, and that they leave to it what they cannot do."""

import array
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import vioblk
from tests.support.patience import hasty
from vioblk._native import DirectTransfers, Region, SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.limits import MAX_REQUEST_BYTES
from vioblk.transport.software import SoftwareTransport

LONG_S = 60.0
"""A bound, and no wait."""

FORMATS = ("", "&packed=on", "&in_order=on", "&event_idx=off", "&packed=on&in_order=on")


class NotDirect(AssertionError):
    """A transfer took the general way."""


@contextmanager
def opened(address: str = "mem:1M", **options: Any) -> Iterator[BlockDevice]:
    with vioblk.open(address, timeout_s=options.pop("timeout_s", LONG_S), **options) as disk:
        yield disk


@contextmanager
def buffer_of(disk: BlockDevice, length: int = 4096) -> Iterator[memoryview]:
    with disk.alloc(length) as region, memoryview(region) as view:
        yield view


def software(disk: BlockDevice) -> SoftwareDevice:
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport)
    return transport.device


def unexpected(*arguments: object) -> None:
    raise NotDirect


def only_directly(disk: BlockDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk._transfers, "move", unexpected)


def chains(disk: BlockDevice) -> int:
    return software(disk).counters()["chains"]


def await_chains(disk: BlockDevice, count: int) -> None:
    deadline = time.monotonic() + LONG_S
    while chains(disk) < count:
        assert time.monotonic() < deadline, "the device has not seen them"
        time.sleep(0)


@pytest.mark.parametrize("options", FORMATS)
def test_dma_memory_is_written_and_read_by_one_request_each(
    monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    with opened(f"mem:1M?queues=2{options}", queue_count=2) as disk, buffer_of(disk) as view:
        only_directly(disk, monkeypatch)
        before = chains(disk)
        for turn in range(1, 40):
            view[:] = bytes([turn]) * len(view)
            assert disk.write(turn * 4096, view) == 4096
            view[:] = bytes(len(view))
            assert disk.readinto(turn * 4096, view[512:1536]) == 1024
            assert view == bytes(512) + bytes([turn]) * 1024 + bytes(2560)
        assert chains(disk) == before + 2 * 39
        assert disk._gate.inside == 0
        assert all(queue.kick_count for queue in disk.info.queues), "the queues take turns"


@pytest.mark.parametrize("options", FORMATS)
def test_bytes_are_read_by_one_request_each_and_no_bounce_buffer_is_kept(
    monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    with opened(f"mem:1M?queues=2{options}", queue_count=2) as disk:
        for turn in range(40):
            disk.write(turn * 512, bytes([turn]) * 512)
        monkeypatch.setattr(disk._transfers, "_move_region", unexpected)
        before = chains(disk)
        for turn in range(40):
            assert disk.read(turn * 512, 512) == bytes([turn]) * 512
        assert chains(disk) == before + 40
        assert disk._transfers.pool.free_count == disk._transfers.pool.chunk_count == 1
        assert disk._gate.inside == 0


def test_the_buffer_may_be_a_region_or_any_flat_view_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened() as disk, disk.alloc(2048) as region:
        only_directly(disk, monkeypatch)
        assert disk.write(0, region) == disk.readinto(0, region) == 2048
        with memoryview(region) as view, view.cast("I", (4, 128)) as table:
            assert disk.write(512, table) == disk.readinto(512, table) == 2048
        with memoryview(region) as view, view.toreadonly() as constant:
            assert disk.write(0, constant) == 2048


def test_regions_come_and_go_and_none_is_taken_for_another() -> None:
    with opened() as disk:
        for turn in range(1, 30):
            # The same bytes of memory as in the turn before, under another handle.
            with disk.alloc(4096) as one, disk.alloc(4096) as two:
                for number, region in enumerate((one, two)):
                    with memoryview(region) as view:
                        view[:] = bytes([turn + number]) * 4096
                    assert disk.write(4096 * number, region) == 4096
                assert disk.readinto(4096, one) == disk.readinto(0, two) == 4096
                with memoryview(one) as view, memoryview(two) as other:
                    assert view == bytes([turn + 1]) * 4096
                    assert other == bytes([turn]) * 4096


def test_what_the_general_way_splits_is_not_sent_as_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened("mem:4M") as disk, buffer_of(disk, MAX_REQUEST_BYTES + 512) as view:
        before = chains(disk)
        assert disk.readinto(0, view) == len(view)
        assert chains(disk) == before + 2
        only_directly(disk, monkeypatch)
        assert disk.readinto(0, view[:MAX_REQUEST_BYTES]) == MAX_REQUEST_BYTES
        assert chains(disk) == before + 3
        with pytest.raises(NotDirect):
            disk.readinto(0, view)


def test_more_regions_than_are_remembered_take_the_short_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened() as disk:
        only_directly(disk, monkeypatch)
        regions = [disk.alloc(512) for _ in range(20)]
        for _ in range(2):
            for region in regions:
                assert disk.readinto(0, region) == 512
        for region in regions:
            region.close()


class Offset:
    """A number, as some libraries have them."""

    def __index__(self) -> int:
        return 1024


Call = Callable[[BlockDevice, memoryview], object]

# What both ways are asked for, and do or refuse alike.
CALLS: dict[str, Call] = {
    "an offset that is no int": lambda disk, view: disk.readinto(Offset(), view),  # type: ignore[arg-type]
    "no offset at all": lambda disk, view: disk.write("0", view),  # type: ignore[arg-type]
    "a negative offset": lambda disk, view: disk.readinto(-512, view),
    "an offset of 2^64": lambda disk, view: disk.readinto(1 << 64, view),
    "an offset amid a sector": lambda disk, view: disk.write(100, view),
    "a length amid a sector": lambda disk, view: disk.readinto(0, view[:100]),
    "no bytes": lambda disk, view: disk.readinto(0, view[:0]),
    "an end behind that of the disk": lambda disk, view: disk.write((1 << 20) - 512, view),
    "an offset behind the end": lambda disk, view: disk.readinto(1 << 40, view),
    "a buffer that cannot be written": lambda disk, view: disk.readinto(0, view.toreadonly()),
    "a buffer with gaps": lambda disk, view: disk.readinto(0, view[::2]),
    "no buffer": lambda disk, view: disk.write(0, 5),  # type: ignore[arg-type]
    "another buffer": lambda disk, view: disk.readinto(0, bytearray(1024)),
    "another buffer of numbers": lambda disk, view: disk.write(0, array.array("Q", [1] * 128)),
    "one that is longer than a request": lambda disk, view: disk.readinto(0, view),
    "another length than is in the region": lambda disk, view: disk.write(0, view[1024:]),
    "bytes": lambda disk, view: disk.read(512, 1024),
    "bytes that are longer than a request": lambda disk, view: disk.read(0, 4096),
    "bytes that are longer than a bounce buffer": lambda disk, view: disk.read(0, 1 << 19),
}


def outcome(call: Call, disk: BlockDevice, view: memoryview) -> Any:
    try:
        return call(disk, view)
    except Exception as error:
        return type(error), str(error)


def in_both_ways(
    call: Call, address: str, fault: str | None = None, timeout_s: float = LONG_S
) -> Any:
    """What comes of a call on a fresh disk, which is the same in both ways."""
    outcomes = []
    for general in (False, True):
        with opened(address, queue_count=1) as disk, buffer_of(disk) as view:
            if general:
                disk._transfers.direct = None
            if fault is not None:
                software(disk).inject(fault, value=1)
            with hasty(disk, timeout_s):
                outcomes.append(outcome(call, disk, view))
            assert disk._gate.inside == 0
            if disk.device.in_flight:
                disk.reset()  # it would keep the region
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("address", ["mem:1M", "mem:1M?size_max=1024&seg_max=2"])
def test_what_is_odd_has_the_same_outcome_as_in_the_general_way(address: str, call: Call) -> None:
    in_both_ways(call, address)


READ_AND_WRITE: dict[str, Call] = {
    "readinto": lambda disk, view: disk.readinto(512, view),
    "write": lambda disk, view: disk.write(512, view),
    "read": lambda disk, view: disk.read(512, 4096),
}


@pytest.mark.parametrize("call", READ_AND_WRITE.values(), ids=READ_AND_WRITE.keys())
@pytest.mark.parametrize("fault", ["status", "garbage_status", "short_length", "id_out_of_range"])
def test_what_the_device_does_wrong_is_told_in_the_same_words(call: Call, fault: str) -> None:
    told = in_both_ways(call, "mem:1M", fault)
    if fault != "short_length":
        assert isinstance(told, tuple)
        assert issubclass(told[0], vioblk.VioblkError)


@pytest.mark.parametrize("call", READ_AND_WRITE.values(), ids=READ_AND_WRITE.keys())
def test_a_device_that_is_silent_is_told_in_the_same_words(call: Call) -> None:
    kind, text = in_both_ways(call, "mem:1M", "silence", timeout_s=0.2)
    assert kind is vioblk.RequestTimeoutError
    assert "after 0.2 s" in text


def test_a_read_only_disk_refuses_writes_in_the_same_words() -> None:
    kind, _ = in_both_ways(READ_AND_WRITE["write"], "mem:1M?read_only=on")
    assert kind is vioblk.ReadOnlyError


def test_a_shut_disk_refuses_in_the_same_words() -> None:
    with opened() as disk, buffer_of(disk) as view:
        disk._gate.shut("not now")
        for call in READ_AND_WRITE.values():
            assert outcome(call, disk, view) == (vioblk.StateError, "not now")
        disk._gate.open()
        assert disk.readinto(0, view) == 4096


@pytest.mark.parametrize("how", ["reset", "reset_queue"])
def test_who_waits_when_the_queue_is_reset_is_told_which_it_was(how: str) -> None:
    with opened("mem:1M?offer=ring_reset", queue_count=1) as disk, buffer_of(disk) as view:
        software(disk).inject("silence")
        before = chains(disk)
        told: list[Any] = []
        waiting = threading.Thread(
            target=lambda: told.append(outcome(READ_AND_WRITE["readinto"], disk, view))
        )
        waiting.start()
        await_chains(disk, before + 1)
        if how == "reset":
            disk.reset()
        else:
            disk.reset_queue(0)
        waiting.join(LONG_S)
        [(kind, _)] = told
        assert kind is (vioblk.DeviceGoneError if how == "reset" else vioblk.QueueResetError)
        assert disk._transfers.direct is not None
        assert disk.write(0, view) == disk.readinto(0, view) == 4096
        assert disk.device.in_flight == 0


def test_a_request_that_was_given_up_keeps_its_region_and_nothing_else() -> None:
    with opened() as disk, buffer_of(disk) as view:
        software(disk).inject("delay")
        with hasty(disk, 0.05), pytest.raises(vioblk.RequestTimeoutError):
            disk.readinto(0, view)
        assert disk.device.in_flight == 1
        assert region_of(view).in_flight == 1
        software(disk).clear_faults()
        deadline = time.monotonic() + LONG_S
        while disk.device.in_flight:
            assert time.monotonic() < deadline, "it has not come back"
            disk.wait(0.01)
        assert region_of(view).in_flight == 0


def region_of(view: memoryview) -> Region:
    region = view.obj
    assert isinstance(region, Region)
    return region


def test_threads_share_the_queues_and_each_gets_its_own_blocks() -> None:
    with opened("mem:1M?queues=2", queue_count=2) as disk:
        wrong: list[object] = []

        def work(number: int) -> None:
            with buffer_of(disk, 512) as view:
                for turn in range(200):
                    value = bytes([(number * 50 + turn) % 256]) * 512
                    view[:] = value
                    disk.write(number * 512, view)
                    view[:] = bytes(512)
                    disk.readinto(number * 512, view)
                    if view != value:
                        wrong.append((number, turn))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
        assert not wrong
        assert not any(thread.is_alive() for thread in threads)


def test_the_reference_ring_takes_the_general_way() -> None:
    with vioblk.open("mem:1M", ring="reference") as disk, buffer_of(disk) as view:
        assert disk._transfers.direct is None
        assert disk.write(0, view) == disk.readinto(0, view) == 4096


def test_there_is_no_short_way_without_a_queue() -> None:
    with opened() as disk, pytest.raises(ValueError, match="there is none"):
        DirectTransfers(disk._gate, disk.device.transport.space, [])
