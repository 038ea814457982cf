"""Opening and closing gives everything back: threads, descriptors and mappings."""

from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.support.leaks import no_leaks
from tests.support.patience import AMPLE_S, hasty

CYCLES = 1000


def test_a_thousand_disks_leave_nothing_behind(ring: RingName) -> None:
    def cycle() -> None:
        with vioblk.open("mem:64K", ring=ring) as disk:
            disk.write(0, b"\x5a" * 512)
            assert disk.read(0, 512) == b"\x5a" * 512

    cycle()
    # Without the garbage collector: what is closed is given back at once.
    with no_leaks(collect=False):
        for _ in range(CYCLES):
            cycle()


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("mem:64K?withhold=flush&flush=on", vioblk.NegotiationError),
        ("mem:64K?withhold=version_1", vioblk.NegotiationError),
        ("mem:64K?queue_size=2&seg_max=1&ring_size=4", ValueError),
        ("file:/dev/null/none", OSError),
        ("mem:64K?serial=much-longer-than-20-bytes", vioblk.AddressError),
    ],
)
def test_a_disk_that_cannot_be_opened_leaves_nothing_behind(
    address: str, error: type[Exception]
) -> None:
    def cycle() -> None:
        with pytest.raises(error):
            vioblk.open(address)

    cycle()
    with no_leaks():
        for _ in range(20):
            cycle()


def test_forgotten_disks_leave_nothing_behind(ring: RingName) -> None:
    """And say so. They are not closed, so no thread may keep them."""

    def forget() -> None:
        disk = vioblk.open("mem:64K", ring=ring, on_config_change=lambda config: None)
        disk.write(0, b"\x5a" * 512)

    with no_leaks():
        for _ in range(50):
            with pytest.warns(ResourceWarning, match="unclosed <BlockDevice mem:64K"):
                forget()


def test_resets_leave_nothing_behind(ring: RingName) -> None:
    with vioblk.open("mem:64K", ring=ring) as disk:
        disk.reset()
        with no_leaks():
            for _ in range(100):
                disk.reset()
                disk.write(0, bytes(512))


def test_a_disk_on_a_file_leaves_nothing_behind(tmp_path: Path, ring: RingName) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(65536))

    def cycle() -> None:
        with vioblk.open(f"file:{image}", ring=ring) as disk:
            disk.write(0, bytes(512))
            disk.flush()

    cycle()
    with no_leaks():
        for _ in range(50):
            cycle()


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
            disk = vioblk.open(f"file:{image}", ring=ring)
            disk.device.transport.device.inject(fault)  # type: ignore[attr-defined]
            patience_s = 0.1 if fault == "silence" else AMPLE_S
            with hasty(disk, patience_s), pytest.raises(vioblk.VioblkError):
                disk.read(0, 512)
            try:
                disk.close(timeout_s=patience_s)
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
