"""A virtio-blk driver: raw block I/O without a kernel in the way.

import vioblk

with vioblk.open("mem:64M") as disk:
    disk.write(0, bytes(4096))
    disk.flush()
    assert disk.read(0, 4096) == bytes(4096)
"""

from collections.abc import Callable

from vioblk._native import Region
from vioblk.block import attach as _block
from vioblk.block.config import BlockConfig, Geometry, Topology
from vioblk.block.disk import BlockDevice
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.block.info import DiskInfo
from vioblk.block.limits import DiskLimits
from vioblk.block.slot_pool import SlotPool
from vioblk.bus import Bus, BusDevice, BusState, attach_candidate
from vioblk.candidate import AddressCandidate
from vioblk.device import VirtioDevice
from vioblk.discovery import FoundDevice, scan
from vioblk.driver import Attached
from vioblk.drivers import default_bus
from vioblk.errors import (
    AddressError,
    BeyondEndError,
    ChainTooLong,
    DeviceBusyError,
    DeviceGoneError,
    DiskBusyError,
    DuplicateDriverError,
    ForkedError,
    InvalidRequestError,
    NegotiationError,
    NoDriverError,
    ProtocolError,
    QueueBroken,
    QueueFull,
    QueueResetError,
    ReadOnlyError,
    RequestFailedError,
    RequestTimeoutError,
    RequestTooLongError,
    ResetTimeoutError,
    StateError,
    TransportError,
    UnalignedError,
    UnsupportedError,
    VioblkError,
    ZeroLengthError,
)
from vioblk.rng import EntropyDevice

__all__ = [
    "AddressError",
    "BeyondEndError",
    "BlockConfig",
    "BlockDevice",
    "Bus",
    "BusDevice",
    "BusState",
    "ChainTooLong",
    "DeviceBusyError",
    "DeviceGoneError",
    "DiskBusyError",
    "DiskInfo",
    "DiskLimits",
    "DuplicateDriverError",
    "EntropyDevice",
    "ForkedError",
    "FoundDevice",
    "Geometry",
    "InvalidRequestError",
    "NegotiationError",
    "NoDriverError",
    "ProtocolError",
    "QueueBroken",
    "QueueFull",
    "QueueResetError",
    "ReadOnlyError",
    "Region",
    "RequestFailedError",
    "RequestTimeoutError",
    "RequestTooLongError",
    "ResetTimeoutError",
    "SlotPool",
    "StateError",
    "Topology",
    "TransportError",
    "UnalignedError",
    "UnsupportedError",
    "VioblkError",
    "ZeroLengthError",
    "attach",
    "find",
    "open",
]

__version__ = "0.1.0"


def open(  # noqa: A001  - vioblk.open reads as gzip.open does
    address: str,
    *,
    on_config_change: Callable[[BlockConfig], None] | None = None,
    **options: object,
) -> BlockDevice:
    """Open the block device at `address`: `mem:64M`, `file:disk.img`, `vhost-user:PATH`,
    `qemu:disk.img`.

    Options stand after `?` in the address or are given as keywords, which win. There are

    - those of the driver: `ring`, `timeout_s`, `queue_count`, `ring_size`, `writeback`, `strict`;
    - those of the device in this process (`mem:`, `file:`): `queues`, `queue_size`, `block_size`,
      `read_only`, `cache`, `serial`, `size_max`, `seg_max`, `max_discard_sectors`,
      `max_write_zeroes_sectors`, `offer`, `withhold`, `threaded`, `bus`, and with
      `bus=pci` `interrupts`, `vectors`, `access`, `notify_multiplier`;
    - those of the connection (`vhost-user:`): `reply_timeout`, `drain_timeout`;
    - those of a QEMU (`qemu:`): `machine`, `device`, `interface`, `drive`, `access`,
      `interrupts`, `slot`, `root_port`, `num_queues`, `queue_size`, `vectors`, `ram`, `offer`,
      `withhold`, `page_per_vq`, `modern_pio_notify`, `format`, `read_only`, `serial`,
      `write_cache`, `iothread`, `inject`, `latency`, `io_address`, `memory_address`, `irq`,
      `property`, `binary`, `start_timeout`, `reply_timeout`;
    - names of features (`DiskInfo.features` has them) with on, off or auto (True and False as
      keywords), to insist on a feature or do without it.

    `on_config_change` is called after each change of the device's configuration, with the new
    one, on a thread of the transport; it should return soon.

    Raises AddressError for an address or option that cannot be understood, OSError or
    TransportError if the device cannot be reached, NegotiationError if driver and device find no
    common set of features, ResetTimeoutError, ValueError for queues that the device does not have.
    """
    candidate = AddressCandidate(address, options)
    identity = candidate.identity
    if identity.device_type != BLOCK_DEVICE_TYPE:
        raise AddressError(
            f"{address} is a device of type {identity.device_type} ({identity.type_name}), and no "
            "disk; vioblk.attach(address) opens devices of any type that has a driver"
        )
    transport, settings = candidate.connect(_block.DRIVER)
    return _block.attach(
        VirtioDevice(transport), identity, settings, on_config_change=on_config_change
    )


def attach(address: str, **options: object) -> Attached:
    """Open the device at `address` with the driver of its type, and return what that makes.

    A `BlockDevice` for a block device, an `EntropyDevice` for an entropy source; for another type
    whatever a driver of another package makes (see `vioblk.bus`). `options` are those of `open`,
    with the options and features of that driver in the place of those of disks.

    Raises as `open` does, and NoDriverError if no driver is registered for the type of the device,
    DuplicateDriverError if the packages that are installed disagree about who it is.
    """
    candidate = AddressCandidate(address, options)
    return attach_candidate(candidate, default_bus().driver_for(candidate.identity.device_type))


def find(address: str | None = None, *, everything: bool = False) -> list[FoundDevice]:
    """The virtio PCI devices of this machine, or of the one behind an address (`qemu:disk.img`).

    Each says what it is, which driver of the kernel has it, and how it is opened or why it cannot
    be. Of this machine nothing but sysfs is read, which needs no privilege, though the kernel
    shows capabilities to root alone; for an address, its machine is started, and ended again.
    `everything`: every PCI function, virtio or not.

    Without a PCI bus the list is empty, and what cannot be read is not in it: `vioblk list` and
    `vioblk.discovery.scan` say why. Raises AddressError for an address with no PCI bus behind it,
    and what starting its machine raises.
    """
    found = scan(address).devices
    return found if everything else [each for each in found if each.identity is not None]
