"""A virtio-blk driver: raw block I/O without a kernel in the way.

import vioblk

with vioblk.open("mem:64M") as disk:
    disk.write(0, bytes(4096))
    disk.flush()
    assert disk.read(0, 4096) == bytes(4096)
"""

from collections.abc import Callable
from typing import cast

from vioblk._native import Region
from vioblk.address import parse_address, sort_options
from vioblk.block.config import BlockConfig, Geometry, Topology
from vioblk.block.disk import DEFAULT_TIMEOUT_S, BlockDevice
from vioblk.block.features import BLOCK_DEVICE_TYPE
from vioblk.block.info import DiskInfo
from vioblk.block.limits import DiskLimits
from vioblk.block.options import OPTIONS, queue_options
from vioblk.errors import (
    AddressError,
    BeyondEndError,
    ChainTooLong,
    DeviceBusyError,
    DeviceGoneError,
    DiskBusyError,
    ForkedError,
    InvalidRequestError,
    NegotiationError,
    ProtocolError,
    QueueBroken,
    QueueFull,
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
from vioblk.transport import back_end

__all__ = [
    "AddressError",
    "BeyondEndError",
    "BlockConfig",
    "BlockDevice",
    "ChainTooLong",
    "DeviceBusyError",
    "DeviceGoneError",
    "DiskBusyError",
    "DiskInfo",
    "DiskLimits",
    "ForkedError",
    "Geometry",
    "InvalidRequestError",
    "NegotiationError",
    "ProtocolError",
    "QueueBroken",
    "QueueFull",
    "ReadOnlyError",
    "Region",
    "RequestFailedError",
    "RequestTimeoutError",
    "RequestTooLongError",
    "ResetTimeoutError",
    "StateError",
    "Topology",
    "TransportError",
    "UnalignedError",
    "UnsupportedError",
    "VioblkError",
    "ZeroLengthError",
    "open",
]

__version__ = "0.1.0"


def open(  # noqa: A001  - vioblk.open reads as gzip.open does
    address: str,
    *,
    on_config_change: Callable[[BlockConfig], None] | None = None,
    **options: object,
) -> BlockDevice:
    """Open the block device at `address`: `mem:64M`, `file:disk.img`, `vhost-user:PATH`.

    Options stand after `?` in the address or are given as keywords, which win. There are

    - those of the driver: `ring`, `timeout_s`, `queue_count`, `ring_size`, `writeback`, `strict`;
    - those of the device in this process (`mem:`, `file:`): `queues`, `queue_size`, `block_size`,
      `read_only`, `cache`, `serial`, `size_max`, `seg_max`, `max_discard_sectors`,
      `max_write_zeroes_sectors`, `offer`, `withhold`, `threaded`;
    - those of the connection (`vhost-user:`): `reply_timeout`, `drain_timeout`;
    - names of features (`DiskInfo.features` has them) with on, off or auto (True and False as
      keywords), to insist on a feature or do without it.

    `on_config_change` is called after each change of the device's configuration, with the new
    one, on a thread of the transport; it should return soon.

    Raises AddressError for an address or option that cannot be understood, OSError or
    TransportError if the device cannot be reached, NegotiationError if driver and device find no
    common set of features, ResetTimeoutError, ValueError for queues that the device does not have.
    """
    parsed = parse_address(address)
    transport = back_end(parsed)
    chosen = sort_options(
        parsed,
        options,
        transport_options=transport.OPTIONS,
        driver_options=OPTIONS,
        device_type=BLOCK_DEVICE_TYPE,
    )
    return BlockDevice(
        transport.connect(parsed, chosen.transport),
        queues=queue_options(chosen.driver),
        force_on=chosen.force_on,
        force_off=chosen.force_off,
        timeout_s=cast(float, chosen.driver.get("timeout_s", DEFAULT_TIMEOUT_S)),
        on_config_change=on_config_change,
    )
