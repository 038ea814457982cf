"""The vhost-user messages that a front end needs: numbers, headers and payloads.

Source: the vhost-user protocol specification, published with QEMU ("Vhost-user Protocol", sections
Message Specification, Feature bits, Protocol features, Front-end message types and Back-end message
types). All numbers are in the byte order of the machine, since both ends share it.
"""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import Final

from vioblk._native import Mapping


class Request(IntEnum):
    """Messages from the front end (this side) to the back end (the device)."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    SET_STATUS = 39
    GET_STATUS = 40


class BackendRequest(IntEnum):
    """Messages from the back end to the front end, on a channel of their own."""

    CONFIG_CHANGE = 2


class ProtocolFeature(IntEnum):
    """Protocol feature bits that this front end can use."""

    MQ = 0
    REPLY_ACK = 3
    BACKEND_REQ = 5
    CONFIG = 9
    RESET_DEVICE = 13
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16


F_LOG_ALL: Final = 26
"""Device feature bit VHOST_F_LOG_ALL: dirty-page logging, for live migration only."""

F_PROTOCOL_FEATURES: Final = 30
"""Device feature bit VHOST_USER_F_PROTOCOL_FEATURES: protocol features can be negotiated."""

HEADER: Final = Struct("=III")
"""request, flags, payload size in bytes."""

VERSION: Final = 1
VERSION_MASK: Final = 3
REPLY_FLAG: Final = 4
NEED_REPLY_FLAG: Final = 8

MAX_PAYLOAD_BYTES: Final = 4096
"""No message that this front end receives is longer; a larger size is garbage."""

BASELINE_MEMORY_SLOTS: Final = 8
"""Memory regions that every back end takes; more need CONFIGURE_MEM_SLOTS."""

U64: Final = Struct("=Q")
VRING_STATE: Final = Struct("=II")
"""queue index, number."""
VRING_ADDRESS: Final = Struct("=IIQQQQ")
"""queue index, flags, descriptors, used ring, available ring, log."""
MEMORY_REGION: Final = Struct("=QQQQ")
"""device address, length in bytes, host address, offset in the file."""
MEMORY_TABLE_HEADER: Final = Struct("=II")
"""number of regions, padding."""
CONFIG_HEADER: Final = Struct("=III")
"""offset, length in bytes, flags."""


def memory_region(mapping: Mapping) -> bytes:
    """One memory region as ADD_MEM_REG and SET_MEM_TABLE describe it."""
    return MEMORY_REGION.pack(
        mapping.device_address, mapping.length, mapping.host_address, mapping.file_offset
    )


def single_region(mapping: Mapping) -> bytes:
    """The payload of ADD_MEM_REG."""
    return U64.pack(0) + memory_region(mapping)


def memory_table(mappings: Iterable[Mapping]) -> bytes:
    """The payload of SET_MEM_TABLE."""
    regions = [memory_region(mapping) for mapping in mappings]
    return MEMORY_TABLE_HEADER.pack(len(regions), 0) + b"".join(regions)


def request_name(number: int) -> str:
    """The name of a front-end message, or its number if it has none here."""
    try:
        return Request(number).name
    except ValueError:
        return f"message {number}"
