"""Where configuration space comes from: each source reads exact widths, and says what it cannot."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pci.spaces import DUMPS, ModelSpace, recorded
from vioblk.errors import UnsupportedError
from vioblk.pci.access import ConfigSpace
from vioblk.pci.bars import Bar
from vioblk.pci.header import read_header
from vioblk.pci.location import Location
from vioblk.pci.sources import (
    ConfigPorts,
    DumpConfig,
    EcamConfig,
    FileConfig,
    PortIoConfig,
    SysfsConfig,
    format_dump,
    parse_dumps,
    parse_resource,
)

PLACE = Location(bus=1, device=5, function=3)
CONTENT = bytes(range(256))


class Ports:
    """The two ports, with one function behind them; the others read as all ones."""

    def __init__(self, space: ConfigSpace) -> None:
        self.space = space
        self.selected = 0
        self.accesses: list[tuple[int, int]] = []

    def read(self, port: int, width: int) -> int:
        self.accesses.append((port, width))
        if self.selected & ~0xFF != 0x80000000 | 1 << 16 | 5 << 11 | 3 << 8:
            return (1 << 8 * width) - 1
        return self.space.read((self.selected & 0xFC) + port - 0xCFC, width)

    def write(self, port: int, width: int, value: int) -> None:
        self.accesses.append((port, width))
        if port == 0xCF8:
            assert (width, value & 3) == (4, 0)
            self.selected = value
        else:
            self.space.write((self.selected & 0xFC) + port - 0xCFC, width, value)


class Memory:
    """A range of addresses in which one function is mapped."""

    BASE = 0xB0000000
    START = BASE + (1 << 20 | 5 << 15 | 3 << 12)

    def __init__(self, space: ConfigSpace) -> None:
        self.space = space

    def read(self, address: int, width: int) -> int:
        return self.space.read(address - self.START, width)

    def write(self, address: int, width: int, value: int) -> None:
        self.space.write(address - self.START, width, value)


def all_writable() -> ModelSpace:
    return ModelSpace(CONTENT.ljust(4096, b"\0"), b"\xff" * 4096)


def sysfs(directory: Path, *, writable: bool = True) -> SysfsConfig:
    path = directory / "config"
    path.write_bytes(CONTENT)
    return SysfsConfig(path, writable=writable)


def a_sysfs_file(directory: Path) -> Iterator[ConfigSpace]:
    with sysfs(directory) as config:
        yield config


def part_of_a_file(directory: Path) -> Iterator[ConfigSpace]:
    """As VFIO has it: a region of a file that holds other things too."""
    path = directory / "regions"
    path.write_bytes(b"before" + CONTENT + b"after")
    with path.open("r+b", buffering=0) as file:
        yield FileConfig(file.fileno(), len(CONTENT), file_offset=6, writable=True)
    assert path.read_bytes()[:6] == b"before"
    assert path.read_bytes()[-5:] == b"after"


def the_ports(directory: Path) -> Iterator[ConfigSpace]:
    ports = Ports(all_writable())
    yield PortIoConfig(ConfigPorts(ports.read, ports.write), PLACE)


def mapped_memory(directory: Path) -> Iterator[ConfigSpace]:
    memory = Memory(all_writable())
    yield EcamConfig(memory.read, memory.write, Memory.BASE, PLACE)


def a_recording(directory: Path) -> Iterator[ConfigSpace]:
    yield DumpConfig(CONTENT)


WRITABLE = [a_sysfs_file, part_of_a_file, the_ports, mapped_memory]


@pytest.fixture(params=[*WRITABLE, a_recording], ids=lambda make: make.__name__)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConfigSpace]:
    """Each source, with the same bytes."""
    yield from request.param(tmp_path)


@pytest.fixture(params=WRITABLE, ids=lambda make: make.__name__)
def writable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConfigSpace]:
    """Each source that can be written."""
    yield from request.param(tmp_path)


def test_every_width_reads_little_endian(config: ConfigSpace) -> None:
    assert config.read(0x43, 1) == 0x43
    assert config.read(0x42, 2) == 0x4342
    assert config.read(0x40, 4) == 0x43424140


@pytest.mark.parametrize(("offset", "width"), [(1, 2), (2, 4), (0, 3), (0, 8), (0, 0), (-4, 4)])
def test_an_access_of_another_shape_is_refused(
    config: ConfigSpace, offset: int, width: int
) -> None:
    with pytest.raises(ValueError, match="bytes"):
        config.read(offset, width)


@pytest.mark.parametrize(("width", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_beyond_the_end_everything_reads_as_all_ones(
    config: ConfigSpace, width: int, ones: int
) -> None:
    assert config.read(config.length, width) == ones
    assert config.read(0x10000, width) == ones


def test_every_width_writes_just_its_bytes(writable: ConfigSpace) -> None:
    writable.write(0x83, 1, 0x11)
    writable.write(0x80, 2, 0x2233)
    writable.write(0x84, 4, 0x44556677)
    assert [writable.read(offset, 4) for offset in (0x80, 0x84, 0x88)] == [
        0x11822233,
        0x44556677,
        0x8B8A8988,
    ]


@pytest.mark.parametrize(
    ("offset", "width", "value"), [(0, 1, 256), (0, 2, -1), (1, 2, 0), (0x10000, 4, 0), (0, 3, 0)]
)
def test_a_write_of_another_shape_is_refused(
    writable: ConfigSpace, offset: int, width: int, value: int
) -> None:
    with pytest.raises(ValueError, match=r"bytes?"):
        writable.write(offset, width, value)


def test_a_recording_refuses_writes() -> None:
    with pytest.raises(UnsupportedError, match="recorded"):
        DumpConfig(CONTENT).write(4, 2, 7)


# sysfs


def test_a_sysfs_file_is_not_written_unless_that_was_asked_for(tmp_path: Path) -> None:
    with sysfs(tmp_path, writable=False) as config:
        with pytest.raises(UnsupportedError, match="opened for reading only"):
            config.write(4, 2, 7)
    assert (tmp_path / "config").read_bytes() == CONTENT


def test_a_sysfs_file_of_64_bytes_is_what_an_unprivileged_reader_gets(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(CONTENT[:64])
    with SysfsConfig(path) as config:
        assert config.length == 64
        assert config.read(0x40, 4) == 0xFFFFFFFF


def test_the_length_is_what_can_be_read_and_not_the_size_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives the size of the whole space, and those without privilege 64 bytes of it."""

    def pread(fd: int, length: int, offset: int) -> bytes:
        return CONTENT[:64][offset : offset + length]

    monkeypatch.setattr(os, "pread", pread)
    with sysfs(tmp_path) as config:
        assert config.length == 64
        assert config.read(0x3C, 4) == 0x3F3E3D3C
        assert config.read(0x40, 4) == 0xFFFFFFFF


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SysfsConfig(tmp_path / "config")


