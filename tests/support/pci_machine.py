"""A software device on a PCI bus, made for one test, and what a driver did to its registers."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from vioblk._native import DmaSpace, PciFace, SoftwareDevice
from vioblk.block import attach as block
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BlockFeature
from vioblk.device import VirtioDevice
from vioblk.driver import DeviceIdentity, Settings
from vioblk.features import FeatureSet
from vioblk.transport.software import ALWAYS_OFFERED
from vioblk.transport.software_pci import SoftwarePciPlatform, SoftwarePciTransport
from vioblk.transport.software_pci.description import FunctionDescription

CAPACITY_SECTORS = 2048
TIMEOUT_S = 30.0

USUAL = ALWAYS_OFFERED | {BlockFeature.FLUSH, BlockFeature.CONFIG_WCE}

COMMON_FIELDS = {
    0x00: "device_feature_select",
    0x04: "device_feature",
    0x08: "driver_feature_select",
    0x0C: "driver_feature",
    0x10: "config_msix_vector",
    0x12: "num_queues",
    0x14: "device_status",
    0x15: "config_generation",
    0x16: "queue_select",
    0x18: "queue_size",
    0x1A: "queue_msix_vector",
    0x1C: "queue_enable",
    0x1E: "queue_notify_off",
    0x20: "queue_desc",
    0x24: "queue_desc + 4",
    0x28: "queue_driver",
    0x2C: "queue_driver + 4",
    0x30: "queue_device",
    0x34: "queue_device + 4",
    0x38: "queue_notif_config_data",
    0x3A: "queue_reset",
}


def make_platform(
    *,
    queues: int = 1,
    offer: Iterable[int] = (),
    withhold: Iterable[int] = (),
    threaded: bool = True,
    vectors: int | None = None,
    describe: Callable[[FunctionDescription], FunctionDescription] | None = None,
    queue_size_max: int = 256,
    **options: Any,
) -> SoftwarePciPlatform:
    """A machine with one disk of CAPACITY_SECTORS. `options`: of SoftwarePciPlatform."""
    space = DmaSpace()
    device = SoftwareDevice(
        space,
        capacity_sectors=CAPACITY_SECTORS,
        features=FeatureSet((USUAL | set(offer)) - set(withhold)).mask,
        queue_count=queues,
        queue_size_max=queue_size_max,
        threaded=threaded,
    )
    vector_count = queues + 1 if vectors is None else vectors
    return SoftwarePciPlatform(
        space, device, vector_count=vector_count, describe=describe, **options
    )


def make_transport(platform: SoftwarePciPlatform, **options: Any) -> SoftwarePciTransport:
    """The way to the disk of a machine. `options`: of PciTransport."""
    return SoftwarePciTransport("model:0", platform, **options)


def open_disk(
    transport: SoftwarePciTransport,
    *,
    ring: str = "native",
    timeout_s: float = TIMEOUT_S,
    on_config_change: Callable[[Any], None] | None = None,
    force_on: Iterable[int] = (),
    **options: object,
) -> BlockDevice:
    """Bring the disk to life. `options`: of the block driver."""
    identity = DeviceIdentity("model:0", transport.device_type, "block device", "model")
    settings = Settings(
        {"ring": ring, "timeout_s": timeout_s, **options}, frozenset(force_on), frozenset()
    )
    return block.attach(
        VirtioDevice(transport), identity, settings, on_config_change=on_config_change
    )


class RegisterUse(NamedTuple):
    """An access of a register, by its name."""

    structure: str
    name: str
    """Of a common field; elsewhere the offset in the structure."""
    width: int
    value: int
    is_write: bool


def uses(face: PciFace) -> list[RegisterUse]:
    """What was done to the BAR since `clear_log`, the oldest first."""
    return [_use(face, *access) for access in face.accesses]


def _use(face: PciFace, offset: int, width: int, value: int, is_write: bool) -> RegisterUse:
    for structure, (start, length) in face.structures.items():
        if start <= offset < start + length:
            within = offset - start
            name = COMMON_FIELDS.get(within) if structure == "common" else None
            return RegisterUse(structure, name or f"{within:#x}", width, value, is_write)
    return RegisterUse("nothing", f"{offset:#x}", width, value, is_write)


def of(found: Iterable[RegisterUse], structure: str, name: str | None = None) -> list[RegisterUse]:
    """Those of one structure, or of one register of it."""
    return [each for each in found if each.structure == structure and name in (None, each.name)]


def assert_obedient(transport: SoftwarePciTransport) -> None:
    """The driver did nothing that the device, which is strict, objects to."""
    assert transport.face.violations == []
    assert transport.config.violations == []
