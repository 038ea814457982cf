"""A file system of real files, copied out of a real daemon, is the one that went in."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.images import FILE_SYSTEM_BYTES, Images, blank_image, files_of, sha256
from tests.interop.storage_daemon import (
    StorageDaemon,
    qcow2_export,
    raw_export,
    run_tool,
)

READ_ONLY = "num-queues=2"
COPY_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def daemon(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageDaemon]:
    """Both images behind one daemon, for reading."""
    exports = [
        raw_export("raw", images.raw, READ_ONLY),
        qcow2_export("qcow2", images.qcow2, READ_ONLY),
    ]
    with StorageDaemon(tmp_path_factory.mktemp("daemon"), exports) as daemon:
        yield daemon


def vioblk_copy(source: str, target: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vioblk", "copy", source, target]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=COPY_TIMEOUT_S
    )


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_the_command_copies_every_file_out(
    daemon: StorageDaemon, images: Images, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "copy.img"
    done = vioblk_copy(daemon.address(name), str(target))
    assert done.returncode == 0, done.stderr
    assert sha256(target) == images.sha256()
    extracted = tmp_path / "files"
    extracted.mkdir()
    run_tool("debugfs", "-R", f"rdump / {extracted}", target)
    expected = files_of(images.tree)
    assert len(expected) > 200
    assert files_of(extracted) == expected


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_the_api_reads_the_same_bytes(
    daemon: StorageDaemon, images: Images, ring: RingName, name: str
) -> None:
    digest = hashlib.sha256()
    step = 1 << 20
    with vioblk.open(daemon.address(name), ring=ring) as disk, disk.alloc(step) as region:
        assert disk.capacity_bytes == FILE_SYSTEM_BYTES
        for offset in range(0, FILE_SYSTEM_BYTES, step):
            assert disk.readinto(offset, region) == step
            digest.update(region)
    assert digest.hexdigest() == images.sha256()


def test_the_command_copies_a_file_system_in(images: Images, tmp_path: Path) -> None:
    target = blank_image(tmp_path / "disk.qcow2", FILE_SYSTEM_BYTES, "qcow2")
    with StorageDaemon(tmp_path, [qcow2_export("disk", target)]) as daemon:
        done = vioblk_copy(str(images.raw), daemon.address("disk"))
        assert done.returncode == 0, done.stderr
    run_tool("qemu-img", "check", target)
    run_tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", images.raw, target)


def test_the_command_copies_from_one_disk_of_a_daemon_to_another(
    images: Images, tmp_path: Path
) -> None:
    target = blank_image(tmp_path / "target.qcow2", FILE_SYSTEM_BYTES, "qcow2")
    exports = [raw_export("source", images.raw, READ_ONLY), qcow2_export("target", target)]
    with StorageDaemon(tmp_path, exports) as daemon:
        done = vioblk_copy(daemon.address("source"), daemon.address("target"))
        assert done.returncode == 0, done.stderr
    run_tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", images.raw, target)
