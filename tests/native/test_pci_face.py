"""The PCI face as Python sees it: options, process, and what it records."""

from collections.abc import Callable, Iterator

import pytest

from tests.test_fork import in_child
from vioblk._native import DmaSpace, PciFace, SoftwareDevice
from vioblk.errors import ForkedError, StateError

VERSION_1 = 1 << 32
STATUS = 0x14

CALLS: dict[str, Callable[[PciFace], object]] = {
    "set_command": lambda face: face.set_command(memory=True, bus_master=True),
    "set_msix": lambda face: face.set_msix(enabled=True),
    "message_fd": lambda face: face.message_fd(0),
    "intx_fd": lambda face: face.intx_fd,
    "intx_asserted": lambda face: face.intx_asserted,
    "interrupt_status": lambda face: face.interrupt_status,
    "acknowledge_intx": lambda face: face.acknowledge_intx(),
    "remove": lambda face: face.remove(),
    "removed": lambda face: face.removed,
    "violations": lambda face: face.violations,
    "accesses": lambda face: face.accesses,
    "access_count": lambda face: face.access_count,
    "clear_log": lambda face: face.clear_log(),
    "window.read": lambda face: face.window.read(STATUS, 1),
    "window.write": lambda face: face.window.write(STATUS, 1, 1),
}


@pytest.fixture
def device() -> Iterator[SoftwareDevice]:
    device = SoftwareDevice(DmaSpace(), capacity_sectors=8, features=VERSION_1)
    yield device
    device.close()


@pytest.fixture
def face(device: SoftwareDevice) -> PciFace:
    face = PciFace(device, vector_count=2)
    face.set_command(memory=True, bus_master=True)
    return face


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_works_here_and_none_in_a_child(
    face: PciFace, call: Callable[[PciFace], object]
) -> None:
    window = face.window

    def refused() -> None:
        with pytest.raises(ForkedError):
            call(face)
        with pytest.raises(ForkedError):
            window.read(STATUS, 1)

    # The window of before: one that is made in the child belongs to it, but the device does not.
    in_child(refused)
    call(face)


def test_registers_of_a_closed_device_are_an_error(device: SoftwareDevice, face: PciFace) -> None:
    device.close()
    with pytest.raises(StateError, match="the software device is closed"):
        face.window.read(STATUS, 1)
    assert face.accesses == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"vector_count": 2049}, "vector_count is 2049, more than 2048"),
        ({"vector_count": -1}, "vector_count is -1, not from 0"),
        ({"notify_multiplier": 6}, "notify_multiplier is 6"),
        ({"queue_count_shown": 1 << 16}, "queue_count_shown is 65536"),
        ({"queue_size_shown": 1 << 16}, "queue_size_shown is 65536"),
    ],
)
def test_options_out_of_range_are_refused(
    device: SoftwareDevice, options: dict[str, int], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        PciFace(device, **options)  # type: ignore[arg-type]


def test_a_device_has_one_face(device: SoftwareDevice, face: PciFace) -> None:
    with pytest.raises(StateError, match="has a PCI face already"):
        PciFace(device)


def test_a_message_that_nobody_takes_has_no_eventfd(face: PciFace) -> None:
    assert face.message_fd(1) == face.message_fd(1) != face.message_fd(0)
    with pytest.raises(ValueError, match="nobody takes messages of data 2: there are 2"):
        face.message_fd(2)


def test_accesses_and_violations_are_recorded_until_they_are_forgotten(face: PciFace) -> None:
    face.window.write(0x16, 2, 3)
    face.window.read(STATUS, 2)
    assert face.accesses == [(0x16, 2, 3, True), (STATUS, 2, 0, False)]
    assert face.access_count == 2
    (violation,) = face.violations
    assert "a read of 2 bytes at 0x14: device_status" in violation
    face.clear_log()
    assert (face.accesses, face.access_count, face.violations) == ([], 0, [])
