"""Memory that the device can reach: who may use it, for what, and in which process."""

import ctypes
import faulthandler
import gc
import os
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator

import pytest

from vioblk._native import (
    BlockLimits,
    BlockQueue,
    DmaSpace,
    Mapping,
    Region,
    SplitQueue,
    split_layout,
)
from vioblk.errors import ForkedError

PAGE = 4096
CHILD_SECONDS_MAX = 20


def exit_code_of_child(task: Callable[[], object]) -> int:
    """Run `task` in a forked child: 0, 1 if it raised, or minus the signal that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(CHILD_SECONDS_MAX)
            task()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def space() -> DmaSpace:
    space = DmaSpace()
    space.map(16 * PAGE, 0x10000)
    return space


@pytest.fixture
def plain_file() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        yield file.fileno()


def calls_of_a_space(space: DmaSpace, fd: int) -> dict[str, Callable[[], object]]:
    return {
        "map": lambda: space.map(PAGE, 1 << 32),
        "map_fd": lambda: space.map_fd(fd, PAGE, 1 << 32),
        "mappings": lambda: space.mappings,
        "free_bytes": lambda: space.free_bytes,
        "alloc": lambda: space.alloc(PAGE),
        "region": lambda: space.region(0),
        "locate": lambda: space.locate(bytearray(8)),
    }


def uses_of_a_region(region: Region) -> dict[str, Callable[[], object]]:
    return {
        "close": region.close,
        "__exit__": lambda: region.__exit__(None, None, None),
        "__buffer__": lambda: memoryview(region),
        "ring": lambda: SplitQueue(region, 4),
    }


# What a child may ask for: numbers that were copied, nothing of the memory itself.
DESCRIPTIONS = {"length", "device_address", "handle", "exports", "in_flight", "closed"}


def public_names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_every_public_name_is_tried(space: DmaSpace, plain_file: int) -> None:
    assert public_names(DmaSpace) == set(calls_of_a_space(space, plain_file))
    region = space.alloc(PAGE)
    assert public_names(Region) <= set(uses_of_a_region(region)) | DESCRIPTIONS


def test_a_child_is_refused_every_use(space: DmaSpace, plain_file: int) -> None:
    region = space.alloc(PAGE)
    calls = calls_of_a_space(space, plain_file) | uses_of_a_region(region)

    def child() -> None:
        for name, call in calls.items():
            print("in the child:", name, flush=True)
            with pytest.raises(ForkedError, match=r"fork"):
                call()
        assert {getattr(region, name) for name in DESCRIPTIONS} >= {PAGE, region.device_address}

    assert exit_code_of_child(child) == 0
    region.close()
    assert space.free_bytes == 16 * PAGE


def test_a_child_is_refused_memory_that_it_did_not_know_before(space: DmaSpace) -> None:
    handle = space.alloc(PAGE).handle
    kept = space.alloc(PAGE)

    def child() -> None:
        for wanted in (handle, kept.handle):
            with pytest.raises(ForkedError):
                space.region(wanted)

    assert exit_code_of_child(child) == 0


def test_a_child_that_drops_regions_gives_nothing_back(space: DmaSpace) -> None:
    regions = [space.alloc(PAGE) for _ in range(3)]
    views = [memoryview(regions[0])]

    def child() -> None:
        views.clear()
        regions.clear()
        gc.collect()

    assert exit_code_of_child(child) == 0
    assert space.free_bytes == 13 * PAGE
    views[0][:3] = b"abc"
    assert bytes(views[0][:3]) == b"abc"


def test_a_view_of_before_the_fork_faults_in_the_child(space: DmaSpace) -> None:
    view = memoryview(space.alloc(PAGE))

    def child() -> None:
        faulthandler.disable()  # It is meant to die.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        assert view[0] == 0

    assert exit_code_of_child(child) == -signal.SIGSEGV
    assert view[0] == 0


def test_a_child_may_have_memory_of_its_own(space: DmaSpace) -> None:
    assert space.alloc(PAGE).handle >= 0

    def child() -> None:
        own = DmaSpace()
        own.map(PAGE, 0)
        with own.alloc(PAGE) as region, memoryview(region) as view:
            view[:3] = b"own"
            assert own.locate(view) == (region.handle, 0)

    assert exit_code_of_child(child) == 0


def test_nobody_who_has_the_descriptor_can_cut_the_memory(space: DmaSpace) -> None:
    mapping: Mapping = space.mappings[0]
    view = memoryview(space.alloc(PAGE))
    for length in (0, PAGE, 32 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(mapping.fd, length)
    view[PAGE - 1] = 1
    assert os.fstat(mapping.fd).st_size == 16 * PAGE


@pytest.mark.parametrize("length", [1, 15, 64, 100, 2048, 5000])
def test_bytes_pass_between_processes_unchanged(space: DmaSpace, length: int) -> None:
    region = space.alloc(8192)
    mapping = space.mappings[0]
    data = bytes(index * 7 % 256 for index in range(length))
    with memoryview(region) as view:
        view[3 : 3 + length] = data
    offset = region.device_address - mapping.device_address
    assert os.pread(mapping.fd, length, offset + 3) == data
    assert ctypes.string_at(mapping.host_address + offset + 3, length) == data


def test_a_region_is_at_most_one_ring(space: DmaSpace) -> None:
    region = space.alloc(split_layout(4).length)
    ring = SplitQueue(region, 4)
    with pytest.raises(BufferError, match=r"already serves as a ring"):
        SplitQueue(region, 4)
    assert ring.size == 4
    del ring
    gc.collect()
    SplitQueue(region, 4)


def test_a_region_is_not_ring_and_slots_at_once(space: DmaSpace) -> None:
    region = space.alloc(PAGE)
    limits = BlockLimits(capacity_sectors=8, request_types={0})
    with pytest.raises(BufferError, match=r"already serves as a ring"):
        BlockQueue(space, region, region, 4, limits)
    assert region.in_flight == 0
