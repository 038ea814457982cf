"""What a disk says of itself, and what it refuses."""

import json

import pytest

import vioblk
from tests.contract.conftest import Case
from tests.contract.targets import CAPACITY_BYTES
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BlockFeature
from vioblk.features import Feature, Verdict


def test_it_knows_what_it_is(case: Case, disk: BlockDevice) -> None:
    info = disk.info
    assert info.address == case.address
    assert (info.transport, info.ring) == (case.target.transport, case.ring)
    assert info.ring_format == case.target.ring_format
    assert info.capacity_bytes == disk.capacity_bytes == CAPACITY_BYTES
    assert info.block_size == disk.block_size
    assert info.serial == disk.serial
    assert len(info.serial) <= 20
    assert not disk.read_only
    assert info.limits == disk.limits
    assert info.config.capacity_sectors * 512 == CAPACITY_BYTES


def test_what_was_accepted_was_offered_and_every_bit_has_a_reason(
    case: Case, disk: BlockDevice
) -> None:
    info = disk.info
    assert set(info.accepted) <= set(info.offered)
    assert {decision.bit for decision in info.features} == set(info.offered)
    assert all(decision.reason for decision in info.features)
    accepted = {each.bit for each in info.features if each.verdict is Verdict.ACCEPTED}
    assert accepted == set(info.accepted)
    assert (Feature.VERSION_1 in info.accepted) == case.target.modern


def test_the_reference_ring_goes_without_event_idx(case: Case, disk: BlockDevice) -> None:
    offered = Feature.EVENT_IDX in disk.info.offered
    assert disk.device.has(Feature.EVENT_IDX) == (offered and case.ring == "native")


def test_info_is_json(case: Case, disk: BlockDevice) -> None:
    read_back = json.loads(json.dumps(disk.info.as_dict()))
    assert read_back["capacity_bytes"] == CAPACITY_BYTES
    assert read_back["queues"][0]["index"] == 0
    assert ("version_1" in read_back["accepted"]) == case.target.modern


def test_a_feature_can_be_done_without(case: Case) -> None:
    with case.open(flush=False, indirect_desc=False) as disk:
        assert not disk.device.has(BlockFeature.FLUSH)
        assert not disk.device.has(Feature.INDIRECT_DESC)
        disk.write(0, b"\x31" * 512)
        assert disk.read(0, 512) == b"\x31" * 512


def test_a_feature_that_is_insisted_on_and_not_offered_is_an_error(case: Case) -> None:
    with pytest.raises(vioblk.NegotiationError, match="secure_erase"):
        case.open(secure_erase=True)


@pytest.mark.parametrize(
    ("offset", "length", "error"),
    [
        (0, 0, vioblk.ZeroLengthError),
        (256, 512, vioblk.UnalignedError),
        (0, 511, vioblk.UnalignedError),
        (CAPACITY_BYTES, 512, vioblk.BeyondEndError),
        (CAPACITY_BYTES - 512, 1024, vioblk.BeyondEndError),
    ],
)
def test_bad_ranges_are_refused_and_nothing_is_changed(
    disk: BlockDevice, offset: int, length: int, error: type[Exception]
) -> None:
    for call in (disk.read, disk.discard, disk.write_zeroes):
        with pytest.raises(error):
            call(offset, length)
    with pytest.raises(error):
        disk.write(offset, bytes(length))
    with pytest.raises(error):
        disk.readinto(offset, bytearray(length))
    assert disk.device.in_flight == 0


def test_writeback_is_what_was_chosen(disk: BlockDevice) -> None:
    before = disk.writeback
    if not disk.device.has(BlockFeature.CONFIG_WCE):
        with pytest.raises(vioblk.UnsupportedError):
            disk.writeback = before
        return
    for choice in (False, True, before):
        disk.writeback = choice
        assert disk.writeback is choice


@pytest.mark.parametrize("writeback", [True, False])
def test_the_cache_is_as_the_user_said_from_the_start(case: Case, writeback: bool) -> None:
    """Whatever the device says of itself: there are some that say 0 and do not sync writes."""
    with case.open(writeback=writeback) as disk:
        if disk.device.has(BlockFeature.CONFIG_WCE):
            assert disk.device.has(BlockFeature.FLUSH)
            assert disk.device.transport.read_config(0x20, 1) == bytes([writeback])
        assert disk.writeback is disk.info.writeback is writeback
        disk.write(0, b"\x21" * 512)
        disk.flush()
