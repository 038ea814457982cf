"""What is on stable storage, and when (VIRTIO 1.4, 5.2.5.2 and 5.2.6.2)."""

import pytest

from tests.block.conftest import OpenDisk
from tests.clauses import clause
from vioblk import ProtocolError, UnsupportedError
from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.features import BlockFeature

DATA = bytes(range(256)) * 2


def software(disk: BlockDevice) -> SoftwareDevice:
    device = disk.device.transport.device  # type: ignore[attr-defined]
    assert isinstance(device, SoftwareDevice)
    return device


@clause("BLK-WCE-02")
def test_writethrough_chosen_late_does_not_make_earlier_writes_stable(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?cache=volatile")
    disk.writeback = True
    disk.write(0, DATA)
    disk.writeback = False
    disk.flush()
    software(disk).power_loss()
    assert disk.read(0, len(DATA)) == DATA


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


def test_a_cache_that_cannot_be_flushed_is_not_configured(open_disk: OpenDisk) -> None:
    disk = open_disk("mem:1M?withhold=flush")
    assert BlockFeature.CONFIG_WCE in disk.device.offered
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
