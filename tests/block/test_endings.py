"""How a disk ends, and how a life of it does: in time, and without a word too many or too few."""

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

import vioblk
import vioblk.address
from tests.conftest import RingName
from tests.test_signals import interrupt_once, one_more_chain, signal_soon
from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.request import REQUEST_RECORD, RequestType
from vioblk.status import Status
from vioblk.transport.software import SoftwareTransport, connect

PROMPT_S = 30.0
"""Well below the 60 s for which these disks are patient."""

FLUSH = REQUEST_RECORD.pack(RequestType.FLUSH, 0, 0, 0, 0, 0, 0)


def software(disk: BlockDevice) -> SoftwareDevice:
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport)
    return transport.device


def silent_disk(ring: RingName, timeout_s: float = 60) -> BlockDevice:
    """With one request in flight that will never complete."""
    disk = vioblk.open("mem:1M", ring=ring, timeout_s=timeout_s)
    software(disk).inject("silence")
    assert disk.submit_many(FLUSH) == 1
    return disk


def is_closed(disk: BlockDevice) -> bool:
    return disk.closed  # a call, as a type checker takes a property for constant


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PROMPT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.001)


# Leaving a with block


@pytest.mark.parametrize(
    "error", [RuntimeError("mine"), KeyboardInterrupt(), vioblk.RequestTimeoutError("late")]
)
def test_an_exception_ends_a_silent_disk_soon_and_is_what_is_seen(
    ring: RingName, error: BaseException
) -> None:
    disk = silent_disk(ring)
    start = time.monotonic()
    with pytest.raises(type(error)) as raised, disk:
        raise error
    assert time.monotonic() - start < PROMPT_S
    assert raised.value is error
    assert "1 request did not complete" in error.__notes__[0]
    assert disk.device.state.name == "CLOSED"


def test_an_error_of_closing_does_not_replace_the_exception(
    ring: RingName, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = vioblk.open("mem:1M", ring=ring)

    def fail() -> None:
        raise OSError("the cache could not be written back")

    with monkeypatch.context() as patch:
        patch.setattr(disk.device.transport, "close", fail)
        with pytest.raises(RuntimeError, match="mine") as raised, disk:
            raise RuntimeError("mine")
    assert "could not be written back" in raised.value.__notes__[0]


# Closing


def test_a_refused_close_leaves_the_disk_as_it_was(ring: RingName) -> None:
    disk = silent_disk(ring)
    software(disk).inject("reset_never_ends")
    with pytest.raises(vioblk.ResetTimeoutError):
        disk.reset(0.05)
    with pytest.raises(vioblk.DiskBusyError):
        disk.close(drain=False)
    software(disk).clear_faults()
    disk.reset()
    assert disk.read(0, 512) == bytes(512)
    disk.close(drain=False)


def test_a_refused_close_is_not_noticed_by_others(ring: RingName) -> None:
    disk = silent_disk(ring)
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            assert disk.capacity_bytes == 1 << 20

    thread, raised = in_thread(keep_asking)
    for _ in range(300):
        with pytest.raises(vioblk.DiskBusyError):
            disk.close(drain=False)
    stop.set()
    thread.join(PROMPT_S)
    assert raised == []
    disk.reset()
    disk.close()


def test_a_callback_that_does_not_return_is_left_behind(ring: RingName) -> None:
    entered, leave = threading.Event(), threading.Event()

    def callback(config: vioblk.BlockConfig) -> None:
        entered.set()
        leave.wait(2 * PROMPT_S)

    disk = vioblk.open("mem:1M", ring=ring, on_config_change=callback)
    try:
        software(disk).resize(4096)
        assert entered.wait(PROMPT_S)
        start = time.monotonic()
        disk.close()
        assert time.monotonic() - start < PROMPT_S
    finally:
        leave.set()


def test_an_interrupted_close_is_no_close_and_the_next_one_is_hasty(ring: RingName) -> None:
    disk = vioblk.open("mem:1M", ring=ring)
    software(disk).inject("silence")
    sent = one_more_chain(disk)
    with pytest.raises(KeyboardInterrupt), signal_soon(interrupt_once(sent)):
        disk.read(0, 512)
    with (
        pytest.raises(KeyboardInterrupt),
        signal_soon(interrupt_once(lambda: "being closed" in repr(disk))),
    ):
        disk.close()
    assert not is_closed(disk)
    assert "being closed" in repr(disk)
    for call in (lambda: disk.read(0, 512), disk.reset, disk.__enter__):
        with pytest.raises(vioblk.StateError, match="call it again"):
            call()
    start = time.monotonic()
    with pytest.raises(vioblk.RequestTimeoutError, match="the device was closed"):
        disk.close()
    assert time.monotonic() - start < PROMPT_S
    assert is_closed(disk)
    assert "has been closed" in repr(disk)
    disk.close()


def test_a_closed_disk_says_so_and_cannot_be_entered(ring: RingName) -> None:
    disk = vioblk.open("mem:1M", ring=ring)
    assert not is_closed(disk)
    disk.close()
    assert is_closed(disk)
    with pytest.raises(vioblk.StateError, match="has been closed"):
        disk.__enter__()


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_transport_that_was_taken_over_in_vain_is_closed(timeout_s: float) -> None:
    transport = connect(vioblk.address.parse_address("mem:1M"), {})
    with pytest.raises(ValueError, match="more than 0"):
        BlockDevice(transport, timeout_s=timeout_s)
    with pytest.raises(vioblk.StateError):
        transport.read_status()


def test_a_forgotten_disk_says_so_and_is_closed(ring: RingName) -> None:
    disk = vioblk.open("mem:1M", ring=ring, on_config_change=lambda config: None)
    device = weakref.ref(disk.device)
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="unclosed <BlockDevice mem:1M: open>"):
            del disk
    finally:
        gc.enable()
        gc.collect()
    assert device() is None


