"""The reset of one queue: awaited, and then the queue is made anew, while the others go on."""

import gc
from collections.abc import Callable

import pytest

from tests.clauses import clause
from tests.conftest import RingName
from tests.device.steps import MODERN, fail, steps_of
from tests.support.drivers import PlainDriver, PlainQueue
from tests.support.scripted import Access, Script
from vioblk.device import VirtioDevice
from vioblk.errors import ResetTimeoutError, StateError, TransportError, UnsupportedError
from vioblk.features import RING, Feature
from vioblk.status import DeviceState
from vioblk.transport.base import Transport

BOTH_QUEUES = frozenset({Feature.RING_RESET, *RING, *MODERN})


@pytest.fixture
def script() -> Script:
    return Script(BOTH_QUEUES)


@pytest.fixture
def driver(script: Script, ring: RingName) -> PlainDriver:
    return PlainDriver(script.log, ring=ring, queues=2)


@pytest.fixture
def live(device: VirtioDevice, driver: PlainDriver, script: Script) -> VirtioDevice:
    device.initialize(driver)
    script.log.clear()
    return device


@clause("VQRESET-01", "VQRESET-03")
def test_a_queue_is_given_up_then_reset_then_taken_back_then_set_up_and_built_again(
    live: VirtioDevice, script: Script
) -> None:
    live.reset_queue(1)
    assert [each.what for each in steps_of(script)] == [
        "abort",
        "reset_queue",
        "reclaim",
        "enable_queue",
        "build",
    ]
    assert live.state is DeviceState.LIVE


