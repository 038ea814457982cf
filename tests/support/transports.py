"""The transports behind disks that were opened by their address."""

from vioblk.block.disk import BlockDevice
from vioblk.transport.software import SoftwareTransport
from vioblk.transport.software_pci import SoftwarePciTransport


def software_transport(disk: BlockDevice) -> SoftwareTransport | SoftwarePciTransport:
    """That of a software device, on a PCI bus or off it; on one, its registers must have been used
    by the rules."""
    transport = disk.device.transport
    assert isinstance(transport, (SoftwareTransport, SoftwarePciTransport))
    if isinstance(transport, SoftwarePciTransport):
        assert transport.face.violations == []
    return transport
