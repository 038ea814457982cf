"""From the bytes of a function to what it is, and why it cannot be opened if it cannot."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from vioblk.device_types import DEVICE_TYPES
from vioblk.discovery.found import FoundDevice
from vioblk.discovery.function import KernelUse, PciFunction
from vioblk.pci.bars import Bar, bar_at, read_bars
from vioblk.pci.capabilities import CapabilityList, walk
from vioblk.pci.header import HEADER_LENGTH, Header, read_header
from vioblk.pci.identity import Identity, NotVirtio, identify
from vioblk.pci.virtio_capabilities import VirtioCapabilities, parse

TRUNCATED: Final = (
    f"only the first {HEADER_LENGTH} bytes of the configuration space can be read, so the "
    "capabilities are not known"
)
AS_ROOT: Final = "list as root (CAP_SYS_ADMIN) to see them"
NOT_TAKEN: Final = "this version does not take devices from the kernel"
NO_WAY: Final = "this version drives no PCI device of the machine that it runs on"
OTHER_WAYS: Final = (
    "it drives those of a QEMU that it starts itself (qemu:), and the software device as one "
    "(mem:, file: with bus=pci)"
)

VFIO_DRIVER: Final = "vfio-pci"


class Obstacle(NamedTuple):
    """Why a device cannot be opened, and what can be done about it."""

    reason: str
    advice: str | None = None


class _Interface(NamedTuple):
    """The register interface of a virtio device, as far as it can be known."""

    name: str | None
    obstacle: Obstacle | None = None


class _Space(NamedTuple):
    """What follows the header."""

    bars: tuple[Bar, ...]
    capabilities: CapabilityList
    structures: VirtioCapabilities
    truncated: bool


def describe(
    function: PciFunction, *, drivers: Mapping[int, str], open_with: str | None
) -> FoundDevice | None:
    """What a function is; None if nothing answers at its address.

    `drivers`: the device types that this package drives, with the names of their drivers.
    `open_with`: the address that a usable device of this source is opened with, if there is one.
    Raises OSError, TransportError if the configuration space cannot be read.
    """
    header = read_header(function.config)
    if header is None:
        return None
    identity = identify(header)
    virtio = identity if isinstance(identity, Identity) else None
    space = _read_space(function, header, virtio)
    interface = _interface(virtio, space) if virtio and not function.failure else _Interface(None)
    obstacle = _obstacle(function, identity, interface, drivers, can_open=open_with is not None)
    return FoundDevice(
        address=function.address,
        header=header,
        identity=virtio,
        interface=interface.name,
        kernel=function.kernel,
        open_with=None if obstacle else open_with,
        reason=obstacle.reason if obstacle else None,
        advice=obstacle.advice if obstacle else None,
        bars=space.bars,
        capabilities=space.capabilities,
        structures=space.structures,
        problems=_problems(function, header, space),
    )


def _read_space(function: PciFunction, header: Header, virtio: Identity | None) -> _Space:
    bars = function.bars or read_bars(function.config)
    if header.capabilities_pointer and function.config.length <= HEADER_LENGTH:
        return _Space(bars, CapabilityList(()), VirtioCapabilities(), truncated=True)
    capabilities = walk(function.config)
    structures = parse(function.config, capabilities, bars) if virtio else VirtioCapabilities()
    return _Space(bars, capabilities, structures, truncated=False)


def _interface(virtio: Identity, space: _Space) -> _Interface:
    """VIRTIO 1.4, 4.1.5.1.1 Virtio Device Configuration Layout Detection."""
    if space.truncated:
        return _Interface("transitional" if virtio.transitional else "modern")
    why_not_modern = space.structures.why_not_modern()
    registers = bar_at(space.bars, 0)
    legacy = virtio.transitional and registers is not None and registers.kind == "io"
    if why_not_modern is None:
        return _Interface("transitional" if legacy else "modern")
    reason = f"no usable modern interface: {why_not_modern}"
    if legacy:
        # Not what a device with virtio capabilities is meant to be driven by: only on request.
        return _Interface("legacy", Obstacle(reason) if space.structures.present else None)
    if virtio.transitional:
        reason += "; and no legacy one: BAR 0 is no I/O BAR"
    return _Interface(None, Obstacle(reason))


def _obstacle(
    function: PciFunction,
    identity: Identity | NotVirtio,
    interface: _Interface,
    drivers: Mapping[int, str],
    *,
    can_open: bool,
) -> Obstacle | None:
    """What stands in the way; of several things, what can be helped least."""
    if isinstance(identity, NotVirtio):
        return Obstacle(f"no virtio device: {identity.reason}")
    if function.failure:
        return Obstacle(function.failure)
    if identity.device_type not in DEVICE_TYPES:
        return Obstacle(f"device type {identity.device_type} is not one that VIRTIO 1.4 defines")
    if identity.device_type not in drivers:
        reason = f"no driver in this package for type {identity.device_type}, {identity.type_name}"
        return Obstacle(reason, f"it has drivers for {', '.join(drivers.values())}")
    if function.kernel and function.kernel.driver:
        return _claimed(function.kernel.driver, function.kernel)
    if interface.obstacle:
        return interface.obstacle
    return None if can_open else Obstacle(NO_WAY, OTHER_WAYS)


def _claimed(driver: str, kernel: KernelUse) -> Obstacle:
    """A driver of the kernel has the device."""
    if driver == VFIO_DRIVER:
        return Obstacle("kept for VFIO (vfio-pci), which this version does not have")
    users = ", ".join(name for name in (driver, kernel.virtio_driver) if name)
    if not kernel.block_names:
        return Obstacle(f"in use by the kernel ({users})", NOT_TAKEN)
    disks = ", ".join(f"/dev/{name}" for name in kernel.block_names)
    ways = " or ".join(f"file:/dev/{name}" for name in kernel.block_names)
    return Obstacle(
        f"in use by the kernel ({users}: {disks})",
        f"through the kernel it is {ways}, while nothing of it is mounted; {NOT_TAKEN}",
    )


def _problems(function: PciFunction, header: Header, space: _Space) -> tuple[str, ...]:
    truncated = f"{TRUNCATED}; {AS_ROOT}" if space.truncated else None
    own = [problem for problem in (function.failure, header.problem, truncated) if problem]
    return (*own, *function.problems, *space.capabilities.problems)