@clause("VQRESET-03")
def test_all_of_a_queue_is_programmed_again_and_its_size_may_be_another(
    live: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    before = script.enabled[1]
    live.reset_queue(1, 16)
    after = script.enabled[1]
    assert (before.size, after.size, driver.handles[1].size) == (8, 16, 16)
    assert driver.handles[1].queue.ring.size == 16
    ring, layout = driver.handles[1].queue.parts.ring, driver.handles[1].queue.parts.layout
    start = ring.device_address
    assert after[1:] == (
        start + layout.descriptors_offset,
        start + layout.driver_offset,
        start + layout.device_offset,
    )
    live.reset_queue(1)
    assert script.enabled[1].size == 16, "as before, unless another is asked for"


def test_what_was_in_flight_is_told_and_the_new_ring_is_empty(
    live: VirtioDevice, driver: PlainDriver
) -> None:
    heads = [driver.handles[1].queue.submit() for _ in range(3)]
    other = driver.handles[0].queue
    other.submit()
    assert sorted(live.reset_queue(1)) == sorted(heads)
    assert driver.handles[1].queue.in_flight == 0
    assert other.in_flight == 1
    assert other.aborted is None
    assert driver.handles[0].queue is other


def test_the_queue_before_stays_aborted(live: VirtioDevice, driver: PlainDriver) -> None:
    before = driver.handles[1].queue
    live.reset_queue(1)
    assert before.aborted is not None
    assert "queue 1 was reset" in before.aborted
    assert driver.handles[1].queue is not before
    assert driver.handles[1].queue.aborted is None


@clause("VQRESET-02")
def test_the_memory_of_the_ring_before_is_given_back(
    live: VirtioDevice, driver: PlainDriver
) -> None:
    live.reset_queue(1, 256)
    gc.collect()
    free = live.memory.space.free_bytes
    for _ in range(10):
        live.reset_queue(1)
    gc.collect()
    assert live.memory.space.free_bytes == free


@clause("VQRESET-01")
def test_a_ring_is_left_alone_until_the_queue_reset_is_confirmed(
    live: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    head = driver.handles[1].queue.submit()
    script.resets_queues = False
    with pytest.raises(ResetTimeoutError, match="queue 1"):
        live.reset_queue(1)
    assert script.accesses("reclaim", "enable_queue", "build") == []
    queue = driver.handles[1].queue
    assert queue.in_flight == 1
    assert queue.aborted is not None
    assert "call it again" in queue.aborted
    assert live.state is DeviceState.LIVE
    assert driver.handles[0].queue.aborted is None
    script.resets_queues = True
    assert live.reset_queue(1) == [head]
    assert driver.handles[1].queue.aborted is None


STEPS: dict[str, Callable[[Script, PlainDriver, Callable[..., None]], None]] = {
    "the reset": lambda script, driver, step: script.hooks.update(reset_queue=step),
    "the set-up": lambda script, driver, step: script.hooks.update(enable_queue=step),
}


@pytest.mark.parametrize("where", STEPS)
@pytest.mark.parametrize("error", [TransportError("half told"), KeyboardInterrupt()], ids=type)
def test_a_reset_that_is_cut_short_leaves_the_queue_unused_and_can_be_made_again(
    live: VirtioDevice, driver: PlainDriver, script: Script, where: str, error: BaseException
) -> None:
    head = driver.handles[1].queue.submit()

    def cut_short(*_: object) -> None:
        raise error

    STEPS[where](script, driver, cut_short)
    for _ in range(2):
        with pytest.raises(type(error)):
            live.reset_queue(1)
        assert driver.handles[1].queue.aborted is not None
    script.hooks.clear()
    assert live.reset_queue(1) == [head], "told once, when the queue can be used again"
    assert driver.handles[1].queue.aborted is None
    assert live.reset_queue(1) == []


def test_what_a_failed_reset_of_a_queue_took_back_is_told_by_that_of_the_device(
    live: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    head = driver.handles[1].queue.submit()
    script.hooks["enable_queue"] = fail(TransportError("half told"))
    with pytest.raises(TransportError):
        live.reset_queue(1)
    live.reset()
    assert driver.lost == {0: [], 1: [head]}


def test_a_ring_that_is_known_in_part_is_not_given_out_before_another_reset(
    live: VirtioDevice, script: Script
) -> None:
    script.hooks["enable_queue"] = fail(TransportError("half told"))
    free = live.memory.space.free_bytes
    with pytest.raises(TransportError):
        live.reset_queue(1)
    gc.collect()
    assert live.memory.space.free_bytes < free
    script.hooks.clear()
    live.reset_queue(1)
    gc.collect()
    assert live.memory.space.free_bytes == free


@pytest.mark.parametrize(
    ("index", "size", "problem"),
    [
        (2, None, "queue 2 was not set up; those in use are 0, 1"),
        (-1, None, "queue -1 was not set up"),
        (1, 0, "cannot have 0 descriptors: a power of two from 1 to 256"),
        (1, 12, "cannot have 12 descriptors"),
        (1, 512, "cannot have 512 descriptors"),
        (1, 2, "its indirect tables have 4"),
    ],
)
def test_a_reset_that_cannot_be_is_refused_before_anything_happens(
    live: VirtioDevice, script: Script, index: int, size: int | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        live.reset_queue(index, size)
    assert script.log == []


def test_a_queue_is_not_reset_unless_ring_reset_was_accepted(
    device: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    device.initialize(driver, force_off=frozenset({Feature.RING_RESET}))
    script.log.clear()
    with pytest.raises(UnsupportedError, match=r"RING_RESET was not negotiated .* whole device"):
        device.reset_queue(0)
    assert script.log == []


def test_a_device_that_needs_a_reset_resets_no_queue(
    live: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    script.status |= 64
    live.refresh_state()
    script.log.clear()
    with pytest.raises(StateError, match=r"NEEDS_RESET .*reset it"):
        live.reset_queue(0)
    assert script.log == []


def test_a_queue_that_the_device_broke_is_mended_by_its_reset(
    live: VirtioDevice, driver: PlainDriver
) -> None:
    queue = driver.handles[1].queue
    queue.submit()
    _use_what_is_not_there(queue)
    with pytest.raises(OSError, match="used index"):
        queue.ring.reap()
    assert queue.broken
    live.reset_queue(1)
    assert driver.handles[1].queue.broken is None
    driver.handles[1].queue.submit()


def _use_what_is_not_there(queue: PlainQueue) -> None:
    layout = queue.parts.layout
    with memoryview(queue.parts.ring) as view, view.cast("H") as words:
        words[layout.device_offset // 2 + 1] = 7


def test_closing_resets_a_device_of_which_one_queue_would_not_be_reset(
    live: VirtioDevice, driver: PlainDriver, script: Script
) -> None:
    head = driver.handles[1].queue.submit()
    script.resets_queues = False
    with pytest.raises(ResetTimeoutError):
        live.reset_queue(1)
    live.close()
    assert script.status == 0
    assert driver.lost == {0: [], 1: [head]}
    assert Access("close") in script.log


def test_a_transport_that_cannot_reset_single_queues_says_so(script: Script) -> None:
    with pytest.raises(UnsupportedError, match=r"scripted cannot .*; reset the whole device"):
        Transport.reset_queue(script, 0)
    assert script.log == []
