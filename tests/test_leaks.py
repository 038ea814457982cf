"""Opening and closing gives everything back."""

from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.support.leaks import no_leaks

CYCLES = 1000


def test_a_thousand_disks_leak_no_thread_descriptor_or_mapping() -> None:
    with vioblk.open("mem:1M") as first:  # what is loaded once is loaded now
        first.read(0, 512)
    with no_leaks(collect=False):
        for cycle in range(CYCLES):
            with vioblk.open("mem:1M", ring=("native", "reference")[cycle % 2]) as disk:
                disk.write(512, b"\x01" * 512)
                assert disk.read(512, 512) == b"\x01" * 512


def test_regions_and_views_that_outlive_the_disk_keep_only_their_own_memory(
    ring: RingName,
) -> None:
    with no_leaks():
        with vioblk.open("mem:1M", ring=ring) as disk:
            region = disk.alloc(4096)
            view = memoryview(region)
            disk.readinto(0, region)
        view[0] = 7
        assert bytes(view[:2]) == b"\x07\x00"
        view.release()
        region.close()
        del disk, region, view


def test_a_thousand_regions_reuse_their_memory(ring: RingName) -> None:
    with vioblk.open("mem:1M", ring=ring) as disk:
        disk.alloc(4096).close()
        free = disk.device.memory.space.free_bytes
        for _ in range(1000):
            with disk.alloc(1 << 20) as region:
                assert len(region) == 1 << 20
        assert disk.device.memory.space.free_bytes == free
        assert len(disk.device.memory.space.mappings) <= 2


def test_disks_that_end_badly_leak_nothing_either(ring: RingName, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with no_leaks():
        for fault in ("silence", "id_out_of_range", "garbage_status", "needs_reset"):
            disk = vioblk.open(f"file:{image}", ring=ring, timeout_s=0.2)
            disk.device.transport.device.inject(fault)  # type: ignore[attr-defined]
            with pytest.raises(vioblk.VioblkError):
                disk.read(0, 512)
            try:
                disk.close(timeout_s=0.2)
            except vioblk.RequestTimeoutError:
                assert fault == "silence"
            del disk


def test_many_disks_at_once_do_not_disturb_each_other(ring: RingName) -> None:
    with no_leaks():
        disks = [vioblk.open("mem:1M", ring=ring) for _ in range(16)]
        for number, disk in enumerate(disks):
            disk.write(0, bytes([number]) * 512)
        for number, disk in enumerate(disks):
            assert disk.read(0, 512) == bytes([number]) * 512
            disk.close()
        del disk, disks
