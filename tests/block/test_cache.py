"""What is on stable storage, and when (VIRTIO 1.4, 5.2.5.2 and 5.2.6.2)."""

import pytest

from tests.block.conftest import OpenDisk, OpenRecorded
from tests.block.recording import ConfigWrite, recorded
from tests.clauses import clause
from tests.conftest import RingName
from vioblk import NegotiationError, ProtocolError, UnsupportedError
from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.driver import QueueOptions
from vioblk.block.features import BlockFeature
from vioblk.features import Verdict

DATA = bytes(range(256)) * 2


def software(disk: BlockDevice) -> SoftwareDevice:
    device = disk.device.transport.device  # type: ignore[attr-defined]
    assert isinstance(device, SoftwareDevice)
    return device


@clause("BLK-WCE-02")
@pytest.mark.parametrize("flushed", [True, False])
def test_writethrough_chosen_late_does_not_make_earlier_writes_stable(
    open_disk: OpenDisk, flushed: bool
) -> None:
    """Only the flush does; without it they are lost, so this device would tell."""
    disk = open_disk("mem:1M?cache=volatile")
    disk.writeback = True
    disk.write(0, DATA)
    disk.writeback = False
    if flushed:
        disk.flush()
    software(disk).power_loss()
    assert disk.read(0, len(DATA)) == (DATA if flushed else bytes(len(DATA)))


@pytest.mark.parametrize("writeback", [True, False])
def test_the_device_is_told_what_its_cache_is_to_be_before_it_is_live(
    open_recorded: OpenRecorded, writeback: bool
) -> None:
    disk, transport = open_recorded("mem:1M?cache=volatile", writeback=writeback)
    status_features_ok = 1 | 2 | 8
    store = ConfigWrite(0x20, bytes([writeback]), status_features_ok)
    assert transport.config_writes == [store]
    assert disk.writeback is writeback
    disk.write(0, DATA)
    software(disk).power_loss()
    assert disk.read(0, len(DATA)) == (bytes(len(DATA)) if writeback else DATA)


def test_the_choice_of_the_cache_outlasts_a_reset(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?cache=volatile", writeback=False)
    assert disk.writeback is False
    disk.reset()
    assert disk.writeback is False
    disk.writeback = True
    disk.reset()
    assert disk.writeback is True


def test_a_device_that_does_not_set_its_cache_at_the_start_is_refused(
    ring: RingName,
) -> None:
    transport = recorded("mem:1M?cache=volatile")
    transport.device.inject("drop_config_write")
    with pytest.raises(ProtocolError, match="told writeback=0 and still says 1; open it with"):
        BlockDevice(transport, queues=QueueOptions(ring=ring, writeback=False))


def test_writethrough_that_cannot_be_had_is_refused(open_disk: OpenDisk) -> None:
    with pytest.raises(NegotiationError, match="writeback=off needs the feature config_wce"):
        open_disk("mem:1M?withhold=config_wce", writeback=False)
    assert open_disk("mem:1M?cache=none", writeback=False).writeback is False


def test_the_cache_is_on_or_off_and_nothing_else_is_stored(disk: BlockDevice) -> None:
    disk.writeback = 2  # type: ignore[assignment]
    assert disk.device.transport.read_config(0x20, 1) == b"\x01"


def test_what_was_flushed_survives_a_power_loss_and_the_rest_does_not(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?cache=volatile")
    disk.writeback = True
    disk.write(0, DATA)
    disk.flush()
    disk.write(0, bytes(512))
    software(disk).power_loss()
    assert disk.read(0, len(DATA)) == DATA


@clause("BLK-INIT-03")
def test_with_flush_alone_a_volatile_cache_is_presumed(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?cache=volatile&withhold=config_wce")
    assert disk.device.has(BlockFeature.FLUSH)
    assert not disk.device.has(BlockFeature.CONFIG_WCE)
    assert disk.writeback is True
    disk.flush()
    assert software(disk).counters()["flushes"] == 1


@clause("BLK-INIT-02")
def test_without_flush_and_config_wce_the_cache_is_writethrough(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?cache=none")
    assert not {BlockFeature.FLUSH, BlockFeature.CONFIG_WCE} & set(disk.device.accepted)
    assert disk.writeback is False
    disk.write(0, DATA)
    before = software(disk).counters()["chains"]
    disk.flush()
    assert software(disk).counters()["chains"] == before


@clause("FEAT-03")
def test_a_cache_that_cannot_be_flushed_is_not_configured(open_disk: OpenDisk) -> None:
    """A device that offers CONFIG_WCE must offer FLUSH (5.2.5.3); of an offer that breaks this
    rule, the half that is of no use is not accepted."""
    disk = open_disk("mem:1M?withhold=flush")
    assert BlockFeature.CONFIG_WCE in disk.device.offered
    [decision] = [each for each in disk.info.features if each.bit == BlockFeature.CONFIG_WCE]
    assert decision.verdict is Verdict.DECLINED
    assert decision.reason == "without FLUSH a volatile cache cannot be flushed"
    assert not disk.device.has(BlockFeature.CONFIG_WCE)
    with pytest.raises(UnsupportedError, match="config_wce"):
        disk.writeback = False


def test_a_flush_that_cannot_be_sent_is_an_error_and_not_a_silent_nothing(
    open_disk: OpenDisk,
) -> None:
    disk = open_disk("mem:1M?cache=volatile", flush=False)
    assert disk.device.has(BlockFeature.CONFIG_WCE)
    with pytest.raises(UnsupportedError, match="FLUSH was not negotiated"):
        disk.flush()


def test_a_device_that_ignores_the_choice_is_found_out(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?cache=volatile")
    disk.writeback = True
    software(disk).inject("drop_config_write")
    with pytest.raises(ProtocolError, match="writeback=0"):
        disk.writeback = False


@clause("BLK-DISCARD-03")
def test_reading_what_was_discarded_asks_the_device(open_disk: OpenDisk) -> None:
    disk = open_disk()
    disk.write(0, DATA)
    disk.discard(0, 512)
    before = software(disk).counters()["bytes_read"]
    content = disk.read(0, 512)
    assert software(disk).counters()["bytes_read"] == before + 512
    assert len(content) == 512
    disk.write(0, DATA)
    assert disk.read(0, 512) == DATA
