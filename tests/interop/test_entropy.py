"""The driver of entropy devices on QEMU's virtio-rng-pci."""

import pytest

import vioblk
from tests.conftest import RingName
from tests.support.leaks import no_leaks
from tests.support.patience import AMPLE_S
from tests.support.qemu import qemu_of
from vioblk.bus import BusState
from vioblk.candidate import AddressCandidate
from vioblk.drivers import default_bus
from vioblk.features import Feature

ADDRESS = "qemu:/dev/urandom?device=rng"


def looks_random(data: bytes) -> bool:
    """Of 4096 random bytes nearly every value is there, and none often."""
    return len(set(data)) > 200 and max(map(data.count, range(256))) < 64


@pytest.mark.parametrize("interrupts", ["msix", "shared", "intx", "none"])
@pytest.mark.parametrize("interface", ["modern", "legacy"])
def test_random_bytes_come_by_every_way(ring: RingName, interface: str, interrupts: str) -> None:
    address = f"{ADDRESS}&interface={interface}&interrupts={interrupts}"
    with vioblk.attach(address, ring=ring, timeout_s=AMPLE_S) as source:
        assert isinstance(source, vioblk.EntropyDevice)
        assert source.device.legacy is (interface == "legacy")
        assert source.device.has(Feature.VERSION_1) is (interface == "modern")
        first, second = source.read(4096), source.read(4096)
        assert looks_random(first)
        assert looks_random(second)
        assert first != second


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_one_bus_has_both_kinds_of_devices(machine: str) -> None:
    with no_leaks():
        bus = vioblk.Bus()
        addresses = [f"{ADDRESS}&machine={machine}", "mem:1M"]
        for address in addresses:
            assert bus.add(AddressCandidate(address)).state is BusState.WAITING
        for driver in default_bus().drivers.values():
            bus.register(driver)
        source, disk = (device.attached for device in bus.devices)
        assert isinstance(source, vioblk.EntropyDevice)
        assert isinstance(disk, vioblk.BlockDevice)
        disk.write(0, source.read(512))
        assert len(set(disk.read(0, 512))) > 100
        for address in addresses:
            bus.detach(address)
        again = bus.attach(addresses[0])
        assert isinstance(again, vioblk.EntropyDevice)
        assert len(again.read(100)) == 100
        bus.detach(addresses[0])
        del source, disk, again, bus


def test_it_is_no_disk() -> None:
    with pytest.raises(vioblk.AddressError, match=r"type 4 \(entropy source\), and no disk"):
        vioblk.open(ADDRESS)


def test_a_device_that_is_unplugged_is_noticed() -> None:
    with vioblk.attach(ADDRESS, timeout_s=AMPLE_S) as source:
        assert isinstance(source, vioblk.EntropyDevice)
        assert len(source.read(16)) == 16
        qemu_of(source.device).unplug()
        with pytest.raises(vioblk.DeviceGoneError):
            source.read(16)
