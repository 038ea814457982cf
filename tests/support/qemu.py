"""The QEMU that is behind a device, for what is done to it from outside."""

from vioblk.device import VirtioDevice
from vioblk.transport.pci import PciTransport
from vioblk.transport.qemu import QemuPlatform


def qemu_of(device: VirtioDevice) -> QemuPlatform:
    """The controls of the machine that a device of a qemu: address is in."""
    transport = device.transport
    assert isinstance(transport, PciTransport)
    assert isinstance(transport.platform, QemuPlatform)
    return transport.platform
