"""`vioblk copy`."""

import errno
import os
import pty
import socket
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

import vioblk
from tests.cli.command import VIOBLK, fails, succeeds
from tests.cli.software import software
from tests.interop.storage_daemon import StorageDaemon, raw_export
from vioblk.cli.app import run
from vioblk.cli.copy import PIECE_BYTES, Advance, compare, copy_all, two_buffers
from vioblk.cli.endpoints import (
    HOLE_BYTES,
    CopyError,
    DiskEndpoint,
    Endpoint,
    is_address,
    leading_run,
    open_source,
    open_target,
    refuse_same,
)


@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verify"])
@pytest.mark.parametrize(
    ("source_scheme", "target_scheme"), [("file:", ""), ("", "file:"), ("file:", "file:")]
)
def test_every_byte_arrives(
    image: Path, empty_image: Path, source_scheme: str, target_scheme: str, verify: bool
) -> None:
    options = ["--verify"] if verify else []
    succeeds("copy", *options, f"{source_scheme}{image}", f"{target_scheme}{empty_image}")
    assert empty_image.read_bytes() == image.read_bytes()


def test_a_disk_of_many_pieces_arrives_in_order(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom((40 << 20) + 1536))
    succeeds("copy", f"file:{source}", target)
    assert target.read_bytes() == source.read_bytes()


