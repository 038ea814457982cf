"""The QEMU that is behind a device, for what is done to it from outside."""

from collections.abc import Iterable

from vioblk.device import VirtioDevice
from vioblk.features import FeatureSet
from vioblk.transport.pci import PciTransport
from vioblk.transport.qemu import QemuPlatform


def qemu_of(device: VirtioDevice) -> QemuPlatform:
    """The controls of the machine that a device of a qemu: address is in."""
    transport = device.transport
    assert isinstance(transport, PciTransport)
    assert isinstance(transport.platform, QemuPlatform)
    return transport.platform


PREFIXES = ("VIRTIO_BLK_F_", "VIRTIO_RING_F_", "VIRTIO_F_")


def plain_names(listed: Iterable[str], *prefixes: str) -> set[str]:
    """ "VIRTIO_BLK_F_FLUSH: Flush command supported" is "flush"."""
    names = {entry.partition(":")[0] for entry in listed}
    return {
        name.removeprefix(prefix).lower()
        for name in names
        for prefix in prefixes
        if name.startswith(prefix)
    }


def features_of(platform: QemuPlatform, side: str) -> set[str]:
    """What QEMU says of the features of one side, guest or host (QMP x-query-virtio-status)."""
    features = platform.device_status()[f"{side}-features"]
    # QEMU 7.2 has no name yet for RING_RESET, which it has.
    unnamed = FeatureSet.from_mask(features.get("unknown-dev-features", 0))
    named = plain_names([*features["dev-features"], *features["transports"]], *PREFIXES)
    return named | set(unnamed.names)
