"""`vioblk read`, `write`, `zero`, `discard`."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

import vioblk
from tests.cli.command import HEED_CTRL_C, VIOBLK, fails, succeeds
from tests.cli.command import vioblk as command
from tests.cli.software import software
from vioblk.block.disk import BlockDevice
from vioblk.block.request import RequestStatus
from vioblk.cli.app import run


def test_read_prints_the_bytes_of_the_range(image: Path) -> None:
    assert (
        succeeds("read", f"file:{image}", "512", "1M") == image.read_bytes()[512 : 512 + (1 << 20)]
    )


def test_read_of_more_than_one_piece(tmp_path: Path) -> None:
    image = tmp_path / "large.img"
    image.write_bytes(os.urandom((9 << 20) + 512))
    assert succeeds("read", f"file:{image}", "0", str((9 << 20) + 512)) == image.read_bytes()


def test_write_takes_standard_input(empty_image: Path) -> None:
    data = os.urandom(8192)
    assert succeeds("write", f"file:{empty_image}", "4K", stdin=data) == b""
    content = empty_image.read_bytes()
    assert content[4096 : 4096 + 8192] == data
    assert content.count(0) >= len(content) - 8192


def test_zero_and_discard_reach_the_disk(image: Path) -> None:
    before = image.read_bytes()
    succeeds("zero", f"file:{image}", "1K", "4K")
    after = image.read_bytes()
    assert after[1024 : 1024 + 4096] == bytes(4096)
    assert after[:1024] == before[:1024]
    assert after[5120:] == before[5120:]
    succeeds("zero", "--unmap", f"file:{image}", "0", "512")
    assert image.read_bytes()[:512] == bytes(512)
    succeeds("discard", f"file:{image}", "64K", "64K")
    assert image.read_bytes()[128 << 10 :] == before[128 << 10 :]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["read", "mem:1M", "0", "0"], "0 bytes"),
        (["read", "mem:1M", "1", "512"], "multiple of 512"),
        (["read", "mem:1M", "0", "100"], "multiple of 512"),
        (["read", "mem:1M", "1M", "512"], "1048576"),
        (["read", "mem:1M", "0", "12Q"], "'LENGTH': '12Q' is not a size"),
        (["read", "mem:1M", "-512", "512"], "cannot be negative"),
        (["discard", "mem:1M", "0", "-4K"], "cannot be negative"),
        (["zero", "mem:1M", "0", "512", "--unmpa"], "--unmap"),
        (["read", "mem:1M", "0"], "LENGTH"),
        (["read", "mem:1M", "0", "512", "more"], "more"),
        (["zero", "mem:1M?read_only=on", "0", "512"], "read-only"),
        (
            ["zero", "mem:1M?write_zeroes=off", "0", "512"],
            "`vioblk info 'mem:1M?write_zeroes=off'` says",
        ),
        (["discard", "mem:1M?discard=off", "0", "512"], "`vioblk info 'mem:1M?discard=off'` says"),
        (["zero", "mem:1M", "0", "100"], "vioblk: zero of 100 bytes"),
        (["discard", "mem:1M", "2M", "512"], "1048576"),
        (["read", "mem", "0", "512"], "no scheme"),
        (["read", "mme:1M", "0", "512"], "did you mean mem"),
        (["read", "mem:1M?event_index=off", "0", "512"], "event_idx"),
        (["read", "file:/nowhere/disk.img", "0", "512"], "/nowhere/disk.img"),
        (["read", "vhost-user:/nowhere/disk.sock", "0", "512"], "/nowhere/disk.sock"),
        (["reed", "mem:1M", "0", "512"], "reed"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_an_error_is_one_clear_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vioblk: ")
    assert err.count("\n") == 1
    assert said in err


def test_the_shell_sees_the_same_line_and_status() -> None:
    assert "standard input is empty" in fails("write", "mem:1M", "0")
    assert "LENGTH" in fails("read", "mem:1M", "0")


def test_nothing_is_printed_of_a_range_that_ends_beyond_the_disk(image: Path) -> None:
    outcome = command("read", f"file:{image}", "0", "64M")
    assert (outcome.status, outcome.out) == (1, b"")


def test_unaligned_input_says_what_was_written(empty_image: Path) -> None:
    line = fails("write", f"file:{empty_image}", "0", stdin=b"x" * 700)
    assert "700 bytes long" in line
    assert "0 bytes were written" in line
    assert empty_image.read_bytes().count(b"x") == 0


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockDevice]:
    """What the commands of this process open as `mem:6M`; it outlives them."""
    with vioblk.open("mem:6M?cache=volatile") as disk:
        monkeypatch.setattr(vioblk, "open", lambda address: nullcontext(disk))
        yield disk


def write_from_pipe(data: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """`vioblk write` with `data` on standard input, which is no file whose length is known."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as pipe, suppress(BrokenPipeError):
            pipe.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(reader, "rb") as pipe, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", pipe)
        status = run(["write", "mem:6M", "0"])
    thread.join()
    return status


