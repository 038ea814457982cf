"""Whatever goes wrong with a real daemon is a clear error within seconds, and never a hang."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.images import blank_image
from tests.interop.storage_daemon import StorageDaemon, raw_export, throttled_export
from vioblk.block.request import REQUEST_RECORD, RequestType

DISK_BYTES = 32 << 20
SECONDS = 30.0
"""What "within seconds" means on a busy machine."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return blank_image(tmp_path / "disk.raw", DISK_BYTES)


def test_a_read_only_export_is_read_and_not_written(tmp_path: Path, image: Path) -> None:
    image.write_bytes(b"\x5a" * DISK_BYTES)
    with StorageDaemon(tmp_path, [raw_export("disk", image, "num-queues=2")]) as daemon:
        with vioblk.open(daemon.address("disk")) as disk:
            assert disk.read_only
            assert disk.read(0, 4096) == b"\x5a" * 4096
            for attempt in (
                lambda: disk.write(0, bytes(512)),
                lambda: disk.discard(0, 512),
                lambda: disk.write_zeroes(0, 512),
            ):
                with pytest.raises(vioblk.ReadOnlyError):
                    attempt()
            assert disk.read(0, 4096) == b"\x5a" * 4096


def test_a_daemon_that_is_not_there_is_said_to_be_missing(tmp_path: Path, image: Path) -> None:
    with StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon:
        address = daemon.address("disk")
        daemon.kill()
        with pytest.raises(vioblk.TransportError, match="nobody listens on"):
            vioblk.open(address)
        daemon.socket_path("disk").unlink()
        with pytest.raises(vioblk.TransportError, match="there is no socket at"):
            vioblk.open(address)


def test_a_second_client_is_told_that_the_daemon_is_busy(tmp_path: Path, image: Path) -> None:
    with StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon:
        address = daemon.address("disk")
        with vioblk.open(address) as first:
            with pytest.raises(vioblk.TransportError, match="is another client connected"):
                vioblk.open(f"{address}?reply_timeout=0.3")
            assert first.read(0, 512) == bytes(512), "the first is not disturbed"
        with vioblk.open(address) as second:
            assert second.read(0, 512) == bytes(512)


@pytest.mark.parametrize(
    "what",
    [b"", b"220 smtp.example ESMTP\r\n", os.urandom(4096)],
    ids=["nothing", "another protocol", "noise"],
)
def test_a_socket_that_speaks_something_else_is_an_error(tmp_path: Path, what: bytes) -> None:
    path = tmp_path / "other.sock"

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        # A reset, because the other side hangs up with some of it unread.
        with client, suppress(ConnectionResetError):
            client.sendall(what)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(vioblk.TransportError, match="vhost-user back end"):
            vioblk.open(f"vhost-user:{path}")
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_a_daemon_killed_in_the_middle_of_a_copy_ends_the_command(
    tmp_path: Path, image: Path
) -> None:
    image.write_bytes(b"\x5a" * DISK_BYTES)
    target = tmp_path / "copy.img"
    export = throttled_export("disk", image, f"x-bps-total={8 << 20}")
    with StorageDaemon(tmp_path, [export]) as daemon:
        command = [sys.executable, "-m", "vioblk", "copy", daemon.address("disk"), str(target)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as copy:
            try:
                wait_until_data_arrives(target)
                daemon.kill()
                _, errors = copy.communicate(timeout=SECONDS)
            finally:
                copy.kill()
    assert copy.returncode == 1
    assert "Traceback" not in errors
    assert "hung up" in errors or "gone" in errors, errors


def wait_until_data_arrives(file: Path) -> None:
    """Poll until some of the file's blocks have been written."""
    deadline = time.monotonic() + SECONDS
    while not (file.exists() and file.stat().st_blocks):
        assert time.monotonic() < deadline, "the copy does not get on"
        threading.Event().wait(0.01)


def test_a_daemon_killed_under_waiting_threads_wakes_them_all(
    tmp_path: Path, image: Path, ring: RingName
) -> None:
    export = throttled_export("disk", image, "x-iops-total=2")
    begun = threading.Event()
    outcomes: list[BaseException | None] = []
    with StorageDaemon(tmp_path, [export]) as daemon:
        disk = vioblk.open(daemon.address("disk"), ring=ring)

        def read() -> None:
            try:
                while True:
                    disk.read(0, 512)
                    begun.set()
            except BaseException as error:
                outcomes.append(error)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert begun.wait(SECONDS)
        daemon.kill()
        for thread in threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in threads)
        assert [type(outcome) for outcome in outcomes] == [vioblk.DeviceGoneError] * 4
        with pytest.raises(vioblk.DeviceGoneError):
            disk.read(0, 512)
        for call in (disk.reset, lambda: disk.read(0, 512), disk.reset):
            with pytest.raises(vioblk.DeviceGoneError, match="close the disk and open it again"):
                call()
        disk.close()


def test_after_a_restart_on_the_same_path_the_disk_can_be_opened_again(
    tmp_path: Path, image: Path
) -> None:
    exports = [raw_export("disk", image)]
    with StorageDaemon(tmp_path, exports) as first:
        disk = vioblk.open(first.address("disk"))
        disk.write(0, b"\x77" * 512)
        disk.flush()
        first.kill()
        with pytest.raises(vioblk.DeviceGoneError):
            disk.read(0, 512)
        disk.close()
    with (
        StorageDaemon(tmp_path, exports) as second,
        vioblk.open(second.address("disk")) as disk,
    ):
        assert disk.read(0, 512) == b"\x77" * 512


def reads(handle: int, count: int) -> bytes:
    """Reads of the first sectors, each into a sector of its own of the region."""
    return b"".join(
        REQUEST_RECORD.pack(RequestType.IN, 0, i, i * 512, 512, handle, i) for i in range(count)
    )


def test_after_a_reset_under_load_the_device_writes_to_no_memory_any_more(
    tmp_path: Path, image: Path, ring: RingName
) -> None:
    export = throttled_export("disk", image, "x-iops-total=8")
    with (
        StorageDaemon(tmp_path, [export]) as daemon,
        vioblk.open(daemon.address("disk"), ring=ring) as disk,
        disk.alloc(8 * 512) as region,
    ):
        assert disk.submit_many(reads(region.handle, 8)) == 8
        disk.reset()
        region_view = memoryview(region)
        region_view[:] = b"\xee" * len(region)
        # The daemon works in order, so this read is behind everything that it may have kept.
        assert disk.read(0, 512) == bytes(512)
        assert region_view == b"\xee" * len(region)
        region_view.release()


def test_a_reset_that_the_device_is_too_slow_for_is_refused_with_the_reason(
    tmp_path: Path, image: Path
) -> None:
    export = throttled_export("disk", image, "x-iops-total=1")
    with StorageDaemon(tmp_path, [export]) as daemon:
        disk = vioblk.open(f"{daemon.address('disk')}?drain_timeout=0.5")
        region = disk.alloc(64 * 512)
        assert disk.submit_many(reads(region.handle, 64)) == 64
        started = time.monotonic()
        with pytest.raises(vioblk.TransportError, match="still owns requests"):
            disk.reset()
        disk.close(timeout_s=1)
        assert time.monotonic() - started < SECONDS
        daemon.kill()  # It would serve all 64 before it ended by itself.
