"""A disk that stops answering in the middle of a copy, and a user who does not wait for it."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.cli.command import HEED_CTRL_C, VIOBLK
from tests.interop.storage_daemon import StorageDaemon, throttled_export

DISK_BYTES = 64 << 20
PROMPT_S = 25.0
"""What "at once" means on a busy machine: less than the 30 s for which a disk is waited for."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What the daemon serves; all zeroes, without a block of its own until it is written."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    return path


@pytest.fixture
def daemon(image: Path) -> Iterator[StorageDaemon]:
    """A real disk, slow enough to be stopped half-way; it may be stopped at the end."""
    export = throttled_export("disk", image, f"x-bps-total={12 << 20}")
    with StorageDaemon(image.parent, [export]) as daemon:
        try:
            yield daemon
        finally:
            daemon.kill()


def fill(image: Path) -> None:
    """Give it what a copy cannot leave out. It is open: neither cut off nor replaced."""
    with image.open("r+b") as file:
        file.write(Random(11).randbytes(DISK_BYTES))


def stall(daemon: StorageDaemon, target: Path, *names: str, ctrl_c: bool) -> tuple[int, str]:
    """Copy, stop the daemon when some of `target` is written; the status and what was said."""
    command = [*HEED_CTRL_C, *VIOBLK, "copy", *names]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as copy:
        try:
            wait_until_some_is_written(target, copy)
            daemon.pause()
            if ctrl_c:
                copy.send_signal(signal.SIGINT)
            _, errors = copy.communicate(timeout=PROMPT_S)
        finally:
            copy.kill()
    return copy.returncode, errors


def wait_until_some_is_written(file: Path, copy: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PROMPT_S
    while not (file.exists() and file.stat().st_blocks):
        assert copy.poll() is None, "the copy has ended"
        assert time.monotonic() < deadline, "the copy does not get on"
        time.sleep(0.01)


def test_ctrl_c_ends_a_copy_from_a_stalled_disk(
    daemon: StorageDaemon, image: Path, tmp_path: Path
) -> None:
    fill(image)
    target = tmp_path / "copy.img"
    outcome = stall(daemon, target, daemon.address("disk"), str(target), ctrl_c=True)
    assert outcome == (130, "")


def test_ctrl_c_ends_a_copy_to_a_stalled_disk(
    daemon: StorageDaemon, image: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.img"
    source.write_bytes(Random(11).randbytes(DISK_BYTES))
    outcome = stall(daemon, image, str(source), daemon.address("disk"), ctrl_c=True)
    assert outcome == (130, "")


def test_a_copy_waits_once_for_a_stalled_disk(
    daemon: StorageDaemon, image: Path, tmp_path: Path
) -> None:
    fill(image)
    target = tmp_path / "copy.img"
    address = f"{daemon.address('disk')}?timeout_s=3"
    status, errors = stall(daemon, target, address, str(target), ctrl_c=False)
    assert status == 1
    assert "timed out" in errors
    assert errors.count("\n") == 1
