"""The rings of qemu-storage-daemon: split, with what it offers of the features of rings."""

from itertools import product
from pathlib import Path
from typing import Final

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.images import blank_image
from tests.interop.qemu_machines import CAPACITY_BYTES, WAIT_S
from tests.interop.queue_load import assert_content, use_from_threads
from tests.interop.storage_daemon import StorageDaemon, raw_export

OFFERED: Final = {"event_idx", "indirect_desc"}

NOT_OFFERED: Final = {
    "ring_packed",
    "in_order",
    "notification_data",
    "notif_config_data",
    "ring_reset",
}
"""The export knows nothing of them."""

SWITCHES: Final = (True, False)

CASES: Final = (
    *product(SWITCHES, SWITCHES, (1, 4), ("native",)),
    # The reference ring goes without event index.
    *product((False,), SWITCHES, (2,), ("reference",)),
)


@pytest.mark.parametrize(("event_idx", "indirect", "queue_count", "ring"), CASES)
def test_each_ring_feature_on_and_off(
    tmp_path: Path, event_idx: bool, indirect: bool, queue_count: int, ring: RingName
) -> None:
    """Each queue is used by a thread of its own."""
    image = blank_image(tmp_path / "disk.raw", CAPACITY_BYTES)
    expected = {name for name, on in (("event_idx", event_idx), ("indirect_desc", indirect)) if on}
    with StorageDaemon(
        tmp_path, [raw_export("disk", image, f"writable=on,num-queues={queue_count}")]
    ) as daemon:
        with vioblk.open(
            daemon.address("disk"),
            ring=ring,
            ring_size=32,
            queue_count=queue_count,
            event_idx=event_idx,
            indirect_desc=indirect,
            timeout_s=WAIT_S,
        ) as disk:
            accepted = set(disk.info.accepted.names)
            assert accepted & (OFFERED | NOT_OFFERED) == expected
            assert [queue.size for queue in disk.info.queues] == [32] * queue_count
            use_from_threads(disk, queue_count)
            disk.flush()
            assert all(queue.kick_count for queue in disk.info.queues)
    assert_content(image, queue_count)


def test_what_it_offers_of_the_features_of_rings(tmp_path: Path) -> None:
    image = blank_image(tmp_path / "disk.raw", CAPACITY_BYTES)
    with StorageDaemon(tmp_path, [raw_export("disk", image)]) as daemon:
        address = daemon.address("disk")
        with vioblk.open(address) as disk:
            assert set(disk.info.offered.names) & (OFFERED | NOT_OFFERED) == OFFERED
        for name in sorted(NOT_OFFERED):
            with pytest.raises(vioblk.NegotiationError, match=f"{name} is forced on but"):
                vioblk.open(f"{address}?{name}=on")