@pytest.mark.parametrize(
    ("input_bytes", "why"),
    [((4 << 20) + 700, "4195004 bytes long"), (9 << 20, "ends at 8388608")],
    ids=["unaligned", "too long"],
)
def test_what_was_written_before_an_error_is_flushed_and_told(
    small_disk: BlockDevice,
    input_bytes: int,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert write_from_pipe(b"x" * input_bytes, monkeypatch) == 1
    line = capsys.readouterr().err
    assert why in line
    assert "4194304 bytes were written, and flushed" in line
    software(small_disk).power_loss()
    assert small_disk.read(0, 6 << 20) == b"x" * (4 << 20) + bytes(2 << 20)


def test_a_write_that_the_device_fails_tells_what_is_known(
    small_disk: BlockDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests_of_a_piece = (4 << 20) // small_disk.limits.request_bytes
    software(small_disk).inject("status", after=requests_of_a_piece, value=RequestStatus.IOERR)
    assert write_from_pipe(b"x" * (5 << 20), monkeypatch) == 1
    assert "4194304 bytes are known to be written, and flushed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("length_bytes", "why"),
    [((5 << 20) + 700, "is no multiple of 512"), (9 << 20, "ends at")],
    ids=["unaligned", "too long"],
)
def test_a_file_that_cannot_be_written_whole_is_not_begun(
    small_disk: BlockDevice,
    tmp_path: Path,
    length_bytes: int,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"x" * length_bytes)
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert run(["write", "mem:6M", "0"]) == 1
    assert why in capsys.readouterr().err
    assert software(small_disk).counters()["writes"] == 0


def test_a_stream_that_the_shell_has_closed_is_said_to_be(image: Path) -> None:
    for arguments, closed, said in (
        (["read", f"file:{image}", "0", "512"], ">&-", "standard output is closed"),
        (["info", f"file:{image}"], ">&-", "standard output is closed"),
        (["write", f"file:{image}", "0"], "<&-", "standard input is closed"),
    ):
        script = f'exec "$@" {closed}'
        done = subprocess.run(
            ["bash", "-c", script, "bash", *VIOBLK, *arguments], capture_output=True, timeout=60
        )
        assert (done.returncode, done.stderr.decode()) == (1, f"vioblk: {said}\n")


def test_a_command_that_prints_nothing_needs_no_standard_output(image: Path) -> None:
    before = image.read_bytes()
    script = 'exec "$@" >&- 2>&-'
    command = ["bash", "-c", script, "bash", *VIOBLK]
    target = image.with_name("copy.img")
    subprocess.run([*command, "copy", f"file:{image}", target], check=True, timeout=60)
    assert target.read_bytes() == before
    assert subprocess.run([*command, "zero", f"file:{image}", "0", "1"], timeout=60).returncode == 1


def test_ctrl_c_is_status_130_and_no_traceback(empty_image: Path) -> None:
    with subprocess.Popen(
        [*HEED_CTRL_C, *VIOBLK, "write", f"file:{empty_image}", "0"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        # A pipe holds less than this, so once it is written the command is reading.
        process.stdin.write(bytes(1 << 20))
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        status = process.wait(30)
        assert process.stderr is not None
        assert (status, process.stderr.read()) == (130, b"")


def test_a_reader_that_leaves_is_no_traceback() -> None:
    command = [*VIOBLK, "read", "mem:64M", "0", "64M"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(512)) == 512
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""
