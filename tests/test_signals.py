"""Ctrl-C and other signals while requests are under way."""

import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import pytest

import vioblk
from tests.conftest import RingName
from tests.support.interruptions import notice_signals
from tests.support.patience import hasty
from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType

PROMPT_S = 30.0
"""Within this a signal is noticed, on a busy machine; waits look for one every 100 ms."""


def software(disk: BlockDevice) -> SoftwareDevice:
    device = disk.device.transport.device  # type: ignore[attr-defined]
    assert isinstance(device, SoftwareDevice)
    return device


@contextmanager
def signal_soon(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGALRM in a moment, and again until the block is left, handled by `handler`.

    To be entered behind `pytest.raises`: the first one may come at once.
    """
    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def interrupt_once(
    begun: Callable[[], bool] = lambda: True,
) -> Callable[[int, FrameType | None], None]:
    """A handler that does what Ctrl-C does, the first time that something has begun."""
    armed = True

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal armed
        if armed and begun():
            armed = False
            raise KeyboardInterrupt

    return handler


def one_more_chain(disk: BlockDevice) -> Callable[[], bool]:
    """Whether the device has taken a request since."""
    before = software(disk).counters()["chains"]
    return lambda: software(disk).counters()["chains"] > before


@pytest.fixture
def disk(ring: RingName) -> Iterator[BlockDevice]:
    disk = vioblk.open("mem:1M", ring=ring, timeout_s=60)
    try:
        yield disk
    finally:
        software(disk).clear_faults()
        disk.reset()
        disk.close()


def interrupted(call: Callable[[], object], begun: Callable[[], bool] = lambda: True) -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), signal_soon(interrupt_once(begun)):
        call()
    assert time.monotonic() - start < PROMPT_S


def test_ctrl_c_ends_a_read_and_the_disk_works_on(disk: BlockDevice) -> None:
    software(disk).inject("silence")
    interrupted(lambda: disk.read(0, 512), one_more_chain(disk))
    assert disk.read(0, 512) == bytes(512)


def test_ctrl_c_leaves_the_buffer_with_the_device(disk: BlockDevice) -> None:
    software(disk).inject("silence")
    region = disk.alloc(512)
    interrupted(lambda: disk.readinto(0, region), one_more_chain(disk))
    with pytest.raises(BufferError):
        region.close()
    disk.reset()
    region.close()


def test_ctrl_c_ends_a_batch_and_a_wait(disk: BlockDevice) -> None:
    software(disk).inject("silence", count=2)
    region = disk.alloc(512)
    record = REQUEST_RECORD.pack(RequestType.IN, 0, 0, 0, 512, region.handle, 0)
    interrupted(lambda: disk.execute(record, bytearray(1)), one_more_chain(disk))
    assert disk.submit_many(record) == 1
    interrupted(lambda: disk.wait())


def test_ctrl_c_in_the_shell_s_way(disk: BlockDevice) -> None:
    """SIGINT itself, sent to this thread by another while the device is silent."""
    software(disk).inject("silence")
    reader = threading.get_ident()
    failed: list[str] = []

    def press() -> None:
        deadline = time.monotonic() + PROMPT_S
        while disk.device.in_flight == 0:
            if time.monotonic() > deadline:
                failed.append("the read did not begin")
                break
        signal.pthread_kill(reader, signal.SIGINT)

    finger = threading.Thread(target=press)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        finger.start()
        with pytest.raises(KeyboardInterrupt):
            disk.read(0, 512)
    finally:
        finger.join()
        signal.signal(signal.SIGINT, previous)
    assert not failed


def test_a_signal_that_raises_nothing_disturbs_nothing(disk: BlockDevice) -> None:
    disk.write(0, b"\x44" * 4096)
    seen: list[int] = []
    with signal_soon(lambda number, frame: seen.append(number)):
        deadline = time.monotonic() + PROMPT_S
        while len(seen) < 5 and time.monotonic() < deadline:
            assert disk.read(0, 4096) == b"\x44" * 4096
    assert len(seen) >= 5


def test_a_signal_handler_may_use_the_disk(disk: BlockDevice) -> None:
    software(disk).inject("silence")
    seen: list[bytes] = []
    begun = one_more_chain(disk)

    def handler(number: int, frame: FrameType | None) -> None:
        if not begun():
            return
        signal.setitimer(signal.ITIMER_REAL, 0)  # or it interrupts itself on a slow machine
        seen.append(disk.read(512, 512))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), signal_soon(handler):
        disk.read(0, 512)
    assert seen[0] == bytes(512)


def test_ctrl_c_while_waiting_for_a_bounce_buffer(ring: RingName) -> None:
    with vioblk.open("mem:1M?threaded=off", ring=ring, timeout_s=60) as disk:
        pool = disk._transfers.pool
        pool.max_chunks = 1
        with hasty(disk, 0.05), pytest.raises(vioblk.RequestTimeoutError):
            disk.write(0, bytes(512))
        interrupted(lambda: disk.write(0, bytes(512)))
        disk.reset()


STORM_CALLS = 3000


def storm(calls: list[Callable[[], object]]) -> int:
    """Make the calls over and over, each with Ctrl-C at any moment of it; how many it ended."""
    rng = random.Random(7)
    armed = False
    ended = 0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        for turn in range(STORM_CALLS):
            call = calls[turn % len(calls)]
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-6, 250e-6))
                while armed:  # an interpreter swallows what is raised in a finalizer
                    call()
                    notice_signals()
            except KeyboardInterrupt:
                ended += 1
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return ended


def used_bytes(disk: BlockDevice) -> int:
    """Of the memory that the device can reach."""
    gc.collect()  # an exception holds the frames that it came through
    space = disk.device.memory.space
    return sum(mapping.length for mapping in space.mappings) - space.free_bytes


def mended(disk: BlockDevice, call: Callable[[], object]) -> None:
    """The ring in Python can lose its place when it is interrupted, which takes a reset to mend."""
    try:
        call()
    except vioblk.VioblkError:
        disk.reset()


# What comes while a finalizer runs, the interpreter can only report.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_leaves_no_lock_held_and_no_buffer_lost(ring: RingName) -> None:
    disk = vioblk.open("mem:1M", ring=ring, timeout_s=60 if ring == "native" else 0.2)
    disk.read(0, 512)
    disk.reset()
    used_before = used_bytes(disk)
    buffer = bytearray(4096)
    calls: list[Callable[[], object]] = [
        lambda: disk.read(0, 512),
        lambda: disk.readinto(4096, buffer),
        lambda: disk.write(8192, buffer),
        lambda: disk.writeback,
    ]
    if ring == "reference":
        calls = [partial(mended, disk, call) for call in calls]
    assert storm(calls) > STORM_CALLS * 0.9
    assert disk._gate.inside == 0
    pool = disk._transfers.pool
    if ring == "native":
        deadline = time.monotonic() + PROMPT_S
        while pool.free_count < pool.chunk_count and time.monotonic() < deadline:
            disk.read(0, 512)
        assert pool.free_count == pool.chunk_count
    disk.reset()
    assert used_bytes(disk) == used_before
    assert disk.read(4096, 4096) == bytes(4096)
    start = time.monotonic()
    disk.close()
    assert time.monotonic() - start < PROMPT_S
