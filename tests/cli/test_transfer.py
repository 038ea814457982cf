"""`vioblk read`, `write`, `zero`, `discard`."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import VIOBLK, fails, succeeds, vioblk
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
        (["read", "mem:1M", "1M", "512"], "ends at 1049088"),
        (["read", "mem:1M", "0", "12Q"], "'12Q' is not a size"),
        (["read", "mem:1M", "0"], "LENGTH"),
        (["read", "mem:1M", "0", "512", "more"], "more"),
        (["zero", "mem:1M?read_only=on", "0", "512"], "read-only"),
        (["zero", "mem:1M?write_zeroes=off", "0", "512"], "does not offer it, or it was declined"),
        (["discard", "mem:1M", "2M", "512"], "ends at"),
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
    outcome = vioblk("read", f"file:{image}", "0", "64M")
    assert (outcome.status, outcome.out) == (1, b"")


def test_unaligned_input_says_what_was_written(empty_image: Path) -> None:
    line = fails("write", f"file:{empty_image}", "0", stdin=b"x" * 700)
    assert "700 bytes long" in line
    assert "its first 0 bytes were written" in line
    assert empty_image.read_bytes().count(b"x") == 0


# Whoever runs the tests in the background of a script has SIGINT ignored.
HEED_CTRL_C = ["env", "--default-signal=INT"]


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