def test_a_file_target_ends_where_the_disk_does(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "longer"
    target.write_bytes(b"old" * (2 << 20))
    succeeds("copy", f"file:{image}", target)
    assert target.read_bytes() == image.read_bytes()


def test_a_disk_that_is_larger_keeps_its_end(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "larger.img"
    target.write_bytes(b"\xaa" * (8 << 20))
    succeeds("copy", "--verify", image, f"file:{target}")
    content, length = target.read_bytes(), image.stat().st_size
    assert content[:length] == image.read_bytes()
    assert content[length:] == b"\xaa" * ((8 << 20) - length)


def test_a_target_that_is_too_small_is_not_touched(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.img"
    target.write_bytes(b"\xaa" * (1 << 20))
    assert "too small" in fails("copy", image, f"file:{target}")
    assert target.read_bytes() == b"\xaa" * (1 << 20)


@pytest.mark.parametrize("link", ["none", "symbolic", "hard"])
@pytest.mark.parametrize(
    ("source_scheme", "target_scheme"), [("file:", ""), ("", "file:"), ("file:", "file:")]
)
def test_a_disk_is_not_copied_over_itself(
    image: Path,
    source_scheme: str,
    target_scheme: str,
    link: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = image.read_bytes()
    other_name = image if link == "none" else image.with_name("link")
    if link == "symbolic":
        other_name.symlink_to(image)
    elif link == "hard":
        other_name.hardlink_to(image)
    options = "?queues=2" if target_scheme else ""
    assert run(["copy", f"{source_scheme}{image}", f"{target_scheme}{other_name}{options}"]) == 1
    assert "are the same file; nothing was written" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_a_back_end_is_not_copied_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        address = f"vhost-user:{path}"
        assert "are the same file" in fails("copy", address, f"{address}?reply_timeout=1")


def test_two_nodes_of_one_block_device_are_the_same(
    monkeypatch: pytest.MonkeyPatch, image: Path, empty_image: Path
) -> None:
    # Making a node takes a privilege that a test need not have.
    really = Path.stat

    def as_block_device(path: Path, **options: bool) -> os.stat_result:
        found = list(really(path, **options))
        found[0] = stat.S_IFBLK
        return os.stat_result(found, {"st_rdev": os.makedev(7, 1)})

    monkeypatch.setattr(Path, "stat", as_block_device)
    with pytest.raises(CopyError, match="the same file"):
        refuse_same(str(image), f"file:{empty_image}")


def test_an_image_that_its_daemon_serves_survives_a_copy_over_itself(
    image: Path, tmp_path: Path
) -> None:
    before = image.read_bytes()
    with StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon:
        succeeds("copy", daemon.address("disk"), image)
    assert image.read_bytes() == before


def test_a_pipe_is_refused_at_once(image: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for names in ((str(pipe), f"file:{image}"), (f"file:{image}", str(pipe))):
        assert "neither a regular file nor a block device" in fails("copy", *names)


def test_nothing_to_copy_is_said(tmp_path: Path) -> None:
    empty, target = tmp_path / "empty", tmp_path / "target"
    empty.touch()
    assert "nothing to copy" in fails("copy", empty, "mem:1M")
    assert "no whole sector" in fails("copy", f"file:{empty}", target)
    assert not target.exists()


def test_a_read_only_target_is_not_touched(image: Path, empty_image: Path) -> None:
    assert "read-only" in fails("copy", image, f"file:{empty_image}?read_only=on")
    assert not any(empty_image.read_bytes())


def test_a_file_must_be_whole_sectors_long(tmp_path: Path, empty_image: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * 1000)
    for names in ((odd, f"file:{empty_image}"), (f"file:{odd}", tmp_path / "target")):
        line = fails("copy", *names)
        assert "1000 bytes" in line
        assert "truncate --size=%512" in line
    assert fails("copy", odd, f"file:{empty_image}").endswith(f"truncate --size=%512 {odd}\n")
    assert not any(empty_image.read_bytes())
    assert not (tmp_path / "target").exists()


def test_a_target_that_is_full_is_named_with_what_it_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * (3 << 20))
    pwrite = os.pwrite

    def full_after_2_mib(fd: int, data: memoryview, offset: int) -> int:
        room = (2 << 20) - offset
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data[:room], offset)

    monkeypatch.setattr("vioblk.cli.endpoints.os.pwrite", full_after_2_mib)
    assert run(["copy", f"file:{source}", str(target)]) == 1
    assert capsys.readouterr().err == (
        f"vioblk: {target}: No space left on device; 2097152 of 3145728 bytes were written\n"
    )


def test_zeroes_become_holes_of_a_new_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        os.truncate(file.fileno(), 64 << 20)
        os.pwrite(file.fileno(), b"x" * 512, 20 << 20)
    succeeds("copy", "--verify", f"file:{source}", target)
    assert target.stat().st_size == 64 << 20
    assert target.stat().st_blocks * 512 < 1 << 20
    assert target.read_bytes() == source.read_bytes()


def test_zeroes_cover_what_a_file_held_before(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old" * 400_000)
    succeeds("copy", "mem:3M", target)
    assert target.read_bytes() == bytes(3 << 20)


@pytest.mark.parametrize(
    ("data", "run_bytes", "is_zero"),
    [
        (bytes(HOLE_BYTES + 512), HOLE_BYTES + 512, True),
        (b"x" + bytes(2 * HOLE_BYTES), HOLE_BYTES, False),
        (bytes(2 * HOLE_BYTES - 1) + b"x", HOLE_BYTES, True),
        (bytes(1) + b"x" + bytes(1), 3, False),
    ],
)
def test_runs_of_zeroes_are_told_from_data(data: bytes, run_bytes: int, is_zero: bool) -> None:
    assert leading_run(memoryview(data)) == (run_bytes, is_zero)


def test_a_source_that_is_not_there_leaves_no_target_behind(tmp_path: Path) -> None:
    target = tmp_path / "target"
    fails("copy", "vhost-user:/nowhere/disk.sock", target)
    assert not target.exists()


def test_a_target_that_cannot_start_leaves_no_file_behind(tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert "neither" in fails("copy", tmp_path / "a", tmp_path / "b")
    assert "directory" in fails("copy", "mem:1M", tmp_path)
    assert not target.exists()


def test_a_disk_in_use_is_refused_with_its_name(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vioblk.open(f"file:{image}"):
        assert run(["copy", f"file:{image}", str(tmp_path / "target")]) == 1
    line = capsys.readouterr().err
    assert line.count(str(image)) == 1
    assert "is open elsewhere for writing" in line


def test_what_counts_as_an_address() -> None:
    assert is_address("mem:1M")
    assert is_address("vhost-user:/run/disk.sock")
    assert not is_address("disk.img")
    assert not is_address("./mem:1M")
    assert not is_address("/dev/disk/by-path/pci-0000:00:05.0")


class Memory:
    """One side of a copy, which can be told to misbehave."""

    name = "memory"

    def __init__(
        self, data: bytes, *, takes: int | None = None, ends_at: int | None = None
    ) -> None:
        self.data = bytearray(data)
        self.size_bytes = len(data)
        self._takes = len(data) if takes is None else takes
        self._ends_at = len(data) if ends_at is None else ends_at
        self.flush_count = 0

    def alloc(self, length_bytes: int) -> memoryview | None:
        return None

    def check_room(self, length_bytes: int) -> None: ...

    def start_writing(self) -> None: ...

    def readinto(self, offset: int, buffer: memoryview) -> int:
        part = self.data[offset : min(self._ends_at, offset + len(buffer))]
        buffer[: len(part)] = part
        return len(part)

    def write(self, offset: int, data: memoryview) -> int:
        part = data[: max(0, self._takes - offset)]
        self.data[offset : offset + len(part)] = part
        return len(part)

    def flush(self) -> None:
        self.flush_count += 1

    def end_at(self, length_bytes: int) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def small_buffers() -> tuple[memoryview, memoryview]:
    return memoryview(bytearray(1024)), memoryview(bytearray(1024))


def ignore(count: int) -> None: ...


def copy_small(source: Endpoint, target: Endpoint, advance: Advance = ignore) -> None:
    with ThreadPoolExecutor(1) as reader:
        copy_all(reader, source, target, small_buffers(), advance)


def test_a_copy_ends_with_one_flush_and_counts_every_byte() -> None:
    source, target = Memory(os.urandom(5000)), Memory(bytes(5000))
    counted: list[int] = []
    copy_small(source, target, counted.append)
    assert target.data == source.data
    assert target.flush_count == 1
    assert sum(counted) == 5000


def test_a_target_that_takes_less_than_was_read_is_an_error() -> None:
    source, target = Memory(os.urandom(5000)), Memory(bytes(5000), takes=3000)
    with pytest.raises(CopyError, match="took only 3000 of the 5000 bytes"):
        copy_small(source, target)


def test_a_source_that_ends_early_is_an_error() -> None:
    source, target = Memory(os.urandom(5000), ends_at=4000), Memory(bytes(5000))
    with pytest.raises(CopyError, match="ended before all of its 5000 bytes"):
        copy_small(source, target)


def test_verify_names_the_first_byte_that_differs() -> None:
    data = os.urandom(5000)
    lying = bytearray(data)
    lying[4321] ^= 1
    with pytest.raises(CopyError, match="from byte 4321 on"):
        compare(Memory(data), Memory(bytes(lying)), small_buffers(), ignore)
    compare(Memory(data), Memory(data), small_buffers(), ignore)


def test_a_verify_that_cannot_read_the_end_again_is_an_error() -> None:
    data = bytes(5000)
    with pytest.raises(CopyError, match="ended before"):
        compare(Memory(data), Memory(data, ends_at=4000), small_buffers(), ignore)


def test_many_requests_are_in_flight_and_one_flush_follows(tmp_path: Path) -> None:
    image = tmp_path / "source"
    image.write_bytes(os.urandom(40 << 20))
    with (
        ThreadPoolExecutor(1) as reader,
        open_source(f"file:{image}") as source,
        open_target("mem:64M") as target,
    ):
        assert isinstance(source, DiskEndpoint)
        assert isinstance(target, DiskEndpoint)
        with two_buffers(source, source.size_bytes) as buffers:
            copy_all(reader, source, target, buffers, ignore)
        seen, written = (software(side.disk).counters() for side in (source, target))
        assert seen["most_outstanding"] == PIECE_BYTES // source.disk.limits.request_bytes == 16
        assert seen["batches"] <= 3
        assert written["flushes"] == 1
        assert written["bytes_written"] == 40 << 20


def test_the_progress_bar_is_for_terminals_only(image: Path, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = [*VIOBLK, "copy", f"file:{image}", str(tmp_path / "target")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, timeout=60)
    os.close(terminal)
    shown = os.read(controller, 65536)
    os.close(controller)
    assert done.returncode == 0
    assert done.stdout == b""
    assert b"copy" in shown
    assert b"MiB" in shown
