"""The server's side of ivshmem-doorbell, which makes an eventfd of each MSI-X vector.

ivshmem-doorbell is QEMU's device for signals between virtual machines: a write to its doorbell
register signals the eventfd that a server has handed to it for that peer and vector. Here this
process is the server and the only peer, and the writes are the MSI-X messages of another device of
the same machine: a message is a store of data to an address, and the address is the register's.

Source: QEMU, docs/specs/ivshmem-spec, The Client-Server protocol.
"""

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

VENDOR_ID: Final = 0x1AF4
DEVICE_ID: Final = 0x1110

REGISTERS_BAR: Final = 0
DOORBELL_OFFSET: Final = 12
"""VM_DOORBELL: the peer in the upper 16 bits, the vector in the lower ones."""

VECTOR_COUNT_MAX: Final = 128
"""More descriptors would not fit into the socket before QEMU reads it."""

_VERSION: Final = 0
_QEMU_PEER: Final = 0
_OUR_PEER: Final = 1
_SHARED_MEMORY: Final = -1
"""Instead of a peer: the descriptor is that of the memory that all peers share."""

SHARED_MEMORY_BYTES: Final = 4096
"""The device insists on some; it is of no use here."""


class DoorbellServer:
    """Eventfds, one for each of `count` vectors, and the socket over which QEMU is told of them.

    All that QEMU asks for is sent before it starts; `hand_over` is the descriptor for it.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= VECTOR_COUNT_MAX:
            raise ValueError(f"1 to {VECTOR_COUNT_MAX} vectors are possible, not {count}")
        self._owned = ExitStack()
        try:
            self.fds = [self._eventfd() for _ in range(count)]
            ours, self.hand_over = socket.socketpair()
            self._owned.callback(ours.close)
            self._owned.callback(self.hand_over.close)
            _introduce(ours, self.fds)
        except BaseException:
            self.close()
            raise

    def _eventfd(self) -> int:
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._owned.callback(os.close, fd)
        return fd

    def message_data(self, vector: int) -> int:
        """What is to be stored in the doorbell register to signal `fds[vector]`."""
        return _OUR_PEER << 16 | vector

    def close(self) -> None:
        """Close all of it. Idempotent."""
        self._owned.close()


def _introduce(connection: socket.socket, fds: Sequence[int]) -> None:
    """Everything in its order: the device is set up when it has been told of the memory."""
    _send(connection, _VERSION)
    _send(connection, _QEMU_PEER)
    for fd in fds:
        _send(connection, _OUR_PEER, fd)
    memory = os.memfd_create("vioblk-ivshmem", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, SHARED_MEMORY_BYTES)
        _send(connection, _SHARED_MEMORY, memory)
    finally:
        os.close(memory)


def _send(connection: socket.socket, number: int, fd: int | None = None) -> None:
    # One message at a time, so that none is received together with another's descriptor.
    message = struct.pack("<q", number)
    if fd is None:
        connection.send(message, socket.MSG_DONTWAIT)
    else:
        socket.send_fds(connection, [message], [fd], socket.MSG_DONTWAIT)
