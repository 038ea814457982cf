"""Doorbells and register windows, as Python holds them; what they store is proved in Rust."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.native.test_regions import exit_code_of_child
from vioblk._native import Doorbell, MmioWindow
from vioblk.errors import ForkedError

PAGE = 4096
QUEUE = 0x1234
NUMBERS_THAT_FIT_NO_FIELD = (-1, 1 << 16, 1 << 64, 1 << 200)


@pytest.fixture
def registers() -> Iterator[int]:
    fd = os.memfd_create("registers", os.MFD_CLOEXEC)
    os.truncate(fd, 2 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def event() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def stored(fd: int) -> dict[int, int]:
    """The bytes that are not zero, by offset."""
    return {offset: byte for offset, byte in enumerate(os.pread(fd, 2 * PAGE, 0)) if byte}


# -- Windows --


def test_a_window_reads_and_writes_the_registers_of_its_part_of_a_file(registers: int) -> None:
    window = MmioWindow.map_fd(registers, 64, PAGE)
    assert window.length == 64
    for offset, width, value in ((0, 4, 0x44332211), (4, 2, 0x6655), (6, 1, 0x77)):
        window.write(offset, width, value)
        assert window.read(offset, width) == value
    expected = {PAGE + i: 0x11 * (i + 1) for i in range(7)}
    assert stored(registers) == expected


def test_a_window_outlives_the_descriptor_that_it_was_made_from(registers: int) -> None:
    fd = os.dup(registers)
    window = MmioWindow.map_fd(fd, PAGE)
    os.close(fd)
    window.write(8, 2, 0x0102)
    assert stored(registers) == {8: 2, 9: 1}


def test_a_register_that_cannot_be_is_refused_by_its_numbers(registers: int) -> None:
    window = MmioWindow.map_fd(registers, PAGE)
    for offset in (-1, PAGE, PAGE - 1, 2, 1 << 63, 1 << 64, 1 << 200):
        for access in (lambda at: window.read(at, 4), lambda at: window.write(at, 4, 0)):
            with pytest.raises(ValueError, match="offset"):
                access(offset)
    for width in (-1, 0, 3, 8, 1 << 200):
        with pytest.raises(ValueError, match=r"register has 1, 2 or 4 bytes|width is"):
            window.read(0, width)
    for width, value in ((1, 256), (2, 1 << 16), (4, 1 << 32), (4, -1)):
        with pytest.raises(ValueError, match=r"value|does not fit"):
            window.write(0, width, value)
    with pytest.raises(TypeError):
        window.read("0", 4)  # type: ignore[arg-type]
    assert stored(registers) == {}


def test_registers_that_are_not_there_are_not_mapped(registers: int) -> None:
    for length, offset in ((0, 0), (2 * PAGE + 1, 0), (PAGE, 64), (1, 2 * PAGE), (-1, 0), (1, -1)):
        with pytest.raises(ValueError, match=r"cannot map|multiple|out of range|not from 0"):
            MmioWindow.map_fd(registers, length, offset)
    with pytest.raises(OSError, match="os error 9"):
        MmioWindow.map_fd(-1, PAGE)
    with Path(os.devnull).open("rb") as readable, pytest.raises(OSError, match="os error"):
        MmioWindow.map_fd(readable.fileno(), PAGE)


def test_a_window_gives_its_mapping_back() -> None:
    def mapping_count() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count("/memfd:given-back")

    fd = os.memfd_create("given-back", os.MFD_CLOEXEC)
    os.truncate(fd, PAGE)
    windows = [MmioWindow.map_fd(fd, PAGE) for _ in range(3)]
    assert mapping_count() == 3
    bell = Doorbell.mmio(windows[0], 0, QUEUE)
    windows.clear()
    assert mapping_count() == 1, "a doorbell keeps its registers"
    del bell
    assert mapping_count() == 0
    os.close(fd)


# -- Doorbells --


@pytest.mark.parametrize("kind", ["mmio", "file"])
def test_a_doorbell_stores_the_queue_and_with_data_its_position(registers: int, kind: str) -> None:
    def make(offset: int, carries_data: bool) -> Doorbell:
        if kind == "file":
            return Doorbell.file(registers, offset, QUEUE, carries_data=carries_data)
        window = MmioWindow.map_fd(registers, PAGE)
        return Doorbell.mmio(window, offset, QUEUE, carries_data=carries_data)

    plain, with_data = make(2, False), make(8, True)
    assert (plain.carries_data, with_data.carries_data) == (False, True)
    plain.ring(0xABCD)
    assert stored(registers) == {2: 0x34, 3: 0x12}
    with_data.ring(0xABCD)
    assert stored(registers) == {2: 0x34, 3: 0x12, 8: 0x34, 9: 0x12, 10: 0xCD, 11: 0xAB}
    with_data.ring()
    assert stored(registers) == {2: 0x34, 3: 0x12, 8: 0x34, 9: 0x12}


def test_an_eventfd_is_signalled_and_outlives_the_descriptor_it_was_made_from(event: int) -> None:
    fd = os.dup(event)
    bell = Doorbell.eventfd(fd)
    os.close(fd)
    bell.ring()
    bell.ring(5)
    assert not bell.carries_data
    assert os.eventfd_read(event) == 2


def test_a_doorbell_that_cannot_be_is_refused(registers: int) -> None:
    window = MmioWindow.map_fd(registers, PAGE)
    for offset, carries_data in ((1, False), (PAGE, False), (2, True), (PAGE - 2, True)):
        with pytest.raises(ValueError, match="aligned"):
            Doorbell.mmio(window, offset, QUEUE, carries_data=carries_data)
    for offset, carries_data in ((1, False), (2, True), (1 << 63, False), (-2, False)):
        with pytest.raises(ValueError, match="offset"):
            Doorbell.file(registers, offset, QUEUE, carries_data=carries_data)
    for number in NUMBERS_THAT_FIT_NO_FIELD:
        with pytest.raises(ValueError, match="value is"):
            Doorbell.mmio(window, 0, number)
        with pytest.raises(ValueError, match="value is"):
            Doorbell.file(registers, 0, number)
        with pytest.raises(ValueError, match="next_available is"):
            Doorbell.mmio(window, 0, QUEUE).ring(number)
    for make in (Doorbell.eventfd, lambda fd: Doorbell.file(fd, 0, QUEUE)):
        with pytest.raises(OSError, match="os error 9"):
            make(-1)
    assert stored(registers) == {}


def test_a_child_of_fork_can_neither_ring_nor_reach_registers(registers: int, event: int) -> None:
    window = MmioWindow.map_fd(registers, PAGE)
    calls: list[Callable[[], object]] = [
        lambda: window.read(0, 4),
        lambda: window.write(0, 4, 1),
        Doorbell.eventfd(event).ring,
        Doorbell.mmio(window, 0, QUEUE).ring,
        Doorbell.file(registers, 0, QUEUE).ring,
    ]

    def refused() -> None:
        for call in calls:
            with pytest.raises(ForkedError):
                call()

    assert exit_code_of_child(refused) == 0
    assert stored(registers) == {}
    with pytest.raises(BlockingIOError):
        os.eventfd_read(event)
    window.write(0, 1, 7)
    assert stored(registers) == {0: 7}
