"""What is written, flushed and erased through the driver is what QEMU's own tools find."""

import json
import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.images import blank_image
from tests.interop.storage_daemon import (
    Export,
    StorageDaemon,
    qcow2_export,
    raw_export,
    run_tool,
)
from vioblk.block.disk import BlockDevice

DISK_BYTES = 32 << 20
CLUSTER_BYTES = 64 << 10
"""Of a qcow2 image; a multiple of the file system's blocks, too."""

MakeExport = Callable[[str, Path], Export]

FORMATS = pytest.mark.parametrize(
    ("image_format", "export"), [("raw", raw_export), ("qcow2", qcow2_export)], ids=["raw", "qcow2"]
)


def written_at_random(disk: BlockDevice, model: bytearray, seed: int) -> None:
    """Write here and there, short and long, aligned to sectors only; `model` keeps up."""
    noise = random.Random(seed)
    for length in [512, 1024, 4096, 512 * 77, 1 << 20, 3 << 20, (1 << 20) + 512] * 2:
        offset = noise.randrange((DISK_BYTES - length) // 512 + 1) * 512
        data = noise.randbytes(length)
        assert disk.write(offset, data) == length
        model[offset : offset + length] = data


@FORMATS
def test_writes_arrive_in_the_image(
    tmp_path: Path, ring: RingName, image_format: str, export: MakeExport
) -> None:
    image = blank_image(tmp_path / f"disk.{image_format}", DISK_BYTES, image_format)
    model = bytearray(DISK_BYTES)
    with StorageDaemon(tmp_path, [export("disk", image)]) as daemon:
        with vioblk.open(daemon.address("disk"), ring=ring) as disk:
            written_at_random(disk, model, seed=1)
            disk.flush()
            disk.write_zeroes(5 * 512, 3 << 20)
            model[5 * 512 : 5 * 512 + (3 << 20)] = bytes(3 << 20)
            disk.flush()
    expected = tmp_path / "expected.raw"
    expected.write_bytes(model)
    run_tool("qemu-img", "compare", "-f", image_format, "-F", "raw", image, expected)


def test_a_flushed_write_survives_the_death_of_the_daemon(tmp_path: Path) -> None:
    image = blank_image(tmp_path / "disk.qcow2", DISK_BYTES, "qcow2")
    with StorageDaemon(tmp_path, [qcow2_export("disk", image)]) as daemon:
        disk = vioblk.open(daemon.address("disk"))
        disk.write(1 << 20, b"\xc3" * CLUSTER_BYTES)
        disk.flush()
        daemon.kill()
        disk.close()
    pattern = f"read -P 0xc3 {1 << 20} {CLUSTER_BYTES}"
    output = run_tool("qemu-io", "-r", "-f", "qcow2", "-c", pattern, image)
    assert f"read {CLUSTER_BYTES}/{CLUSTER_BYTES} bytes" in output
    assert "Pattern verification failed" not in output


def data_clusters(image: Path, image_format: str) -> list[int]:
    """The numbers of the clusters that hold data, as qemu-img sees them."""
    output = run_tool("qemu-img", "map", "--output=json", "-f", image_format, image)
    extents: list[dict[str, Any]] = json.loads(output)
    return [
        cluster
        for extent in extents
        if extent["data"]
        for cluster in range(
            extent["start"] // CLUSTER_BYTES,
            -(-(extent["start"] + extent["length"]) // CLUSTER_BYTES),
        )
    ]


@FORMATS
def test_erased_clusters_are_deallocated(
    tmp_path: Path, image_format: str, export: MakeExport
) -> None:
    image = blank_image(tmp_path / f"disk.{image_format}", DISK_BYTES, image_format)
    with StorageDaemon(tmp_path, [export("disk", image)]) as daemon:
        with vioblk.open(daemon.address("disk")) as disk:
            disk.write(0, b"\xff" * (16 * CLUSTER_BYTES))
            disk.flush()
            disk.discard(2 * CLUSTER_BYTES, 3 * CLUSTER_BYTES)
            disk.write_zeroes(8 * CLUSTER_BYTES, 4 * CLUSTER_BYTES, unmap=True)
            disk.flush()
            assert disk.read(8 * CLUSTER_BYTES, 4 * CLUSTER_BYTES) == bytes(4 * CLUSTER_BYTES)
    assert data_clusters(image, image_format) == [0, 1, 5, 6, 7, 12, 13, 14, 15]


@FORMATS
def test_write_zeroes_without_unmap_reads_as_zeroes(
    tmp_path: Path, image_format: str, export: MakeExport
) -> None:
    image = blank_image(tmp_path / f"disk.{image_format}", DISK_BYTES, image_format)
    with StorageDaemon(tmp_path, [export("disk", image)]) as daemon:
        with vioblk.open(daemon.address("disk")) as disk:
            disk.write(0, b"\xff" * (8 * CLUSTER_BYTES))
            disk.write_zeroes(512, 4 * CLUSTER_BYTES)
            disk.flush()
    command = f"read -P 0 512 {4 * CLUSTER_BYTES}"
    output = run_tool("qemu-io", "-r", "-f", image_format, "-c", command, image)
    assert f"read {4 * CLUSTER_BYTES}/{4 * CLUSTER_BYTES} bytes" in output
    assert "Pattern verification failed" not in output


def test_a_flush_reaches_the_image_whatever_the_cache_is_set_to(tmp_path: Path) -> None:
    image = blank_image(tmp_path / "disk.raw", DISK_BYTES)
    with StorageDaemon(tmp_path, [unflushable_export("disk", image)]) as daemon:
        with vioblk.open(daemon.address("disk")) as disk:
            for writeback in (True, False, True):
                disk.writeback = writeback
                assert disk.writeback is writeback
                # Write-through: where the write itself is a write and a flush, it fails.
                with nullcontext() if writeback else suppress(vioblk.RequestFailedError):
                    disk.write(0, bytes(512))
                with pytest.raises(vioblk.RequestFailedError):
                    disk.flush()


def test_the_cache_is_what_was_asked_for_at_opening_whatever_a_former_client_left(
    tmp_path: Path,
) -> None:
    image = blank_image(tmp_path / "disk.qcow2", DISK_BYTES, "qcow2")
    allocate = f"write 0 {CLUSTER_BYTES}"
    run_tool("qemu-io", "-f", "qcow2", "-c", allocate, image)
    with StorageDaemon(tmp_path, [unflushable_qcow2_export("disk", image)]) as daemon:
        for options, writeback in [("", True), ("?writeback=off", False), ("", True)] * 2:
            with vioblk.open(daemon.address("disk") + options) as disk:
                assert disk.writeback is writeback
                if writeback:
                    disk.write(0, bytes(512))
                else:
                    with pytest.raises(vioblk.RequestFailedError):
                        disk.write(0, bytes(512))


def unflushable_qcow2_export(name: str, image: Path) -> Export:
    """A qcow2 image whose every flush fails. The format has no write that is stable of itself, so
    with a write-through cache each write is followed by a flush, and fails as well."""
    plain = unflushable_export(f"{name}-faulty", image)
    return Export(name, (*plain.nodes, f"driver=qcow2,node-name={name},file={name}-faulty"))


def unflushable_export(name: str, image: Path) -> Export:
    """A raw image whose every flush fails, so that each one can be seen."""
    faulty = {
        "driver": "blkdebug",
        "node-name": name,
        "image": f"{name}-file",
        "inject-error": [{"event": "none", "iotype": "flush", "errno": 5, "once": False}],
    }
    return Export(name, (f"driver=file,node-name={name}-file,filename={image}", json.dumps(faulty)))