def test_a_file_that_cannot_be_read_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def pread(fd: int, length: int, offset: int) -> bytes:
        tried.append(fd)
        raise OSError("the device is gone")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(OSError, match="the device is gone"):
        sysfs(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tried[0])


def test_half_a_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sysfs(tmp_path) as config:
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 1)
        with pytest.raises(OSError, match="took 1 of 4 bytes at offset 0x10"):
            config.write(0x10, 4, 0)


def test_a_closed_file_refuses_access(tmp_path: Path) -> None:
    config = sysfs(tmp_path)
    config.close()
    config.close()
    with pytest.raises(ValueError, match="is closed"):
        config.read(0, 2)


RESOURCE = """\
0x000000000000c000 0x000000000000c07f 0x0000000000040101
0x00000000febd2000 0x00000000febd2fff 0x0000000000040200
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000fe008000 0x00000000fe00bfff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000feb80000 0x00000000febbffff 0x000000000004e200
"""


def test_the_resource_file_gives_places_and_lengths() -> None:
    assert parse_resource(RESOURCE) == (
        Bar(0, "io", 32, False, 0xC000, 0x80),
        Bar(1, "memory", 32, False, 0xFEBD2000, 0x1000),
        Bar(4, "memory", 64, True, 0xFE008000, 0x4000),
    )


@pytest.mark.parametrize("text", ["", "\n\n", "0x0 0x1", "nonsense 1 2\n", "0x5 0x4 0x200\n"])
def test_lines_that_say_nothing_are_no_bar(text: str) -> None:
    assert parse_resource(text) == ()


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_as_a_resource_file_is_an_error(text: str) -> None:
    parse_resource(text)


