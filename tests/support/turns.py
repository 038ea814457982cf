"""Disks whose device has no thread: driver and device take turns on one."""

from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.block.driver import QueueOptions
from vioblk.block.features import BlockFeature
from vioblk.features import Feature, FeatureSet
from vioblk.transport.base import QueueAddresses, QueueWires
from vioblk.transport.software import ALWAYS_OFFERED, SoftwareTransport

CAPACITY_SECTORS = 2048


class TurnsTransport(SoftwareTransport):
    """The way to a device that has served all that waits when its doorbell has been rung."""

    def enable_queue(self, index: int, addresses: QueueAddresses) -> QueueWires:
        """As the base class, with a doorbell that serves."""
        wires = super().enable_queue(index, addresses)
        return wires._replace(doorbell=self.device.serving_doorbell(index))


def open_in_turns(
    *, packed: bool = False, transport_class: type[SoftwareTransport] = TurnsTransport
) -> BlockDevice:
    """A disk in memory that answers whenever it is notified; with SoftwareTransport it does
    whenever `software(disk).serve()` is called."""
    choice = frozenset({Feature.RING_PACKED}) if packed else frozenset()
    offered = FeatureSet(ALWAYS_OFFERED | {BlockFeature.FLUSH} | choice)
    transport = transport_class(
        "mem:1M", capacity_sectors=CAPACITY_SECTORS, features=offered.mask, threaded=False
    )
    return BlockDevice(transport, queues=QueueOptions(), force_on=choice)


def software(disk: BlockDevice) -> SoftwareDevice:
    """The device of such a disk."""
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport)
    return transport.device
