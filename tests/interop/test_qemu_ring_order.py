"""In which order QEMU's disk gives requests back, when the first is slow: with IN_ORDER, and
without."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import vioblk
from tests.conftest import RingName
from tests.interop.qemu_machines import WAIT_S, content_of, numbered_disk, poll, settle
from tests.support.qemu import qemu_of
from vioblk.block.disk import BlockDevice
from vioblk.block.request import COMPLETION_RECORD, REQUEST_RECORD, RequestStatus, RequestType
from vioblk.features import Feature

SECTORS: Final = (7, 21, 42, 63)
"""Far from each other, so that QEMU does not make one request of two."""


def reaped(disk: BlockDevice) -> list[int]:
    """Tokens of what can be taken back now."""
    out = bytearray(len(SECTORS) * COMPLETION_RECORD.size)
    count = disk.reap_many(out)
    found = COMPLETION_RECORD.iter_unpack(out[: count * COMPLETION_RECORD.size])
    tokens = []
    for token, written_bytes, status in found:
        assert status == RequestStatus.OK
        assert written_bytes in (0, 512), "0: on a packed ring QEMU does not say"
        tokens.append(token)
    return tokens


def read_with_the_first_held(disk: BlockDevice) -> Iterator[list[int]]:
    """Tokens that came back while the first request was held; then those that came after."""
    platform = qemu_of(disk.device)
    with disk.alloc(512 * len(SECTORS)) as region:
        platform.hold_requests("read")
        for token, sector in enumerate(SECTORS):
            record = REQUEST_RECORD.pack(
                RequestType.IN, 0, sector, 512 * token, 512, region.handle, token
            )
            assert disk.submit_many(record) == 1
            assert poll(lambda: platform.queue_status(0)["inuse"] > 0)
        tokens: list[int] = []

        def others_are_done() -> bool:
            tokens.extend(reaped(disk))
            return len(tokens) == len(SECTORS) - 1

        if not disk.device.has(Feature.IN_ORDER):
            assert poll(others_are_done)
        settle(platform)
        yield tokens + reaped(disk)
        platform.release_requests("read")
        late: list[int] = []
        while disk.wait(WAIT_S):
            late += reaped(disk)
        yield late
        with memoryview(region) as memory:
            for token, sector in enumerate(SECTORS):
                assert memory[512 * token : 512 * (token + 1)] == content_of(sector)


@pytest.mark.parametrize("event_idx", [True, False], ids=["event_idx", "flags"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_without_in_order_what_is_fast_overtakes(
    tmp_path: Path, ring: RingName, packed: bool, event_idx: bool
) -> None:
    address = f"qemu:{numbered_disk(tmp_path)}?interface=modern"
    event_idx = event_idx and ring == "native"
    with vioblk.open(address, ring=ring, packed=packed, event_idx=event_idx) as disk:
        assert not disk.device.has(Feature.IN_ORDER)
        early, late = read_with_the_first_held(disk)
        assert (sorted(early), late) == ([1, 2, 3], [0])


@pytest.mark.parametrize("event_idx", [True, False], ids=["event_idx", "flags"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_with_in_order_nothing_comes_before_the_first(
    tmp_path: Path, known_properties: frozenset[str], ring: RingName, packed: bool, event_idx: bool
) -> None:
    address = f"qemu:{numbered_disk(tmp_path)}?interface=modern&in_order=on"
    event_idx = event_idx and ring == "native"
    if "in_order" not in known_properties:
        with pytest.raises(vioblk.TransportError, match="in_order is known from QEMU 10 on"):
            vioblk.open(address)
        return
    with vioblk.open(address, ring=ring, packed=packed, event_idx=event_idx) as disk:
        assert disk.device.has(Feature.IN_ORDER)
        early, late = read_with_the_first_held(disk)
        assert (early, late) == ([], [0, 1, 2, 3])
