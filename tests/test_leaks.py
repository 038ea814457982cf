"""Opening and closing gives everything back: threads, descriptors and mappings."""

from pathlib import Path

import pytest

import vioblk
from tests.conftest import RingName
from tests.support.leaks import no_leaks

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