# Resetting


def test_a_reset_wakes_who_waits_for_a_bounce_buffer(ring: RingName) -> None:
    disk = vioblk.open("mem:1M?threaded=off", ring=ring, timeout_s=60)
    disk._transfers.pool.max_chunks = 1
    first, first_raised = in_thread(lambda: disk.write(0, bytes(512)))
    wait_until(lambda: disk.device.in_flight == 1)
    second, second_raised = in_thread(lambda: disk.write(512, b"\xff" * 512))
    wait_until(lambda: disk._gate.inside == 2)
    start = time.monotonic()
    disk.reset()
    first.join(PROMPT_S)
    second.join(PROMPT_S)
    assert time.monotonic() - start < PROMPT_S
    raised = first_raised + second_raised
    assert [type(error) for error in raised] == [vioblk.DeviceGoneError] * 2
    assert disk.device.in_flight == 0, "what was asked before the reset is not sent after it"
    disk.close()


def test_a_call_that_outlasts_a_reset_does_not_reach_the_next_life(ring: RingName) -> None:
    """It is between two batches, say, and so slow that the reset does not wait for its end."""
    disk = vioblk.open("mem:1M", ring=ring)
    before = disk._transfers
    disk.reset()
    for call in (
        lambda: before.read_bytes(0, 512),
        before.flush,
        lambda: before.erase(RequestType.DISCARD, 0, 512, 0),
    ):
        with pytest.raises(vioblk.DeviceGoneError, match="reset"):
            call()
    assert disk.read(0, 512) == bytes(512)
    disk.close()


def test_an_interrupted_reset_can_be_repeated(
    ring: RingName, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = vioblk.open("mem:1M", ring=ring)

    def interrupt(reason: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(disk._driver, "abort", interrupt)
        with pytest.raises(KeyboardInterrupt):
            disk.reset()
    with pytest.raises(vioblk.StateError, match=r"the last reset failed \(KeyboardInterrupt\)"):
        disk.read(0, 512)
    disk.reset()
    assert disk.read(0, 512) == bytes(512)
    disk.close()


@pytest.mark.parametrize("bit", [0, Status.DRIVER_OK], ids=["reset", "DRIVER_OK"])
def test_a_reset_of_a_device_that_has_gone_changes_nothing_about_the_error(
    ring: RingName, monkeypatch: pytest.MonkeyPatch, bit: int
) -> None:
    disk = vioblk.open("mem:1M", ring=ring)
    write_status = disk.device.transport.write_status

    def gone(value: int) -> None:
        if value & bit == bit:
            raise vioblk.DeviceGoneError("the back end hung up")
        write_status(value)

    monkeypatch.setattr(disk.device.transport, "write_status", gone)
    record = bytearray(FLUSH)
    calls: list[Callable[[], object]] = [
        disk.reset,
        lambda: disk.read(0, 512),
        lambda: disk.write(0, bytes(512)),
        disk.flush,
        lambda: disk.discard(0, 512),
        lambda: disk.execute(record, bytearray(1)),
        lambda: disk.submit_many(record),
        lambda: disk.reap_many(bytearray(16)),
        lambda: disk.wait(0.1),
        lambda: disk.writeback,
        lambda: disk.serial,
        disk.reset,
    ]
    for call in calls:
        with pytest.raises(vioblk.DeviceGoneError, match=r"hung up.*close the disk and open it"):
            call()
    assert disk.info.serial is None
    assert "has gone" in repr(disk)
    disk.close()
    with pytest.raises(vioblk.StateError, match="has been closed"):
        disk.read(0, 512)


# Timeouts


@pytest.mark.parametrize(("bad", "words"), [(float("nan"), "NaN"), (-1, "timeout_s is -1")])
def test_a_timeout_that_makes_no_sense_is_refused_and_infinity_is_none(
    ring: RingName, bad: float, words: str
) -> None:
    inf = float("inf")
    with vioblk.open("mem:1M", ring=ring) as disk:
        for call in (
            lambda: disk.wait(bad),
            lambda: disk.execute(FLUSH, bytearray(1), bad),
            lambda: disk.reset(bad),
            lambda: disk.close(timeout_s=bad),
        ):
            with pytest.raises(ValueError, match=words):
                call()
        disk.execute(FLUSH, bytearray(1), inf)
        assert disk.submit_many(FLUSH) == 1
        assert disk.wait(inf)
