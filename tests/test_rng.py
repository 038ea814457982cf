"""The driver of entropy devices, against devices that answer well and badly."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.conftest import RingName
from tests.support.entropy import Answer, Answers, EntropyScript, honest
from tests.support.interruptions import interrupter
from tests.support.leaks import no_leaks
from vioblk.bus import Bus, Connection
from vioblk.device import VirtioDevice
from vioblk.driver import BusDriver, DeviceIdentity, Settings
from vioblk.errors import (
    DeviceBusyError,
    DeviceGoneError,
    ProtocolError,
    QueueBroken,
    QueueFull,
    RequestTimeoutError,
    ResetTimeoutError,
    StateError,
    ZeroLengthError,
)
from vioblk.features import Feature
from vioblk.rng import DRIVER, REQUEST_BYTES_MAX, RING_SIZE_MAX, EntropyDevice

PROMPT_S = 30.0
"""Well below the 60 s for which these devices are patient."""

OpenDevice = Callable[..., tuple[EntropyDevice, EntropyScript]]


@pytest.fixture
def open_device(ring: RingName) -> Iterator[OpenDevice]:
    with ExitStack() as stack:

        def opener(
            answers: Answers = honest, *, timeout_s: float = 60.0, **script_options: Any
        ) -> tuple[EntropyDevice, EntropyScript]:
            script = EntropyScript(answers, **script_options)
            stack.callback(script.close)
            source = EntropyDevice(VirtioDevice(script), ring=ring, timeout_s=timeout_s)
            stack.callback(source.close, timeout_s=0.1)
            return source, script

        yield opener


@pytest.mark.parametrize("interrupts", [True, False], ids=["interrupts", "polled"])
@pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])
@pytest.mark.parametrize("length", [1, 64, REQUEST_BYTES_MAX + 1, 200_000])
def test_as_many_bytes_come_as_were_asked_for(
    open_device: OpenDevice, length: int, interrupts: bool, legacy: bool
) -> None:
    source, script = open_device(interrupts=interrupts, legacy=legacy)
    data = source.read(length)
    assert len(data) == sum(script.asked) == length
    assert data[:64] == honest(64).data[:length]
    assert max(script.asked) <= REQUEST_BYTES_MAX


def test_the_bytes_of_a_device_that_works_in_order_come_as_well(open_device: OpenDevice) -> None:
    source, script = open_device(in_order=True)
    for _ in range(2 * RING_SIZE_MAX + 1):
        assert source.read(64) == honest(64).data
    assert script.asked == [64] * (2 * RING_SIZE_MAX + 1)
    assert source.device.has(Feature.IN_ORDER)


@pytest.mark.parametrize(("count", "size"), [(0, 256), (1, 0)])
def test_a_device_without_a_queue_is_not_used(
    ring: RingName, count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(EntropyScript()) as script:
        monkeypatch.setattr(script, "queue_count", lambda: count)
        monkeypatch.setattr(script, "queue_size_max", lambda index: size)
        with (
            closing(VirtioDevice(script)) as device,
            pytest.raises(ProtocolError, match="it has no queue"),
        ):
            EntropyDevice(device, ring=ring)


@pytest.mark.parametrize(("said", "used"), [(1, 1), (3, 2), (7, 4), (9, 8), (0xFFFF, 8)])
def test_any_size_that_the_device_says_gives_a_ring(
    open_device: OpenDevice, said: int, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EntropyScript, "queue_size_max", lambda script, index: said)
    source, script = open_device()
    assert script.enabled[0].size == used
    assert source.read(4) == honest(4).data


def test_a_device_that_gives_less_is_asked_again(open_device: OpenDevice) -> None:
    source, script = open_device(lambda length: Answer(b"abc"[:length]))
    assert source.read(8) == b"abcabcab"
    assert script.asked == [8, 5, 2]


def test_what_the_device_did_not_write_is_not_handed_out(open_device: OpenDevice) -> None:
    source, _ = open_device(lambda length: Answer(b"1" + b"x" * (length - 1), used_length=1))
    assert source.read(3) == b"111"


def test_an_empty_answer_is_an_error(open_device: OpenDevice) -> None:
    source, script = open_device(lambda length: Answer(b"", used_length=0))
    with pytest.raises(ProtocolError, match="without a single byte"):
        source.read(16)
    script.answers = honest
    assert len(source.read(16)) == 16


@pytest.mark.parametrize("extra", [1, 0xFFFF_0000])
def test_a_device_that_says_it_wrote_more_than_there_is_room_for_is_not_believed(
    open_device: OpenDevice, extra: int
) -> None:
    source, script = open_device(
        lambda length: Answer(b"\xaa" * length, used_length=length + extra)
    )
    with pytest.raises(QueueBroken, match="16"):
        source.read(16)
    script.answers = honest
    with pytest.raises(QueueBroken):
        source.read(16)


def test_a_buffer_that_was_never_handed_out_is_not_taken_back(open_device: OpenDevice) -> None:
    source, _ = open_device(lambda length: Answer(b"\xaa" * length, head=5))
    with pytest.raises(QueueBroken, match="5"):
        source.read(16)


def test_a_silent_device_is_a_time_out_and_works_when_it_speaks_again(
    open_device: OpenDevice,
) -> None:
    source, script = open_device(lambda length: None)
    patience_s, source._timeout_s = source._timeout_s, 0.05
    for _ in range(2):
        with pytest.raises(RequestTimeoutError, match=r"no random bytes within 0\.05 s"):
            source.read(16)
    assert source.device.in_flight == 2
    script.answers, source._timeout_s = honest, patience_s
    assert source.read(3) == honest(3).data


def test_a_late_answer_is_not_taken_for_that_of_a_later_request(open_device: OpenDevice) -> None:
    kept: list[int] = []

    def late(length: int) -> Answer | None:
        # The second buffer comes with the first one's answer, which must not be mistaken for it.
        kept.append(length)
        return None if len(kept) == 1 else Answer(b"new" * length, used_length=3, head=None)

    source, script = open_device(late)
    patience_s, source._timeout_s = source._timeout_s, 0.05
    with pytest.raises(RequestTimeoutError):
        source.read(16)
    source._timeout_s = patience_s
    assert source.read(3) == b"new"
    assert source.device.in_flight == 1
    assert script.asked == [16, 3]


def test_a_device_that_stays_silent_runs_out_of_descriptors(open_device: OpenDevice) -> None:
    source, _ = open_device(lambda length: None, timeout_s=0.01)
    for _ in range(RING_SIZE_MAX):
        with pytest.raises(RequestTimeoutError):
            source.read(1)
    with pytest.raises(QueueFull):
        source.read(1)


def test_a_device_that_hangs_up_is_noticed_at_once(open_device: OpenDevice) -> None:
    source, script = open_device(lambda length: None)
    threading.Timer(0.05, script.hang_up).start()
    start = time.monotonic()
    with pytest.raises(DeviceGoneError, match="hung up"):
        source.read(16)
    assert time.monotonic() - start < PROMPT_S
    with pytest.raises(DeviceGoneError, match="hung up"):
        source.read(16)


def test_closing_sends_away_who_waits(open_device: OpenDevice) -> None:
    asked = threading.Event()

    def silent(length: int) -> None:
        asked.set()

    source, _ = open_device(silent)
    ended: list[BaseException] = []

    def read() -> None:
        try:
            source.read(16)
        except DeviceGoneError as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert asked.wait(PROMPT_S)
    source.close()
    reader.join(PROMPT_S)
    assert not reader.is_alive()
    assert [str(error) for error in ended] == ["the device is being closed"]
    assert source.closed
    with pytest.raises(StateError):
        source.read(16)
    source.close()


def test_a_source_in_use_is_not_closed_without_draining(open_device: OpenDevice) -> None:
    source, _ = open_device(lambda length: None, timeout_s=0.01)
    with pytest.raises(RequestTimeoutError):
        source.read(16)
    with pytest.raises(DeviceBusyError, match="1 request in flight"):
        source.close(drain=False)
    assert not source.closed


def test_a_reset_that_never_ends_is_told(ring: RingName) -> None:
    script = EntropyScript()
    source = EntropyDevice(VirtioDevice(script), ring=ring)
    script.resets = False
    with pytest.raises(ResetTimeoutError):
        source.close(timeout_s=0.01)
    assert source.closed


@pytest.mark.parametrize("length", [0, -1])
def test_nothing_is_not_asked_for(open_device: OpenDevice, length: int) -> None:
    source, script = open_device()
    with pytest.raises(ZeroLengthError, match=f"at least one byte .* not {length}"):
        source.read(length)
    assert script.asked == []


def test_several_threads_get_bytes_of_their_own(open_device: OpenDevice) -> None:
    numbers = iter(range(1000))
    source, _ = open_device(lambda length: Answer(bytes([next(numbers) % 256]) * length))
    found: list[bytes] = []

    def read() -> None:
        found.extend(source.read(100) for _ in range(10))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PROMPT_S)
    assert len({each[0] for each in found}) == 40
    assert all(each == each[:1] * 100 for each in found)


def test_the_reference_ring_negotiates_without_the_event_index(
    open_device: OpenDevice, ring: RingName
) -> None:
    source, script = open_device(event_idx=True)
    source.read(1)
    assert source.device.has(Feature.EVENT_IDX) is (ring == "native")
    assert script.kick_count == 1


def test_memory_of_requests_is_given_back(open_device: OpenDevice) -> None:
    source, script = open_device()
    source.read(REQUEST_BYTES_MAX)
    free_bytes = script.space.free_bytes
    for _ in range(50):
        source.read(REQUEST_BYTES_MAX)
    assert script.space.free_bytes == free_bytes


def test_nothing_is_left_behind(ring: RingName) -> None:
    with no_leaks():
        with EntropyDevice(VirtioDevice(EntropyScript()), ring=ring) as source:
            source.read(100)
        assert source.closed


def test_one_that_was_forgotten_is_closed_with_a_warning(ring: RingName) -> None:
    script = EntropyScript()
    source = EntropyDevice(VirtioDevice(script), ring=ring)
    assert len(source.read(1)) == 1
    with pytest.warns(ResourceWarning, match=f"unclosed <EntropyDevice {script.address}: open>"):
        del source
    assert script.closed
    assert script.status == 0


def test_the_bus_attaches_it(ring: RingName) -> None:
    class Found:
        identity = DeviceIdentity("slot 6", 4, "entropy source", "scripted")

        def connect(self, driver: BusDriver) -> Connection:
            return Connection(EntropyScript(), Settings({"ring": ring, "timeout_s": 5.0}))

    bus = Bus()
    bus.add(Found())
    bus.register(DRIVER)
    source = bus.devices[0].attached
    assert isinstance(source, EntropyDevice)
    assert len(source.read(32)) == 32
    bus.detach("slot 6")
    assert source.closed
    again = bus.attach("slot 6")
    assert isinstance(again, EntropyDevice)
    assert len(again.read(32)) == 32
    bus.detach("slot 6")


def test_a_time_out_of_no_length_is_refused() -> None:
    script = EntropyScript()
    with pytest.raises(ValueError, match="timeout_s must be more than 0"):
        EntropyDevice(VirtioDevice(script), timeout_s=0)
    script.close()


@pytest.mark.parametrize("ring", ["native"])
def test_interrupted_requests_cost_neither_the_device_nor_its_closing(
    open_device: OpenDevice,
) -> None:
    """With the ring in Rust: the one in Python, interrupted in its middle, may lose descriptors."""
    source, _ = open_device()
    with interrupter() as interruptions:
        for _ in range(300):
            interruptions.interrupt(lambda: source.read(16))
            assert source.read(16) == honest(16).data
    source.close()
