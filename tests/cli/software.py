"""The other side of a disk of this process."""

from vioblk._native import SoftwareDevice
from vioblk.block.disk import BlockDevice
from vioblk.transport.software import SoftwareTransport


def software(disk: BlockDevice) -> SoftwareDevice:
    """The software device behind `disk`."""
    transport = disk.device.transport
    assert isinstance(transport, SoftwareTransport)
    return transport.device