def test_this_machines_own_functions_can_be_read() -> None:
    """Their headers, and nothing is written. A machine need not have any."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with SysfsConfig(device / "config") as config:
            header = read_header(config)
            assert header is not None
            assert header.vendor_id == int((device / "vendor").read_text(), 16)
            assert header.device_id == int((device / "device").read_text(), 16)
            assert config.length in (64, 256, 4096)
        for bar in parse_resource((device / "resource").read_text()):
            assert bar.length


# Ports and memory


def test_ports_are_read_with_the_width_that_was_asked_for() -> None:
    ports = Ports(all_writable())
    config = PortIoConfig(ConfigPorts(ports.read, ports.write), PLACE)
    config.read(0x42, 2)
    config.write(0x43, 1, 0)
    assert ports.accesses == [(0xCF8, 4), (0xCFE, 2), (0xCF8, 4), (0xCFF, 1)]


def test_two_steps_of_a_port_access_are_not_interleaved() -> None:
    """Two threads at two functions: one selects, the other waits until the first has read."""
    selected: list[int] = []
    inside = threading.Event()
    waiting = threading.Event()

    def read_port(port: int, width: int) -> int:
        if selected[-1] >> 11 & 0x1F == 1:
            inside.set()
            assert waiting.wait(10)
        return selected[-1] >> 11 & 0x1F

    def write_port(port: int, width: int, value: int) -> None:
        selected.append(value)

    ports = ConfigPorts(read_port, write_port)
    results: dict[int, int] = {}

    def read(device: int) -> None:
        results[device] = PortIoConfig(ports, Location(0, device)).read(0, 2)

    first = threading.Thread(target=read, args=(1,))
    first.start()
    assert inside.wait(10)
    second = threading.Thread(target=read, args=(2,))
    second.start()
    # The second cannot select while the first is between its two steps.
    second.join(0.05)
    waiting.set()
    first.join()
    second.join()
    assert results == {1: 1, 2: 2}


def test_the_ports_know_one_domain_only() -> None:
    ports = Ports(all_writable())
    with pytest.raises(ValueError, match=r"domain 0 only, not 0001:00:05\.0"):
        PortIoConfig(ConfigPorts(ports.read, ports.write), Location(0, 5, domain=1))


@pytest.mark.parametrize("place", [Location(256, 0), Location(0, 32), Location(0, 0, 8)])
def test_a_function_that_cannot_be_is_refused(place: Location) -> None:
    memory = Memory(all_writable())
    with pytest.raises(ValueError, match="a PCI"):
        EcamConfig(memory.read, memory.write, 0, place)


def test_memory_reaches_all_of_the_space() -> None:
    space = all_writable()
    memory = Memory(space)
    config = EcamConfig(memory.read, memory.write, Memory.BASE, PLACE)
    config.write(0xFFC, 4, 0x12345678)
    assert space.data[0xFFC:] == bytes.fromhex("78563412")
    assert config.length == 4096


# Recordings


@pytest.mark.parametrize("path", sorted(DUMPS.glob("*.txt")), ids=lambda path: path.stem)
def test_a_recording_survives_being_written_and_read(path: Path) -> None:
    text = path.read_text(encoding="ascii")
    config = DumpConfig.from_text(text)
    data = bytes(config.read(offset, 1) for offset in range(config.length))
    assert format_dump(config.name, data) == text


LSPCI = """\
00:00.0 Host bridge: Intel Corporation 440FX - 82441FX PMC [Natoma] (rev 02)
00: 86 80 37 12 00 00 00 00 02 00 00 06 00 00 00 00
10: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00

00:05.0 SCSI storage controller: Red Hat, Inc. Virtio block device
\tSubsystem: Red Hat, Inc. Virtio block device
\tFlags: bus master, fast devsel, latency 0, IRQ 10
00: f4 1a 01 10
"""


def test_the_output_of_lspci_is_read() -> None:
    host, disk = parse_dumps(LSPCI)
    assert host.name.startswith("00:00.0 Host bridge")
    assert (host.length, host.read(0, 4)) == (32, 0x12378086)
    assert (disk.length, disk.read(0, 4)) == (4, 0x10011AF4)
    with pytest.raises(ValueError, match="holds 2 functions"):
        DumpConfig.from_text(LSPCI)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\n10: 00\n", "line 2: bytes of offset 10 where 00 was next"),
        ("name\n00: 00\n10: 00\n", "line 3: bytes of offset 10 where 01 was next"),
        ("name\n00: 00\n\tgarbage\n", "line 3: 'garbage' is no line of a dump"),
        ("name\n00: 0\n", "holds 0 functions"),
        ("", "holds 0 functions"),
    ],
)
def test_a_text_that_is_no_dump_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DumpConfig.from_text(text)


@settings(deadline=None)
@given(st.text(alphabet="0123456789abcdef: \n\tx", max_size=300))
def test_no_text_as_a_dump_fails_but_with_the_line(text: str) -> None:
    problem = ""
    try:
        parse_dumps(text)
    except ValueError as error:
        problem = str(error)
    assert not problem or problem.startswith("line ")


def test_a_recording_has_at_most_4096_bytes() -> None:
    assert DumpConfig(bytes(5000)).length == 4096


def test_a_value_across_the_end_is_filled_with_ones() -> None:
    assert DumpConfig(b"\x12\x34\x56").read(0, 4) == 0xFF563412


def test_a_recording_has_the_name_that_stands_above_it() -> None:
    assert recorded("legacy_1001").name.startswith("0000:00:05.0 virtio-blk-pci")
